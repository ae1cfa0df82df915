package coordinator

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
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

// hardwareAddr is the address that podMACPrefix gives an interface: the prefix, and the four octets of its first IPv4
// address, so that an address moves with what others know it by. Nil, with a remark where one was wanted, when it keeps its own.
func (s settings) hardwareAddr(n nic) (a net.HardwareAddr, remark string) {
	if s.macPrefix == nil {
		return nil, ""
	}
	if n.LinkLayer != host.Ethernet {
		return nil, fmt.Sprintf("podMACPrefix is not for %s, whose link layer is %s: the fabric's address stays", n.Name, n.LinkLayer)
	}
	ip := firstOf(n.addrs, false)
	if !ip.IsValid() {
		return nil, fmt.Sprintf("podMACPrefix makes hardware addresses of IPv4 addresses, and %s has none: it keeps %s", n.Name, n.HardwareAddr)
	}
	return slices.Concat(net.HardwareAddr(s.macPrefix), ip.AsSlice()), ""
}

// formerMAC is what Del gives the netdev of a card back. Only such a one goes back to the node; a link that was made for the
// pod ends with it. An earlier attempt may have set the address already, and recorded what it found.
func formerMAC(old state, n nic, a net.HardwareAddr) string {
	if a == nil || n.PCI == "" {
		return ""
	}
	return cmp.Or(old.FormerMAC, n.HardwareAddr.String())
}

// tuneLink sets what the settings say of the interface itself, and returns the result with it. The routes are read
// after that.
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
		logRemarks(ctx, r, fmt.Sprintf("podMACPrefix is not for %s, which keeps %s: %v", this.Name, this.HardwareAddr, err))
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
		err = p.whileDown(r.NetNS, n.Index, tablesOf(r.Prev), func() error { return p.Kernel.SetLinkHardwareAddr(r.NetNS, n.Index, a) })
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

// whileDown does something to a link that has to be down for it, and brings back what the kernel takes away then: the
// routes of the given tables, and IPv6 addresses (addrconf_ifdown).
func (p *Plugin) whileDown(ns host.NS, index int, tables []int, do func() error) error {
	addresses, err := p.Kernel.AllAddresses(ns)
	if err != nil {
		return fmt.Errorf("list the addresses: %w", err)
	}
	routes, err := p.routesOf(ns, index, tables)
	if err != nil {
		return err
	}
	if err := p.Kernel.SetLinkDown(ns, index); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := p.Kernel.SetLinkUp(ns, index); err != nil {
		return err
	}
	for _, a := range addresses[index] {
		if a.Addr().IsLinkLocalUnicast() && a.Addr().Is6() {
			continue // the kernel makes one
		}
		if err := p.Kernel.AddAddress(ns, index, a); err != nil {
			return fmt.Errorf("give the address %s back: %w", a, err)
		}
	}
	return p.restoreRoutes(ns, index, tables, routes)
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

// restoreRoutes adds those that the kernel did not make again by itself, gateways after the networks that they are in.
func (p *Plugin) restoreRoutes(ns host.NS, index int, tables []int, want []host.Route) error {
	have, err := p.routesOf(ns, index, tables)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(want, func(r host.Route) bool { return kernelsOwn(r) || slices.Contains(have, r) })
	slices.SortStableFunc(missing, func(a, b host.Route) int { return a.Gateway.Compare(b.Gateway) }) // no gateway is least
	for _, r := range missing {
		if err := p.Kernel.AddRoute(ns, r); err != nil {
			return fmt.Errorf("bring the route to %s back: %w", r.Dst, err)
		}
	}
	return nil
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

// giveMACBack is for the netdev of a card that is in the pod still: the node, and the next pod, get it as it was. It is best
// effort, since the plugin that takes the netdev out of the pod must have its turn; when the namespace is gone, the kernel
// has taken it already, and what it is now called is that plugin's knowledge.
func (p *Plugin) giveMACBack(ctx context.Context, r *cni.Request, st state) {
	a, err := net.ParseMAC(st.FormerMAC)
	if err != nil || r.NetNS == host.NodeNS {
		return
	}
	l, err := p.Kernel.LinkByName(r.NetNS, r.IfName)
	if err == nil && l.PCI != "" && !slices.Equal(l.HardwareAddr, a) {
		if err = p.Kernel.SetLinkHardwareAddr(r.NetNS, l.Index, a); errors.Is(err, host.ErrBusy) {
			err = errors.Join(p.Kernel.SetLinkDown(r.NetNS, l.Index), p.Kernel.SetLinkHardwareAddr(r.NetNS, l.Index, a))
		}
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) && !errors.Is(err, host.ErrNSGone) {
		slog.WarnContext(ctx, "coordinator: an interface goes back to the node with the hardware address that podMACPrefix made", "ifname", r.IfName, "sandbox", r.ContainerID, "want", a, "error", err)
	}
}

// logRemarks logs what was left out, and why.
func logRemarks(ctx context.Context, r *cni.Request, remarks ...string) {
	for _, remark := range remarks {
		if remark != "" {
			slog.WarnContext(ctx, "coordinator: "+remark, "namespace", r.Pod.Namespace, "pod", r.Pod.Name, "ifname", r.IfName, "sandbox", r.ContainerID)
		}
	}
}
