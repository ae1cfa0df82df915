// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
)

// promise is a fence of which the test decides.
type promise struct {
	mu      sync.Mutex
	epoch   uint64
	changed chan struct{}
}

func newPromise() *promise { return &promise{epoch: 1, changed: make(chan struct{})} }

func (p *promise) Epoch() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

func (p *promise) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *promise) set(epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch = epoch
	close(p.changed)
	p.changed = make(chan struct{})
}

// stockNode is a node that keeps a stock.
type stockNode struct {
	*leases.Allocator
	cl       *cluster
	name     string
	promise  *promise
	book     *ledger.Ledger
	requests atomic.Int64 // of this node, watches apart
	refuse   atomic.Bool  // its requests fail
	stop     func()
	lost     chan string
	attached []leases.Attached // what its records say at its start
}

// stocked starts a node that holds at most this many addresses of a pool. The ledger's file says
// which machine it is.
func (cl *cluster) stocked(node string, perPool int, file string, attached ...leases.Attached) *stockNode {
	cl.t.Helper()
	n := &stockNode{attached: attached, cl: cl, name: cl.name + "-" + node, promise: newPromise(),
		lost: make(chan string, 10)}
	if err := cl.c.Create(cl.t.Context(),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}}); client.IgnoreAlreadyExists(err) != nil {
		cl.t.Fatal(err)
	}
	var err error
	if n.book, _, err = ledger.Open(file); err != nil {
		cl.t.Fatal(err)
	}
	config := rest.CopyConfig(cl.api.Config)
	config.QPS = -1
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return counted{rt, n} })
	n.start(config, perPool)
	return n
}

func (n *stockNode) start(config *rest.Config, perPool int) {
	cl := n.cl
	live, err := client.New(config, client.Options{Scheme: cl.api.Scheme})
	if err != nil {
		cl.t.Fatal(err)
	}
	informers, err := cache.New(cl.api.Config, cache.Options{Scheme: cl.api.Scheme})
	if err != nil {
		cl.t.Fatal(err)
	}
	cached, err := client.New(config, client.Options{Scheme: cl.api.Scheme,
		Cache: &client.CacheOptions{Reader: informers}})
	if err != nil {
		cl.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(cl.t.Context())
	n.Allocator, err = leases.New(ctx, leases.Options{
		Client: cached, Live: live, Informers: informers, Node: n.name, Families: v2beta1.Families{IPv4: true,
			IPv6: true},
		NetworkNamespace: "kube-system", Book: n.book, Promise: n.promise, PerPool: perPool,
		Lost:     func(_ v2beta1.LeasePod, why string) { n.lost <- why },
		Attached: func() ([]leases.Attached, error) { return n.attached, nil },
	})
	if err != nil {
		cl.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = informers.Start(ctx) })
	running.Go(func() { _ = n.Start(ctx) })
	for _, kind := range []client.Object{&corev1.Namespace{}, &corev1.Node{}, &corev1.Pod{}} {
		if _, err := informers.GetInformer(ctx, kind); err != nil {
			cl.t.Fatal(err)
		}
	}
	n.stop = sync.OnceFunc(func() { cancel(); running.Wait(); _ = n.book.Close() })
	cl.t.Cleanup(n.stop)
}

// counted counts requests, and fails them when told to.
type counted struct {
	http.RoundTripper
	n *stockNode
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.requests.Add(1)
	if c.n.refuse.Load() {
		return nil, fmt.Errorf("%s %s: the test's API server is away", r.Method, r.URL.Path)
	}
	return c.RoundTripper.RoundTrip(r)
}

func (cl *cluster) file(name string) string { return filepath.Join(cl.t.TempDir(), name) }

// stockOf counts the leases without a pod of a node, all nodes' for "".
func (cl *cluster) stockOf(pool, node string) int { return len(cl.idle(pool, node)) }

// idle are the addresses of a node's leases without a pod, of all nodes' for "".
func (cl *cluster) idle(pool, node string) (out []netip.Addr) {
	cl.t.Helper()
	var list v2beta1.SpiderIPLeaseList
	if err := cl.c.List(cl.t.Context(), &list, client.MatchingFields{"spec.pool": pool}); err != nil {
		cl.t.Fatal(err)
	}
	for _, l := range list.Items {
		if l.Spec.Pod == nil && (node == "" || l.Spec.Node == node) {
			out = append(out, netip.MustParseAddr(l.Spec.IP))
		}
	}
	return out
}

