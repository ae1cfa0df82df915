// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/controller/pools"
	"spidernet.io/spiderpool/internal/fence"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/simapi"
)

// Times of the simulated cluster. The promise is short, so that schedules reach beyond it.
const (
	simValid     = 16 * time.Second
	simGrace     = 5 * time.Second
	simNamespace = "work"
	simProduct   = "kube-system"
	simNIC       = "eth0"
	simPool      = "pool"
)

// world is a simulated cluster: the real Allocators, heartbeats and collectors, on a simulated API
// server, with kubelets, crashes, pauses and broken links. It runs in a synctest bubble.
type world struct {
	server  *simapi.Server
	admin   client.Client // a link that never fails
	ctx     context.Context
	running sync.WaitGroup
	mutant  mutant

	mu       sync.Mutex
	seed     uint64
	drawn    map[string]uint64 // how many dice each purpose has taken
	uses     map[netip.Addr]use
	bad      []string
	trace    []fmt.Stringer
	attached int // how often a pod got an address
	began    time.Time
	nodes    []*machine
	kept     map[string]bool // addresses that the API server has shown for a pod, by both
	free     map[string]bool // addresses that a node could ask the API server for, for a pod, by both; see mayAsk
	gave     map[string]bool // addresses that were ever assigned to a pod, by both; see assigned
	sick     atomic.Int64    // until when links misbehave, in nanoseconds since began; 0: for good
}

// use is a pod's use of an address, from the ADD that succeeded on.
type use struct {
	pod, sandbox string // the pod's UID
	node         *machine
}

// mutant is a fault planted at a seam, to see whether the model finds it.
type mutant struct {
	noFence     bool // the agent believes that its promise holds for ever
	blindStock  bool // the controller does not see the pods of silent nodes
	noRecord    bool // a hand-out is not written to the ledger
	earlyStatus bool // the network-status does not wait for the API server to show the addresses
	anyVersion  bool // the controller deletes leases in whatever version they are
	oldPools    bool // the agent keeps no stock and does not hear of changes of a pool
}

func newWorld(ctx context.Context, scheme *runtime.Scheme, seed uint64, nodes, addresses, perPool int,
	m mutant) *world {
	w := &world{
		server: simapi.New(scheme), ctx: ctx, mutant: m, seed: seed, drawn: map[string]uint64{},
		uses:  map[netip.Addr]use{},
		began: time.Now(), kept: map[string]bool{}, free: map[string]bool{}, gave: map[string]bool{},
	}
	w.admin = w.server.Client("admin", simapi.LinkFuncs{})
	w.server.Admit(w.watchLeases)
	w.must(w.admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: simNamespace}}))
	w.must(w.admin.Create(ctx, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: simPool},
		Spec: v2beta1.IPPoolSpec{
			Subnet: "10.0.0.0/16", IPs: []string{fmt.Sprintf("10.0.0.1-10.0.0.%d", addresses)},
		}}))
	for i := range nodes {
		n := &machine{w: w, name: fmt.Sprint("n", i), book: newMemBook(fmt.Sprint("book of n", i)), perPool: perPool,
			releases: map[release]bool{}, sandboxes: map[string]sandbox{}, working: map[string]string{},
			pending: map[string]bool{}}
		w.must(w.admin.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}}))
		w.nodes = append(w.nodes, n)
		n.powerOn()
		w.goes(n.kubelet)
	}
	w.startController("controller")
	return w
}

func (w *world) goes(f func()) { w.running.Go(f) }

func (w *world) must(err error) {
	if err != nil {
		w.fault("the simulation itself: %v", err)
	}
}

