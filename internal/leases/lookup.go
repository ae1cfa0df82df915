// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"cmp"
	"maps"
	"slices"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// held is a lease in use: the object as the API server showed it last, and who uses it, which the
// API server may not show yet.
type held struct {
	name  string
	lease *v2beta1.SpiderIPLease // shared: copy before changing; nil when the object has vanished
	pod   *v2beta1.LeasePod
	// handedOut: the API server does not show the pod.
	handedOut bool
	pool      string
	version   int64 // of IP
}

// ofPod returns what a pod holds, by name.
func (x *index) ofPod(uid string) []held {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.holdings(x.ofPods[uid])
}

// ofOwnerOf returns what the owner of this pod keeps for it, by name.
func (x *index) ofOwnerOf(p ipam.Pod) []held {
	if p.Owner == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.holdings(x.ofOwner[keyOfOwner(p.Namespace, p.Name, *p.Owner)])
}

// onNode returns what pods of this node use.
func (x *index) onNode() []held {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := nameSet{}
	for name, e := range x.entries {
		if e.user != nil || e.lease != nil && e.lease.Spec.Node == x.node && e.lease.Spec.Pod != nil {
			found[name] = struct{}{}
		}
	}
	return x.holdings(found)
}

func (x *index) holdings(names nameSet) []held {
	var found []held
	for _, name := range slices.Sorted(maps.Keys(names)) {
		e := x.entries[name]
		found = append(found, held{name: name, lease: e.lease, pod: e.pod(), handedOut: e.user != nil, pool: e.pool,
			version: ipam.VersionOf(e.ip)})
	}
	return found
}

// stock returns what is known of this node's stock in a pool; Wanted and PerPool are the caller's.
func (x *index) stock(pool *ipam.Pool) ipam.Stock {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := ipam.Stock{Size: pool.Size(), Nodes: 1}
	if p := x.pools[pool.Name]; p != nil {
		s.Leased, s.Mine, s.Nodes = p.leased, len(p.mine), len(p.nodes)
		if p.nodes[x.node] == 0 {
			s.Nodes++
		}
	}
	return s
}

// creates tells whether this process is creating leases of the pool.
func (x *index) creates(pool string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pools[pool]
	return p != nil && p.making > 0
}

// unsettled tells whether leases of the pool exist, or are being made, that no pod has: of other
// nodes, which give them back, or of this one, which is writing them; or whether this one is giving
// back what pods had. It also returns what tells of the next free address.
func (x *index) unsettled(pool string) (bool, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pools[pool]
	return p != nil && (p.idle > 0 || p.making > 0 || p.ending > 0 || len(p.mine) > 0), x.freed
}

// changing tells whether an address is being taken, written or given back, and returns what tells
// of the next free one.
func (x *index) changing(name string) (bool, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[name]
	return e != nil && (e.creating || e.busy || e.ending()), x.freed
}

// idleNodes names the other nodes that hold addresses of the pool without a pod, for messages.
func (x *index) idleNodes(pool string) (nodes []string, count int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range x.entries {
		if e.pool == pool && e.lease != nil && e.lease.Spec.Pod == nil && e.user == nil && e.lease.Spec.Node != x.node {
			seen[e.lease.Spec.Node] = true
			count++
		}
	}
	return slices.Sorted(maps.Keys(seen)), count
}

// hasStock tells whether this node has leases of the pool without a pod.
func (x *index) hasStock(pool string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pools[pool]
	return p != nil && len(p.mine) > 0
}

// stockPools names the pools of which this node has leases without a pod.
func (x *index) stockPools() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []string
	for name, p := range x.pools {
		if len(p.mine) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// claim takes the lowest address of this node's leases without a pod that the pool may still give
// out and that fits, and notes the pod as its user.
func (x *index) claim(pool *ipam.Pool, fits func(*entry) bool, user *v2beta1.LeasePod) (held, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	name, ok := x.pick(pool.Name, func(e *entry) bool { return pool.Has(e.ip) && fits(e) })
	if !ok {
		return held{}, false
	}
	x.change(name, func(e *entry) { e.user = user })
	return x.holdings(nameSet{name: {}})[0], true
}

// borrow takes one of this node's leases without a pod that fits, to write it. What is put of it
// afterwards ends that, and so does unborrow.
func (x *index) borrow(pool string, fits func(*entry) bool) (*v2beta1.SpiderIPLease, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	name, ok := x.pick(pool, fits)
	if !ok {
		return nil, false
	}
	x.entries[name].busy = true
	return x.entries[name].lease, true
}

// pick finds the lowest of this node's leases without a pod that fits and that nobody is writing.
func (x *index) pick(pool string, fits func(*entry) bool) (string, bool) {
	p := x.pools[pool]
	if p == nil {
		return "", false
	}
	var found []string
	for name := range p.mine {
		if e := x.entries[name]; !e.busy && fits(e) {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return "", false
	}
	return slices.MinFunc(found, func(a, b string) int {
		return cmp.Or(x.entries[a].ip.Compare(x.entries[b].ip), cmp.Compare(a, b))
	}), true
}

// lend marks a lease as being written by one who has it already.
func (x *index) lend(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries[name] != nil {
		x.change(name, func(e *entry) { e.busy = true })
	}
}

// unborrow ends a borrowing whose write did not take place.
func (x *index) unborrow(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries[name] != nil {
		x.change(name, func(e *entry) { e.busy = false })
	}
}

// use notes the user of an entry; nil notes that the hand-out has ended or is shown by the API server.
func (x *index) use(name string, user *v2beta1.LeasePod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[name]
	if e == nil {
		return
	}
	x.change(name, func(e *entry) { e.user = user })
	if user == nil && e.lease == nil && !e.creating {
		x.remove(name) // its object had vanished
	}
}

// recall enters a hand-out of an earlier process, before the watch has shown anything.
func (x *index) recall(name string, e entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.add(name, &e)
}

// written remembers a lease as the API server returned it to the one who gave it to its pod: a
// hand-out, if it was one, is over.
func (x *index) written(l *v2beta1.SpiderIPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[l.Name]; e != nil {
		x.change(l.Name, func(e *entry) { e.user, e.lease, e.epoch, e.busy = nil, l, 0, false })
	}
}

// suspect notes that a write of the lease may have reached the API server: it is no stock before it
// was written again.
func (x *index) suspect(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[name]; e != nil {
		e.epoch = 0
	}
}

// disown ends a claim whose write failed.
func (x *index) disown(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[name]; e != nil {
		x.change(name, func(e *entry) { e.user, e.epoch = nil, 0 })
	}
}
