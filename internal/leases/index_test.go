// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

var modelPool = ipam.ParsePool(&v2beta1.SpiderIPPool{
	ObjectMeta: metav1.ObjectMeta{Name: "p"},
	Spec:       v2beta1.IPPoolSpec{Subnet: "192.0.2.0/24", IPs: []string{"192.0.2.1-192.0.2.4"}},
}, nil)

// apiModel is an API server with one watch that is read late.
type apiModel struct {
	version int
	leases  map[string]*v2beta1.SpiderIPLease
	late    []func()                          // events not delivered yet
	own     map[string]*v2beta1.SpiderIPLease // as this process wrote them last
	answers []func()                          // to requests of this process that the server has carried out
	index   *index
}

func newAPIModel() *apiModel {
	return &apiModel{leases: map[string]*v2beta1.SpiderIPLease{}, own: map[string]*v2beta1.SpiderIPLease{},
		index: newIndex("this", rand.Uint64)}
}

func (m *apiModel) next() string {
	m.version++
	return strconv.Itoa(m.version)
}

func (m *apiModel) event(deliver func(*v2beta1.SpiderIPLease), l *v2beta1.SpiderIPLease) {
	m.late = append(m.late, func() { deliver(l) })
}

// put is a write of this process that succeeded.
func (m *apiModel) put(l *v2beta1.SpiderIPLease) {
	m.index.put(l)
	m.own[l.Name] = l
}

// create returns nil when the lease exists.
func (m *apiModel) create(ip netip.Addr, node, pod string) *v2beta1.SpiderIPLease {
	name := v2beta1.LeaseName("p", ip)
	if m.leases[name] != nil {
		return nil
	}
	version := m.next()
	l := &v2beta1.SpiderIPLease{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version, UID: types.UID("uid-" + version)},
		Spec:       v2beta1.IPLeaseSpec{Pool: "p", IP: ip.String(), Node: node, Pod: &v2beta1.LeasePod{UID: pod}},
	}
	m.leases[name] = l
	m.event(m.index.saw, l)
	return l
}

func (m *apiModel) update(name, pod string) *v2beta1.SpiderIPLease {
	l := m.leases[name].DeepCopy()
	l.ResourceVersion, l.Spec.Pod.UID = m.next(), pod
	m.leases[name] = l
	m.event(m.index.saw, l)
	return l
}

func (m *apiModel) delete(name string) *v2beta1.SpiderIPLease {
	l := m.leases[name].DeepCopy()
	delete(m.leases, name)
	l.ResourceVersion = m.next()
	m.event(func(l *v2beta1.SpiderIPLease) { m.index.sawGone(l) }, l)
	return l
}

// ask has the server carry out a create of this process for an address that it reserved; the answer
// comes later.
func (m *apiModel) ask(ip netip.Addr, pod string) {
	l := m.create(ip, "this", pod)
	m.answers = append(m.answers, func() {
		if l != nil {
			m.put(l)
		} else {
			m.index.occupied(v2beta1.LeaseName("p", ip))
		}
	})
}

// giveBack has the server carry out a delete of this process, which says before that it will write the lease.
func (m *apiModel) giveBack(name string) {
	m.index.lend(name)
	l := m.delete(name)
	m.answers = append(m.answers, func() { m.index.forget(l.Name, l.UID) })
}

func (m *apiModel) answer(n int) {
	for range n {
		m.answers[0]()
		m.answers = m.answers[1:]
	}
}

func (m *apiModel) deliver(n int) {
	for range n {
		m.late[0]()
		m.late = m.late[1:]
	}
}