// fault notes that an invariant does not hold.
func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = append(w.bad, fmt.Sprintf("%7.1fs ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, said{time.Since(w.began), format, args})
}

// said is written out only in a report.
type said struct {
	at     time.Duration
	format string
	args   []any
}

func (s said) String() string {
	return fmt.Sprintf("%8.2fs ", s.at.Seconds()) + fmt.Sprintf(s.format, s.args...)
}

// watchLeases notes what happens to leases at the server.
func (w *world) watchLeases(verb simapi.Verb, old, next client.Object) error {
	for _, o := range []client.Object{next, old} {
		if l, ok := o.(*v2beta1.SpiderIPLease); ok && l != nil {
			w.say("    %s %s of %s by %s, version %s", verb, l.Spec.IP, l.Spec.Node, l.Holder(), l.ResourceVersion)
			break
		}
	}
	if l, ok := next.(*v2beta1.SpiderIPLease); ok && l.Spec.Pod != nil {
		w.showed(l)
	}
	return nil
}

// dice returns random numbers that the seed, the purpose and how often it was asked for decide.
// Each actor and each object that is asked for is a purpose of its own: goroutines that run at the
// same instant take nothing from each other.
func (w *world) dice(purpose ...string) dice {
	key := strings.Join(purpose, " ")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drawn[key]++
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // a hash takes everything
	return dice{rand.New(rand.NewPCG(w.seed, h.Sum64()+w.drawn[key]))}
}

type dice struct{ *rand.Rand }

// upTo draws a duration; odd nanoseconds keep events apart.
func (d dice) upTo(most time.Duration) time.Duration {
	return time.Duration(d.Int64N(int64(most) + 1))
}

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

// well tells whether links have stopped misbehaving.
func (w *world) well() bool {
	sick := w.sick.Load()
	return sick != 0 && time.Since(w.began) > time.Duration(sick)
}

// sleep waits in simulated time; false when the world ends.
func (w *world) sleep(d time.Duration) bool {
	select {
	case <-w.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// startUse notes that a pod has an address, and that no other live pod may have it. A pod whose
// object went while its node stood still, in the middle of an ADD, is none: whoever deleted it by
// force said that it does not run, and the kubelet ends it.
func (w *world) startUse(ip netip.Addr, u use) {
	w.mu.Lock()
	old, taken := w.uses[ip]
	w.uses[ip] = u
	w.attached++
	w.mu.Unlock()
	if !taken || old.pod == u.pod || !w.live(old) {
		return
	}
	if w.live(u) {
		w.fault("%s was given to pod %s on %s while pod %s on %s uses it", ip, u.pod, u.node.name, old.pod,
			old.node.name)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.uses[ip] == u {
		w.uses[ip] = old
	}
}

// live reports whether a pod that was given an address may still be using it: its sandbox is there,
// its machine runs, and the API server has the pod and not its end.
func (w *world) live(u use) bool { return u.node.has(u.pod, u.sandbox) && w.unfinished()[u.pod] }

// unfinished are the pods, by UID, that the API server has and that have not finished.
func (w *world) unfinished() map[string]bool {
	var all corev1.PodList
	w.must(w.admin.List(w.ctx, &all))
	uids := map[string]bool{}
	for i := range all.Items {
		if !ipam.Finished(&all.Items[i]) {
			uids[string(all.Items[i].UID)] = true
		}
	}
	return uids
}

// liveUses returns the addresses in use by live pods.
func (w *world) liveUses() map[netip.Addr]use {
	w.mu.Lock()
	all := maps.Clone(w.uses)
	w.mu.Unlock()
	pods := w.unfinished()
	maps.DeleteFunc(all, func(_ netip.Addr, u use) bool { return !pods[u.pod] || !u.node.has(u.pod, u.sandbox) })
	return all
}

// startController runs the collectors as the controller process does.
func (w *world) startController(name string) {
	link := simapi.LinkFuncs{
		OnRequest: func(_ context.Context, call simapi.Call) simapi.Fate { w.asked(call); return w.fate(call) },
		OnWatch:   func(k schema.GroupVersionKind) simapi.Delivery { return w.delivery(name, k.Kind) },
	}
	c := w.server.Client(name, link)
	informers := c.Informers()
	for _, o := range []client.Object{&v2beta1.SpiderIPLease{}, &v2beta1.SpiderIPPool{}, &corev1.Pod{},
		&appsv1.StatefulSet{}} {
		_, err := informers.GetInformer(w.ctx, o)
		w.must(err)
	}
	w.must(errors.Join(
		informers.IndexField(w.ctx, &v2beta1.SpiderIPLease{}, "spec.node",
			func(o client.Object) []string { return []string{o.(*v2beta1.SpiderIPLease).Spec.Node} }),
	))
	cached := c.WithReads(informers.Reader())
	live := client.Reader(c)
	if w.mutant.blindStock {
		live = blindReader{c}
	}
	if w.mutant.anyVersion {
		cached = anyVersion{cached}
	}
	o := pools.Options{Namespace: simProduct, GoneGrace: simGrace, FinishedGrace: simGrace, YoungLease: simGrace}
	leases, stock := pools.NewCollector(cached, live, silent{}, o), pools.NewStockCollector(cached, live, silent{}, o)
	w.goes(func() { w.must(informers.Start(w.ctx)) })
	w.goes(func() {
		for w.sleep(3*time.Second + w.dice(name).upTo(time.Second)) {
			w.collect(informers.Reader(), leases, stock)
		}
	})
}

// collect has every lease, and every node with leases, looked at once.
func (w *world) collect(seen client.Reader, leases, stock reconcile.Reconciler) {
	var all v2beta1.SpiderIPLeaseList
	if seen.List(w.ctx, &all) != nil {
		return
	}
	nodes := map[string]bool{}
	for _, l := range all.Items {
		// it is asked again
		_, _ = leases.Reconcile(w.ctx, reconcile.Request{NamespacedName: client.ObjectKey{Name: l.Name}})
		nodes[l.Spec.Node] = true
	}
	for _, n := range w.nodes {
		if nodes[n.name] {
			_, _ = stock.Reconcile(w.ctx, reconcile.Request{NamespacedName: client.ObjectKey{Name: n.name}})
		}
	}
}

// fate is what becomes of a request on a link that is up.
func (w *world) fate(call simapi.Call) simapi.Fate {
	d := w.dice(call.Client, string(call.Verb), call.Kind.Kind, call.Key.String())
	f := simapi.Fate{Before: d.upTo(10 * time.Millisecond), After: d.upTo(10 * time.Millisecond)}
	if w.well() || d.chance(88) {
		return f
	}
	long := d.upTo(8 * time.Second)
	switch d.IntN(6) {
	case 0:
		f.After, f.AnswerLost = long/4, true
	case 1:
		f.Before, f.Lost = long/4, true
	case 2:
		f.Before, f.Lost, f.Late = long/4, true, 2*long
	case 3:
		f.Before = long
	case 4:
		f.After = long
	case 5:
		f.Err = apierrors.NewTooManyRequests("the simulation is busy", 1)
	}
	return f
}

// delivery is what becomes of the next event of a kind for a client whose link is up.
func (w *world) delivery(to, kind string) simapi.Delivery {
	r := w.dice(to, "watch", kind)
	d := simapi.Delivery{Delay: r.upTo(20 * time.Millisecond)}
	if w.well() || r.chance(95) {
		return d
	}
	d.Delay, d.Relist = r.upTo(8*time.Second), r.chance(40)
	return d
}

// asked notes requests to write leases as they leave.
func (w *world) asked(call simapi.Call) {
	if call.Kind.Kind == "SpiderIPLease" && call.Verb != simapi.Get && call.Verb != simapi.List {
		w.say("  %s asks to %s %s, version %s", call.Client, call.Verb, call.Key.Name, call.Object.GetResourceVersion())
	}
}

// silent takes events and says nothing.
type silent struct{}

func (silent) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}

var _ events.EventRecorder = silent{}

// feed is what feeds an Allocator.
func (w *world) feed(all leases.Informers) leases.Informers {
	if w.mutant.oldPools {
		return oldPools{all}
	}
	return all
}

// oldPools shows no change of a pool.
type oldPools struct{ leases.Informers }

func (o oldPools) GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer,
	error) {
	informer, err := o.Informers.GetInformer(ctx, obj, opts...)
	if _, ok := obj.(*v2beta1.SpiderIPPool); ok {
		informer = firstShown{informer}
	}
	return informer, err
}

type firstShown struct{ cache.Informer }

func (f firstShown) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration,
	error) {
	return f.Informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: func(o any) { h.OnAdd(o, false) }})
}

