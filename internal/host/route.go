// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var families = []int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// ipNet and prefixOf translate between netip and the library's net.
func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	if !ok {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, ones)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// Addresses lists a link's addresses with the length of their networks.
func (h *Host) Addresses(ns NS, index int) ([]netip.Prefix, error) {
	if _, err := h.LinkByIndex(ns, index); err != nil {
		return nil, err
	}
	all, err := h.AllAddresses(ns)
	return all[index], err
}

// AllAddresses lists the addresses of every link of a namespace, by the links' indexes, in one go.
func (h *Host) AllAddresses(ns NS) (map[int][]netip.Prefix, error) {
	var found []netlink.Addr
	err := h.in(ns, func() (err error) {
		found, err = listAddresses(nil, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", ns.where(), kernelError(err))
	}
	all := map[int][]netip.Prefix{}
	for _, a := range found {
		all[a.LinkIndex] = append(all[a.LinkIndex], prefixOf(a.IPNet))
	}
	return all, nil
}

// AddAddress adds an address. IPv6 addresses skip duplicate address detection: they come from a
// pool or a record that gives each only once, and would be of no use for a second otherwise.
func (h *Host) AddAddress(ns NS, index int, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	err := h.onLink(ns, index, "adding address "+p.String(),
		func(l netlink.Link) error { return netlink.AddrAdd(l, a) })
	if !errors.Is(err, ErrExists) {
		return err
	}
	if have, listErr := h.Addresses(ns, index); listErr == nil && slices.Contains(have, p) {
		return nil
	}
	return err
}

// mainTable reads the main table's number as 0, and tableNumber undoes that.
func mainTable(table int) int {
	if table == unix.RT_TABLE_MAIN {
		return 0
	}
	return table
}

func tableNumber(table int) int {
	if table == 0 {
		return unix.RT_TABLE_MAIN
	}
	return table
}

// Routes lists the unicast routes of a table of both families; a route over several links is listed
// once for each.
func (h *Host) Routes(ns NS, table int) ([]Route, error) {
	raw, err := h.rawRoutes(ns, table)
	if err != nil {
		return nil, err
	}
	var all []Route
	for _, r := range raw {
		all = append(all, readRoute(r)...)
	}
	return all, nil
}

func (h *Host) rawRoutes(ns NS, table int) ([]netlink.Route, error) {
	filter := &netlink.Route{Table: tableNumber(table), Type: unix.RTN_UNICAST}
	var all []netlink.Route
	err := h.in(ns, func() error {
		for _, family := range families {
			found, err := listRoutes(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
			for i := range found {
				found[i].Family = family
			}
			all = append(all, found...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing routes of table %d in %s: %w", tableNumber(table), ns.where(), kernelError(err))
	}
	return all, nil
}

func readRoute(r netlink.Route) []Route {
	one := Route{Dst: prefixOf(r.Dst), Gateway: addrOf(r.Gw), Src: addrOf(r.Src), Index: r.LinkIndex,
		Table: mainTable(r.Table)}
	if !one.Dst.IsValid() {
		one.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Family == netlink.FAMILY_V6 {
			one.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if len(r.MultiPath) == 0 {
		return []Route{one}
	}
	var all []Route
	for _, hop := range r.MultiPath {
		one.Gateway, one.Index = addrOf(hop.Gw), hop.LinkIndex
		all = append(all, one)
	}
	return all
}

// normalRoute masks the destination and names the main table 0.
func normalRoute(r Route) Route {
	r.Dst, r.Table = r.Dst.Masked(), mainTable(r.Table)
	return r
}

// AddRoute adds a route; ErrExists when another one to the same destination is in the way.
func (h *Host) AddRoute(ns NS, r Route) error {
	r = normalRoute(r)
	raw := &netlink.Route{LinkIndex: r.Index, Dst: ipNet(r.Dst), Table: tableNumber(r.Table), Src: r.Src.AsSlice(),
		Gw: r.Gateway.AsSlice()}
	if !r.Gateway.IsValid() {
		raw.Scope = netlink.SCOPE_LINK
	}
	err := h.in(ns, func() error { return netlink.RouteAdd(raw) })
	if errors.Is(err, unix.EEXIST) {
		if have, listErr := h.Routes(ns, r.Table); listErr == nil && slices.ContainsFunc(have, sameRoute(r)) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("adding route %s via %s on link %d to table %d in %s: %w",
			r.Dst, gatewayName(r), r.Index, tableNumber(r.Table), ns.where(), kernelError(err))
	}
	return nil
}

func gatewayName(r Route) string {
	if !r.Gateway.IsValid() {
		return "no gateway"
	}
	return r.Gateway.String()
}

// sameRoute matches a route; the fields that r leaves out match anything.
func sameRoute(r Route) func(Route) bool {
	return func(x Route) bool {
		return x.Dst == r.Dst && x.Table == r.Table && (r.Index == 0 || x.Index == r.Index) &&
			(!r.Gateway.IsValid() || x.Gateway == r.Gateway) && (!r.Src.IsValid() || x.Src == r.Src)
	}
}

// deleteHops deletes the hops of a route that match, and leaves its others. IPv6 routes of one
// destination and metric through gateways are routes of their own, which the kernel lists as one.
// An IPv4 route over several links is a single one: what is left takes its place.
func deleteHops(x netlink.Route, match func(Route) bool) error {
	hops := readRoute(x)
	var matching, left []*netlink.NexthopInfo
	for i, hop := range x.MultiPath {
		if match(hops[i]) {
			matching = append(matching, hop)
			continue
		}
		hop.Flags &= unix.RTNH_F_ONLINK // the others are the kernel's to say
		left = append(left, hop)
	}
	switch {
	case !slices.ContainsFunc(hops, match):
		return nil
	case len(left) == 0:
		return netlink.RouteDel(&x)
	case x.Family == netlink.FAMILY_V4:
		x.MultiPath = left
		return netlink.RouteReplace(&x)
	}
	var errs []error
	for _, hop := range matching {
		errs = append(errs, netlink.RouteDel(&netlink.Route{Dst: x.Dst, Gw: hop.Gw, LinkIndex: hop.LinkIndex,
			Table: x.Table, Family: x.Family, Priority: x.Priority}))
	}
	return errors.Join(errs...)
}

// DeleteRoute deletes the routes to a destination; a zero Index, Gateway or Src matches any.
func (h *Host) DeleteRoute(ns NS, r Route) error {
	r = normalRoute(r)
	raw, err := h.rawRoutes(ns, r.Table)
	if err != nil {
		return err
	}
	for _, x := range raw {
		err := h.in(ns, func() error { return deleteHops(x, sameRoute(r)) })
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("deleting route %s from table %d in %s: %w", r.Dst, tableNumber(r.Table), ns.where(),
				kernelError(err))
		}
	}
	return nil
}

// Rules lists the routing rules of both families without the ones that every namespace has (local,
// main, default), and without those that have selectors which Rule does not know.
func (h *Host) Rules(ns NS) ([]Rule, error) {
	raw, err := h.rawRules(ns)
	if err != nil {
		return nil, err
	}
	var all []Rule
	for _, r := range raw {
		all = append(all, readRule(r))
	}
	return all, nil
}

func (h *Host) rawRules(ns NS) ([]netlink.Rule, error) {
	var all []netlink.Rule
	err := h.in(ns, func() error {
		for _, family := range families {
			found, err := listRules(family)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				continue
			}
			if err != nil {
				return err
			}
			for _, r := range found {
				r.Family = family
				if !kernelRule(r) && plainRule(r) {
					all = append(all, r)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the rules of %s: %w", ns.where(), kernelError(err))
	}
	return all, nil
}

// kernelRule recognizes the rules that the kernel makes (fib_default_rules_init).
func kernelRule(r netlink.Rule) bool {
	tables := map[int]int{0: unix.RT_TABLE_LOCAL, 32766: unix.RT_TABLE_MAIN, 32767: unix.RT_TABLE_DEFAULT}
	return r.Src == nil && r.Dst == nil && r.Mark == 0 && r.IifName == "" && tables[max(r.Priority, 0)] == r.Table &&
		r.Table != 0
}

// plainRule tells a rule that Rule can say all of. Any other is for less than it would seem to be,
// and no substitute for one of ours; the ones without a table are for other ends than a look into
// one.
func plainRule(r netlink.Rule) bool {
	wholeMark := r.Mask == nil || *r.Mask == 0xffffffff || r.Mark == 0 && *r.Mask == 0
	return wholeMark && r.Table != 0 && !r.Invert && r.IifName == "" && r.OifName == "" && r.Tos == 0 && r.TunID == 0 &&
		r.Goto < 0 && r.Flow <= 0 &&
		r.SuppressIfgroup < 0 && r.SuppressPrefixlen < 0 && r.IPProto == 0 && r.Dport == nil && r.Sport == nil &&
		r.UIDRange == nil
}

func readRule(r netlink.Rule) Rule {
	return Rule{Priority: max(r.Priority, 0), From: prefixOf(r.Src), To: prefixOf(r.Dst), Mark: r.Mark,
		Table: mainTable(r.Table), IPv6: r.Family == netlink.FAMILY_V6}
}

// normalRule masks prefixes, derives the family from them and names the main table 0.
func normalRule(r Rule) Rule {
	r.Table = mainTable(r.Table)
	for _, p := range []*netip.Prefix{&r.From, &r.To} {
		if p.IsValid() {
			*p, r.IPv6 = p.Masked(), p.Addr().Is6()
		}
	}
	return r
}

func sameRule(r Rule) func(Rule) bool {
	return func(x Rule) bool {
		if r.Priority == 0 {
			x.Priority = 0
		}
		return x == r
	}
}

func writeRule(r Rule) *netlink.Rule {
	raw := netlink.NewRule()
	raw.Family, raw.Table, raw.Mark = netlink.FAMILY_V4, tableNumber(r.Table), r.Mark
	if r.IPv6 {
		raw.Family = netlink.FAMILY_V6
	}
	if r.Priority != 0 {
		raw.Priority = r.Priority
	}
	raw.Src, raw.Dst = ipNet(r.From), ipNet(r.To)
	return raw
}

// AddRule adds a rule unless it is there.
func (h *Host) AddRule(ns NS, r Rule) error {
	r = normalRule(r)
	have, err := h.Rules(ns)
	if err != nil || slices.ContainsFunc(have, sameRule(r)) {
		return err
	}
	err = h.in(ns, func() error { return netlink.RuleAdd(writeRule(r)) })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding rule %s in %s: %w", r.text(), ns.where(), kernelError(err))
	}
	return nil
}

// DeleteRule deletes every rule that equals r, of any priority when r has none.
func (h *Host) DeleteRule(ns NS, r Rule) error {
	r = normalRule(r)
	raw, err := h.rawRules(ns)
	if err != nil {
		return err
	}
	for _, x := range raw {
		if !sameRule(r)(readRule(x)) {
			continue
		}
		err := h.in(ns, func() error { return netlink.RuleDel(writeRule(readRule(x))) })
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("deleting rule %s in %s: %w", r.text(), ns.where(), kernelError(err))
		}
	}
	return nil
}

func (r Rule) text() string {
	return fmt.Sprintf("%d: from %s to %s mark 0x%x table %d", r.Priority, r.From, r.To, r.Mark, tableNumber(r.Table))
}

// AddNeighbor adds or replaces a permanent neighbour entry.
func (h *Host) AddNeighbor(ns NS, n Neighbor) error {
	family := netlink.FAMILY_V4
	if n.IP.Is6() {
		family = netlink.FAMILY_V6
	}
	err := h.in(ns, func() error {
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: n.Index, Family: family, State: netlink.NUD_PERMANENT, IP: n.IP.AsSlice(),
			HardwareAddr: n.HardwareAddr,
		})
	})
	if err != nil {
		return fmt.Errorf("adding neighbour %s at %s on link %d in %s: %w", n.IP, n.HardwareAddr, n.Index, ns.where(),
			kernelError(err))
	}
	return nil
}
