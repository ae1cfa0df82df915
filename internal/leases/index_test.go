package leases

import (
	"fmt"
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
	index   *index
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
func (m *apiModel) create(ip netip.Addr, pod string) *v2beta1.SpiderIPLease {
	name := v2beta1.LeaseName("p", ip)
	if m.leases[name] != nil {
		return nil
	}
	version := m.next()
	l := &v2beta1.SpiderIPLease{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version, UID: types.UID("uid-" + version)},
		Spec:       v2beta1.IPLeaseSpec{Pool: "p", IP: ip.String(), Node: "n", Pod: &v2beta1.LeasePod{UID: pod}},
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

func (m *apiModel) names() []string {
	var names []string
	for name := range m.leases {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// However late the watch is, what this process was given stays in the index as
// it was given, and once the watch has caught up the index says what the API
// server has.
func TestIndexConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &apiModel{leases: map[string]*v2beta1.SpiderIPLease{}, own: map[string]*v2beta1.SpiderIPLease{}, index: newIndex("this")}
		pods := rapid.SampledFrom([]string{"a", "b"})
		t.Repeat(map[string]func(*rapid.T){
			"another node creates": func(t *rapid.T) {
				m.create(modelPool.At(rapid.Uint64Range(0, 3).Draw(t, "n")), pods.Draw(t, "pod"))
			},
			"this process creates": func(t *rapid.T) {
				ip, ok := m.index.reserve(modelPool, netip.Addr{})
				if !ok {
					return
				}
				if l := m.create(ip, pods.Draw(t, "pod")); l != nil {
					m.put(l)
				} else {
					m.index.occupied(v2beta1.LeaseName("p", ip))
				}
			},
			"update": func(t *rapid.T) {
				if names := m.names(); len(names) > 0 {
					l := m.update(rapid.SampledFrom(names).Draw(t, "name"), pods.Draw(t, "pod"))
					if rapid.Bool().Draw(t, "by this process") {
						m.put(l)
					}
				}
			},
			"delete": func(t *rapid.T) {
				if names := m.names(); len(names) > 0 {
					l := m.delete(rapid.SampledFrom(names).Draw(t, "name"))
					if rapid.Bool().Draw(t, "by this process") {
						m.index.forget(l.Name, l.UID)
					}
				}
			},
			"deliver": func(t *rapid.T) {
				for range rapid.IntRange(0, len(m.late)).Draw(t, "events") {
					m.late[0]()
					m.late = m.late[1:]
				}
			},
			"": func(t *rapid.T) { checkOwn(t, m) },
		})
		for _, deliver := range m.late {
			deliver()
		}
		m.late = nil
		checkIndex(t, m)
	})
}

// checkOwn: a lease that nobody has changed since this process wrote it is in the index as written.
func checkOwn(t *rapid.T, m *apiModel) {
	for name, l := range m.own {
		if m.leases[name] != l {
			continue
		}
		if e := m.index.entries[name]; e.uid() != l.UID || e.lease.Spec.Pod.UID != l.Spec.Pod.UID {
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
		if e == nil || e.uid() != l.UID || e.lease.Spec.Pod.UID != l.Spec.Pod.UID || !e.confirmed {
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
	x := newIndex("this")
	other := *modelPool
	other.Name = "q"
	seen := map[netip.Addr]bool{}
	for i := range 4 {
		ip, ok := x.reserve([]*ipam.Pool{modelPool, &other}[i%2], netip.Addr{})
		if !ok || seen[ip] {
			t.Fatalf("reservation %d: %v %t, seen %v", i, ip, ok, seen)
		}
		seen[ip] = true
	}
	if ip, ok := x.reserve(&other, netip.Addr{}); ok {
		t.Fatalf("%v was reserved a second time", ip)
	}
	x.forget(v2beta1.LeaseName("p", netip.MustParseAddr("192.0.2.1")), "")
	if ip, ok := x.reserve(&other, netip.MustParseAddr("192.0.2.3")); !ok || ip.String() != "192.0.2.1" {
		t.Fatalf("the freed address: got %v %t", ip, ok)
	}
}

// What an allocation costs does not grow with the number of leases.
func BenchmarkReserve(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 14, 1 << 16} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			x := newIndex("this")
			last := netip.AddrFrom4([4]byte{10, 1, byte((size - 1) >> 8), byte(size - 1)})
			pool := ipam.ParsePool(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v2beta1.IPPoolSpec{
				Subnet: "10.1.0.0/16", IPs: []string{"10.1.0.0-" + last.String()},
			}}, nil)
			for range size / 2 {
				x.reserve(pool, netip.Addr{})
			}
			for b.Loop() {
				ip, _ := x.reserve(pool, netip.Addr{})
				x.forget(v2beta1.LeaseName("p", ip), "")
			}
		})
	}
}
