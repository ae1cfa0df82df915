package leases

import (
	"net/netip"
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
	mu      sync.Mutex
	entries map[string]*entry // by the lease's name
	taken   *ipam.Taken
	// users counts the entries of an address: more than one only if pools overlap in spite of admission.
	users   map[netip.Addr]int
	ofPods  map[string]nameSet   // by pod UID
	ofOwner map[ownerKey]nameSet // leases that outlive their pod
}

type nameSet map[string]struct{}

// entry is one address that is not free.
type entry struct {
	ip   netip.Addr
	pool string
	// lease is nil while its create is under way, and when a create met a lease that the watch has not shown yet.
	lease    *v2beta1.SpiderIPLease
	creating bool
	// confirmed: the watch has shown the object. Until then nothing promises that the watch will show its end.
	confirmed bool
	since     time.Time
}

// ownerKey finds the lease of a pod that was made again under the same name.
type ownerKey struct {
	namespace, pod string
	owner          v2beta1.LeaseOwner
}

func newIndex() *index {
	return &index{
		entries: map[string]*entry{}, taken: ipam.NewTaken(), users: map[netip.Addr]int{},
		ofPods: map[string]nameSet{}, ofOwner: map[ownerKey]nameSet{},
	}
}

// reserve picks the next free address of the pool at or after start, else
// from the beginning, and keeps it from other callers in this process.
func (x *index) reserve(pool *ipam.Pool, start netip.Addr) (netip.Addr, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ip, ok := x.taken.NextFree(pool.Free, start)
	if !ok && start.IsValid() {
		ip, ok = x.taken.NextFree(pool.Free, netip.Addr{})
	}
	if !ok {
		return netip.Addr{}, false
	}
	x.add(v2beta1.LeaseName(pool.Name, ip), &entry{ip: ip, pool: pool.Name, creating: true, since: time.Now()})
	return ip, true
}

// occupied notes that the reserved address turned out to be another's, or that nobody knows.
func (x *index) occupied(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[name]; e != nil {
		e.creating = false
	}
}

// uid is the object that an entry stands for; empty while that is not known.
func (x *index) uid(name string) types.UID {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.entries[name].uid()
}

// forget frees an address whose object is known not to exist any more, unless
// the entry has come to stand for another object since.
func (x *index) forget(name string, gone types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries[name].uid() == gone {
		x.remove(name)
	}
}

func (e *entry) uid() types.UID {
	if e == nil || e.lease == nil {
		return ""
	}
	return e.lease.UID
}

// put remembers a lease as the API server returned it to this process.
func (x *index) put(l *v2beta1.SpiderIPLease) { x.store(l, false) }

// saw remembers a lease that the watch showed.
func (x *index) saw(l *v2beta1.SpiderIPLease) { x.store(l, true) }

func (x *index) store(l *v2beta1.SpiderIPLease, watched bool) {
	ip, err := l.Address()
	if err != nil {
		return // not a lease by its name: it guards no address
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	confirmed := watched
	if old := x.entries[l.Name]; old != nil {
		if old.lease != nil && newer(old.lease, l) {
			old.confirmed = old.confirmed || watched && old.lease.UID == l.UID
			return
		}
		confirmed = confirmed || old.confirmed && old.lease != nil && old.lease.UID == l.UID
		x.remove(l.Name)
	}
	x.add(l.Name, &entry{ip: ip, pool: l.Spec.Pool, lease: l, confirmed: confirmed, since: time.Now()})
}

// sawGone forgets a lease whose end the watch showed, unless a later lease of that name is known.
func (x *index) sawGone(l *v2beta1.SpiderIPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[l.Name]
	if e == nil || e.creating || e.lease != nil && e.lease.UID != l.UID && newer(e.lease, l) {
		return
	}
	x.remove(l.Name)
}

// newer tells whether a is a later version than b of the same object, or of one of the same name.
func newer(a, b *v2beta1.SpiderIPLease) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order > 0
}

// ofPod returns the leases of a pod. They are shared: copy before changing.
func (x *index) ofPod(uid string) []*v2beta1.SpiderIPLease {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.leases(x.ofPods[uid])
}

// ofOwnerOf returns the leases that the owner of this pod keeps for a pod of this name.
func (x *index) ofOwnerOf(p ipam.Pod) []*v2beta1.SpiderIPLease {
	if p.Owner == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.leases(x.ofOwner[ownerKey{p.Namespace, p.Name, *p.Owner}])
}

// onNode returns the leases in use on a node.
func (x *index) onNode(node string) []*v2beta1.SpiderIPLease {
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []*v2beta1.SpiderIPLease
	for _, e := range x.entries {
		if e.lease != nil && e.lease.Spec.Node == node && e.lease.Spec.Pod != nil {
			found = append(found, e.lease)
		}
	}
	return found
}

// doubtful returns at most limit names of the pool's leases that the watch
// has not shown although it had this long.
func (x *index) doubtful(pool string, after time.Duration, limit int) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []string
	for name, e := range x.entries {
		if len(names) == limit {
			break
		}
		if e.pool == pool && !e.confirmed && !e.creating && time.Since(e.since) >= after {
			names = append(names, name)
		}
	}
	return names
}

func (x *index) leases(names nameSet) []*v2beta1.SpiderIPLease {
	var found []*v2beta1.SpiderIPLease
	for name := range names {
		found = append(found, x.entries[name].lease)
	}
	return found
}

func (x *index) add(name string, e *entry) {
	x.entries[name] = e
	x.users[e.ip]++
	x.taken.Add(e.ip)
	if e.lease == nil || e.lease.Spec.Pod == nil {
		return
	}
	pod := e.lease.Spec.Pod
	insert(x.ofPods, pod.UID, name)
	if pod.Owner != nil {
		insert(x.ofOwner, ownerKey{pod.Namespace, pod.Name, *pod.Owner}, name)
	}
}

func (x *index) remove(name string) {
	e := x.entries[name]
	if e == nil {
		return
	}
	delete(x.entries, name)
	if x.users[e.ip]--; x.users[e.ip] == 0 {
		delete(x.users, e.ip)
		x.taken.Remove(e.ip)
	}
	if e.lease == nil || e.lease.Spec.Pod == nil {
		return
	}
	pod := e.lease.Spec.Pod
	drop(x.ofPods, pod.UID, name)
	if pod.Owner != nil {
		drop(x.ofOwner, ownerKey{pod.Namespace, pod.Name, *pod.Owner}, name)
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
