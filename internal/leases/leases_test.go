// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

// patience is how long a test waits for what must happen soon.
const patience = 30 * time.Second

// cluster is a namespace of its own in the API server, with names that no other test uses.
type cluster struct {
	t    *testing.T
	api  *testapi.API
	c    client.WithWatch
	name string
	net  int // third octet of this test's subnets
}

var clusters struct {
	sync.Mutex
	count int
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	clusters.Lock()
	clusters.count++
	n := clusters.count
	clusters.Unlock()
	api := testapi.Start(t)
	c, err := client.NewWithWatch(api.Config, client.Options{Scheme: api.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	cl := &cluster{t: t, api: api, c: c, name: fmt.Sprintf("test-%d", n), net: n}
	cl.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: cl.name}})
	return cl
}

func (cl *cluster) create(o client.Object) {
	cl.t.Helper()
	if err := cl.c.Create(cl.t.Context(), o); err != nil {
		cl.t.Fatalf("create %T: %v", o, err)
	}
}

// pool creates an IPv4 pool of this many addresses from .10 on and returns its name.
func (cl *cluster) pool(name string, size int) string {
	cl.t.Helper()
	name = cl.name + "-" + name
	cl.create(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.IPPoolSpec{
		Subnet: fmt.Sprintf("10.%d.0.0/16", cl.net), Gateway: new(fmt.Sprintf("10.%d.0.1", cl.net)),
		IPs: []string{fmt.Sprintf("10.%d.0.10-10.%d.%d.%d", cl.net, cl.net, (9+size)/256, (9+size)%256)},
	}})
	return name
}

func (cl *cluster) pool6(name string, ips ...string) string {
	cl.t.Helper()
	name = cl.name + "-" + name
	cl.create(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.IPPoolSpec{
		Subnet: fmt.Sprintf("fd00:%d::/64", cl.net), IPs: ips,
	}})
	return name
}

// allocator starts an allocator with its own cache, as one node has it. The
// client may be wrapped to make requests fail.
func (cl *cluster) allocator(node string, wrap ...interceptor.Funcs) *leases.Allocator {
	cl.t.Helper()
	return cl.start(node, cache.Options{}, wrap...)
}

// blind starts an allocator whose watch never shows a lease: the worst lag there can be.
func (cl *cluster) blind(node string, wrap ...interceptor.Funcs) *leases.Allocator {
	cl.t.Helper()
	nothing := labels.SelectorFromSet(labels.Set{"no-lease": "has-this"})
	return cl.start(node,
		cache.Options{ByObject: map[client.Object]cache.ByObject{&v2beta1.SpiderIPLease{}: {Label: nothing}}}, wrap...)
}

