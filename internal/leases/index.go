// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// index remembers which addresses are taken, fed by the watch and by this
// process's own writes, which the watch shows a little later. It may lag
// behind the API server in both directions: then a create is refused, or a
// free address is found a little later. It is never asked to list a pool.
type index struct {
	node   string
	random func() uint64

	mu      sync.Mutex
	entries map[string]*entry // by the lease's name
	taken   *ipam.Taken
	// users counts the entries of an address: more than one only if pools overlap in spite of admission.
	users   map[netip.Addr]int
	ofPods  map[string]nameSet   // by pod UID
	ofOwner map[ownerKey]nameSet // leases that outlive their pod
	pools   map[string]*poolIndex
	freed   chan struct{} // closed when an address becomes free
	ended   graves
}

type nameSet map[string]struct{}

// poolIndex is what is known of one pool's leases.
type poolIndex struct {
	leased uint64
	nodes  map[string]int // leases of each node
	idle   int            // leases without a pod, of other nodes
	making int            // creates of this process under way
	ending int            // leases that this process is giving back
	mine   nameSet        // leases without a pod, of this node
}

// entry is one address that is not free.
type entry struct {
	ip   netip.Addr
	pool string
	// lease is as the API server showed it last; nil while its create is under way, and when a
	// create met a lease that the watch has not shown yet.
	lease *v2beta1.SpiderIPLease
	// user has the address, although the API server does not show it yet: see ledger.HandOut. What
	// the watch shows does not change it.
	user *v2beta1.LeasePod
	// epoch in which this process itself wrote the lease without a pod; see Promise. Only in that
	// epoch is it stock.
	epoch uint64
	// busy: the lease without a pod is being written, or how that ended is not known.
	busy     bool
	creating bool
	// confirmed: the watch has shown the object. Until then nothing promises that the watch will
	// show its end.
	confirmed bool
	since     time.Time
	shown     chan struct{} // see index.shown
}

// ownerKey finds the leases of something that outlives its pods. The pod's name is empty for an
// owner that has one pod at a time.
type ownerKey struct {
	namespace, pod string
	owner          v2beta1.LeaseOwner
}

func keyOfOwner(namespace, pod string, owner v2beta1.LeaseOwner) ownerKey {
	if owner.Kind == v2beta1.OwnerVirtualMachineInstance {
		pod = "" // its pods have names at random
	}
	owner.APIVersion, _, _ = strings.Cut(owner.APIVersion, "/") // whatever version a controller wrote it in
	return ownerKey{namespace, pod, owner}
}

func newIndex(node string, random func() uint64) *index {
	return &index{
		node: node, random: random, entries: map[string]*entry{}, taken: ipam.NewTaken(), users: map[netip.Addr]int{},
		ofPods: map[string]nameSet{}, ofOwner: map[ownerKey]nameSet{}, pools: map[string]*poolIndex{},
		freed: make(chan struct{}),
		ended: graves{},
	}
}

// pod is who uses the address, nil when nobody does as far as is known.
func (e *entry) pod() *v2beta1.LeasePod {
	switch {
	case e.user != nil:
		return e.user
	case e.lease != nil:
		return e.lease.Spec.Pod
	}
	return nil
}

// ending tells whether a pod's lease is being given back.
func (e *entry) ending() bool { return e.busy && e.pod() != nil }

func (e *entry) uid() types.UID {
	if e == nil || e.lease == nil {
		return ""
	}
	return e.lease.UID
}

// part is where a search for a free address begins, and where it ends unless nothing is free there;
// both may be invalid.
type part struct{ from, to netip.Addr }

// part divides the pool among the nodes that have leases in it, and gives this node's part. Views
// differ for a while, and then parts overlap: it is no more than a way to meet seldom. A node that
// knows of no other begins at a place of its own.
func (x *index) part(pool *ipam.Pool, place uint64) part {
	x.mu.Lock()
	defer x.mu.Unlock()
	rank, nodes := uint64(0), uint64(1)
	if p := x.pools[pool.Name]; p != nil {
		for node := range p.nodes {
			if node != x.node {
				nodes++
			}
			if node < x.node {
				rank++
			}
		}
	}
	size := pool.Size()
	if nodes == 1 || size < nodes {
		return part{from: pool.At(place)}
	}
	each := size / nodes
	if rank == nodes-1 {
		return part{from: pool.At(rank * each)}
	}
	return part{from: pool.At(rank * each), to: pool.At((rank + 1) * each)}
}