// warm has a pod ask for the pool, so that the node keeps a stock of it, and waits for it.
func (n *stockNode) warm(pool string, want int) {
	n.cl.t.Helper()
	allocate(n.cl.t, n.Allocator, n.cl.request(n.name+"-warm", pool))
	n.cl.eventually(fmt.Sprintf("node %s holds %d addresses", n.name, want),
		func() bool { return n.cl.stockOf(pool, n.name) == want })
}

func (n *stockNode) handOuts() int {
	n.cl.t.Helper()
	all, err := n.book.HandOuts()
	if err != nil {
		n.cl.t.Fatal(err)
	}
	return len(all)
}

// An ADD from stock makes no request, the API server is told afterwards, and a release fills the stock again.
func TestStock(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 200)
	n := cl.stocked("n1", 4, cl.file("l"))
	n.warm(pool, 4)
	before := n.requests.Load()
	r := cl.request("p", pool)
	allocate(t, n.Allocator, r)
	if made := n.requests.Load() - before; made != 0 {
		t.Errorf("an ADD from stock made %d requests", made)
	}
	if n.handOuts() != 1 {
		t.Errorf("%d hand-outs are recorded, want 1", n.handOuts())
	}
	cl.eventually("the API server shows the pod", func() bool {
		return strings.Contains(fmt.Sprint(cl.leases(pool)),
			" p")
	})
	cl.eventually("the record of the hand-out goes", func() bool { return n.handOuts() == 0 })
	if err := n.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	cl.eventually("the API server shows the pod no more",
		func() bool { return !strings.Contains(fmt.Sprint(cl.leases(pool)), " p") })
}

// Without the API server pods start from stock and stop, as long as the promise holds; with it back
// all is written.
func TestStockWithoutTheAPIServer(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 200)
	n := cl.stocked("n1", 3, cl.file("l"))
	n.warm(pool, 3)
	n.refuse.Store(true)
	first, second := cl.request("p", pool), cl.request("q", pool)
	allocate(t, n.Allocator, first)
	allocate(t, n.Allocator, second)
	if err := n.Release(t.Context(), first.Pod.UID, first.Sandbox, ""); err != nil {
		// A write that may have reached the API server has to be looked up; the caller asks again later.
		t.Logf("released later: %v", err)
	}
	n.promise.set(0)
	if _, err := n.Allocate(t.Context(), cl.request("late", pool)); err == nil {
		t.Error("stock was handed out although the promise had lapsed and the API server was away")
	}
	n.refuse.Store(false)
	n.promise.set(2)
	if err := n.Release(t.Context(), first.Pod.UID, first.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	cl.eventually("the API server shows what is in use", func() bool {
		return strings.Contains(fmt.Sprint(cl.leases(pool)), " q") && n.handOuts() == 0
	})
	allocate(t, n.Allocator, cl.request("late", pool))
}

// A process that starts again knows what the one before it handed out, and takes over its stock.
func TestStockAfterARestart(t *testing.T) {
	cl := newCluster(t)
	pool, file := cl.pool("v4", 200), cl.file("l")
	n := cl.stocked("n1", 3, file)
	n.warm(pool, 3)
	n.refuse.Store(true) // nothing is written any more
	r := cl.request("p", pool)
	given := allocate(t, n.Allocator, r)
	n.stop()
	n = cl.stocked("n1", 3, file)
	if again := allocate(t, n.Allocator, r); fmt.Sprint(again) != fmt.Sprint(given) {
		t.Errorf("after a restart the pod has %v, it had %v", again, given)
	}
	cl.eventually("the API server shows the pod", func() bool {
		return strings.Contains(fmt.Sprint(cl.leases(pool)),
			" p")
	})
	cl.eventually("the rest of the stock counts again", func() bool {
		n.refuse.Store(false)
		return cl.stockOf(pool, n.name) >= 2
	})
}

// Stock of a ledger that was lost is not handed out while a pod may have it.
func TestStockOfALostLedger(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 200)
	n := cl.stocked("n1", 3, cl.file("l"))
	n.warm(pool, 3)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "p"},
		Spec: corev1.PodSpec{NodeName: n.name, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	cl.create(pod)
	n.refuse.Store(true)
	r := cl.request("p", pool)
	r.Pod.UID = string(pod.UID)
	given := allocate(t, n.Allocator, r)
	n.stop()
	n = cl.stocked("n1", 3, cl.file("another"))
	for i := range 5 {
		if got := allocate(t, n.Allocator, cl.request(fmt.Sprint("q", i), pool)); got[0] == given[0] {
			t.Fatalf("%s was given to a second pod", got[0])
		}
	}
	if err := cl.c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
}

