// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// parseMACPrefix reads "0a:1b", the first two octets of a hardware address; nil for "".
func parseMACPrefix(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	octets, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(octets) != 2 || octets[0]&1 != 0 {
		return nil, fmt.Errorf("%q: want two hexadecimal octets of a unicast address, such as 0a:1b", text)
	}
	return octets, nil
}

// hardwareAddr is the address that podMACPrefix gives an interface: the prefix, and the four octets
// of its first IPv4 address, so that an address moves with what others know it by. Nil, with a
// remark where one was wanted, when it keeps its own.
func (s settings) hardwareAddr(n nic) (a net.HardwareAddr, remark string) {
	if s.macPrefix == nil {
		return nil, ""
	}
	if n.LinkLayer != host.Ethernet {
		return nil, fmt.Sprintf("podMACPrefix is not for %s, whose link layer is %s: the fabric's address stays",
			n.Name, n.LinkLayer)
	}
	ip := firstOf(n.addrs, false)
	if !ip.IsValid() {
		return nil, fmt.Sprintf("podMACPrefix makes hardware addresses of IPv4 addresses, and %s has none: it keeps %s",
			n.Name, n.HardwareAddr)
	}
	return slices.Concat(net.HardwareAddr(s.macPrefix), ip.AsSlice()), ""
}

// former is what Del gives the netdev of a card back.
type former struct {
	// PCI is the card's address: the netdev may have another name by then.
	PCI string `json:"pci,omitempty"`
	// FormerMAC is the hardware address that it had before podMACPrefix.
	FormerMAC string `json:"formerMAC,omitempty"`
	// FormerTxQueueLen is its queue before txQueueLen; nil when that is not set.
	FormerTxQueueLen *int `json:"formerTxQueueLen,omitempty"`
}

// formerOf records what the settings will change of a card's netdev. Only such a one goes back to
// the node; a link that was made for the pod ends with it. An earlier attempt may have changed it
// already, and recorded what it found.
func (s settings) formerOf(old former, n nic) former {
	if n.PCI == "" {
		return former{}
	}
	var f former
	if a, _ := s.hardwareAddr(n); a != nil {
		f.FormerMAC = cmp.Or(old.FormerMAC, n.HardwareAddr.String())
	}
	if s.txQueueLen > 0 {
		f.FormerTxQueueLen = cmp.Or(old.FormerTxQueueLen, &n.TxQueueLen)
	}
	if f != (former{}) {
		f.PCI = n.PCI
	}
	return f
}

// tuneLink sets what the settings say of the interface itself, and returns the result with it. The
// routes are read after that.
func (p *Plugin) tuneLink(ctx context.Context, r *cni.Request, f facts) (*types100.Result, error) {
	this, err := f.this()
	if err != nil {
		return nil, err
	}
	if n := f.set.txQueueLen; n > 0 && n != this.TxQueueLen {
		if err := p.Kernel.SetLinkTxQueueLen(f.pod, this.Index, n); err != nil {
			return nil, fmt.Errorf("txQueueLen of %s: %w", this.Name, err)
		}
	}
	a, remark := f.set.hardwareAddr(this)
	if a == nil {
		logRemarks(ctx, r, remark)
		return r.Prev, nil
	}
	err = p.setHardwareAddr(ctx, r, this, a)
	if errors.Is(err, host.ErrUnsupported) { // an ipvlan link, for one, has its parent's
		logRemarks(ctx, r, fmt.Sprintf("podMACPrefix is not for %s, which keeps %s: %v", this.Name, this.HardwareAddr,
			err))
		return r.Prev, nil
	}
	if err != nil {
		return nil, fmt.Errorf("podMACPrefix on %s: %w", this.Name, err)
	}
	return withMAC(r.Prev, this.Name, a), nil
}

// setHardwareAddr gives an interface of the pod another address, and tells its neighbours.
func (p *Plugin) setHardwareAddr(ctx context.Context, r *cni.Request, n nic, a net.HardwareAddr) error {
	if slices.Equal(n.HardwareAddr, a) {
		return nil
	}
	err := p.Kernel.SetLinkHardwareAddr(r.NetNS, n.Index, a)
	if errors.Is(err, host.ErrBusy) {
		err = p.whileDown(r.NetNS, n.Index, tablesOf(r.Prev),
			func() error { return p.Kernel.SetLinkHardwareAddr(r.NetNS, n.Index, a) })
	}
	if err != nil {
		return err
	}
	for _, ip := range n.addrs {
		if err := p.Kernel.Announce(r.NetNS, n.Index, ip); err != nil {
			slog.DebugContext(ctx, "could not announce an address", "ip", ip, "error", err)
		}
	}
	return nil
}

// tablesOf are the tables that a result has routes in.
func tablesOf(prev *types100.Result) []int {
	tables := []int{0}
	for _, r := range prev.Routes {
		if r.Table != nil && !slices.Contains(tables, *r.Table) {
			tables = append(tables, *r.Table)
		}
	}
	return tables
}

// whileDown does something to a link that has to be down for it, and brings back what the kernel
// takes away then: the routes of the given tables, and IPv6 addresses (addrconf_ifdown).
func (p *Plugin) whileDown(ns host.NS, index int, tables []int, do func() error) error {
	addresses, err := p.Kernel.AllAddresses(ns)
	if err != nil {
		return fmt.Errorf("list the addresses: %w", err)
	}
	routes, err := p.routesOf(ns, index, tables)
	if err != nil {
		return err
	}
	err = p.Kernel.SetLinkDown(ns, index)
	if err == nil {
		err = do()
	}
	// A failure is no reason to leave the pod cut off: the next attempt does not know what there was.
	return errors.Join(err, p.Kernel.SetLinkUp(ns, index), p.restoreAddresses(ns, index, addresses[index]),
		p.restoreRoutes(ns, index, tables, routes))
}

