// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// Names and numbers that others see in a pod or on a node.
const (
	podVeth   = "veth0"
	replyMark = 0x1
	// replyTable leads through veth0, for what is marked.
	replyTable = 100
	// tableBase and the interface's index make the number of an interface's own table: indexes are
	// unique within a namespace, so no two interfaces share one, and the kernel's tables (253 to 255)
	// are never hit.
	tableBase = 1000
	// Priorities of rules; the kernel's main table is at 32766. A reply's mark comes before a source address.
	nodeRulePriority   = 1000
	markRulePriority   = 1000
	sourceRulePriority = 2000
)

// nic is an interface in the pod with its addresses, link-local ones left out.
type nic struct {
	host.Link
	addrs []netip.Addr
}

// facts is all that decide looks at.
type facts struct {
	set    settings
	mode   string
	pod    host.NS
	ifname string
	// interfaces are the names of all interfaces of the pod, those to come too; empty when nobody knows.
	interfaces []string
	// nics are the pod's interfaces without lo and veth0.
	nics []nic
	// podRoutes are the main table of the pod, nodeRoutes the settings' hostTable of the node.
	podRoutes, nodeRoutes []host.Route
	// nodeMain is the main table of the node, firstRoutes are those of the pod's first interface:
	// in main, and in the table that has its default route when another interface took that. Both
	// are for an overlay pod alone.
	nodeMain, firstRoutes []host.Route
	// gateways are those that the plugins before us reported for this interface.
	gateways []netip.Addr
	// nodeAddrs are the node's addresses, best first; allNodeAddrs are those of pods' bridges and
	// the like too.
	nodeAddrs, allNodeAddrs []netip.Addr
	nodeLinks               []host.Link
	// podEnd and nodeEnd are the pair; nil in an overlay pod.
	podEnd, nodeEnd *host.Link
}

// sysctl is one kernel setting.
type sysctl struct {
	ns         host.NS
	key, value string
}

// plan is what apply does, in the order of the fields.
type plan struct {
	sysctls       []sysctl
	vethAddress   netip.Addr // for veth0; invalid: none
	podNeighbors  []host.Neighbor
	nodeNeighbors []host.Neighbor
	nodeRules     []host.Rule
	nodeDrop      []host.Route
	nodeRoutes    []host.Route
	podRoutes     []host.Route
	markReplies   bool
	podRules      []host.Rule
	// podDrop takes the default route off an interface, podReplace puts it on another.
	podDrop, podReplace []host.Route
	// remarks are for the log: what was left out, and why.
	remarks []string
}

// decide plans what one interface needs.
func decide(f facts) (plan, error) {
	this, err := f.this()
	if err != nil {
		return plan{}, err
	}
	var p plan
	p.tuneFilters(f, this)
	for _, v6 := range []bool{false, true} {
		src := firstOf(this.addrs, v6)
		if !src.IsValid() {
			continue
		}
		switch f.mode {
		case modeFirst:
			p.onNode(f, this, v6)
			p.throughPair(f, src, 0)
			p.answerThroughPair(f, v6)
			p.policyRoutes(f, this, v6, 0)
		case modeUnderlay:
			p.onNode(f, this, v6)
			if f.set.tunePodRoutes {
				p.throughPair(f, src, tableOf(this))
			}
			p.ownTable(f, this, v6)
		case modeOverlay:
			p.ownTable(f, this, v6)
			p.throughFirst(f, this, v6)
		}
	}
	if f.mode == modeFirst {
		p.vethAddress = f.set.vethAddress
	}
	p.checkDefaultNIC(f)
	return p, nil
}

func (f facts) this() (nic, error) {
	n, ok := named(f.nics, f.ifname)
	switch {
	case !ok:
		return nic{}, fmt.Errorf("interface %s in the pod: %w", f.ifname, host.ErrNotFound)
	case len(n.addrs) == 0:
		return nic{}, cni.Errorf(cni.CodeInvalidConfig,
			"give the network pools, or attach it in the annotation k8s.v1.cni.cncf.io/networks, beside a first "+
				"interface that has an address",
			"%s has no address, and a pod's node reaches it by the address of its first interface", f.ifname)
	}
	return n, nil
}