// names are those of a node's leases.
func (m *apiModel) names(node string) []string {
	var names []string
	for name, l := range m.leases {
		if l.Spec.Node == node {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// However late the watch and the answers are, what this process was given stays in the index as it
// was given, what it gave back is nobody's any more, and once all has arrived the index says what
// the API server has.
func TestIndexConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newAPIModel()
		pods := rapid.SampledFrom([]string{"a", "b"})
		pick := func(t *rapid.T, node string, do func(name string)) {
			if names := m.names(node); len(names) > 0 {
				do(rapid.SampledFrom(names).Draw(t, "name"))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"another node creates": func(t *rapid.T) {
				m.create(modelPool.At(rapid.Uint64Range(0, 3).Draw(t, "n")), "other", pods.Draw(t, "pod"))
			},
			"another node updates": func(t *rapid.T) {
				pick(t, "other", func(name string) { m.update(name, pods.Draw(t, "pod")) })
			},
			"another node deletes": func(t *rapid.T) { pick(t, "other", func(name string) { m.delete(name) }) },
			"this process creates": func(t *rapid.T) {
				if ip, ok := m.index.reserve(modelPool, part{}); ok {
					m.ask(ip, pods.Draw(t, "pod"))
				}
			},
			"this process updates": func(t *rapid.T) {
				m.answer(len(m.answers)) // it writes only what it knows
				pick(t, "this", func(name string) { m.put(m.update(name, pods.Draw(t, "pod"))) })
			},
			"this process deletes": func(t *rapid.T) {
				m.answer(len(m.answers))
				pick(t, "this", m.giveBack)
			},
			"answer":  func(t *rapid.T) { m.answer(rapid.IntRange(0, len(m.answers)).Draw(t, "answers")) },
			"deliver": func(t *rapid.T) { m.deliver(rapid.IntRange(0, len(m.late)).Draw(t, "events")) },
			"":        func(t *rapid.T) { checkOwn(t, m) },
		})
		m.answer(len(m.answers))
		m.deliver(len(m.late))
		checkIndex(t, m)
	})
}

// The end of a lease that this process gave back, told late, is not the end of one that it asks for
// under the same name.
func TestIndexIsToldLateOfWhatItGaveBack(t *testing.T) {
	m := newAPIModel()
	ip, _ := m.index.reserve(modelPool, part{})
	m.ask(ip, "a")
	m.answer(1)
	m.giveBack(v2beta1.LeaseName("p", ip))
	m.answer(1)
	if again, _ := m.index.reserve(modelPool, part{}); again != ip {
		t.Fatalf("reserved %v, want %v", again, ip)
	}
	m.ask(ip, "b")
	m.deliver(len(m.late)) // all of it, before the answer
	if got := m.index.ofPod("a"); len(got) > 0 {
		t.Errorf("the pod that gave the address back has %+v", got)
	}
	m.answer(1)
	if got := m.index.ofPod("b"); len(got) != 1 || got[0].handedOut {
		t.Errorf("the pod that has the address now has %+v in the index", got)
	}
}

// checkOwn: a lease that nobody has changed since this process wrote it is in the index as written.
func checkOwn(t *rapid.T, m *apiModel) {
	for name, l := range m.own {
		if m.leases[name] != l {
			continue
		}
		if e := m.index.entries[name]; e.uid() != l.UID || e.lease.Spec.Pod.UID != l.Spec.Pod.UID || e.user != nil {
			t.Fatalf("%s: this process wrote %+v, the index has %+v", name, l, e)
		}
	}
}

func checkIndex(t *rapid.T, m *apiModel) {
	if got := len(m.index.entries); got != len(m.leases) {
		t.Fatalf("index has %d entries, the API server %d leases", got, len(m.leases))
	}
	byPod := map[string]int{}
	for name, l := range m.leases {
		e := m.index.entries[name]
		if e == nil || e.uid() != l.UID || e.lease.Spec.Pod.UID != l.Spec.Pod.UID || e.user != nil || !e.confirmed {
			t.Fatalf("%s: index has %+v, the API server %+v", name, e, l)
		}
		byPod[l.Spec.Pod.UID]++
	}
	for _, pod := range []string{"a", "b"} {
		if got := len(m.index.ofPod(pod)); got != byPod[pod] {
			t.Fatalf("pod %s has %d leases in the index, %d at the API server", pod, got, byPod[pod])
		}
	}
	for i := range uint64(4) {
		ip := modelPool.At(i)
		if taken := m.leases[v2beta1.LeaseName("p", ip)] != nil; m.index.taken.Contains(ip) != taken {
			t.Fatalf("%s: taken in the index %t, at the API server %t", ip, !taken, taken)
		}
	}
}

