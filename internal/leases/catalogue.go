// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"maps"
	"slices"
	"sync"

	"go4.org/netipx"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// catalogue keeps every pool read into its trusted form, so that no
// allocation parses one. A map once handed out never changes.
type catalogue struct {
	mu      sync.Mutex
	objects map[string]*v2beta1.SpiderIPPool
	// addresses of the pools whose spec can be read.
	addresses map[string]v2beta1.IPPoolAddresses
	reserved  map[string]*netipx.IPSet
	pools     map[string]*ipam.Pool
}

func newCatalogue() *catalogue {
	return &catalogue{
		objects: map[string]*v2beta1.SpiderIPPool{}, addresses: map[string]v2beta1.IPPoolAddresses{},
		reserved: map[string]*netipx.IPSet{}, pools: map[string]*ipam.Pool{},
	}
}

// snapshot returns the pools by name; the map must not be changed.
func (c *catalogue) snapshot() map[string]*ipam.Pool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pools
}

func (c *catalogue) putPool(p *v2beta1.SpiderIPPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.objects[p.Name]
	c.objects[p.Name] = p
	if known && old.UID == p.UID && old.Generation == p.Generation &&
		old.DeletionTimestamp.IsZero() == p.DeletionTimestamp.IsZero() {
		return // only the status changed
	}
	touched := c.sharing(p.Name)
	delete(c.addresses, p.Name)
	if a, errs := v2beta1.ParseIPPoolSpec(&p.Spec); len(errs) == 0 {
		c.addresses[p.Name] = a
	}
	c.read(append(append(touched, c.sharing(p.Name)...), p.Name))
}

func (c *catalogue) removePool(p *v2beta1.SpiderIPPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	touched := c.sharing(p.Name)
	delete(c.objects, p.Name)
	delete(c.addresses, p.Name)
	c.read(touched)
	delete(c.pools, p.Name)
}

// sharing names the other pools that have addresses of this one: whether they may serve depends on it.
func (c *catalogue) sharing(name string) []string {
	a, ok := c.addresses[name]
	if !ok {
		return nil
	}
	var names []string
	for other, b := range c.addresses {
		if other != name && a.IPs.Overlaps(b.IPs) {
			names = append(names, other)
		}
	}
	return names
}

// read reads these pools again into a new map.
func (c *catalogue) read(names []string) {
	reserved := c.allReserved()
	c.pools = maps.Clone(c.pools)
	for _, name := range names {
		c.pools[name] = c.parse(name, reserved)
	}
}

// parse reads one pool. It is not valid when it has addresses of an older one.
func (c *catalogue) parse(name string, reserved *netipx.IPSet) *ipam.Pool {
	p := c.objects[name]
	pool := ipam.ParsePool(p, reserved)
	for _, other := range slices.Sorted(slices.Values(c.sharing(name))) {
		if err := v2beta1.SharesWithOlder(p, c.addresses[name], c.objects[other], c.addresses[other]); err != nil &&
			pool.Invalid == nil {
			pool.Invalid = err
		}
	}
	return pool
}

// reservations names the SpiderReservedIPs that keep addresses of a pool from being given out, and
// counts those addresses.
func (c *catalogue) reservations(pool string) (names []string, addresses int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.addresses[pool]
	if !ok {
		return nil, 0
	}
	var kept netipx.IPSetBuilder
	for _, name := range slices.Sorted(maps.Keys(c.reserved)) {
		var b netipx.IPSetBuilder
		b.AddSet(a.IPs)
		b.Intersect(c.reserved[name])
		if set, err := b.IPSet(); err == nil && len(set.Ranges()) > 0 {
			names = append(names, name)
			kept.AddSet(set)
		}
	}
	set, err := kept.IPSet()
	if err != nil { // only for invalid input, and these are parsed sets
		return names, 0
	}
	return names, v2beta1.CountAddresses(set)
}

func (c *catalogue) putReserved(r *v2beta1.SpiderReservedIP) {
	// What can be read of a list that admission would refuse is still kept out of the pools.
	set, _ := v2beta1.ParseReservedIPSpec(&r.Spec)
	if !r.DeletionTimestamp.IsZero() {
		set = &netipx.IPSet{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved[r.Name] = set
	c.parseAgain()
}

func (c *catalogue) removeReserved(r *v2beta1.SpiderReservedIP) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.reserved, r.Name)
	c.parseAgain()
}

func (c *catalogue) parseAgain() {
	c.read(slices.Collect(maps.Keys(c.objects)))
}

func (c *catalogue) allReserved() *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, set := range c.reserved {
		b.AddSet(set)
	}
	set, err := b.IPSet()
	if err != nil { // only for invalid input, and these are parsed sets
		return &netipx.IPSet{}
	}
	return set
}