// blindReader sees no pods in a list.
type blindReader struct{ client.Reader }

func (b blindReader) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*corev1.PodList); ok {
		return nil
	}
	return b.Reader.List(ctx, list, opts...)
}

// anyVersion deletes whatever version there is.
type anyVersion struct{ client.Client }

func (a anyVersion) Delete(ctx context.Context, o client.Object, _ ...client.DeleteOption) error {
	return a.Client.Delete(ctx, o)
}

// machine is a node with its disk, its kubelet and, while it is up, an agent.
type machine struct {
	w       *world
	name    string
	book    *memBook // on the disk
	perPool int

	mu        sync.Mutex
	up        bool
	cut       time.Time // until when nothing of this machine reaches the API server
	mute      time.Time // until when the API server does nothing, or not everything, that the agent asks
	muteHow   int
	stalled   time.Time // until when its watch of leases stands still, while all it asks is done
	agent     *process
	agents    int
	sandboxes map[string]sandbox // attached ones by pod UID
	working   map[string]string  // sandboxes whose ADD is under way, by pod UID
	releases  map[release]bool   // on the disk: addresses that have to be given back
	pending   map[string]bool    // on the disk: pods whose network-status has to be written
	number    int
}

type sandbox struct {
	id   string
	name string // the pod's
}