func (cl *cluster) start(node string, watch cache.Options, wrap ...interceptor.Funcs) *leases.Allocator {
	cl.t.Helper()
	name := cl.name + "-" + node
	if err := cl.c.Create(cl.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil &&
		!apierrors.IsAlreadyExists(err) {
		cl.t.Fatal(err)
	}
	watch.Scheme = cl.api.Scheme
	informers, err := cache.New(cl.api.Config, watch)
	if err != nil {
		cl.t.Fatal(err)
	}
	writer := client.Client(cl.c)
	for _, w := range wrap {
		writer = interceptor.NewClient(cl.c, w)
	}
	ctx := cl.t.Context()
	a, err := leases.New(ctx, leases.Options{
		Client: writer, Live: cl.c, Informers: informers, Node: name,
		Families: v2beta1.Families{IPv4: true, IPv6: true}, NetworkNamespace: "kube-system",
	})
	if err != nil {
		cl.t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	running.Go(func() {
		if err := informers.Start(ctx); err != nil {
			cl.t.Errorf("informers: %v", err)
		}
	})
	running.Go(func() {
		if err := a.Start(ctx); err != nil {
			cl.t.Errorf("allocator: %v", err)
		}
	})
	cl.t.Cleanup(func() { cancel(); running.Wait() })
	return a
}

// request asks for eth0 of a new pod from the pools, IPv6 ones beginning with "6:".
func (cl *cluster) request(pod string, pools ...string) ipam.Request {
	r := ipam.Request{Interface: "eth0", Sandbox: "sandbox-1", Pod: ipam.Pod{
		Namespace: cl.name, Name: pod, UID: string(uuid.NewUUID()), Controller: ipam.Controller{Kind: "DaemonSet",
			Name: "ds"},
	}}
	for _, p := range pools {
		if six, ok := strings.CutPrefix(p, "6:"); ok {
			r.DefaultIPv6 = append(r.DefaultIPv6, six)
		} else {
			r.DefaultIPv4 = append(r.DefaultIPv4, p)
		}
	}
	return r
}

// leases lists the leases of the pool that pods have, as "ip pod".
func (cl *cluster) leases(pool string) []string {
	cl.t.Helper()
	var list v2beta1.SpiderIPLeaseList
	if err := cl.c.List(cl.t.Context(), &list, client.MatchingFields{"spec.pool": pool}); err != nil {
		cl.t.Fatal(err)
	}
	out := []string{}
	for _, l := range list.Items {
		if l.Spec.Pod != nil {
			out = append(out, l.Spec.IP+" "+l.Spec.Pod.Name)
		}
	}
	return out
}

// eventually asks until the answer is true.
func (cl *cluster) eventually(what string, ask func() bool) {
	cl.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ask() {
			return
		}
	}
	cl.t.Fatalf("never happened: %s", what)
}

// allocate expects success and returns the addresses, IPv4 first.
func allocate(t *testing.T, a *leases.Allocator, r ipam.Request) []string {
	t.Helper()
	got, err := a.Allocate(t.Context(), r)
	if err != nil {
		t.Fatalf("allocate for %s: %v", r.Pod.Name, err)
	}
	var out []string
	for _, address := range got.Addresses {
		out = append(out, address.IP.String())
	}
	return out
}

// As many pods as addresses always get one each, from any number of nodes at
// once; one more is refused; and all of it again after everything was given back.
func TestExactFit(t *testing.T) {
	const nodes, perNode = 6, 10
	cl := newCluster(t)
	pool := cl.pool("v4", nodes*perNode)
	var allocators []*leases.Allocator
	for n := range nodes {
		allocators = append(allocators, cl.allocator(fmt.Sprint("n", n)))
	}
	for round := range 2 {
		requests := takeAll(t, cl, allocators, perNode, pool)
		if got := len(cl.leases(pool)); got != nodes*perNode {
			t.Fatalf("round %d: %d leases for %d pods", round, got, nodes*perNode)
		}
		_, err := allocators[0].Allocate(t.Context(), cl.request("one-more", pool))
		want := fmt.Sprintf("no IPv4 address from the network's configuration: "+
			"pool %s has no free address: all 60 are in use; add addresses to spec.ips, or delete pods", pool)
		if err == nil || err.Error() != want {
			t.Fatalf("round %d: one pod too many\n got %v\nwant %s", round, err, want)
		}
		for n, a := range allocators {
			for _, r := range requests[n] {
				if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if got := cl.leases(pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// takeAll allocates for every node at once. A pod that is refused asks again,
// as the kubelet does: another node's releases may not have been seen yet.
func takeAll(t *testing.T, cl *cluster, allocators []*leases.Allocator, perNode int, pool string) [][]ipam.Request {
	t.Helper()
	var mu sync.Mutex
	owner := map[string]string{}
	requests := make([][]ipam.Request, len(allocators))
	var all sync.WaitGroup
	for n, a := range allocators {
		for i := range perNode {
			r := cl.request(fmt.Sprintf("p-%d-%d", n, i), pool)
			requests[n] = append(requests[n], r)
			all.Go(func() {
				got, err := retry(t.Context(), a, r)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", r.Pod.Name, err)
					return
				}
				ip := got.Addresses[0].IP.String()
				if owner[ip] != "" {
					t.Errorf("%s was given to %s and to %s", ip, owner[ip], r.Pod.Name)
				}
				owner[ip] = r.Pod.Name
			})
		}
	}
	all.Wait()
	return requests
}

func retry(ctx context.Context, a *leases.Allocator, r ipam.Request) (got ipam.Allocation, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got, err = a.Allocate(ctx, r); err == nil {
			return got, nil
		}
	}
	return got, err
}

// Even nodes that never see each other's leases share a pool without a double: the create decides.
func TestExactFitWithoutAWatch(t *testing.T) {
	const nodes, perNode = 3, 8
	cl := newCluster(t)
	pool := cl.pool("v4", nodes*perNode)
	var allocators []*leases.Allocator
	for n := range nodes {
		allocators = append(allocators, cl.blind(fmt.Sprint("n", n)))
	}
	requests := takeAll(t, cl, allocators, perNode, pool)
	if got := len(cl.leases(pool)); got != nodes*perNode {
		t.Fatalf("%d leases for %d pods", got, nodes*perNode)
	}
	// What another node frees is found again by a node that knows every address as taken, although
	// nothing tells it.
	if _, err := allocators[0].Allocate(t.Context(), cl.request("one-more", pool)); err == nil {
		t.Fatal("one pod too many got an address")
	}
	freed := requests[1][0]
	if err := allocators[1].Release(t.Context(), freed.Pod.UID, freed.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := retry(t.Context(), allocators[0], cl.request("late", pool)); err != nil {
		t.Errorf("the freed address was not found: %v", err)
	}
}

func TestAnswerOfTheGuidesPool(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	a := cl.allocator("n1")
	got, err := a.Allocate(t.Context(), cl.request("p", pool))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(got)
	want := fmt.Sprintf("{[{10.%d.0.10/16 10.%d.0.1 %s}] [{0.0.0.0/0 10.%d.0.1}]}", cl.net, cl.net, pool, cl.net)
	if text != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

func TestSandboxes(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	a := cl.allocator("n1")
	r := cl.request("p", pool)
	first := allocate(t, a, r)
	if again := allocate(t, a, r); !cmp.Equal(first, again) {
		t.Errorf("asked again: %v, want %v", again, first)
	}
	newer := r
	newer.Sandbox = "sandbox-2"
	if got := allocate(t, a, newer); !cmp.Equal(first, got) {
		t.Errorf("a new sandbox of the pod got %v, want %v", got, first)
	}
	if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := len(cl.leases(pool)); got != 1 {
		t.Fatalf("releasing the old sandbox left %d leases, want that of the new one", got)
	}
	second := newer
	second.Interface = "net1"
	allocate(t, a, second)
	if err := a.Release(t.Context(), newer.Pod.UID, newer.Sandbox, "eth0"); err != nil {
		t.Fatal(err)
	}
	if got := len(cl.leases(pool)); got != 1 {
		t.Fatalf("releasing one interface left %d leases, want that of the other", got)
	}
	for range 2 {
		if err := a.Release(t.Context(), newer.Pod.UID, newer.Sandbox, ""); err != nil {
			t.Fatal(err)
		}
	}
	if got := cl.leases(pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// An agent that starts again finds its pods' leases.
func TestRestart(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	r := cl.request("p", pool)
	first := allocate(t, cl.allocator("n1"), r)
	after := cl.allocator("n1")
	if got := allocate(t, after, r); !cmp.Equal(first, got) {
		t.Errorf("after a restart: %v, want %v", got, first)
	}
	if err := after.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := cl.leases(pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestDualStackIsAllOrNothing(t *testing.T) {
	cl := newCluster(t)
	v4, v6 := cl.pool("v4", 3), cl.pool6("v6", fmt.Sprintf("fd00:%d::10", cl.net))
	empty := cl.pool6("empty")
	a := cl.allocator("n1")
	if got, want := allocate(t, a, cl.request("both", v4, "6:"+v6)), fmt.Sprintf("[10.%d.0.10/16 fd00:%d::10/64]",
		cl.net, cl.net); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for _, pool := range []string{v6, empty} {
		if _, err := a.Allocate(t.Context(), cl.request("second", v4, "6:"+pool)); err == nil ||
			!strings.Contains(err.Error(), "no IPv6 address") {
			t.Errorf("without an IPv6 address left: %v", err)
		}
	}
	if got := cl.leases(v4); len(got) != 1 {
		t.Errorf("the failed pod keeps an IPv4 address: %v", got)
	}
}

func TestPoolsInTheOrderWritten(t *testing.T) {
	cl := newCluster(t)
	pool := func(name, ip string, change func(*v2beta1.IPPoolSpec)) string {
		p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: cl.name + "-" + name}}
		p.Spec = v2beta1.IPPoolSpec{Subnet: fmt.Sprintf("10.%d.0.0/16", cl.net),
			IPs: []string{fmt.Sprintf("10.%d.%s", cl.net, ip)}}
		change(&p.Spec)
		cl.create(p)
		return p.Name
	}
	off := pool("off", "0.1", func(s *v2beta1.IPPoolSpec) { s.Disable = new(true) })
	z := pool("z", "0.9", func(*v2beta1.IPPoolSpec) {})
	b := pool("b", "0.2", func(*v2beta1.IPPoolSpec) {})
	a := cl.allocator("n1")
	var got []string
	for i := range 2 {
		got = append(got, allocate(t, a, cl.request(fmt.Sprint("p", i), off, z, b))...)
	}
	if want := fmt.Sprintf("[10.%d.0.9/16 10.%d.0.2/16]", cl.net, cl.net); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	_, err := a.Allocate(t.Context(), cl.request("p3", off, z, b))
	var refusal *ipam.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("no refusal: %v", err)
	}
	for _, want := range []string{off + " is disabled", z + " has no free address", b + " has no free address"} {
		if !strings.Contains(err.Error(), "pool "+want) {
			t.Errorf("the refusal does not say %q: %v", want, err)
		}
	}
}

func TestReservedAddressesStayFree(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 2)
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: cl.name},
		Spec: v2beta1.ReservedIPSpec{IPs: []string{fmt.Sprintf("10.%d.0.10", cl.net)}}}
	cl.create(reserved)
	a := cl.allocator("n1")
	if got, want := allocate(t, a, cl.request("p", pool)), fmt.Sprintf("[10.%d.0.11/16]",
		cl.net); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	_, err := a.Allocate(t.Context(), cl.request("q", pool))
	want := fmt.Sprintf("pool %s has no free address: all 1 are in use (SpiderReservedIP %s keeps 1 of spec.ips)", pool,
		cl.name)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the refusal is %v, want one with %q", err, want)
	}
	if err := cl.c.Delete(t.Context(), reserved); err != nil {
		t.Fatal(err)
	}
	cl.eventually("the address is no longer reserved", func() bool {
		_, err := a.Allocate(t.Context(), cl.request("q", pool))
		return err == nil
	})
}

func TestStatefulSetKeepsItsAddress(t *testing.T) {
	cl := newCluster(t)
	pool, other := cl.pool("v4", 3), cl.pool6("other", fmt.Sprintf("fd00:%d::1-fd00:%d::9", cl.net, cl.net))
	stateful := func(pools ...string) ipam.Request {
		r := cl.request("db-0", pools...)
		r.Pod.Owner = &v2beta1.LeaseOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"}
		return r
	}
	one, two := cl.allocator("n1"), cl.allocator("n2")
	r := stateful(pool)
	first := allocate(t, one, r)
	if err := one.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	allocate(t, two, cl.request("stranger", pool))
	again := stateful(pool)
	cl.eventually("node 2 sees the lease", func() bool {
		got, err := two.Allocate(t.Context(), again)
		return err == nil && got.Addresses[0].IP.String() == first[0]
	})
	var lease v2beta1.SpiderIPLease
	name := v2beta1.LeaseName(pool, mustAddr(t, first[0]))
	if err := cl.c.Get(t.Context(), client.ObjectKey{Name: name}, &lease); err != nil {
		t.Fatal(err)
	}
	if lease.Spec.Node != cl.name+"-n2" || lease.Spec.Pod.UID != again.Pod.UID ||
		lease.Labels[v2beta1.LabelLeaseNode] != cl.name+"-n2" {
		t.Errorf("the lease still tells of the old pod: %+v", lease.Spec)
	}
	moved := stateful("6:" + other)
	if got, want := allocate(t, two, moved), fmt.Sprintf("[fd00:%d::1/64]", cl.net); fmt.Sprint(got) != want {
		t.Errorf("with another pool: got %v, want %s", got, want)
	}
}

// A create whose answer was lost is found again: the pod gets that address, and no second one.
func TestLostAnswer(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	var once sync.Once
	a := cl.blind("n1", interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			err := c.Create(ctx, o, opts...)
			if _, ok := o.(*v2beta1.SpiderIPLease); ok {
				once.Do(func() { err = context.DeadlineExceeded })
			}
			return err
		},
	})
	r := cl.request("p", pool)
	if _, err := a.Allocate(t.Context(), r); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the answer was not lost: %v", err)
	}
	if got, want := allocate(t, a, r), fmt.Sprintf("[10.%d.0.10/16]", cl.net); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if got := cl.leases(pool); len(got) != 1 {
		t.Errorf("leases: %v", got)
	}
}