func named(nics []nic, name string) (nic, bool) {
	i := slices.IndexFunc(nics, func(n nic) bool { return n.Name == name })
	if i < 0 {
		return nic{}, false
	}
	return nics[i], true
}

func tableOf(n nic) int { return tableBase + n.Index }

func firstOf(addrs []netip.Addr, v6 bool) netip.Addr {
	i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is6() == v6 })
	if i < 0 {
		return netip.Addr{}
	}
	return addrs[i]
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func everything(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// tuneFilters sets the reverse-path filter, which would drop what comes over veth0 from senders
// that the main table has elsewhere. The kernel applies the greater of "all" and the interface's
// own value (ip-sysctl: rp_filter).
func (p *plan) tuneFilters(f facts, this nic) {
	if f.set.rpFilter < 0 {
		return
	}
	names := []string{"all", this.Name}
	switch f.mode {
	case modeFirst:
		names = append(names, podVeth)
	case modeOverlay: // what the node sends to this interface's addresses enters there
		if _, ok := named(f.nics, firstNIC); ok {
			names = append(names, firstNIC)
		}
	}
	for _, n := range names {
		p.sysctls = append(p.sysctls, sysctl{f.pod, "net/ipv4/conf/" + n + "/rp_filter", strconv.Itoa(f.set.rpFilter)})
	}
}

// throughPair leads the pod to the node and to what is reached through it, for the family of src.
// The routes go to a table of the pod: main (0) for the first interface, its own for others.
func (p *plan) throughPair(f facts, src netip.Addr, table int) {
	v6 := src.Is6()
	nodeAddrs := slices.DeleteFunc(slices.Clone(f.nodeAddrs), func(a netip.Addr) bool { return a.Is6() != v6 })
	if len(nodeAddrs) == 0 {
		p.remarks = append(p.remarks, fmt.Sprintf("the node has no address of the family of %s: no routes through it",
			src))
		return
	}
	if v6 {
		// A new link comes without IPv6 where the runtime turned it off by default.
		p.sysctls = append(p.sysctls, sysctl{f.pod, "net/ipv6/conf/" + podVeth + "/disable_ipv6", "0"})
	}
	for _, a := range nodeAddrs {
		p.podNeighbors = append(p.podNeighbors, host.Neighbor{Index: f.podEnd.Index, IP: a,
			HardwareAddr: f.nodeEnd.HardwareAddr})
		p.podRoutes = append(p.podRoutes, host.Route{Dst: single(a), Src: src, Index: f.podEnd.Index, Table: table})
	}
	for _, network := range f.set.viaNode {
		if network.Addr().Is6() != v6 {
			continue
		}
		if taken := f.routeElsewhere(network); taken && table == 0 {
			p.remarks = append(p.remarks,
				fmt.Sprintf("the pod has a route to %s already: it does not go through the node", network))
			continue
		}
		p.podRoutes = append(p.podRoutes, host.Route{Dst: network, Gateway: nodeAddrs[0], Src: src,
			Index: f.podEnd.Index, Table: table})
	}
}

// routeElsewhere tells whether the pod's main table has the destination on another interface than veth0.
func (f facts) routeElsewhere(dst netip.Prefix) bool {
	return slices.ContainsFunc(f.podRoutes, func(r host.Route) bool {
		return r.Dst == dst &&
			r.Index != f.podEnd.Index
	})
}

// NodeRule leads the node to its routes to pods. That of the cluster's table is the node's, not a
// pod's, and stays when the last pod goes.
func NodeRule(table int, v6 bool) host.Rule {
	return host.Rule{Priority: nodeRulePriority, Table: table, IPv6: v6}
}

// nodeRoute leads the node to an address. Another route to it goes first: an earlier pod's would
// win, and one that an earlier attempt made when things were otherwise would be in the way.
func (p *plan) nodeRoute(f facts, r host.Route) {
	for _, old := range f.nodeRoutes {
		if old.Dst == r.Dst && old != r {
			p.nodeDrop = append(p.nodeDrop, old)
		}
	}
	p.nodeRoutes = append(p.nodeRoutes, r)
}

// onNode leads the node to the interface's addresses.
func (p *plan) onNode(f facts, this nic, v6 bool) {
	if v6 {
		p.sysctls = append(p.sysctls, sysctl{host.NodeNS, "net/ipv6/conf/" + f.nodeEnd.Name + "/disable_ipv6", "0"})
	}
	p.nodeRules = append(p.nodeRules, NodeRule(f.set.hostTable, v6))
	for _, a := range this.addrs {
		if a.Is6() != v6 {
			continue
		}
		p.nodeNeighbors = append(p.nodeNeighbors, host.Neighbor{Index: f.nodeEnd.Index, IP: a,
			HardwareAddr: f.podEnd.HardwareAddr})
		p.nodeRoute(f, host.Route{Dst: single(a), Index: f.nodeEnd.Index, Table: f.set.hostTable})
	}
}

// answerThroughPair sends marked replies to the node. Their table needs a gateway that throughPair
// made reachable.
func (p *plan) answerThroughPair(f facts, v6 bool) {
	gateway := firstOf(f.nodeAddrs, v6)
	if !gateway.IsValid() {
		return
	}
	p.markReplies = true
	p.podRoutes = append(p.podRoutes, host.Route{Dst: everything(v6), Gateway: gateway, Index: f.podEnd.Index,
		Table: replyTable})
	p.podRules = append(p.podRules, host.Rule{Priority: markRulePriority, Mark: replyMark, Table: replyTable, IPv6: v6})
}

func (p *plan) policyRoutes(f facts, this nic, v6 bool, table int) {
	for _, r := range f.set.policyRoutes {
		if r.Dst.Addr().Is6() == v6 {
			p.podRoutes = append(p.podRoutes, host.Route{Dst: r.Dst, Gateway: r.Gateway, Index: this.Index,
				Table: table})
		}
	}
}

// ownTable gives a later interface a table of its own for what is sent from its addresses, so that
// it leaves where its address is known; and settles who keeps the pod's default route. The
// interface's networks stay in the main table too, since what is sent from no particular address
// must still find them.
func (p *plan) ownTable(f facts, this nic, v6 bool) {
	if !f.set.tunePodRoutes {
		return
	}
	p.sourceTable(f, this, v6)
	p.policyRoutes(f, this, v6, tableOf(this))
	holder, ok := f.defaultHolder(this, v6)
	if !ok {
		return
	}
	if f.set.defaultNIC == this.Name {
		p.takeDefault(f, this, holder, v6)
		return
	}
	if r, ok := f.defaultOn(this.Index, v6); ok {
		p.podDrop = append(p.podDrop, r)
	}
}

// sourceTable is the rules for an interface's addresses and the table that they lead to.
func (p *plan) sourceTable(f facts, n nic, v6 bool) {
	hasDefault := false
	var links, gateways []host.Route
	for _, r := range f.podRoutes {
		if r.Index != n.Index || r.Dst.Addr().Is6() != v6 || kernelsOwn(r) {
			continue
		}
		r.Table = tableOf(n)
		if !r.Gateway.IsValid() {
			links = append(links, r)
			continue
		}
		hasDefault = hasDefault || r.Dst.Bits() == 0
		gateways = append(gateways, r)
	}
	if gw := firstOf(f.gateways, v6); !hasDefault && gw.IsValid() && n.Name == f.ifname {
		gateways = append(gateways, host.Route{Dst: everything(v6), Gateway: gw, Index: n.Index, Table: tableOf(n)})
	}
	p.podRoutes = append(p.podRoutes, slices.Concat(links, gateways)...)
	for _, a := range n.addrs {
		if a.Is6() == v6 {
			p.podRules = append(p.podRules, host.Rule{Priority: sourceRulePriority, From: single(a), Table: tableOf(n)})
		}
	}
}

// kernelsOwn tells the routes that every IPv6 link has.
func kernelsOwn(r host.Route) bool {
	a := r.Dst.Addr()
	return a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast())
}