type release struct{ pod, sandbox string }

func (m *machine) has(pod, id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up && m.sandboxes[pod].id == id
}

// sandboxesOf is what the records of the node say.
func (m *machine) sandboxesOf(uid string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for _, id := range []string{m.sandboxes[uid].id, m.working[uid]} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *machine) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

func (m *machine) isCut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.cut)
}

// Ways in which a machine is mute.
const (
	muteAll       = iota // nothing that the agent asks is done, but it is told what happens
	muteLeases           // the same of leases alone, as when their admission fails
	muteAndUntold        // nothing is done, and the watch of leases stands still
	muteWays
)

func (m *machine) isMute(kind string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	lease := kind == "SpiderIPLease" || kind == "Lease"
	return time.Now().Before(m.mute) && (lease || m.muteHow != muteLeases)
}

func (m *machine) isUntold(kind string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	muted := time.Now().Before(m.mute) && m.muteHow == muteAndUntold
	return (muted || time.Now().Before(m.stalled)) && kind == "SpiderIPLease"
}

func (m *machine) powerOn() {
	m.mu.Lock()
	m.up = true
	m.mu.Unlock()
	m.startAgent()
}

// powerOff ends everything at once. What is on the disk stays, unless it is wiped.
func (m *machine) powerOff(wipe bool) {
	m.killAgent()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.up = false
	for uid, s := range m.sandboxes { // its record says that nobody took it down
		m.releases[release{uid, s.id}] = true
	}
	m.sandboxes = map[string]sandbox{}
	if wipe {
		m.book, m.releases, m.pending = newMemBook(fmt.Sprintf("book of %s after %d agents", m.name, m.agents)),
			map[release]bool{}, map[string]bool{}
	}
}

func (m *machine) current() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agent == nil || m.agent.isDead() {
		return nil
	}
	return m.agent
}

func (m *machine) killAgent() {
	if p := m.current(); p != nil {
		p.kill()
	}
}

// process is one life of an agent. Every effect it has passes step, where it may be stopped for a
// while or for good.
type process struct {
	*leases.Allocator
	m      *machine
	name   string
	seen   client.Reader
	cancel context.CancelFunc

	mu     sync.Mutex
	dead   bool
	paused time.Time
	steps  int                   // until it dies; negative: it does not
	pools  map[string]*ipam.Pool // as known when the latest ADD of a pod began, by pod UID
}

var errDead = errors.New("this process has ended")

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	p.cancel()
}

// dieAfter has the process end before its n-th effect from now.
func (p *process) dieAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = n
}

func (p *process) pause(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = time.Now().Add(d)
}

// step waits while the process is stopped, and tells whether it lives.
func (p *process) step() bool {
	p.mu.Lock()
	if p.steps == 0 && !p.dead {
		p.dead = true
		p.cancel()
	}
	p.steps--
	until := p.paused
	p.mu.Unlock()
	if d := time.Until(until); d > 0 {
		p.m.w.sleep(d)
	}
	return !p.isDead()
}

