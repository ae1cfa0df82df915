// SPDX-License-Identifier: Apache-2.0

// Package ipoib is the CNI plugin "ipoib": it gives a pod an IPoIB child of a
// host interface, for TCP/IP over InfiniBand without an RDMA device.
//
// The child is made in the node's namespace under a name that follows from the
// container ID, so that it is found again whatever happens in between, and then
// moved. After that it is known by its alias, which names its attachment: when a
// pod's namespace dies, the kernel returns the child to the node under any name.
//
// proxy_arp stays off, which the older plugin turns on: it works only where the
// pod forwards (arp_process, IN_DEV_FORWARD), and a pod that does would answer on
// the fabric for its node, to which it has a route through veth0.
package ipoib

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// Type is the plugin's name in configurations.
const Type = "ipoib"

// kind is the rtnetlink kind of an IPoIB link.
const kind = "ipoib"

// Kernel is what the plugin needs of the node.
type Kernel interface {
	Links(ns host.NS) ([]host.Link, error)
	LinkByName(ns host.NS, name string) (host.Link, error)
	VFDevices(pci string) (host.VFDevices, error)
	AddIPoIBChild(parent int, name string, pkey uint16) (host.Link, error)
	SetIPv6LinkLocalGUID(ns host.NS, index int, guid ib.GUID) error
	MoveLink(from host.NS, index int, to host.NS, name string) (host.Link, error)
	SetLinkAlias(ns host.NS, index int, alias string) error
	SetLinkMTU(ns host.NS, index int, mtu int) error
	SetLinkUp(ns host.NS, index int) error
	DeleteLink(ns host.NS, index int) error
	AddAddress(ns host.NS, index int, p netip.Prefix) error
	AddRoute(ns host.NS, r host.Route) error
	Announce(ns host.NS, index int, ip netip.Addr) error
	cni.SysctlKernel
	cni.CheckKernel
}

// Plugin is the plugin.
type Plugin struct{ Kernel Kernel }

// conf is the configuration object of type "ipoib".
type conf struct {
	Master string          `json:"master"`
	MTU    int             `json:"mtu"`
	PKey   json.RawMessage `json:"pkey"`
	// AcceptRA: take addresses and routes from the fabric's IPv6 routers, too.
	AcceptRA bool `json:"acceptRA"`
	IPAM     struct {
		Type string `json:"type"`
	} `json:"ipam"`
}

// state is what Del needs. It is recorded before the child is made.
type state struct {
	Master   string  `json:"master"`
	TempName string  `json:"tempName"`
	NetNS    host.NS `json:"netns"`
	IfName   string  `json:"ifname"`
	// Alias is the child's; records of earlier agents have none.
	Alias string `json:"alias,omitempty"`
	// HardwareAddr is the child's, for one whose alias somebody has changed. It is noted when the
	// child is made.
	HardwareAddr string `json:"hardwareAddr,omitempty"`
}

// RunsBeside implements cni.Beside.
func (p *Plugin) RunsBeside() {}

// RecordsFirst implements cni.Recorder.
func (p *Plugin) RecordsFirst() {}

// Add implements cni.Plugin.
func (p *Plugin) Add(ctx context.Context, r *cni.Request) (*types100.Result, error) {
	c, err := parse(r)
	if err != nil {
		return nil, err
	}
	end := r.Phases.Start(cni.PhaseGather)
	master, err := p.master(c.Master)
	end()
	if err != nil {
		return nil, err
	}
	link, err := p.child(r, c, master)
	if err != nil {
		return nil, err
	}
	if r.IPAM != nil {
		if err := cni.IgnoreRouters(p.Kernel, r.NetNS, r.IfName, c.AcceptRA); err != nil {
			return nil, err
		}
	}
	return p.configure(ctx, r, link)
}