// reserve picks the first free address in the part, else any of the pool, and keeps it from other
// callers in this process.
func (x *index) reserve(pool *ipam.Pool, in part) (netip.Addr, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ip, ok := x.taken.NextFree(pool.Free, in.from)
	if ok && in.to.IsValid() && !ip.Less(in.to) {
		ip, ok = x.taken.NextFree(pool.Free, pool.At(x.random()))
	}
	if !ok && in.from.IsValid() {
		ip, ok = x.taken.NextFree(pool.Free, netip.Addr{})
	}
	if !ok {
		return netip.Addr{}, false
	}
	x.add(v2beta1.LeaseName(pool.Name, ip), &entry{ip: ip, pool: pool.Name, creating: true, since: time.Now()})
	return ip, true
}

// shown returns what is closed when the entry's object is known, or that there is none.
func (x *index) shown(name string) <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[name]
	if e == nil || e.lease != nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	if e.shown == nil {
		e.shown = make(chan struct{})
	}
	return e.shown
}

// show tells those who wait for the entry's object.
func (e *entry) show() {
	if e.shown != nil {
		close(e.shown)
		e.shown = nil
	}
}

// occupied notes that the reserved address turned out to be another's, or that nobody knows.
func (x *index) occupied(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[name]; e != nil {
		x.change(name, func(e *entry) { e.creating = false })
	}
}

// get returns a copy of an entry.
func (x *index) get(name string) (entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[name]
	if e == nil {
		return entry{}, false
	}
	return *e, true
}

// forget frees an address whose object is known not to exist any more, unless
// the entry has come to stand for another object since.
func (x *index) forget(name string, gone types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended.add(gone)
	if e := x.entries[name]; e != nil && e.uid() == gone {
		x.vanish(name, e)
	}
}

// vanish drops an entry whose object has gone. One that a pod uses all the same stays: its lease
// has to be made again.
func (x *index) vanish(name string, e *entry) {
	if e.user == nil {
		x.remove(name)
		return
	}
	x.change(name, func(e *entry) { e.lease, e.confirmed, e.epoch, e.busy = nil, false, 0, false })
}

// put remembers a lease as this process wrote it, which ends a borrowing.
func (x *index) put(l *v2beta1.SpiderIPLease) { x.store(l, 0, written) }

// putStock remembers a lease without a pod that this process itself wrote in this epoch.
func (x *index) putStock(l *v2beta1.SpiderIPLease, epoch uint64) { x.store(l, epoch, written) }

// looked remembers a lease as the API server returned it to somebody who asked. Whoever has
// borrowed it meanwhile ends that himself: it may be gone by the time that this is known.
func (x *index) looked(l *v2beta1.SpiderIPLease) { x.store(l, 0, read) }

// saw remembers a lease that the watch showed.
func (x *index) saw(l *v2beta1.SpiderIPLease) { x.store(l, 0, watched) }

// source is how a lease became known.
type source int

const (
	written source = iota
	read
	watched
)

func (x *index) store(l *v2beta1.SpiderIPLease, epoch uint64, by source) {
	ip, err := l.Address()
	if err != nil {
		return // not a lease by its name: it guards no address
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended.has(l.UID) {
		return // the watch is late: the address may be another's, or asked for, since
	}
	old := x.entries[l.Name]
	switch {
	case old == nil:
		x.add(l.Name, &entry{ip: ip, pool: l.Spec.Pool, lease: l, epoch: epoch, confirmed: by == watched,
			since: time.Now()})
	case old.lease != nil && newer(old.lease, l):
		old.confirmed = old.confirmed || by == watched && old.lease.UID == l.UID
	case old.lease != nil && old.lease.ResourceVersion == l.ResourceVersion:
		x.change(l.Name, func(e *entry) { e.again(epoch, by) })
	default:
		x.change(l.Name, func(e *entry) {
			e.confirmed = by == watched || e.confirmed && e.uid() == l.UID
			e.busy = e.busy && by != written // who writes it says how that ended
			e.lease, e.epoch, e.creating, e.since = l, epoch, false, time.Now()
			e.show()
		})
	}
}

// again notes that the same version was shown once more: to the one who wrote it, to one who asked,
// or by the watch.
func (e *entry) again(epoch uint64, by source) {
	e.confirmed = e.confirmed || by == watched
	e.busy = e.busy && by != written
	if epoch != 0 {
		e.epoch = epoch
	}
}

// sawGone forgets a lease whose end the watch showed, unless a later lease of
// that name is known. A pod of this node that has it, and did not give it back,
// is noted as its user; sawGone tells whether there is one.
func (x *index) sawGone(l *v2beta1.SpiderIPLease) (used bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended.close(l.UID) {
		return false
	}
	e := x.entries[l.Name]
	if e == nil || e.creating || e.lease != nil && e.lease.UID != l.UID && newer(e.lease, l) {
		return false
	}
	if e.user == nil && !e.busy && e.lease != nil && e.lease.Spec.Node == x.node {
		x.change(l.Name, func(e *entry) { e.user = e.lease.Spec.Pod })
	}
	x.vanish(l.Name, e)
	return e.user != nil
}

// newer tells whether a is a later version than b of the same object, or of one of the same name.
func newer(a, b *v2beta1.SpiderIPLease) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order > 0
}