func (m *machine) startAgent() {
	w := m.w
	ctx, cancel := context.WithCancel(w.ctx)
	m.mu.Lock()
	m.agents++
	p := &process{m: m, name: fmt.Sprintf("%s-agent-%d", m.name, m.agents), cancel: cancel, steps: -1,
		pools: map[string]*ipam.Pool{}}
	book := m.book
	m.agent = p
	m.mu.Unlock()
	c := w.server.Client(p.name, simapi.LinkFuncs{OnRequest: p.request, OnWatch: p.watch})
	informers := c.Informers()
	for _, o := range []client.Object{&corev1.Pod{}, &corev1.Node{}, &corev1.Namespace{}} {
		_, err := informers.GetInformer(ctx, o)
		w.must(err)
	}
	p.seen = informers.Reader()
	cached := c.WithReads(informers.Reader())
	heartbeat := fence.New(fence.Options{Client: cached, Live: c, Namespace: simProduct, Node: m.name,
		Holder: book.ID(), Valid: simValid})
	promise := leases.Promise(heartbeat)
	if w.mutant.noFence {
		promise = foreverPromise{}
	}
	var err error
	p.Allocator, err = leases.New(ctx, leases.Options{
		Client: cached, Live: c, Informers: w.feed(informers), Node: m.name,
		Families: v2beta1.Families{IPv4: true}, NetworkNamespace: simProduct,
		Book: steppedBook{book, p}, Promise: promise, PerPool: m.perPool,
		Sandboxes: m.sandboxesOf, Random: func() uint64 { return w.dice(p.name, "place").Uint64() },
		Lost: func(pod v2beta1.LeasePod, why string) { w.lost(p, pod, why) },
	})
	if err != nil {
		w.fault("start the agent of %s: %v", m.name, err)
		return
	}
	w.goes(func() { _ = informers.Start(ctx) })
	w.goes(func() { _ = heartbeat.Start(ctx) })
	w.goes(func() { _ = p.Start(ctx) })
	w.goes(func() { p.finish(ctx) })
}

// lost: an agent found that its pod's address is another's. That is a fault if the pod is alive.
func (w *world) lost(p *process, pod v2beta1.LeasePod, why string) {
	if w.live(use{pod: pod.UID, sandbox: pod.Sandbox, node: p.m}) {
		w.fault("pod %s on %s lost its address: %s", pod.Name, p.m.name, why)
	}
}

// foreverPromise is the fault of an agent that does not look at its heartbeat.
type foreverPromise struct{}

func (foreverPromise) Epoch() uint64            { return 1 }
func (foreverPromise) Changed() <-chan struct{} { return nil }

func (p *process) request(_ context.Context, call simapi.Call) simapi.Fate {
	p.m.w.asked(call)
	if l, ok := call.Object.(*v2beta1.SpiderIPLease); ok && call.Verb != simapi.Get && l.Spec.Pod != nil {
		p.mayAsk(l)
	}
	if !p.step() {
		return simapi.Fate{Before: time.Millisecond, Lost: true}
	}
	if p.m.isCut() || p.m.isMute(call.Kind.Kind) {
		return simapi.Fate{Before: p.m.w.dice(call.Client, "lost", call.Key.String()).upTo(3 * time.Second), Lost: true}
	}
	return p.m.w.fate(call)
}

func (p *process) watch(kind schema.GroupVersionKind) simapi.Delivery {
	if p.m.isCut() || p.m.isUntold(kind.Kind) {
		return simapi.Delivery{Down: 500*time.Millisecond + p.m.w.dice(p.name, "down", kind.Kind).upTo(time.Second)}
	}
	return p.m.w.delivery(p.name, kind.Kind)
}

// finish does what package attach does behind the calls: it gives addresses back, and writes network-status.
func (p *process) finish(ctx context.Context) {
	m := p.m
	for m.w.sleep(200*time.Millisecond+m.w.dice(p.name, "finish").upTo(300*time.Millisecond)) && ctx.Err() == nil {
		m.mu.Lock()
		var todo []release
		for r := range m.releases {
			todo = append(todo, r)
		}
		slices.SortFunc(todo, func(a, b release) int {
			return cmp.Or(cmp.Compare(a.pod, b.pod),
				cmp.Compare(a.sandbox, b.sandbox))
		})
		uids := slices.Sorted(maps.Keys(m.pending))
		m.mu.Unlock()
		for _, r := range todo {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := p.Release(ctx, r.pod, r.sandbox, simNIC); err == nil && p.step() {
				m.mu.Lock()
				delete(m.releases, r)
				m.mu.Unlock()
			}
			cancel()
		}
		for _, uid := range uids {
			if p.writeStatus(ctx, uid) && p.step() {
				m.mu.Lock()
				delete(m.pending, uid)
				m.mu.Unlock()
			}
		}
	}
}

