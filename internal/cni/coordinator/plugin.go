// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// Type is the plugin's name in configurations.
const Type = "coordinator"

// Kernel is what the plugin needs of the node.
type Kernel interface {
	Links(ns host.NS) ([]host.Link, error)
	LinkByName(ns host.NS, name string) (host.Link, error)
	LinkByPCI(ns host.NS, pci string) (host.Link, error)
	AddVeth(ns host.NS, name string, peerNS host.NS, peerName string, mtu int) (host.Link, host.Link, error)
	DeleteLink(ns host.NS, index int) error
	SetLinkUp(ns host.NS, index int) error
	SetLinkDown(ns host.NS, index int) error
	SetLinkTxQueueLen(ns host.NS, index, n int) error
	SetLinkHardwareAddr(ns host.NS, index int, a net.HardwareAddr) error
	Announce(ns host.NS, index int, ip netip.Addr) error
	AllAddresses(ns host.NS) (map[int][]netip.Prefix, error)
	AddAddress(ns host.NS, index int, p netip.Prefix) error
	Routes(ns host.NS, table int) ([]host.Route, error)
	AddRoute(ns host.NS, r host.Route) error
	DeleteRoute(ns host.NS, r host.Route) error
	Rules(ns host.NS) ([]host.Rule, error)
	AddRule(ns host.NS, r host.Rule) error
	DeleteRule(ns host.NS, r host.Rule) error
	AddNeighbor(ns host.NS, n host.Neighbor) error
	cni.SysctlReader
	cni.SysctlKernel
	MarkReplies(ns host.NS, link string, mark uint32) error
}

// Plugin is the plugin. The attachments of one pod must come to it one after another: each looks at
// what is in the pod.
type Plugin struct {
	Kernel  Kernel
	Cluster Cluster
	// tables keeps a rule from being removed while another pod's route is added to its table.
	tables sync.Mutex
}

