// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"spidernet.io/spiderpool/internal/host"
)

// ErrCrashed is what every effectful call returns after Fake.CrashAt has struck.
var ErrCrashed = errors.New("the process is dead (injected)")

// Fake is a node in memory. It behaves as the kernel does where callers can
// tell: names, numbers, what dies with what, what is refused. The zero value is
// not usable; begin with NewFake or GuideNode. It is safe for concurrent use.
type Fake struct {
	mu         sync.Mutex
	opts       Options
	mode       host.RDMAMode
	funcs      []*function // every PCI network function, in order of address
	ns         map[host.NS]*namespace
	lastRDMA   int // last RDMA device index given
	lastSerial int // last QPN or MAC number given

	steps  int
	calls  []string
	fault  fault
	before map[int]func()

	outside  map[netip.Addr]net.HardwareAddr // who is beyond the node
	cards    map[int]cardLink                // what watchers were told last
	watchers []chan struct{}
}

// Options choose between behaviours that differ from node to node.
type Options struct {
	// FollowRDMA makes a re-created IPoIB netdev appear in its RDMA device's namespace, as kernels
	// from about 6.16 do; otherwise it appears in the node's.
	FollowRDMA bool
	// NoIPv6 is a kernel without IPv6 (ipv6.disable=1), as far as its sysctls go.
	NoIPv6 bool
	// Naming names a new netdev of a PCI function in the node's namespace and gives its alternative
	// names, as udev does; vf is -1 for a PF. Nil, or an empty name, leaves the kernel's name: the
	// lowest free ibN or ethN.
	Naming func(pci string, vf int) (name string, alt []string)
}

// NewFake makes a node that has a loopback link and nothing else, with its RDMA subsystem in exclusive mode.
func NewFake(o Options) *Fake {
	f := &Fake{opts: o, mode: host.RDMAExclusive, ns: map[host.NS]*namespace{}, before: map[int]func(){},
		outside: map[netip.Addr]net.HardwareAddr{}}
	f.ns[host.NodeNS] = f.newNamespace(host.NodeNS)
	f.ns[host.NodeNS].links[0].Up = true
	f.ns[host.NodeNS].links[0].Carrier = true
	return f
}

// fault says which effectful calls fail.
type fault struct {
	at    int // 0 = none
	err   error
	after bool // fail when the effect has taken place
	stays bool // fail all later calls too
}

// FailAt makes the k-th effectful call from now, counted from 1, fail without effect. It sets Steps to zero.
func (f *Fake) FailAt(k int, err error) { f.inject(fault{at: k, err: err}) }

// FailAfter makes the k-th effectful call from now take effect and fail all the same. It sets Steps to zero.
func (f *Fake) FailAfter(k int, err error) { f.inject(fault{at: k, err: err, after: true}) }

// CrashAt makes the k-th effectful call from now and all later ones fail with ErrCrashed, until
// Revive; after says whether the k-th still takes effect. It sets Steps to zero.
func (f *Fake) CrashAt(k int, after bool) {
	f.inject(fault{at: k, err: ErrCrashed, after: after, stays: true})
}

// Revive ends all injected failures.
func (f *Fake) Revive() { f.inject(fault{}) }

// Before runs fn just before the k-th effectful call from now, without the fake's lock, so that fn may change
// the node: a namespace may die at the worst moment. It does not reset Steps.
func (f *Fake) Before(k int, fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before[f.steps+k] = fn
}

func (f *Fake) inject(x fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.steps, f.calls = x, 0, nil
}

// Steps counts the effectful calls since the last FailAt, FailAfter, CrashAt or Revive.
func (f *Fake) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

// Calls lists the effectful calls that Steps counts, such as "MoveRDMA mlx5_3 to /var/run/netns/a".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// effect runs one effectful call under the lock and injects failures.
func (f *Fake) effect(call string, do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps++
	f.calls = append(f.calls, call)
	if fn := f.before[f.steps]; fn != nil {
		delete(f.before, f.steps)
		f.mu.Unlock()
		fn()
		f.mu.Lock()
	}
	x := f.fault
	strikes := x.at != 0 && f.steps == x.at
	if x.at != 0 && x.stays && f.steps > x.at || strikes && !x.after {
		return fmt.Errorf("%s: %w", call, x.err)
	}
	err := do()
	f.tellWatchers()
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	if strikes {
		return fmt.Errorf("%s: %w", call, x.err)
	}
	return nil
}

// namespace is one network namespace.
type namespace struct {
	name      host.NS
	links     []*link // in order of index
	lastIndex int
	routes    []host.Route
	rules     []host.Rule
	sysctls   map[string]string // those that differ from the default
	marks     map[string]uint32
	noIPv6    bool
}

func (f *Fake) newNamespace(name host.NS) *namespace {
	n := &namespace{name: name, noIPv6: f.opts.NoIPv6, sysctls: map[string]string{}, marks: map[string]uint32{},
		lastIndex: 1}
	n.links = []*link{{Link: host.Link{NS: name, Index: 1, Name: "lo", Kind: "device", LinkLayer: host.Ethernet,
		MTU: 65536}}}
	return n
}

func (f *Fake) namespace(ns host.NS) (*namespace, error) {
	n, ok := f.ns[ns]
	if !ok {
		return nil, fmt.Errorf("network namespace %s: %w", ns, host.ErrNSGone)
	}
	return n, nil
}

// AddNS makes a network namespace.
func (f *Fake) AddNS(ns host.NS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.ns[ns]; !ok {
		f.ns[ns] = f.newNamespace(ns)
	}
}

// DeleteNS is the death of a network namespace. RDMA devices come home first, which destroys and re-creates
// their IPoIB netdevs; netdevs of PCI functions and IPoIB children come home under their own name, or as
// dev<index> when that is taken; veth pairs die.
func (f *Fake) DeleteNS(ns host.NS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.tellWatchers()
	n, ok := f.ns[ns]
	if !ok || ns == host.NodeNS {
		return
	}
	delete(f.ns, ns)
	for _, fn := range f.funcs {
		if fn.rdma != nil && fn.rdma.NS == ns {
			f.reregister(fn, host.NodeNS, n)
		}
	}
	for _, l := range slices.Clone(n.links) {
		if l.peer != nil {
			f.destroy(l.peer)
		}
		if l.fn != nil || l.Kind == "ipoib" {
			f.comeHome(n, l)
		}
	}
}

func (f *Fake) comeHome(from *namespace, l *link) {
	if !slices.Contains(from.links, l) {
		return // it died with its parent
	}
	home := f.ns[host.NodeNS]
	from.drop(l)
	l.AltNames = slices.DeleteFunc(l.AltNames, home.taken)
	if home.taken(l.Name) {
		l.Name = fmt.Sprintf("dev%d", l.Index)
		if home.taken(l.Name) {
			l.Name = home.lowestFree("dev")
		}
	}
	home.adopt(l)
}

// NSExists implements API.
func (f *Fake) NSExists(ns host.NS) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.ns[ns]
	return ok
}