// writeStatus writes a pod's network-status as package attach does; true when nothing is left to do.
func (p *process) writeStatus(ctx context.Context, uid string) bool {
	p.m.mu.Lock()
	s, ok := p.m.sandboxes[uid]
	p.m.mu.Unlock()
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if !p.m.w.mutant.earlyStatus && p.Settle(ctx, uid) != nil {
		return false
	}
	var pod corev1.Pod
	if err := p.Live.Get(ctx, client.ObjectKey{Namespace: simNamespace, Name: s.name}, &pod); err != nil ||
		string(pod.UID) != uid {
		return apierrors.IsNotFound(err) || err == nil
	}
	pod.Annotations = map[string]string{cncfv1.AnnotationNetworkStatus: "[]"}
	return p.Client.Update(ctx, &pod) == nil
}

// kubelet attaches the pods of its machine and takes them down.
func (m *machine) kubelet() {
	for m.w.sleep(500*time.Millisecond + m.w.dice(m.name, "kubelet").upTo(500*time.Millisecond)) {
		if !m.isUp() || m.isCut() {
			continue
		}
		var pods corev1.PodList
		m.w.must(m.w.admin.List(m.w.ctx, &pods, client.MatchingFields{"spec.nodeName": m.name}))
		wanted := map[string]bool{}
		for i := range pods.Items {
			p := &pods.Items[i]
			switch {
			case p.DeletionTimestamp.IsZero() && !ipam.Finished(p):
				wanted[string(p.UID)] = true
				m.begin(p)
			case !m.busy(string(p.UID)):
				m.takeDown(string(p.UID))
				if !p.DeletionTimestamp.IsZero() {
					err := m.w.admin.Delete(m.w.ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID})
					m.w.must(client.IgnoreNotFound(err))
				}
			}
		}
		for _, uid := range m.attachedPods() {
			if !wanted[uid] {
				m.takeDown(uid)
			}
		}
	}
}

func (m *machine) attachedPods() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var uids []string
	for uid := range m.sandboxes {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids
}

func (m *machine) busy(uid string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.working[uid] != ""
}

// takeDown ends a pod's sandbox: DEL notes what is to be given back, with or without an agent.
func (m *machine) takeDown(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.sandboxes[uid]; ok {
		delete(m.sandboxes, uid)
		m.releases[release{uid, s.id}] = true
	}
}

// restartSandbox is what happens when a sandbox dies by itself.
func (m *machine) restartSandbox() {
	for _, uid := range m.attachedPods() {
		m.takeDown(uid)
		return
	}
}

// begin has a pod attached that is not, by a call of its own.
func (m *machine) begin(pod *corev1.Pod) {
	uid := string(pod.UID)
	m.mu.Lock()
	_, there := m.sandboxes[uid]
	begin := !there && m.working[uid] == ""
	if begin {
		m.number++
		m.working[uid] = fmt.Sprintf("%s-%d", m.name, m.number)
	}
	s := sandbox{id: m.working[uid], name: pod.Name}
	m.mu.Unlock()
	if !begin {
		return
	}
	m.w.goes(func() {
		ok := m.attach(uid, s)
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.working, uid)
		if !ok { // the runtime takes down what failed
			delete(m.sandboxes, uid)
			m.releases[release{uid, s.id}] = true
		}
	})
}

// attach is one ADD.
func (m *machine) attach(uid string, s sandbox) bool {
	p := m.current()
	if p == nil {
		return false
	}
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: simNamespace, Name: s.name}
	ctx, cancel := context.WithTimeout(m.w.ctx, 40*time.Second)
	defer cancel()
	if err := p.seen.Get(ctx, key, pod); err != nil || string(pod.UID) != uid {
		if err := p.Live.Get(ctx, key, pod); err != nil || string(pod.UID) != uid {
			return false
		}
	}
	p.asks(uid)
	// Pods that begin at one instant ask at instants of their own.
	// what is in the cache reaches its handlers a moment later
	m.w.sleep(100*time.Millisecond + m.w.dice(m.name, "attach", uid).upTo(time.Millisecond))
	got, err := p.Allocate(ctx, ipam.Request{Pod: ipam.PodFrom(pod), Interface: simNIC, Interfaces: []string{simNIC},
		Sandbox: s.id, DefaultIPv4: []string{simPool}})
	if err != nil || !p.step() {
		return false
	}
	ip := got.Addresses[0].IP.Addr()
	m.mu.Lock()
	alive := m.up && m.agent == p
	if alive {
		m.sandboxes[uid] = s
		m.pending[uid] = true
	}
	m.mu.Unlock()
	if !alive {
		return false
	}
	m.w.say("%s has %s on %s (sandbox %s)", pod.Name, ip, m.name, s.id)
	p.assigned(ledger.Pod{Name: pod.Name, UID: uid}, ip)
	m.w.startUse(ip, use{pod: uid, sandbox: s.id, node: m})
	return true
}