// Without the API server Release fails, and the same call later succeeds.
func TestReleaseIsRepeated(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	down := errors.New("connection refused")
	failing := true
	a := cl.allocator("n1", interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if failing {
				return down
			}
			return c.Delete(ctx, o, opts...)
		},
	})
	r := cl.request("p", pool)
	allocate(t, a, r)
	if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); !errors.Is(err, down) {
		t.Fatalf("got %v", err)
	}
	failing = false
	if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := cl.leases(pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// While a Release is under way the pod's new sandbox takes the lease over: it must survive.
func TestReleaseAgainstANewSandbox(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	a := cl.allocator("n1", interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			var lease v2beta1.SpiderIPLease
			if err := c.Get(ctx, client.ObjectKeyFromObject(o), &lease); err != nil {
				return err
			}
			lease.Spec.Pod.Sandbox = "sandbox-2"
			if err := c.Update(ctx, &lease); err != nil {
				return err
			}
			return c.Delete(ctx, o, opts...)
		},
	})
	r := cl.request("p", pool)
	allocate(t, a, r)
	if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := cl.leases(pool); len(got) != 1 {
		t.Errorf("the new sandbox lost its address: %v", got)
	}
}

// A lease that somebody deleted is not handed out again from memory.
func TestDeletedLeaseIsNotTrusted(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 3)
	a := cl.blind("n1")
	r := cl.request("p", pool)
	first := allocate(t, a, r)
	lease := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: v2beta1.LeaseName(pool, mustAddr(t, first[0]))}}
	if err := cl.c.Delete(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	allocate(t, a, r)
	if got := cl.leases(pool); len(got) != 1 {
		t.Errorf("the pod uses an address without a lease: %v", got)
	}
}