// defaultOn is an interface's default route in the main table.
func (f facts) defaultOn(index int, v6 bool) (host.Route, bool) {
	i := slices.IndexFunc(f.podRoutes, func(r host.Route) bool { return r.Dst == everything(v6) && r.Index == index })
	if i < 0 {
		return host.Route{}, false
	}
	return f.podRoutes[i], true
}

// defaultHolder is the other interface that has the default route of a family now.
func (f facts) defaultHolder(this nic, v6 bool) (nic, bool) {
	for _, n := range f.nics {
		if _, ok := f.defaultOn(n.Index, v6); ok && n.Index != this.Index {
			return n, true
		}
	}
	return nic{}, false
}

// takeDefault moves the pod's default route to this interface. What is sent from the old holder's
// addresses keeps its ways, those through the node among them.
func (p *plan) takeDefault(f facts, this, holder nic, v6 bool) {
	gateway := firstOf(f.gateways, v6)
	if r, ok := f.defaultOn(this.Index, v6); ok {
		gateway = r.Gateway
	}
	if !gateway.IsValid() {
		p.remarks = append(p.remarks,
			fmt.Sprintf("%s is to keep the default route but has no gateway: the default route stays on %s", this.Name,
				holder.Name))
		return
	}
	p.giveWay(f, holder, v6)
	p.podReplace = append(p.podReplace, host.Route{Dst: everything(v6), Gateway: gateway, Index: this.Index})
}