// As many pods as addresses always get one, whatever stock the nodes hold; and again after all are
// made anew at once.
func TestExactFitWithStock(t *testing.T) {
	const nodes, perNode = 4, 15
	cl := newCluster(t)
	pool := cl.pool("v4", nodes*perNode)
	var all []*leases.Allocator
	for i := range nodes {
		n := cl.stocked(fmt.Sprint("n", i), 8, cl.file("l"))
		all = append(all, n.Allocator)
	}
	for range 2 {
		requests := takeAll(t, cl, all, perNode, pool)
		cl.eventually("every pod has a lease", func() bool { return len(cl.leases(pool)) == nodes*perNode })
		for i, a := range all {
			for _, r := range requests[i] {
				if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// A lease that somebody deletes by hand while a pod has its address is made again, also when the
// agent was not there to see it.
func TestLeaseDeletedByHand(t *testing.T) {
	cl := newCluster(t)
	pool, file := cl.pool("v4", 5), cl.file("l")
	n := cl.stocked("n1", 0, file)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "p"},
		Spec: corev1.PodSpec{NodeName: n.name, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	cl.create(pod)
	r := cl.request("p", pool)
	r.Pod.UID = string(pod.UID)
	ip := mustAddr(t, allocate(t, n.Allocator, r)[0])
	lease := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: v2beta1.LeaseName(pool, ip)}}
	remove := func() types.UID {
		t.Helper()
		if err := cl.c.Get(t.Context(), client.ObjectKeyFromObject(lease), lease); err != nil {
			t.Fatal(err)
		}
		if err := cl.c.Delete(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		return lease.UID
	}
	isBack := func(old types.UID) {
		t.Helper()
		cl.eventually("the lease is there again", func() bool {
			err := cl.c.Get(t.Context(), client.ObjectKeyFromObject(lease), lease)
			return err == nil && lease.UID != old && lease.Spec.Pod != nil && types.UID(lease.Spec.Pod.UID) == pod.UID
		})
	}
	isBack(remove())
	n.stop()
	old := remove()
	n = cl.stocked("n1", 0, file, leases.Attached{Namespace: cl.name, Name: "p", UID: string(pod.UID),
		Interface: r.Interface, Sandbox: r.Sandbox, IP: ip})
	isBack(old)
	if err := n.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := cl.leases(pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// What an edit takes out of a pool leaves the stock, and a pool that goes takes all stock back.
func TestStockFollowsThePool(t *testing.T) {
	cl := newCluster(t)
	name := cl.pool("v4", 200)
	n := cl.stocked("n1", 4, cl.file("l"))
	n.warm(name, 4)
	pool := &v2beta1.SpiderIPPool{}
	edit := func(change func(*v2beta1.IPPoolSpec)) {
		t.Helper()
		if err := cl.c.Get(t.Context(), client.ObjectKey{Name: name}, pool); err != nil {
			t.Fatal(err)
		}
		change(&pool.Spec)
		if err := cl.c.Update(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	half := fmt.Sprintf("10.%d.0.100-10.%d.0.209", cl.net, cl.net)
	edit(func(s *v2beta1.IPPoolSpec) { s.ExcludeIPs = []string{half} })
	cl.eventually("the stock lies in what is left of the pool", func() bool {
		var list v2beta1.SpiderIPLeaseList
		if err := cl.c.List(t.Context(), &list, client.MatchingFields{"spec.pool": name}); err != nil {
			t.Fatal(err)
		}
		inside := 0
		for _, l := range list.Items {
			ip, err := l.Address()
			if err == nil && l.Spec.Pod == nil && ip.As4()[3] < 100 {
				inside++
			}
		}
		return inside > 2 && cl.stockOf(name, "") == inside // half of what it wants is enough
	})
	edit(func(s *v2beta1.IPPoolSpec) { s.Disable = new(true) })
	cl.eventually("a disabled pool has its stock back", func() bool { return cl.stockOf(name, "") == 0 })
	if _, err := n.Allocate(t.Context(), cl.request("p", name)); err == nil {
		t.Error("a disabled pool gave an address out")
	}
	edit(func(s *v2beta1.IPPoolSpec) { s.Disable = nil })
	cl.eventually("the stock is there again", func() bool { return cl.stockOf(name, "") == 4 })
	if err := cl.c.Delete(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	cl.eventually("a deleted pool has its stock back", func() bool { return cl.stockOf(name, "") == 0 })
}

// Settle shows a pod's addresses, and has what it is given later shown first.
func TestSettle(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 200)
	n := cl.stocked("n1", 4, cl.file("l"))
	n.warm(pool, 4)
	r := cl.request("p", pool)
	allocate(t, n.Allocator, r)
	if err := n.Settle(t.Context(), r.Pod.UID); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(cl.leases(pool)); !strings.Contains(got, " p") || n.handOuts() != 0 {
		t.Errorf("after Settle the API server shows %s, and %d hand-outs are recorded", got, n.handOuts())
	}
	second := r
	second.Interface = "net1"
	before := n.requests.Load()
	allocate(t, n.Allocator, second)
	if n.requests.Load() == before || n.handOuts() != 0 {
		t.Error("an address was handed out unseen to a pod that may have a network-status")
	}
	known := cl.request("q", pool)
	known.Pod.Known = true
	allocate(t, n.Allocator, known)
	if n.handOuts() != 0 {
		t.Error("an address was handed out unseen to a pod that has a network-status")
	}
}

// Of 40 pods at once, each has an address of its own from stock.
func TestStockManyAtOnce(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 1000)
	n := cl.stocked("n1", 40, cl.file("l"))
	n.warm(pool, 40)
	var all sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]string{}
	began := time.Now()
	for i := range 40 {
		r := cl.request(fmt.Sprint("p", i), pool)
		all.Go(func() {
			got, err := n.Allocate(t.Context(), r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("%s: %v", r.Pod.Name, err)
				return
			}
			ip := got.Addresses[0].IP.String()
			if other := seen[ip]; other != "" {
				t.Errorf("%s was given to %s and %s", ip, other, r.Pod.Name)
			}
			seen[ip] = r.Pod.Name
		})
	}
	all.Wait()
	t.Logf("40 at once in %v", time.Since(began))
}

// churn is the same invariants as the model's, on a real API server with real concurrency.
type churn struct {
	cl   *cluster
	pool string

	mu    sync.Mutex
	users map[string]string // pod by address
	count int
}

// live has pods of one node come and go until it has done its part. Now and then the promise
// lapses, or requests fail.
func (c *churn) live(n *stockNode, steps int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var pods []ipam.Request
	for range steps {
		switch k := rng.IntN(20); {
		case k == 0:
			n.promise.set(0)
			time.Sleep(20 * time.Millisecond)
			n.promise.set(uint64(2 + rng.IntN(1000)))
		case k == 1:
			n.refuse.Store(true)
			time.Sleep(50 * time.Millisecond)
			n.refuse.Store(false)
		case k < 11 || len(pods) == 0:
			r := c.cl.request(fmt.Sprint(n.name, "-", rng.Uint32()), c.pool)
			if got, err := n.Allocate(c.cl.t.Context(), r); err == nil {
				c.use(got.Addresses[0].IP.String(), r.Pod.Name)
				pods = append(pods, r)
			} else {
				pods = append(pods, r) // the runtime takes down what failed
			}
		default:
			i := rng.IntN(len(pods))
			c.end(n, pods[i])
			pods = slices.Delete(pods, i, i+1)
		}
	}
	for _, r := range pods {
		c.end(n, r)
	}
}

func (c *churn) use(ip, pod string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.users[ip]; other != "" {
		c.cl.t.Errorf("%s was given to %s while %s uses it", ip, pod, other)
	}
	c.users[ip] = pod
	c.count++
}

// end takes a pod down: its address is another's from the moment that the release begins.
func (c *churn) end(n *stockNode, r ipam.Request) {
	c.mu.Lock()
	for ip, pod := range c.users {
		if pod == r.Pod.Name {
			delete(c.users, ip)
		}
	}
	c.mu.Unlock()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = n.Release(c.cl.t.Context(), r.Pod.UID, r.Sandbox, ""); err == nil {
			return
		}
	}
	c.cl.t.Errorf("the address of %s is not given back: %v", r.Pod.Name, err)
}

func TestChurn(t *testing.T) {
	const nodes, steps = 5, 150
	cl := newCluster(t)
	c := &churn{cl: cl, pool: cl.pool("v4", 60), users: map[string]string{}}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for i := range nodes {
		n := cl.stocked(fmt.Sprint("n", i), 6, cl.file("l"))
		all.Go(func() { c.live(n, steps, seed+uint64(i)) })
	}
	all.Wait()
	cl.eventually("nothing is held any more", func() bool { return len(cl.leases(c.pool)) == 0 })
	t.Logf("%d addresses were given out", c.count)
}
