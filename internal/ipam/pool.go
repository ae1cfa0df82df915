// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Pool is a SpiderIPPool read once into values that need no further checks.
type Pool struct {
	Name    string
	Subnet  netip.Prefix
	Gateway netip.Addr // invalid: none
	Routes  []Route
	// Free are the addresses that may be given out, sorted: ips without excludeIPs, reserved
	// addresses and the gateway.
	Free []netipx.IPRange
	// Wanted is the only address in Free when the interface is to have that one and no other; else invalid.
	Wanted netip.Addr
	// Invalid is why the pool's spec cannot be used; nil for a good one.
	Invalid error

	Default, Disabled, Terminating bool

	pods, namespaces, nodes                 labels.Selector // nil: everything
	namespaceNames, nodeNames, networkNames []string
}

// ParsePool reads a pool. A pool that admission would refuse, because it was
// stored around it, is returned with Invalid set, so that it can be named as
// the reason when a pod gets no address.
func ParsePool(p *v2beta1.SpiderIPPool, reserved *netipx.IPSet) *Pool {
	pool := &Pool{
		Name:           p.Name,
		Default:        p.Spec.Default != nil && *p.Spec.Default,
		Disabled:       p.Spec.Disable != nil && *p.Spec.Disable,
		Terminating:    !p.DeletionTimestamp.IsZero(),
		namespaceNames: p.Spec.NamespaceName,
		nodeNames:      p.Spec.NodeName,
		networkNames:   p.Spec.MultusName,
	}
	addresses, errs := v2beta1.ParseIPPoolSpec(&p.Spec)
	if len(errs) > 0 {
		pool.Invalid = errs.ToAggregate()
		return pool
	}
	pool.Subnet, pool.Gateway = addresses.Subnet, addresses.Gateway
	for _, r := range addresses.Routes {
		pool.Routes = append(pool.Routes, Route{Dst: r.Dst, Gateway: r.Gw})
	}
	pool.Free = freeRanges(addresses, reserved)
	pool.Invalid = pool.parseSelectors(&p.Spec)
	return pool
}

func freeRanges(a v2beta1.IPPoolAddresses, reserved *netipx.IPSet) []netipx.IPRange {
	var b netipx.IPSetBuilder
	b.AddSet(a.IPs)
	if reserved != nil {
		b.RemoveSet(reserved)
	}
	if a.Gateway.IsValid() {
		b.Remove(a.Gateway)
	}
	set, err := b.IPSet()
	if err != nil { // only for invalid input, and these are parsed addresses
		return nil
	}
	return set.Ranges()
}

func (p *Pool) parseSelectors(spec *v2beta1.IPPoolSpec) error {
	for _, s := range []struct {
		field string
		from  *metav1.LabelSelector
		to    *labels.Selector
	}{
		{"podAffinity", spec.PodAffinity, &p.pods},
		{"namespaceAffinity", spec.NamespaceAffinity, &p.namespaces},
		{"nodeAffinity", spec.NodeAffinity, &p.nodes},
	} {
		if s.from == nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(s.from)
		if err != nil {
			return fmt.Errorf("spec.%s: %w", s.field, err)
		}
		*s.to = selector
	}
	return nil
}

// Version is 4 or 6, and 0 for a pool that cannot be read.
func (p *Pool) Version() int64 {
	switch {
	case !p.Subnet.IsValid():
		return 0
	case p.Subnet.Addr().Is4():
		return 4
	}
	return 6
}

// Without is the pool as if these addresses were not in it.
func (p *Pool) Without(addresses []netip.Addr) *Pool {
	if !slices.ContainsFunc(addresses, p.Has) {
		return p
	}
	var free netipx.IPSetBuilder
	for _, r := range p.Free {
		free.AddRange(r)
	}
	for _, ip := range addresses {
		free.Remove(ip)
	}
	left, err := free.IPSet()
	if err != nil {
		return p // the builder takes valid ranges, which these are
	}
	q := *p
	q.Free = left.Ranges()
	return &q
}

// enabled is the pool as if spec.disable were not set.
func (p *Pool) enabled() *Pool {
	q := *p
	q.Disabled = false
	return &q
}

// Size is the number of addresses that may be given out, at most the largest uint64.
func (p *Pool) Size() uint64 {
	var total uint64
	for _, r := range p.Free {
		sum, carry := bits.Add64(total, rangeSize(r), 0)
		if carry != 0 {
			return math.MaxUint64
		}
		total = sum
	}
	return total
}

// Has tells whether the address may be given out.
func (p *Pool) Has(ip netip.Addr) bool {
	i := sort.Search(len(p.Free), func(i int) bool { return !p.Free[i].To().Less(ip) })
	return i < len(p.Free) && p.Free[i].Contains(ip)
}

// Serves tells whether the pool gives out addresses at all, whoever asks.
func (p *Pool) Serves() bool { return p.Invalid == nil && !p.Disabled && !p.Terminating }

// At is the address with this place among those that may be given out, from 0
// and wrapping around at the end. It is invalid for a pool without addresses.
func (p *Pool) At(n uint64) netip.Addr {
	size := p.Size()
	if size == 0 {
		return netip.Addr{}
	}
	n %= size
	for _, r := range p.Free {
		if s := rangeSize(r); n >= s {
			n -= s
			continue
		}
		return advance(r.From(), n)
	}
	return netip.Addr{}
}

// rangeSize counts the addresses of a range, at most the largest uint64.
func rangeSize(r netipx.IPRange) uint64 {
	from, to := r.From().As16(), r.To().As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(to[8:]), binary.BigEndian.Uint64(from[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(to[:8]), binary.BigEndian.Uint64(from[:8]), borrow)
	if high != 0 || low == math.MaxUint64 {
		return math.MaxUint64
	}
	return low + 1
}

// advance adds n to an address.
func advance(ip netip.Addr, n uint64) netip.Addr {
	b := ip.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), n, 0)
	binary.BigEndian.PutUint64(b[8:], low)
	binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+carry)
	if ip.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}
