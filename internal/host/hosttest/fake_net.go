// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"spidernet.io/spiderpool/internal/host"
)

// Addresses implements API.
func (f *Fake) Addresses(ns host.NS, index int) ([]netip.Prefix, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, l, err := f.linkAt(ns, index)
	if err != nil {
		return nil, err
	}
	return slices.Clone(l.addresses), nil
}

// AllAddresses implements API.
func (f *Fake) AllAddresses(ns host.NS) (map[int][]netip.Prefix, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.namespace(ns)
	if err != nil {
		return nil, err
	}
	all := map[int][]netip.Prefix{}
	for _, l := range n.links {
		if len(l.addresses) > 0 {
			all[l.Index] = slices.Clone(l.addresses)
		}
	}
	return all, nil
}

// AddAddress implements API.
func (f *Fake) AddAddress(ns host.NS, index int, p netip.Prefix) error {
	return f.change(ns, index, "AddAddress "+p.String(), func(_ *namespace, l *link) error {
		if !p.IsValid() {
			return fmt.Errorf("invalid prefix: %w", syscall.EINVAL)
		}
		if !slices.Contains(l.addresses, p) {
			l.addresses = append(l.addresses, p)
		}
		return nil
	})
}

// RemoveAddress takes an address off a link. Of the routes that have it as their source the IPv6
// ones stay without it, the IPv4 ones of the main table go, and those of other tables are as they
// were.
func (f *Fake) RemoveAddress(ns host.NS, index int, p netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, l, err := f.linkAt(ns, index)
	if err != nil {
		return err
	}
	l.addresses = slices.DeleteFunc(l.addresses, func(x netip.Prefix) bool { return x == p })
	n.routes = slices.DeleteFunc(n.routes, func(r host.Route) bool {
		return r.Src == p.Addr() && r.Src.Is4() && r.Table == 0
	})
	for i, r := range n.routes {
		if r.Src == p.Addr() && r.Src.Is6() {
			n.routes[i].Src = netip.Addr{}
		}
	}
	return nil
}

// connected are the routes that the kernel makes for the addresses of links that are up.
func (n *namespace) connected() []host.Route {
	var all []host.Route
	for _, l := range n.links {
		for _, p := range l.addresses {
			if l.Up && l.Name != "lo" && (!p.IsSingleIP() || p.Addr().Is6()) {
				r := host.Route{Dst: p.Masked(), Index: l.Index}
				if p.Addr().Is4() {
					r.Src = p.Addr()
				}
				all = append(all, r)
			}
		}
	}
	return all
}

// inTheWay are the routes beside which there is no other of their destination: the kernel's own for
// IPv6 addresses have another metric than those that are added.
func (n *namespace) inTheWay(v4 bool) []host.Route {
	if !v4 {
		return n.routes
	}
	return append(n.connected(), n.routes...)
}

// Routes implements API.
func (f *Fake) Routes(ns host.NS, table int) ([]host.Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.namespace(ns)
	if err != nil {
		return nil, err
	}
	var all []host.Route
	if mainTable(table) == 0 {
		all = n.connected()
	}
	for _, r := range n.routes {
		if r.Table == mainTable(table) {
			all = append(all, r)
		}
	}
	return all, nil
}

// mainTable reads the main table's number as 0.
func mainTable(table int) int {
	if table == 254 {
		return 0
	}
	return table
}

func normalRoute(r host.Route) host.Route {
	r.Dst, r.Table = r.Dst.Masked(), mainTable(r.Table)
	return r
}

// AppendRoute adds a route beside those that the destination has, as ip route append does.
func (f *Fake) AppendRoute(ns host.NS, r host.Route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.namespace(ns)
	if err != nil {
		return err
	}
	n.routes = append(n.routes, normalRoute(r))
	return nil
}

// AddRoute implements API. As in the kernel the link must be up and the gateway on one of its networks.
func (f *Fake) AddRoute(ns host.NS, r host.Route) error {
	r = normalRoute(r)
	return f.change(ns, r.Index, fmt.Sprintf("AddRoute %s via %s table %d", r.Dst, r.Gateway, r.Table),
		func(n *namespace, l *link) error {
			present := append(n.connected(), n.routes...)
			switch {
			case !r.Dst.IsValid():
				return fmt.Errorf("route without a destination: %w", syscall.EINVAL)
			case slices.Contains(present, r):
				return nil
			case !l.Up:
				return fmt.Errorf("link %s is down: %w", l.Name, syscall.ENETDOWN)
			case r.Gateway.IsValid() && !slices.ContainsFunc(present, func(x host.Route) bool {
				return x.Index == r.Index && !x.Gateway.IsValid() && x.Dst.Contains(r.Gateway)
			}) && !(r.Gateway.Is6() && r.Gateway.IsLinkLocalUnicast()):
				return fmt.Errorf("gateway %s is not on a network of %s: %w", r.Gateway, l.Name, syscall.ENETUNREACH)
			case slices.ContainsFunc(n.inTheWay(r.Dst.Addr().Is4()), func(x host.Route) bool {
				return x.Dst == r.Dst &&
					x.Table == r.Table
			}):
				return host.ErrExists
			}
			n.routes = append(n.routes, r)
			return nil
		})
}

// DeleteRoute implements API. A zero Index, Gateway or Src matches any.
func (f *Fake) DeleteRoute(ns host.NS, r host.Route) error {
	r = normalRoute(r)
	return f.effect(fmt.Sprintf("DeleteRoute %s table %d in %s", r.Dst, r.Table, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil {
			return err
		}
		n.routes = slices.DeleteFunc(n.routes, func(x host.Route) bool {
			return x.Dst == r.Dst && x.Table == r.Table && (r.Index == 0 || x.Index == r.Index) &&
				(!r.Gateway.IsValid() || x.Gateway == r.Gateway) && (!r.Src.IsValid() || x.Src == r.Src)
		})
		return nil
	})
}