// giveWay takes the default route off an interface that keeps its ways for what is sent from its addresses.
func (p *plan) giveWay(f facts, holder nic, v6 bool) {
	p.sourceTable(f, holder, v6)
	if f.podEnd != nil {
		for _, r := range f.podRoutes {
			if r.Index == f.podEnd.Index && r.Dst.Addr().Is6() == v6 && !kernelsOwn(r) {
				r.Table = tableOf(holder)
				p.podRoutes = append(p.podRoutes, r)
			}
		}
	}
	old, _ := f.defaultOn(holder.Index, v6)
	p.podDrop = append(p.podDrop, old)
}

// absent tells whether the interface that is to keep the default route is not in the pod and, as
// far as is known, will not come.
func (f facts) absent() bool {
	wanted := f.set.defaultNIC
	_, there := named(f.nics, wanted)
	return wanted != "" && !there && !slices.Contains(f.interfaces, wanted)
}

// checkDefaultNIC remarks on a wish that is not fulfilled. Only the pod's own is refused when the
// interface does not exist: the settings of a network or a cluster are for pods of all kinds.
func (p *plan) checkDefaultNIC(f facts) {
	switch wanted := f.set.defaultNIC; {
	case wanted == "":
	case f.absent() && len(f.interfaces) > 0:
		p.remarks = append(p.remarks,
			fmt.Sprintf(
				"%s is to keep the default route, and the pod's interfaces are %s: the default route stays where it is",
				wanted, strings.Join(f.interfaces, ", ")))
	case f.absent():
		p.remarks = append(p.remarks, fmt.Sprintf("%s is to keep the default route and is not in the pod yet", wanted))
	case wanted == f.ifname && f.mode != modeFirst && !f.set.tunePodRoutes:
		p.remarks = append(p.remarks,
			fmt.Sprintf(
				"%s is to keep the default route, and tunePodRoutes is false: the default route stays where it is",
				wanted))
	}
}
