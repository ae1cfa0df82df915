// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"sort"

	"github.com/google/btree"
	"go4.org/netipx"
)

// Taken is a set of addresses kept as ranges that never touch, so that the
// next free address is found in a few steps of a tree however full a pool is.
// The zero value is not ready; use NewTaken. It is not safe for concurrent use.
type Taken struct {
	ranges *btree.BTreeG[netipx.IPRange] // by first address; neighbours joined
}

// NewTaken returns an empty set.
func NewTaken() *Taken {
	const degree = 16
	return &Taken{ranges: btree.NewG(degree, func(a, b netipx.IPRange) bool { return a.From().Less(b.From()) })}
}

// Contains tells whether the address is in the set.
func (t *Taken) Contains(ip netip.Addr) bool {
	_, ok := t.around(ip)
	return ok
}

// around returns the range that holds the address.
func (t *Taken) around(ip netip.Addr) (netipx.IPRange, bool) {
	var found netipx.IPRange
	t.ranges.DescendLessOrEqual(netipx.IPRangeFrom(ip, ip), func(r netipx.IPRange) bool {
		found = r
		return false
	})
	return found, found.IsValid() && found.Contains(ip)
}

// Add puts an address into the set.
func (t *Taken) Add(ip netip.Addr) {
	if t.Contains(ip) {
		return
	}
	from, to := ip, ip
	if before, ok := t.around(ip.Prev()); ok {
		t.ranges.Delete(before)
		from = before.From()
	}
	if after, ok := t.around(ip.Next()); ok {
		t.ranges.Delete(after)
		to = after.To()
	}
	t.ranges.ReplaceOrInsert(netipx.IPRangeFrom(from, to))
}

// Remove takes an address out of the set.
func (t *Taken) Remove(ip netip.Addr) {
	r, ok := t.around(ip)
	if !ok {
		return
	}
	t.ranges.Delete(r)
	if r.From() != ip {
		t.ranges.ReplaceOrInsert(netipx.IPRangeFrom(r.From(), ip.Prev()))
	}
	if r.To() != ip {
		t.ranges.ReplaceOrInsert(netipx.IPRangeFrom(ip.Next(), r.To()))
	}
}

// NextFree returns the lowest address in the sorted ranges that is neither
// below start nor in the set. An invalid start means from the beginning.
func (t *Taken) NextFree(ranges []netipx.IPRange, start netip.Addr) (netip.Addr, bool) {
	first := 0
	if start.IsValid() {
		first = sort.Search(len(ranges), func(i int) bool { return !ranges[i].To().Less(start) })
	}
	for _, r := range ranges[first:] {
		ip := r.From()
		if start.IsValid() && ip.Less(start) {
			ip = start
		}
		if taken, ok := t.around(ip); ok {
			ip = taken.To().Next() // ranges never touch, so the address after one is free
		}
		if ip.IsValid() && r.Contains(ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}