func parse(r *cni.Request) (conf, error) {
	var c conf
	if err := r.ParseConf(&c); err != nil {
		return c, err
	}
	if err := cni.RefusePKey(c.PKey); err != nil {
		return c, err
	}
	switch {
	case c.Master == "":
		return c, cni.Errorf(cni.CodeInvalidConfig, "set it to the node's IPoIB interface, such as ibs5f0",
			"master is empty")
	case c.MTU < 0:
		return c, cni.Errorf(cni.CodeInvalidConfig, "leave it out to take the master's", "mtu is %d", c.MTU)
	case c.IPAM.Type == "dhcp":
		return c, cni.Errorf(cni.CodeInvalidConfig, "use spiderpool, host-local or static",
			"ipam type dhcp does not work on InfiniBand")
	}
	return c, nil
}

func (p *Plugin) master(name string) (host.Link, error) {
	link, err := p.Kernel.LinkByName(host.NodeNS, name)
	if err == nil && link.Kind == kind && link.Parent == 0 {
		return link, nil
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) {
		return host.Link{}, fmt.Errorf("look for master %s: %w", name, err)
	}
	what := "does not exist on this node"
	if err == nil {
		what = fmt.Sprintf("is of kind %s, not an IPoIB interface with its own device", link.Kind)
	}
	return host.Link{}, cni.Errorf(cni.CodeInvalidConfig, p.candidates(), "master %s %s", name, what)
}

// candidates lists what could be a master here. Virtual functions could as well, but they are given to pods.
func (p *Plugin) candidates() string {
	links, err := p.Kernel.Links(host.NodeNS)
	if err != nil {
		return ""
	}
	var names []string
	for _, l := range links {
		if _, err := p.Kernel.VFDevices(l.PCI); l.Kind == kind && l.Parent == 0 && err != nil {
			names = append(names, strings.Join(append([]string{l.Name}, l.AltNames...), "="))
		}
	}
	if len(names) == 0 {
		return "this node has no IPoIB interface: is its card in InfiniBand mode and ib_ipoib loaded?"
	}
	return "the IPoIB interfaces of this node are " + strings.Join(names, ", ")
}

// child makes the link and brings it into the pod, up to but without its addresses.
func (p *Plugin) child(r *cni.Request, c conf, master host.Link) (host.Link, error) {
	key := cni.AttachmentKey{ContainerID: r.ContainerID, IfName: r.IfName}
	st := state{Master: master.Name, TempName: tempName(key), NetNS: r.NetNS, IfName: r.IfName, Alias: alias(key)}
	if err := p.record(r, st); err != nil {
		return host.Link{}, err
	}
	defer r.Phases.Start(cni.PhaseLink)()
	// The kernel sets the bit of full membership itself and refuses the key 0.
	link, err := p.Kernel.AddIPoIBChild(master.Index, st.TempName, uint16(ib.PKey(master.PKey).Key()))
	if err != nil {
		return host.Link{}, fmt.Errorf("make an IPoIB child of %s: %w", master.Name, err)
	}
	if err := p.Kernel.SetLinkAlias(host.NodeNS, link.Index, st.Alias); err != nil {
		return host.Link{}, fmt.Errorf("mark the IPoIB child of %s: %w", master.Name, err)
	}
	st.HardwareAddr = link.HardwareAddr.String()
	if err := r.State.Note(st); err != nil {
		return host.Link{}, fmt.Errorf("record the IPoIB child: %w", err)
	}
	if link, err = p.Kernel.MoveLink(host.NodeNS, link.Index, r.NetNS, r.IfName); err != nil {
		return host.Link{}, fmt.Errorf("move the IPoIB child of %s into the pod as %s: %w", master.Name, r.IfName, err)
	}
	if err := p.Kernel.SetIPv6LinkLocalGUID(r.NetNS, link.Index, identifier(r, link)); err != nil {
		return host.Link{}, fmt.Errorf("give %s an IPv6 interface identifier of its own: %w", r.IfName, err)
	}
	if c.MTU > 0 && c.MTU != link.MTU {
		if err := p.Kernel.SetLinkMTU(r.NetNS, link.Index, c.MTU); err != nil {
			return host.Link{}, fmt.Errorf("set the MTU of %s to %d: %w", r.IfName, c.MTU, err)
		}
		link.MTU = c.MTU
	}
	return link, nil
}