// state is what Del and Check need; it is recorded before the first change.
type state struct {
	Mode string `json:"mode"`
	// HostTable and Addresses are the routes on the node. OwnTable: the table is the network's, and
	// its rule is not the node's.
	HostTable int          `json:"hostTable"`
	OwnTable  bool         `json:"ownTable,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Routes are those on the node that go by an overlay pod's first interface, without their source.
	Routes []host.Route `json:"routes,omitempty"`
	former
}

// hostVeth names the node's end of the pair after the sandbox, so that it is found without any record.
func hostVeth(containerID string) string { return "veth" + containerID[:min(len(containerID), 11)] }

// Add implements cni.Plugin. Its result is that of the plugin before it, with the hardware address
// that podMACPrefix made.
func (p *Plugin) Add(ctx context.Context, r *cni.Request) (*types100.Result, error) {
	if r.Prev == nil {
		return nil, cni.Errorf(cni.CodeInvalidConfig, "put it behind the plugin that makes the interface",
			"the coordinator is first in the chain")
	}
	f := facts{pod: r.NetNS, ifname: r.IfName, interfaces: r.Interfaces, gateways: gateways(r.Prev)}
	var err error
	if f.nics, f.podEnd, err = p.inPod(r.NetNS); err != nil {
		return nil, err
	}
	if bare(r, f.nics) {
		return r.Prev, nil
	}
	if f.set, err = p.readSettings(ctx, r); err != nil {
		return nil, err
	}
	if f.mode, err = resolveMode(f.set.mode, r.IfName, f.podEnd != nil); err != nil || f.mode == modeDisabled {
		return r.Prev, err
	}
	if err := p.seeNode(&f); err != nil {
		return nil, err
	}
	if err := checkWishes(f); err != nil {
		return nil, err
	}
	if err := p.record(r, f); err != nil {
		return nil, err
	}
	if err := p.pair(r, &f); err != nil {
		return nil, err
	}
	result, err := p.tuneLink(ctx, r, f)
	if err != nil {
		return nil, err
	}
	if err := p.gatherRoutes(&f); err != nil {
		return nil, err
	}
	plan, err := decide(f)
	if err != nil {
		return nil, err
	}
	logRemarks(ctx, r, plan.remarks...)
	if err := p.apply(ctx, f, plan); err != nil {
		return nil, err
	}
	return result, nil
}

// bare tells a further interface without an address, such as one for RDMA alone: there is nothing
// to route. A pod's first interface is another matter, its node reaches the pod by it.
func bare(r *cni.Request, nics []nic) bool {
	n, ok := named(nics, r.IfName)
	return r.IfName != firstNIC && len(r.Prev.IPs) == 0 && ok && len(n.addrs) == 0
}

// find is a link or nil.
func (p *Plugin) find(ns host.NS, name string) (*host.Link, error) {
	l, err := p.Kernel.LinkByName(ns, name)
	if errors.Is(err, host.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for link %s: %w", name, err)
	}
	return &l, nil
}

func gateways(prev *types100.Result) []netip.Addr {
	var out []netip.Addr
	for _, ip := range prev.IPs {
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok && !slices.Contains(out, gw.Unmap()) {
			out = append(out, gw.Unmap())
		}
	}
	return out
}

// checkWishes refuses what cannot be done, rather than to leave it undone in silence.
func checkWishes(f facts) error {
	if _, err := f.this(); err != nil {
		return err
	}
	if f.set.nicOfPod && len(f.interfaces) > 0 && f.absent() {
		return cni.Errorf(cni.CodeInvalidConfig, "name one of them, or remove the annotation",
			"annotation %s is %q, and the pod's interfaces are %s", AnnotationDefaultRouteNIC, f.set.defaultNIC,
			strings.Join(f.interfaces, ", "))
	}
	return nil
}

func (p *Plugin) record(r *cni.Request, f facts) error {
	defer r.Phases.Start(cni.PhaseRecord)()
	this, err := f.this()
	if err != nil {
		return err
	}
	st := state{Mode: f.mode, HostTable: f.set.hostTable, OwnTable: f.set.ownTable, Routes: f.ways(this)}
	if f.mode != modeOverlay {
		st.Addresses = this.addrs
	}
	if st.former = f.set.formerOf(former{}, this); st.former != (former{}) {
		var old state
		if _, err := r.State.Load(&old); err != nil {
			return fmt.Errorf("read the coordinator's record: %w", err)
		}
		st.former = f.set.formerOf(old.former, this)
	}
	save := r.State.Save
	// all else that is made for it goes with the pair, which is found by its name
	if r.IfName == firstNIC && st.former == (former{}) && !st.OwnTable {
		save = r.State.Note
	}
	if err := save(st); err != nil {
		return fmt.Errorf("record the coordinator's work: %w", err)
	}
	return nil
}

// gatherRoutes reads the routes, after the pair: a pair of an earlier attempt has taken its routes along.
func (p *Plugin) gatherRoutes(f *facts) error {
	var err error
	if f.podRoutes, err = p.Kernel.Routes(f.pod, 0); err != nil {
		return fmt.Errorf("list the pod's routes: %w", err)
	}
	if first, ok := named(f.nics, firstNIC); ok && f.mode == modeOverlay {
		if f.firstRoutes, err = p.routesOf(f.pod, first.Index, []int{0, tableOf(first)}); err != nil {
			return err
		}
	}
	if f.nodeRoutes, err = p.Kernel.Routes(host.NodeNS, f.set.hostTable); err != nil {
		return fmt.Errorf("list the node's routes of table %d: %w", f.set.hostTable, err)
	}
	return checkTable(f.set, f.nodeRoutes)
}

// inPod are the pod's interfaces with their addresses as the kernel has them, self-configured ones
// too, and its end of the pair, nil when it has none.
func (p *Plugin) inPod(ns host.NS) (nics []nic, podEnd *host.Link, err error) {
	links, err := p.Kernel.Links(ns)
	if err != nil {
		return nil, nil, fmt.Errorf("list the pod's links: %w", err)
	}
	addresses, err := p.global(ns)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range links {
		switch l.Name {
		case "lo":
		case podVeth:
			podEnd = &l
		default:
			nics = append(nics, nic{l, addresses[l.Index]})
		}
	}
	return nics, podEnd, nil
}

// global are the addresses of a namespace that others reach, by the indexes of their links.
func (p *Plugin) global(ns host.NS) (map[int][]netip.Addr, error) {
	all, err := p.Kernel.AllAddresses(ns)
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	out := map[int][]netip.Addr{}
	for index, prefixes := range all {
		for _, x := range prefixes {
			if a := x.Addr(); a.IsGlobalUnicast() && !slices.Contains(out[index], a) {
				out[index] = append(out[index], a)
			}
		}
	}
	return out, nil
}

// notTheNodes are beginnings of names of interfaces whose addresses are not the node's own: they
// belong to bridges and tunnels of pods, virtual machines and service proxies.
var notTheNodes = []string{"docker", "cbr", "dummy", "virbr", "lxcbr", "veth", "lo", "cali", "flannel", "kube-ipvs",
	"cni", "vx-submariner", "cilium"}

// seeNode learns the node's links, main table and addresses, those of the interface with the
// default route first: the first of a family becomes the pod's gateway.
func (p *Plugin) seeNode(f *facts) error {
	var err error
	if f.nodeLinks, err = p.Kernel.Links(host.NodeNS); err != nil {
		return fmt.Errorf("list the node's links: %w", err)
	}
	if f.nodeMain, err = p.Kernel.Routes(host.NodeNS, 0); err != nil {
		return fmt.Errorf("list the node's routes: %w", err)
	}
	addresses, err := p.global(host.NodeNS)
	if err != nil {
		return err
	}
	var best, rest []netip.Addr
	for _, l := range f.nodeLinks {
		f.allNodeAddrs = append(f.allNodeAddrs, addresses[l.Index]...)
		if !l.Up || slices.ContainsFunc(notTheNodes,
			func(prefix string) bool { return strings.HasPrefix(l.Name, prefix) }) {
			continue
		}
		if slices.ContainsFunc(f.nodeMain, func(r host.Route) bool { return r.Dst.Bits() == 0 && r.Index == l.Index }) {
			best = append(best, addresses[l.Index]...)
		} else {
			rest = append(rest, addresses[l.Index]...)
		}
	}
	f.nodeAddrs = append(best, rest...)
	return nil
}

// pair makes the pair for the first interface, anew when a broken attempt left one, and finds it
// for later ones.
func (p *Plugin) pair(r *cni.Request, f *facts) (err error) {
	name := hostVeth(r.ContainerID)
	switch f.mode {
	case modeUnderlay:
		f.nodeEnd, err = p.find(host.NodeNS, name)
		if err == nil && f.nodeEnd == nil {
			err = cni.Errorf(cni.CodeFailed, "delete the pod, so that it starts anew",
				"the pod has %s, but its other end %s is not on the node", podVeth, name)
		}
	case modeFirst:
		err = p.makePair(f, name)
		if errors.Is(err, host.ErrExists) {
			if err = p.deletePair(name); err == nil {
				err = p.makePair(f, name)
			}
		}
	}
	return err
}

func (p *Plugin) makePair(f *facts, name string) error {
	a, b, err := p.Kernel.AddVeth(host.NodeNS, name, f.pod, podVeth, f.set.vethMTU)
	if err != nil {
		return fmt.Errorf("join pod and node by %s and %s: %w", podVeth, name, err)
	}
	f.nodeEnd, f.podEnd = &a, &b
	return nil
}

// deletePair deletes the pair with this end on the node, if there is one.
func (p *Plugin) deletePair(name string) error {
	nodeEnd, err := p.find(host.NodeNS, name)
	if err != nil || nodeEnd == nil {
		return err
	}
	if err := p.Kernel.DeleteLink(host.NodeNS, nodeEnd.Index); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

func (p *Plugin) apply(ctx context.Context, f facts, plan plan) error {
	for _, s := range plan.sysctls {
		if err := p.Kernel.SetSysctl(s.ns, s.key, s.value); err != nil {
			return fmt.Errorf("set %s to %s: %w", s.key, s.value, err)
		}
	}
	if plan.vethAddress.IsValid() {
		if err := p.Kernel.AddAddress(f.pod, f.podEnd.Index, single(plan.vethAddress)); err != nil {
			return fmt.Errorf("give %s the address %s: %w", podVeth, plan.vethAddress, err)
		}
	}
	if err := p.applyNode(plan); err != nil {
		return err
	}
	return p.applyPod(ctx, f, plan)
}

func (p *Plugin) applyNode(plan plan) error {
	p.tables.Lock()
	defer p.tables.Unlock()
	for _, n := range plan.nodeNeighbors {
		if err := p.Kernel.AddNeighbor(host.NodeNS, n); err != nil {
			return fmt.Errorf("tell the node where %s is: %w", n.IP, err)
		}
	}
	for _, r := range plan.nodeRules {
		if err := p.Kernel.AddRule(host.NodeNS, r); err != nil {
			return fmt.Errorf("add the node's rule for table %d: %w", r.Table, err)
		}
	}
	for _, r := range plan.nodeDrop {
		if err := p.Kernel.DeleteRoute(host.NodeNS, r); err != nil {
			return fmt.Errorf("delete the node's old route to %s: %w", r.Dst, err)
		}
	}
	for _, r := range plan.nodeRoutes {
		if err := p.Kernel.AddRoute(host.NodeNS, r); err != nil {
			return fmt.Errorf("add the node's route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func (p *Plugin) applyPod(ctx context.Context, f facts, plan plan) error {
	for _, n := range plan.podNeighbors {
		if err := p.Kernel.AddNeighbor(f.pod, n); err != nil {
			return fmt.Errorf("tell the pod where %s is: %w", n.IP, err)
		}
	}
	if err := p.addPodRoutes(f, plan.podRoutes); err != nil {
		return err
	}
	if plan.markReplies {
		if err := p.markReplies(ctx, f); err != nil {
			return err
		}
	}
	for _, r := range plan.podRules {
		if err := p.Kernel.AddRule(f.pod, r); err != nil {
			return fmt.Errorf("add the pod's rule for table %d: %w", r.Table, err)
		}
	}
	for _, r := range plan.podDrop {
		if err := p.Kernel.DeleteRoute(f.pod, r); err != nil {
			return fmt.Errorf("take the default route off: %w", err)
		}
	}
	return p.addPodRoutes(f, plan.podReplace)
}

func (p *Plugin) addPodRoutes(f facts, routes []host.Route) error {
	for _, r := range routes {
		if err := p.Kernel.AddRoute(f.pod, r); err != nil {
			return fmt.Errorf("add the pod's route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// markReplies goes on without marks where the kernel cannot do them: the node's own connections are
// answered all the same, by their routes.
func (p *Plugin) markReplies(ctx context.Context, f facts) error {
	err := p.Kernel.MarkReplies(f.pod, podVeth, replyMark)
	if errors.Is(err, host.ErrUnsupported) {
		slog.WarnContext(ctx,
			"coordinator: connections that the node passes on for others may be answered over the wrong interface; "+
				"load nf_tables and nft_ct", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("have replies leave through %s: %w", podVeth, err)
	}
	return nil
}

// Del implements cni.Plugin. What is in the pod goes with its namespace; the node's end of the pair
// takes its routes and neighbours along. The rule of the cluster's table stays, it is the node's and
// not a pod's; that of a network's own table goes with the last pod.
func (p *Plugin) Del(ctx context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil {
		return fmt.Errorf("read the coordinator's record: %w", err)
	}
	p.giveBack(ctx, r, st.former)
	if r.IfName == firstNIC {
		err = p.deletePair(hostVeth(r.ContainerID))
	} else if ok {
		err = p.deleteRoutes(r, st)
	}
	if err != nil || !ok {
		return err
	}
	return p.deleteRules(ctx, st)
}

// deleteRoutes deletes a later interface's routes on the node.
func (p *Plugin) deleteRoutes(r *cni.Request, st state) error {
	nodeEnd, err := p.find(host.NodeNS, hostVeth(r.ContainerID))
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range routesOnNode(st, nodeEnd) {
		if err := p.Kernel.DeleteRoute(host.NodeNS, r); err != nil {
			errs = append(errs, fmt.Errorf("delete the node's route to %s: %w", r.Dst.Addr(), err))
		}
	}
	return errors.Join(errs...)
}

// Check implements cni.Plugin.
func (p *Plugin) Check(_ context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return err
	}
	nodeEnd, err := p.nodeEnd(r, st)
	if err != nil {
		return err
	}
	if len(st.Addresses) > 0 {
		if _, err := p.Kernel.LinkByName(r.NetNS, podVeth); err != nil {
			return fmt.Errorf("look for the pod's end of the pair: %w", err)
		}
	}
	missing, err := p.missing(st, routesOnNode(st, nodeEnd))
	if err == nil && missing == "" && nodeEnd != nil {
		missing, err = cni.TrustsPod(p.Kernel, nodeEnd.Name)
	}
	if err != nil || missing == "" {
		return err
	}
	return cni.Errorf(cni.CodeFailed, "the agent mends it within some minutes; see who takes it away", "%s", missing)
}