// asks remembers the pool as this process knows it when an ADD of the pod begins.
func (p *process) asks(uid string) {
	pool := p.poolSeen()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[uid] = pool
}

// assigned checks an address at the moment from which it is the pod's: when the assignment is in
// the node's ledger, when the API server shows it, or else when the ADD ends. Only an address that
// the pool may give out is assigned. From then on the pod keeps it, in later sandboxes too,
// whatever becomes of the pool: also when the agent ends before it answers the runtime, and its
// successor finds the assignment in the ledger.
func (p *process) assigned(pod ledger.Pod, ip netip.Addr) {
	w, now := p.m.w, p.poolSeen()
	p.mu.Lock()
	before := p.pools[pod.UID]
	p.mu.Unlock()
	again := w.had(pod.UID, ip)
	w.mu.Lock()
	w.gave[pod.UID+ip.String()] = true
	w.mu.Unlock()
	if before != nil && !before.Has(ip) && !now.Has(ip) && !again && !w.shown(pod, ip) {
		w.fault("%s, which %s gave to pod %s, is not one that the pool may give out as that node knows it", ip,
			p.m.name, pod.Name)
	}
}

// poolSeen is the pool as this process knows it; nil before it does.
func (p *process) poolSeen() *ipam.Pool {
	var pool v2beta1.SpiderIPPool
	if p.seen.Get(p.m.w.ctx, client.ObjectKey{Name: simPool}, &pool) != nil {
		return nil
	}
	return ipam.ParsePool(&pool, nil)
}

// mayAsk notes whether this process is free to ask the API server for a lease of a pod: the pool has
// the address, as known when the ADD began or now, or it is the pod's already. The request may arrive
// much later, so that is noted as it leaves.
func (p *process) mayAsk(l *v2beta1.SpiderIPLease) {
	ip, err := l.Address()
	if err != nil {
		return
	}
	w, now := p.m.w, p.poolSeen()
	p.mu.Lock()
	before := p.pools[l.Spec.Pod.UID]
	p.mu.Unlock()
	if before == nil || now == nil || before.Has(ip) || now.Has(ip) || w.had(l.Spec.Pod.UID, ip) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.free[l.Spec.Pod.UID+l.Spec.IP] = true
	}
}

// showed remembers which addresses the API server has shown for a pod: those it may keep whatever
// becomes of the pool, and so may the next pod of its name, where a StatefulSet has it. Any other must
// have been free to ask for.
func (w *world) showed(l *v2beta1.SpiderIPLease) {
	pod := l.Spec.Pod
	w.mu.Lock()
	free := w.free[pod.UID+l.Spec.IP] || w.kept[pod.UID+l.Spec.IP] || w.kept[pod.Name+l.Spec.IP]
	w.kept[pod.UID+l.Spec.IP] = true
	if pod.Owner != nil {
		w.kept[pod.Name+l.Spec.IP] = true
	}
	w.mu.Unlock()
	if !free {
		w.fault("%s, which %s took for pod %s, is not one that the pool may give out as that node knows it",
			l.Spec.IP, l.Spec.Node, pod.Name)
	}
}

// had reports whether the address was assigned to the pod itself before, for this sandbox or an earlier one.
func (w *world) had(uid string, ip netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gave[uid+ip.String()]
}

// shown reports whether the API server has shown the address for the pod, or for one of its name in
// a StatefulSet.
func (w *world) shown(pod ledger.Pod, ip netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept[pod.UID+ip.String()] || w.kept[pod.Name+ip.String()]
}