// doubtful returns at most limit names of the pool's leases that the watch
// has not shown although it had this long. It begins anywhere among them: a
// lease that was looked up and exists stays doubtful, and must not keep the
// others from being looked up.
func (x *index) doubtful(pool string, after time.Duration, limit int) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []string
	for name, e := range x.entries {
		if e.pool == pool && !e.confirmed && !e.creating && e.user == nil && time.Since(e.since) >= after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) <= limit {
		return names
	}
	first := int(x.random() % uint64(len(names)))
	return slices.Concat(names[first:], names[:first])[:limit]
}

// change alters an entry in place, with all that is counted of it.
func (x *index) change(name string, alter func(*entry)) {
	e := x.entries[name]
	x.uncount(name, e)
	alter(e)
	x.count(name, e)
}

func (x *index) add(name string, e *entry) {
	x.entries[name] = e
	if x.users[e.ip]++; x.users[e.ip] == 1 {
		x.taken.Add(e.ip)
	}
	x.count(name, e)
}

func (x *index) remove(name string) {
	e := x.entries[name]
	if e == nil {
		return
	}
	x.uncount(name, e)
	e.show()
	delete(x.entries, name)
	if x.users[e.ip]--; x.users[e.ip] == 0 {
		delete(x.users, e.ip)
		x.taken.Remove(e.ip)
		close(x.freed)
		x.freed = make(chan struct{})
	}
}

// count enters an entry into what is looked up by other things than its name.
func (x *index) count(name string, e *entry) {
	p := x.pools[e.pool]
	if p == nil {
		p = &poolIndex{nodes: map[string]int{}, mine: nameSet{}}
		x.pools[e.pool] = p
	}
	p.leased++
	if e.creating {
		p.making++
	}
	if e.ending() {
		p.ending++
	}
	if e.lease != nil {
		p.nodes[e.lease.Spec.Node]++
	}
	pod := e.pod()
	switch {
	case pod != nil:
		insert(x.ofPods, pod.UID, name)
		if pod.Owner != nil {
			insert(x.ofOwner, keyOfOwner(pod.Namespace, pod.Name, *pod.Owner), name)
		}
	case e.lease == nil:
	case e.lease.Spec.Node == x.node:
		p.mine[name] = struct{}{}
	default:
		p.idle++
	}
}

func (x *index) uncount(name string, e *entry) {
	p := x.pools[e.pool]
	p.leased--
	if e.creating {
		p.making--
	}
	if e.ending() {
		p.ending--
	}
	if e.lease != nil {
		if p.nodes[e.lease.Spec.Node]--; p.nodes[e.lease.Spec.Node] == 0 {
			delete(p.nodes, e.lease.Spec.Node)
		}
	}
	pod := e.pod()
	switch {
	case pod != nil:
		drop(x.ofPods, pod.UID, name)
		if pod.Owner != nil {
			drop(x.ofOwner, keyOfOwner(pod.Namespace, pod.Name, *pod.Owner), name)
		}
	case e.lease == nil:
	case e.lease.Spec.Node == x.node:
		delete(p.mine, name)
	default:
		p.idle--
	}
	if p.leased == 0 {
		delete(x.pools, e.pool)
	}
}

func insert[K comparable](m map[K]nameSet, key K, name string) {
	if m[key] == nil {
		m[key] = nameSet{}
	}
	m[key][name] = struct{}{}
}

func drop[K comparable](m map[K]nameSet, key K, name string) {
	delete(m[key], name)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}