// An address that a pool has in common with another, in spite of admission, is given out once.
func TestIndexKnowsAddressesOfOverlappingPools(t *testing.T) {
	x := newIndex("this", rand.Uint64)
	other := *modelPool
	other.Name = "q"
	seen := map[netip.Addr]bool{}
	for i := range 4 {
		ip, ok := x.reserve([]*ipam.Pool{modelPool, &other}[i%2], part{})
		if !ok || seen[ip] {
			t.Fatalf("reservation %d: %v %t, seen %v", i, ip, ok, seen)
		}
		seen[ip] = true
	}
	if ip, ok := x.reserve(&other, part{}); ok {
		t.Fatalf("%v was reserved a second time", ip)
	}
	x.forget(v2beta1.LeaseName("p", netip.MustParseAddr("192.0.2.1")), "")
	if ip, ok := x.reserve(&other, part{from: netip.MustParseAddr("192.0.2.3")}); !ok || ip.String() != "192.0.2.1" {
		t.Fatalf("the freed address: got %v %t", ip, ok)
	}
}

// What an allocation costs does not grow with the number of leases.
func BenchmarkReserve(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 14, 1 << 16} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			x := newIndex("this", rand.Uint64)
			last := netip.AddrFrom4([4]byte{10, 1, byte((size - 1) >> 8), byte(size - 1)})
			pool := ipam.ParsePool(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"},
				Spec: v2beta1.IPPoolSpec{
					Subnet: "10.1.0.0/16", IPs: []string{"10.1.0.0-" + last.String()},
				}}, nil)
			for range size / 2 {
				x.reserve(pool, part{})
			}
			for b.Loop() {
				ip, _ := x.reserve(pool, part{})
				x.forget(v2beta1.LeaseName("p", ip), "")
			}
		})
	}
}

// Somebody looks a lease up while it is being deleted: nobody may be given it by that, whether what
// he saw is the same version or a later one.
func TestLookUpDoesNotEndABorrowing(t *testing.T) {
	for _, version := range []string{"7", "8"} {
		x := newIndex("this", rand.Uint64)
		lease := func(version string) *v2beta1.SpiderIPLease {
			l := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: v2beta1.LeaseName("p",
				netip.MustParseAddr("192.0.2.1")), UID: "u", ResourceVersion: version}}
			l.Spec.Pool, l.Spec.IP, l.Spec.Node = "p", "192.0.2.1", "this"
			return l
		}
		whatever := func(*entry) bool { return true }
		free := func() bool {
			_, ok := x.claim(modelPool, whatever, &v2beta1.LeasePod{UID: "pod"})
			return ok
		}
		x.putStock(lease("7"), 1)
		if _, ok := x.borrow("p", whatever); !ok {
			t.Fatal("stock cannot be borrowed")
		}
		x.looked(lease(version))
		if free() {
			t.Errorf("version %s: given out while it is borrowed", version)
		}
		x.unborrow(lease(version).Name)
		if !free() {
			t.Errorf("version %s: not given out after it was returned", version)
		}
	}
}

// A pool is full, and the watch has stood still since before this node made more leases than are looked
// up at once: one that has gone meanwhile is looked up all the same, sooner or later.
func TestEveryDoubtfulLeaseIsLookedUp(t *testing.T) {
	x := newIndex("this", rand.New(rand.NewPCG(1, 1)).Uint64)
	const limit, leases = 4, 12
	for n := range leases {
		lease := &v2beta1.SpiderIPLease{}
		lease.ResourceVersion, lease.UID = "7", types.UID(fmt.Sprint("u", n))
		ip := netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
		lease.Name, lease.Spec.Pool = v2beta1.LeaseName("p", ip), "p"
		lease.Spec.IP, lease.Spec.Node = ip.String(), "this"
		lease.Spec.Pod = &v2beta1.LeasePod{UID: fmt.Sprint("pod", n)}
		x.put(lease)
	}
	seen := nameSet{}
	for range 100 {
		names := x.doubtful("p", 0, limit)
		if len(names) != limit {
			t.Fatalf("%d doubtful leases at once: expected %d", len(names), limit)
		}
		for _, name := range names {
			seen[name] = struct{}{}
			e, _ := x.get(name)
			x.looked(e.lease) // it exists
		}
	}
	if len(seen) != leases {
		t.Errorf("%d of %d doubtful leases were ever looked up", len(seen), leases)
	}
}