func (p *Plugin) record(r *cni.Request, st state) error {
	defer r.Phases.Start(cni.PhaseRecord)()
	if err := r.State.Save(st); err != nil {
		return fmt.Errorf("record the IPoIB child: %w", err)
	}
	return nil
}

// tempName is unique to the attachment and fits in the 15 characters of an interface name.
func tempName(k cni.AttachmentKey) string {
	sum := sha256.Sum256([]byte(k.ContainerID + "/" + k.IfName))
	return fmt.Sprintf("ibc%x", sum[:6])
}

// firstName matches what tempName makes.
var firstName = regexp.MustCompile(`^ibc[0-9a-f]{12}$`)

// alias names the attachment on the child itself. Container IDs have 64 characters, an alias may have 255.
func alias(k cni.AttachmentKey) string { return cni.LinkAliasPrefix + k.ContainerID + "/" + k.IfName }

// ours tells a link that looks like a child of ours.
func ours(l host.Link) bool {
	return l.Kind == kind && (firstName.MatchString(l.Name) || strings.HasPrefix(l.Alias, cni.LinkAliasPrefix))
}

// identifier is a GUID that no other child of the port has: all children share the port's GUID and
// with it the link-local address that the kernel would form. It is random by the container ID,
// marked as locally administered.
func identifier(r *cni.Request, link host.Link) ib.GUID {
	sum := sha256.Sum256([]byte(r.ContainerID + "/" + r.IfName + "/" + link.HardwareAddr.String()))
	g := ib.GUID(sum[:8])
	g[0] |= 0x02
	return g
}

func (p *Plugin) configure(ctx context.Context, r *cni.Request, link host.Link) (*types100.Result, error) {
	res, err := cni.Addresses(ctx, r, 0)
	if err == nil {
		err = r.WaitTurn(ctx) // of the routes that two networks have the first one's stays
	}
	if err != nil {
		return nil, err
	}
	defer r.Phases.Start(cni.PhaseAddress)()
	if err := cni.Configure(ctx, p.Kernel, r.NetNS, link.Index, res); err != nil {
		return nil, fmt.Errorf("configure %s: %w", r.IfName, err)
	}
	return &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: r.IfName, Mac: link.HardwareAddr.String(), Mtu: link.MTU,
			Sandbox: string(r.NetNS)}},
		IPs:    res.IPs,
		Routes: res.Routes,
		DNS:    res.DNS,
	}, nil
}

// Del implements cni.Plugin: the child goes from wherever it is.
func (p *Plugin) Del(ctx context.Context, r *cni.Request) error {
	errs := []error{r.ReleaseAddresses(ctx)}
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return errors.Join(append(errs, err)...)
	}
	defer r.Phases.Start(cni.PhaseLink)()
	return errors.Join(append(errs, p.takeBack(ctx, st))...)
}

// Bounds of the wait for a child that the kernel is returning from a dying namespace. It is not an
// error when none comes: a child also goes with its master, and none outlives the node's restart.
const (
	comeHome  = time.Second
	lookAgain = 10 * time.Millisecond
)

