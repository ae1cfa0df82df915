package leases

import (
	"maps"
	"sync"

	"go4.org/netipx"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// catalogue keeps every pool read into its trusted form, so that no
// allocation parses one. A map once handed out never changes.
type catalogue struct {
	mu       sync.Mutex
	objects  map[string]*v2beta1.SpiderIPPool
	reserved map[string]*netipx.IPSet
	pools    map[string]*ipam.Pool
}

func newCatalogue() *catalogue {
	return &catalogue{objects: map[string]*v2beta1.SpiderIPPool{}, reserved: map[string]*netipx.IPSet{}, pools: map[string]*ipam.Pool{}}
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
	if known && old.UID == p.UID && old.Generation == p.Generation && old.DeletionTimestamp.IsZero() == p.DeletionTimestamp.IsZero() {
		return // only the status changed
	}
	c.pools = maps.Clone(c.pools)
	c.pools[p.Name] = ipam.ParsePool(p, c.allReserved())
}

func (c *catalogue) removePool(p *v2beta1.SpiderIPPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.objects, p.Name)
	c.pools = maps.Clone(c.pools)
	delete(c.pools, p.Name)
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
	reserved := c.allReserved()
	c.pools = make(map[string]*ipam.Pool, len(c.objects))
	for name, p := range c.objects {
		c.pools[name] = ipam.ParsePool(p, reserved)
	}
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