func TestEndpoint(t *testing.T) {
	cl := newCluster(t)
	v4, v6 := cl.pool("v4", 3), cl.pool6("v6", fmt.Sprintf("fd00:%d::10", cl.net))
	a := cl.allocator("n1")
	r := cl.request("p", v4, "6:"+v6)
	r.Pod.Annotations = map[string]string{
		ipam.AnnotationRoutes: fmt.Sprintf(`[{"dst":"192.168.0.0/16","gw":"10.%d.0.2"}]`, cl.net)}
	allocate(t, a, r)
	second := r
	second.Interface, second.DefaultIPv6, second.CleanGateway = "net1", nil, true
	allocate(t, a, second)

	routes := []v2beta1.Route{{Dst: "192.168.0.0/16", Gw: fmt.Sprintf("10.%d.0.2", cl.net)}}
	gateway, zero := new(fmt.Sprintf("10.%d.0.1", cl.net)), new(int64(0))
	want := v2beta1.WorkloadEndpointStatus{
		OwnerControllerType: "DaemonSet", OwnerControllerName: "ds",
		Current: v2beta1.PodIPAllocation{UID: r.Pod.UID, Node: cl.name + "-n1", IPs: []v2beta1.IPAllocationDetail{
			{NIC: "eth0", IPv4: new(fmt.Sprintf("10.%d.0.10/16", cl.net)), IPv4Pool: &v4, IPv4Gateway: gateway,
				IPv6: new(fmt.Sprintf("fd00:%d::10/64", cl.net)), IPv6Pool: &v6, Vlan: zero, CleanGateway: new(false),
				Routes: routes},
			{NIC: "net1", IPv4: new(fmt.Sprintf("10.%d.0.11/16", cl.net)), IPv4Pool: &v4, IPv4Gateway: gateway,
				Vlan: zero, CleanGateway: new(true), Routes: routes},
		}},
	}
	var got v2beta1.SpiderEndpoint
	cl.eventually("the endpoint shows both interfaces", func() bool {
		err := cl.c.Get(t.Context(), client.ObjectKey{Namespace: cl.name, Name: "p"}, &got)
		return err == nil && len(got.Status.Current.IPs) == 2
	})
	if diff := cmp.Diff(want, got.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: types.UID(r.Pod.UID)}},
		got.OwnerReferences); diff != "" {
		t.Errorf("owner (-want +got):\n%s", diff)
	}

	// The old endpoint of a pod of the same name does not stand in the way of the new pod.
	next := cl.request("p", v4)
	allocate(t, a, next)
	cl.eventually("the endpoint is the new pod's", func() bool {
		err := cl.c.Get(t.Context(), client.ObjectKey{Namespace: cl.name, Name: "p"}, &got)
		return err == nil && got.Status.Current.UID == next.Pod.UID && len(got.Status.Current.IPs) == 1
	})
}