// takeBack deletes the child in the pod and on the node.
func (p *Plugin) takeBack(ctx context.Context, st state) error {
	_, podErr := p.remove(st.NetNS, st)
	dying := errors.Is(podErr, host.ErrNSGone)
	if dying {
		podErr = nil
	}
	for deadline := time.Now().Add(comeHome); ; {
		found, err := p.remove(host.NodeNS, st)
		if err != nil || found || !dying || time.Now().After(deadline) {
			return errors.Join(podErr, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the IPoIB child to come back to the node: %w", ctx.Err())
		case <-time.After(lookAgain):
		}
	}
}

func (p *Plugin) remove(ns host.NS, st state) (found bool, err error) {
	links, err := p.Kernel.Links(ns)
	if err != nil {
		return false, fmt.Errorf("look for the IPoIB child: %w", err)
	}
	for _, l := range links {
		if !st.is(l) && (ns == host.NodeNS || !st.disguised(l)) {
			continue
		}
		found = true
		if err := p.Kernel.DeleteLink(ns, l.Index); err != nil && !errors.Is(err, host.ErrNotFound) {
			return found, fmt.Errorf("delete IPoIB child %s: %w", l.Name, err)
		}
	}
	return found, nil
}

// is recognises the child: by its first name, by its alias, and by its hardware address when it has
// neither. Its queue pair number is given again when it is gone, perhaps to the child of an
// attachment under way.
func (st state) is(l host.Link) bool {
	switch {
	case l.Kind != kind:
		return false
	case l.Name == st.TempName || st.Alias != "" && l.Alias == st.Alias:
		return true
	case ours(l):
		return false
	}
	return st.HardwareAddr != "" && l.HardwareAddr.String() == st.HardwareAddr
}

// disguised recognises the child in its pod under whatever name, alias and GUID the pod gave it, by
// its queue pair number, which no pod can change. Only the alias of another interface of this pod
// is believed: elsewhere the child would pass for another pod's.
func (st state) disguised(l host.Link) bool {
	own := st.Alias[:strings.LastIndexByte(st.Alias, '/')+1]
	a, err := net.ParseMAC(st.HardwareAddr)
	if err != nil || len(a) != ib.LinkAddrLen || len(l.HardwareAddr) != ib.LinkAddrLen || l.Kind != kind ||
		l.Parent == 0 {
		return false
	}
	return bytes.Equal(a[1:4], l.HardwareAddr[1:4]) && (own == "" || !strings.HasPrefix(l.Alias, own))
}

// Sweep implements cni.Sweeper. A child has a name of ours from its making until it is in the pod,
// and an alias of ours from before it goes there.
func (p *Plugin) Sweep(recorded func() []cni.Recorded) (removed []string, err error) {
	links, err := p.Kernel.Links(host.NodeNS)
	if err != nil {
		return nil, fmt.Errorf("look for stray IPoIB children: %w", err)
	}
	links = slices.DeleteFunc(links, func(l host.Link) bool { return !ours(l) })
	if len(links) == 0 {
		return nil, nil
	}
	owned := map[string]bool{}
	for _, k := range recorded() {
		owned[tempName(k.AttachmentKey)], owned[alias(k.AttachmentKey)] = true, true
	}
	var errs []error
	for _, l := range links {
		if owned[l.Name] || owned[l.Alias] {
			continue
		}
		if err := p.Kernel.DeleteLink(host.NodeNS, l.Index); err != nil && !errors.Is(err, host.ErrNotFound) {
			errs = append(errs, fmt.Errorf("delete stray IPoIB child %s: %w", l.Name, err))
			continue
		}
		removed = append(removed, l.Name)
	}
	return removed, errors.Join(errs...)
}

// Check implements cni.Plugin.
func (p *Plugin) Check(_ context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return errors.Join(err, cni.Errorf(cni.CodeUnknownContainer, "", "nothing is recorded of interface %s",
			r.IfName))
	}
	link, err := p.Kernel.LinkByName(st.NetNS, st.IfName)
	if err != nil {
		return fmt.Errorf("look for %s in the pod: %w", st.IfName, err)
	}
	if !st.is(link) || !link.Up {
		return cni.Errorf(cni.CodeFailed, "", "%s in the pod is %s %s (up: %t): want the IPoIB child %s, up", st.IfName,
			link.Kind, link.HardwareAddr, link.Up, st.HardwareAddr)
	}
	return cni.CheckConfigured(p.Kernel, link, r.Prev)
}