func (p *Plugin) restoreAddresses(ns host.NS, index int, want []netip.Prefix) error {
	var errs []error
	for _, a := range want {
		if a.Addr().IsLinkLocalUnicast() && a.Addr().Is6() {
			continue // the kernel makes one
		}
		if err := p.Kernel.AddAddress(ns, index, a); err != nil {
			errs = append(errs, fmt.Errorf("give the address %s back: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

func (p *Plugin) routesOf(ns host.NS, index int, tables []int) (out []host.Route, err error) {
	for _, table := range tables {
		all, err := p.Kernel.Routes(ns, table)
		if err != nil {
			return nil, fmt.Errorf("list the routes of table %d: %w", table, err)
		}
		out = append(out, slices.DeleteFunc(all, func(r host.Route) bool { return r.Index != index })...)
	}
	return out, nil
}

// restoreRoutes adds those that the kernel did not make again by itself, gateways after the
// networks that they are in.
func (p *Plugin) restoreRoutes(ns host.NS, index int, tables []int, want []host.Route) error {
	have, err := p.routesOf(ns, index, tables)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(want, func(r host.Route) bool { return kernelsOwn(r) || slices.Contains(have, r) })
	// no gateway is least
	slices.SortStableFunc(missing, func(a, b host.Route) int { return a.Gateway.Compare(b.Gateway) })
	var errs []error
	for _, r := range missing {
		if err := p.Kernel.AddRoute(ns, r); err != nil {
			errs = append(errs, fmt.Errorf("bring the route to %s back: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// withMAC is a copy of a result with the hardware address of an interface of the pod.
func withMAC(prev *types100.Result, ifname string, a net.HardwareAddr) *types100.Result {
	out := *prev
	out.Interfaces = slices.Clone(prev.Interfaces)
	for i, x := range out.Interfaces {
		if x.Name == ifname && x.Sandbox != "" {
			changed := *x
			changed.Mac = a.String()
			out.Interfaces[i] = &changed
		}
	}
	return &out
}

// giveBack is for the netdev of a card: the node, and the next pod, get it as it was. It is best
// effort, since the plugin that takes the netdev out of the pod must have its turn.
func (p *Plugin) giveBack(ctx context.Context, r *cni.Request, was former) {
	if was == (former{}) {
		return
	}
	l, err := p.findCard(r, was)
	if err == nil {
		err = errors.Join(p.giveMACBack(l, was), p.giveQueueBack(l, was))
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) && !errors.Is(err, host.ErrNSGone) {
		slog.WarnContext(ctx, "coordinator: an interface goes back to the node with what was set for the pod", "ifname",
			r.IfName, "sandbox", r.ContainerID, "pci", was.PCI, "mac", was.FormerMAC, "error", err)
	}
}

// findCard looks in the pod, and on the node when the namespace is gone: the kernel takes the
// netdev there, under a name that may be another. A record without a card's address is of an older
// version.
func (p *Plugin) findCard(r *cni.Request, was former) (l host.Link, err error) {
	if r.NetNS != host.NodeNS {
		l, err = p.Kernel.LinkByName(r.NetNS, r.IfName)
		if err == nil && (l.PCI == "" || was.PCI != "" && l.PCI != was.PCI) {
			err = fmt.Errorf("%s is no card's: %w", l.Name, host.ErrNotFound)
		}
		if !errors.Is(err, host.ErrNSGone) {
			return l, err
		}
	}
	if was.PCI == "" {
		return host.Link{}, fmt.Errorf("the card of %s is not recorded: %w", r.IfName, host.ErrNotFound)
	}
	l, err = p.Kernel.LinkByPCI(host.NodeNS, was.PCI)
	if err != nil {
		return host.Link{}, fmt.Errorf("look for the netdev of %s: %w", was.PCI, err)
	}
	return l, nil
}

func (p *Plugin) giveMACBack(l host.Link, was former) error {
	a, err := net.ParseMAC(was.FormerMAC)
	if err != nil || slices.Equal(l.HardwareAddr, a) {
		return nil // there is none to give back
	}
	err = p.Kernel.SetLinkHardwareAddr(l.NS, l.Index, a)
	if errors.Is(err, host.ErrBusy) {
		err = errors.Join(p.Kernel.SetLinkDown(l.NS, l.Index), p.Kernel.SetLinkHardwareAddr(l.NS, l.Index, a))
	}
	return err
}

func (p *Plugin) giveQueueBack(l host.Link, was former) error {
	if was.FormerTxQueueLen == nil || *was.FormerTxQueueLen == l.TxQueueLen {
		return nil
	}
	return p.Kernel.SetLinkTxQueueLen(l.NS, l.Index, *was.FormerTxQueueLen)
}

// logRemarks logs what was left out, and why.
func logRemarks(ctx context.Context, r *cni.Request, remarks ...string) {
	for _, remark := range remarks {
		if remark != "" {
			slog.WarnContext(ctx, "coordinator: "+remark, "namespace", r.Pod.Namespace, "pod", r.Pod.Name, "ifname",
				r.IfName, "sandbox", r.ContainerID)
		}
	}
}