// What a crash left unwritten is written by the next process.
func TestEndpointIsRepaired(t *testing.T) {
	cl := newCluster(t)
	v4 := cl.pool("v4", 3)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "p"},
		Spec: corev1.PodSpec{NodeName: cl.name + "-n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	cl.create(pod)
	r := cl.request("p", v4)
	r.Pod = ipam.PodFrom(pod)
	allocate(t, cl.allocator("n1"), r)
	endpoint := &v2beta1.SpiderEndpoint{}
	cl.eventually("the endpoint is there", func() bool {
		return cl.c.Get(t.Context(), client.ObjectKeyFromObject(pod), endpoint) == nil
	})
	if err := cl.c.Delete(t.Context(), endpoint); err != nil {
		t.Fatal(err)
	}
	cl.allocator("n1")
	cl.eventually("the endpoint is there again", func() bool {
		return cl.c.Get(t.Context(), client.ObjectKeyFromObject(pod), endpoint) == nil
	})
}

func mustAddr(t *testing.T, cidr string) netip.Addr {
	t.Helper()
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return p.Addr()
}

// A virtual machine keeps its address though each of its pods has another name, also on another
// node, unless that is turned off.
func TestVirtualMachineKeepsItsAddress(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 5)
	launcher := func(pod, version string) ipam.Request {
		r := cl.request(pod, pool)
		r.Pod.Owner = &v2beta1.LeaseOwner{APIVersion: "kubevirt.io/" + version,
			Kind: v2beta1.OwnerVirtualMachineInstance, Name: "vm"}
		return r
	}
	one := cl.allocator("n1")
	first := launcher("virt-launcher-vm-a", "v1")
	given := allocate(t, one, first)
	if err := one.Release(t.Context(), first.Pod.UID, first.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := allocate(t, cl.allocator("n2"), launcher("virt-launcher-vm-b", "v1alpha3")); !cmp.Equal(given, got) {
		t.Errorf("on another node the machine has %v, it had %v", got, given)
	}
	endpoint := &v2beta1.SpiderEndpoint{}
	cl.eventually("the endpoint has the machine's name", func() bool {
		return cl.c.Get(t.Context(), client.ObjectKey{Namespace: cl.name, Name: "vm"}, endpoint) == nil &&
			endpoint.Status.Current.Node == cl.name+"-n2"
	})
}
