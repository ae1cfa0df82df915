// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spidernet.io/spiderpool/internal/host"
)

// throughFirst leads an overlay pod to its node, and to what is reached through it, by the first
// interface: in the main table, whoever has or gets the default route there, and in the table of
// this interface for what is sent from its addresses.
func (p *plan) throughFirst(f facts, this nic, v6 bool) {
	first, ok := named(f.nics, firstNIC)
	src := firstOf(first.addrs, v6)
	if !f.set.tunePodRoutes || !ok || !src.IsValid() {
		return
	}
	back := f.waysBack(this, v6)
	p.onNodeThroughFirst(f, back, v6)
	if len(back) == 0 {
		p.remarks = append(p.remarks,
			fmt.Sprintf(
				"the node reaches %s by no link of its own that leads to the pod: what is sent to it from the "+
					"addresses of %s does not go by %s", src, this.Name, firstNIC))
	}
	for _, dst := range f.behindNode(v6) {
		way, ok := longest(f.firstRoutes, dst)
		if !ok {
			p.remarks = append(p.remarks, fmt.Sprintf("%s has no way to %s: it stays as it is", firstNIC, dst))
			continue
		}
		p.mainThroughFirst(f, host.Route{Dst: dst, Gateway: way.Gateway, Src: src, Index: first.Index})
		if len(back) > 0 || !f.isNode(dst) {
			p.addUnlessTaken(host.Route{Dst: dst, Gateway: way.Gateway, Index: first.Index, Table: tableOf(this)})
		}
	}
}

// behindNode is the node's addresses and the networks that are reached through it.
func (f facts) behindNode(v6 bool) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range f.nodeAddrs {
		all = append(all, single(a))
	}
	all = append(all, f.set.viaNode...)
	return slices.DeleteFunc(all, func(dst netip.Prefix) bool { return dst.Addr().Is6() != v6 })
}

func (f facts) isNode(dst netip.Prefix) bool {
	return dst.IsSingleIP() && slices.Contains(f.nodeAddrs, dst.Addr())
}

// mainThroughFirst leaves alone what the main table has, which is what the first interface's plugin
// made, or an earlier call.
func (p *plan) mainThroughFirst(f facts, r host.Route) {
	i := slices.IndexFunc(f.podRoutes, func(x host.Route) bool { return x.Dst == r.Dst })
	switch {
	case i < 0:
		p.podRoutes = append(p.podRoutes, r)
	case f.podRoutes[i].Index != r.Index:
		p.remarks = append(p.remarks, fmt.Sprintf("the pod has a route to %s already: it does not go by %s", r.Dst,
			firstNIC))
	}
}

// addUnlessTaken gives way to the interface's own networks and to policyRoutes, which are planned before.
func (p *plan) addUnlessTaken(r host.Route) {
	if !slices.ContainsFunc(p.podRoutes, func(x host.Route) bool { return x.Dst == r.Dst && x.Table == r.Table }) {
		p.podRoutes = append(p.podRoutes, r)
	}
}

// longest is the route that what is sent to dst takes: of those that hold all of it, the longest;
// of equal ones the first.
func longest(routes []host.Route, dst netip.Prefix) (best host.Route, ok bool) {
	for _, r := range routes {
		holds := r.Dst.Addr().Is6() == dst.Addr().Is6() && r.Dst.Bits() <= dst.Bits() && r.Dst.Contains(dst.Addr())
		if holds && (!ok || r.Dst.Bits() > best.Dst.Bits()) {
			best, ok = r, true
		}
	}
	return best, ok
}

// waysBack are the node's routes to an interface's addresses: the first interface's address is
// their gateway, so that the node needs to find no other neighbour than it does anyway. That wants
// it on a link of the node that leads to the pod (leadsToPod). There are none where the node
// reaches it through a gateway, and where the first interface shares a card with the node
// (macvlan), which do not hear each other. Their source is an address that throughFirst leads to:
// the bridge's own, which the kernel would take, is not.
func (f facts) waysBack(this nic, v6 bool) []host.Route {
	first, ok := named(f.nics, firstNIC)
	src := firstOf(first.addrs, v6)
	if !ok || first.Kind != "veth" || !src.IsValid() {
		return nil
	}
	way, ok := longest(f.nodeMain, single(src))
	if !ok || way.Gateway.IsValid() || way.Dst.Bits() == 0 || !f.leadsToPod(way.Index, first) {
		return nil
	}
	var back []host.Route
	for _, a := range this.addrs {
		if a.Is6() == v6 {
			back = append(back, host.Route{Dst: single(a), Gateway: src, Src: firstOf(f.nodeAddrs, v6),
				Index: way.Index, Table: f.set.hostTable})
		}
	}
	return back
}

// leadsToPod tells whether what the node sends by a link comes to the pod's first interface
// whatever its addresses are: by the veth's other end, or a bridge. A switch's port or a tunnel
// (antrea-gw0, ovn-k8s-mp0) sorts by address, and so do Cilium's programs at the ends of its veths.
// Each end of a veth names the other, lest it be a link of some third namespace.
func (f facts) leadsToPod(index int, first nic) bool {
	i := slices.IndexFunc(f.nodeLinks, func(l host.Link) bool { return l.Index == index })
	if i < 0 {
		return false
	}
	switch l := f.nodeLinks[i]; l.Kind {
	case "bridge":
		return true
	case "veth":
		return first.Parent == l.Index && l.Parent == first.Index && !strings.HasPrefix(l.Name, "lxc")
	}
	return false
}

// onNodeThroughFirst leads the node to the interface's addresses.
func (p *plan) onNodeThroughFirst(f facts, back []host.Route, v6 bool) {
	if len(back) > 0 {
		p.nodeRules = append(p.nodeRules, NodeRule(f.set.hostTable, v6))
	}
	for _, r := range back {
		p.nodeRoute(f, r)
	}
}

// ways are the routes on the node that an overlay pod's interface gets, of both families, for the
// record. Their source is not in it: the node's addresses change.
func (f facts) ways(this nic) []host.Route {
	if f.mode != modeOverlay || !f.set.tunePodRoutes {
		return nil
	}
	return sourceless(slices.Concat(f.waysBack(this, false), f.waysBack(this, true)))
}

func sourceless(routes []host.Route) []host.Route {
	out := slices.Clone(routes)
	for i := range out {
		out[i].Src = netip.Addr{}
	}
	return out
}

// staleSource tells that the node does not send by a way back with an address of its own that the
// pod knows a way to: it has lost the address, and with an IPv6 one the kernel took it off the
// route.
func (f facts) staleSource(back host.Route) bool {
	if back.Src.IsValid() {
		return !slices.Contains(f.allNodeAddrs, back.Src)
	}
	return firstOf(f.nodeAddrs, back.Dst.Addr().Is6()).IsValid()
}
