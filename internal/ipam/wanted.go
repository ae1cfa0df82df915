// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"spidernet.io/spiderpool/internal/text"
)

// ParseWanted reads the addresses that an interface is to have, with or without a prefix length.
// More than one of a family is refused, since an interface gets one.
func ParseWanted(values []string) ([]netip.Prefix, error) {
	var wanted []netip.Prefix
	for _, value := range values {
		p, err := netip.ParsePrefix(value)
		if err != nil {
			ip, err := netip.ParseAddr(value)
			if err != nil || ip.Zone() != "" {
				return nil,
					fmt.Errorf(
						"wanted address %s: want an address, with or without a prefix length, such as 172.91.0.100/16",
						text.Quote(value))
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-p.Addr().BitLen()+p.Addr().Unmap().BitLen())
		if !p.IsValid() {
			return nil, fmt.Errorf("wanted address %s: its prefix length is not one of an IPv4 address",
				text.Quote(value))
		}
		if slices.ContainsFunc(wanted, func(w netip.Prefix) bool { return w.Addr().Is4() == p.Addr().Is4() }) {
			return nil,
				fmt.Errorf("wanted addresses %s: more than one of IPv%d, and an interface gets one of each family",
					text.Quotes(values), VersionOf(p.Addr()))
		}
		wanted = append(wanted, p)
	}
	return wanted, nil
}

// VersionOf is 4 or 6.
func VersionOf(ip netip.Addr) int64 {
	if ip.Is4() {
		return 4
	}
	return 6
}

// wanted is the address of a family that the interface is to have, invalid when any will do.
func (r Request) wanted(version int64) netip.Prefix {
	i := slices.IndexFunc(r.Wanted, func(w netip.Prefix) bool { return VersionOf(w.Addr()) == version })
	if i < 0 {
		return netip.Prefix{}
	}
	return r.Wanted[i]
}

// Takes tells whether the interface may have the address: any, unless it is to have another one of
// the family.
func (r Request) Takes(ip netip.Addr) bool {
	w := r.wanted(VersionOf(ip))
	return !w.IsValid() || w.Addr() == ip
}

// wanted is the wish of the interface that is asked about. Of the pod's other interfaces none is known.
func (q question) wanted() netip.Prefix {
	if q.elsewhere {
		return netip.Prefix{}
	}
	return q.request.wanted(q.version)
}

func ruleWanted(p *Pool, q question) string {
	switch w := q.wanted(); {
	case !w.IsValid():
	case !w.IsSingleIP() && w.Bits() != p.Subnet.Bits():
		return fmt.Sprintf(
			"has subnet %s, and the pod asks for %s: leave the prefix length out, or write that of the subnet",
			p.Subnet, w)
	case !p.Has(w.Addr()):
		return fmt.Sprintf(
			"does not give out %s, which the pod asks for (spec.ips without excludeIPs, reserved addresses and the "+
				"gateway)", w.Addr())
	}
	return ""
}

// wantedElsewhere refuses an address of a family that the interface gets none of: it is told rather
// than left out.
func (s source) wantedElsewhere(r Request, families []Family, f Facts) error {
	for _, w := range r.Wanted {
		version := VersionOf(w.Addr())
		if !slices.ContainsFunc(families, func(x Family) bool { return x.Version == version }) {
			return fmt.Errorf("the pod asks for %s, and %s names no IPv%d pool (IPv4 enabled: %t, IPv6 enabled: %t)",
				w.Addr(), s.name, version, f.Families.IPv4, f.Families.IPv6)
		}
	}
	return nil
}

// only is the pool as if the wanted address were the only one in it; the pool itself when any will do.
func (p *Pool) only(wanted netip.Prefix) *Pool {
	if !wanted.IsValid() {
		return p
	}
	q := *p
	q.Wanted = wanted.Addr()
	q.Free = []netipx.IPRange{netipx.IPRangeFrom(q.Wanted, q.Wanted)}
	return &q
}