// Rules implements API. It lists what AddRule added, not the kernel's three.
func (f *Fake) Rules(ns host.NS) ([]host.Rule, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.namespace(ns)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.rules), nil
}

// normalRule masks prefixes, derives the family from them and names the main table 0.
func normalRule(r host.Rule) host.Rule {
	r.Table = mainTable(r.Table)
	for _, p := range []*netip.Prefix{&r.From, &r.To} {
		if p.IsValid() {
			*p, r.IPv6 = p.Masked(), p.Addr().Is6()
		}
	}
	return r
}

func sameRule(r host.Rule) func(host.Rule) bool {
	return func(x host.Rule) bool {
		if r.Priority == 0 {
			x.Priority = 0
		}
		return x == r
	}
}

// AddRule implements API.
func (f *Fake) AddRule(ns host.NS, r host.Rule) error {
	r = normalRule(r)
	return f.effect(fmt.Sprintf("AddRule %+v in %s", r, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil || slices.ContainsFunc(n.rules, sameRule(r)) {
			return err
		}
		if r.Priority == 0 { // one before the lowest that is not the kernel's local rule
			r.Priority = 32766
			for _, x := range n.rules {
				r.Priority = min(r.Priority, x.Priority)
			}
			r.Priority--
		}
		n.rules = append(n.rules, r)
		return nil
	})
}

// DeleteRule implements API.
func (f *Fake) DeleteRule(ns host.NS, r host.Rule) error {
	r = normalRule(r)
	return f.effect(fmt.Sprintf("DeleteRule %+v in %s", r, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil {
			return err
		}
		n.rules = slices.DeleteFunc(n.rules, sameRule(r))
		return nil
	})
}

// AddNeighbor implements API.
func (f *Fake) AddNeighbor(ns host.NS, nb host.Neighbor) error {
	return f.change(ns, nb.Index, fmt.Sprintf("AddNeighbor %s at %s", nb.IP, nb.HardwareAddr),
		func(_ *namespace, l *link) error {
			if want := len(l.HardwareAddr); len(nb.HardwareAddr) < want {
				return fmt.Errorf("hardware address %s has %d octets, %s wants %d: %w", nb.HardwareAddr,
					len(nb.HardwareAddr), l.Name, want, syscall.EINVAL)
			}
			l.neighbors = slices.DeleteFunc(l.neighbors, func(x host.Neighbor) bool { return x.IP == nb.IP })
			l.neighbors = append(l.neighbors, nb)
			return nil
		})
}

// Neighbors lists the permanent neighbour entries of a link, for assertions.
func (f *Fake) Neighbors(ns host.NS, index int) []host.Neighbor {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, err := f.namespace(ns); err == nil {
		if l, err := n.byIndex(index); err == nil {
			return slices.Clone(l.neighbors)
		}
	}
	return nil
}

// linkOfSysctl is the link that a key such as net/ipv4/conf/eth0/rp_filter belongs to, or "".
func linkOfSysctl(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) == 5 && parts[0] == "net" && (parts[2] == "conf" || parts[2] == "neigh") {
		return parts[3]
	}
	return ""
}

// sysctl checks that the key exists and gives its default.
func (n *namespace) sysctl(key string) (string, error) {
	if l := linkOfSysctl(key); l != "" && l != "all" && l != "default" &&
		!slices.ContainsFunc(n.links, func(x *link) bool { return x.Name == l }) {
		return "", fmt.Errorf("sysctl %s in %s: %w", key, where(n.name), host.ErrNotFound)
	}
	ipv6 := strings.HasPrefix(key, "net/ipv6/")
	if ipv6 && n.noIPv6 {
		return "", fmt.Errorf("sysctl %s in %s: %w", key, where(n.name), host.ErrNotFound)
	}
	switch name := key[strings.LastIndex(key, "/")+1:]; name {
	case "accept_dad", "accept_ra", "autoconf", "dad_transmits":
		return "1", nil
	case "accept_redirects":
		if ipv6 {
			return "1", nil
		}
	}
	return "0", nil
}

// Sysctl implements API. Every key that does not name an absent link exists; the default is mostly "0".
func (f *Fake) Sysctl(ns host.NS, key string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.namespace(ns)
	if err != nil {
		return "", err
	}
	value, err := n.sysctl(key)
	if set, ok := n.sysctls[key]; ok && err == nil {
		value = set
	}
	return value, err
}

// SetSysctl implements API.
func (f *Fake) SetSysctl(ns host.NS, key, value string) error {
	return f.effect(fmt.Sprintf("SetSysctl %s=%s in %s", key, value, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil {
			return err
		}
		usual, err := n.sysctl(key)
		if err != nil {
			return err
		}
		n.sysctls[key] = value
		if value == usual {
			delete(n.sysctls, key)
		}
		return nil
	})
}

// MarkReplies implements API.
func (f *Fake) MarkReplies(ns host.NS, name string, mark uint32) error {
	return f.effect(fmt.Sprintf("MarkReplies through %s with 0x%x in %s", name, mark, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil {
			return err
		}
		n.marks[name] = mark
		return nil
	})
}

// Announce implements API.
func (f *Fake) Announce(ns host.NS, index int, ip netip.Addr) error {
	return f.change(ns, index, "Announce "+ip.String(), func(_ *namespace, l *link) error {
		if !l.Up {
			return fmt.Errorf("link %s is down: %w", l.Name, syscall.ENETDOWN)
		}
		return nil
	})
}
