// SPDX-License-Identifier: Apache-2.0

package simapi_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/simapi"
)

// What only the simulated server has. Every test runs in a bubble.

// link is a Link whose answers a test sets between steps.
type link struct {
	mu   sync.Mutex
	fate simapi.Fate
	way  simapi.Delivery
}

func (l *link) Request(context.Context, simapi.Call) simapi.Fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fate
}

func (l *link) Watch(schema.GroupVersionKind) simapi.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.way
}

func (l *link) set(f simapi.Fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fate = f
}

func (l *link) deliver(d simapi.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.way = d
}

// sim is a cluster whose process under test has a bad link; the cluster's own client has a perfect one.
type sim struct {
	*cluster
	server *simapi.Server
	link   *link
	bad    *simapi.Client
}

// inBubble runs a test with a server of its own.
func inBubble(t *testing.T, test func(*testing.T, *sim)) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newServer(t), &link{}
		bad := s.Client("bad", l)
		test(t, &sim{newCluster(t, "x", s.Client("good", nil), nil), s, l, bad})
	})
}

const second = time.Second

func TestFates(t *testing.T) {
	for _, c := range []struct {
		name    string
		fate    simapi.Fate
		timeout time.Duration // of the caller; 0 is none
		want    string        // error
		took    time.Duration
		done    bool // when the caller has its answer
		later   bool // an hour later
	}{
		{"perfect", simapi.Fate{}, 0, "", 0, true, true},
		{"slow", simapi.Fate{Before: 2 * second, After: 3 * second}, 0, "", 5 * second, true, true},
		{"lost on the way", simapi.Fate{Before: 2 * second, Lost: true}, 0, "timeout", 2 * second, false, false},
		{"lost, and arrives late", simapi.Fate{Before: 2 * second, Lost: true, Late: 9 * second}, 0, "timeout",
			2 * second, false, true},
		{"the answer lost", simapi.Fate{Before: 2 * second, After: 3 * second, AnswerLost: true}, 0, "timeout",
			5 * second, true, true},
		{"given up before it arrives", simapi.Fate{Before: 9 * second}, second, "deadline", second, false, false},
		{"given up, and arrives late", simapi.Fate{Before: 9 * second, Late: second}, second, "deadline", second, false,
			true},
		{"given up before it is answered", simapi.Fate{After: 9 * second}, second, "deadline", second, true, true},
		{"refused", simapi.Fate{Before: second, After: second, Err: apierrors.NewTooManyRequests("later", 1)}, 0,
			"TooManyRequests", 2 * second, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *sim) {
				s.link.set(c.fate)
				ctx, start, l := t.Context(), time.Now(), s.lease(1)
				if c.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.timeout)
					defer cancel()
				}
				equal(t, "error", sort(s.bad.Create(ctx, l)), c.want)
				equal(t, "duration", time.Since(start), c.took)
				equal(t, "completed by the answer", l.UID != "", c.want == "")
				equal(t, "done", s.live(s.lease(1)), c.done)
				time.Sleep(time.Hour)
				equal(t, "done an hour later", s.live(s.lease(1)), c.later)
				equal(t, "arrived", s.server.Requests()[simapi.Request{Client: "bad", Verb: simapi.Create,
					Kind: "SpiderIPLease"}] == 1,
					c.later || c.want == "TooManyRequests")
			})
		})
	}
}

// sort tells apart the errors that a Link causes.
func sort(err error) string {
	var network net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	}
	return string(apierrors.ReasonForError(err))
}

func TestNothingIsSentAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.bad.Create(ctx, s.lease(1)); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		equal(t, "done", s.live(s.lease(1)), false)
	})
}

// A request carries the object as it was when it was sent.
func TestSentIsSent(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		s.link.set(simapi.Fate{Before: second, Lost: true, Late: second})
		l := s.lease(1)
		if err := s.bad.Create(t.Context(), l); err == nil {
			t.Fatal("no error")
		}
		l.Spec.Node = "changed after it was sent"
		time.Sleep(2 * second)
		read := s.lease(1)
		equal(t, "arrived", s.live(read), true)
		equal(t, "node", read.Spec.Node, "x-n1")
	})
}

// Nobody can change what another one has.
func TestNothingIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		l := s.lease(1)
		l.Spec.Pod, l.Labels = &v2beta1.LeasePod{UID: "1"}, map[string]string{"a": "b"}
		s.create(l)
		informers := s.bad.Informers()
		s.start(informers)
		synctest.Wait()
		spoil := func(l *v2beta1.SpiderIPLease) { l.Spec.Pod.UID, l.Labels["a"] = "2", "c" }
		check := func(what string, from client.Reader) {
			read, list := s.lease(1), &v2beta1.SpiderIPLeaseList{}
			s.ok(what, from.Get(t.Context(), client.ObjectKeyFromObject(l), read))
			s.ok(what, from.List(t.Context(), list))
			if read.Spec.Pod.UID != "1" || read.Labels["a"] != "b" || list.Items[0].Spec.Pod.UID != "1" {
				t.Errorf("%s: %+v, %+v", what, read, list.Items)
			}
			spoil(read)
			spoil(&list.Items[0])
		}
		spoil(l)
		for range 2 {
			check("live", s.bad)
			check("cached", informers.Reader())
			check("as a manager's client", s.bad.WithReads(informers))
		}
	})
}

func TestEventsComeLateAndInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		d, _ := s.watching()
		s.link.deliver(simapi.Delivery{Delay: 3 * second})
		s.create(s.lease(1))
		time.Sleep(second)
		s.create(s.lease(2))
		time.Sleep(2*second - 1)
		synctest.Wait()
		equal(t, "just before the first", d.read(), []string{})
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		equal(t, "after three seconds", d.read(), []string{"add 10.0.0.1 n1"})
		time.Sleep(second) // events follow each other on the way, they do not add up
		synctest.Wait()
		equal(t, "after four seconds", d.read(), []string{"add 10.0.0.1 n1", "add 10.0.0.2 n1"})
	})
}

// watching starts the bad process's informers and returns what its handler is shown of leases.
func (s *sim) watching() (*diary, *simapi.Informers) {
	s.t.Helper()
	informers := s.bad.Informers()
	d, _ := s.follow(informers, &v2beta1.SpiderIPLease{})
	s.start(informers)
	synctest.Wait()
	return d, informers
}

// change makes a history: 1 is deleted, 2 made again, 3 changed, 4 not changed, 5 made and deleted, 6 made.
func (s *sim) change() {
	for n := range 4 {
		s.create(s.lease(n + 1))
	}
	synctest.Wait()
	s.link.deliver(simapi.Delivery{Down: 7 * second})
	s.delete(s.lease(1))
	s.delete(s.lease(2))
	again := s.lease(2)
	again.Spec.Node = "x-again"
	s.create(again)
	changed := s.lease(3)
	s.live(changed)
	changed.Spec.Node = "x-changed"
	s.update(changed)
	s.create(s.lease(5))
	s.delete(s.lease(5))
	s.create(s.lease(6))
	time.Sleep(20 * second)
	synctest.Wait()
}

var before = []string{"add 10.0.0.1 n1", "add 10.0.0.2 n1", "add 10.0.0.3 n1", "add 10.0.0.4 n1"}

func TestEventsQueueWhileTheLinkIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		d, informers := s.watching()
		s.change()
		equal(t, "while the link is down", d.read(), before)
		read := s.lease(1)
		s.ok("cached read of what is gone", informers.Get(t.Context(), client.ObjectKeyFromObject(read), read))
		s.link.deliver(simapi.Delivery{})
		time.Sleep(7 * second)
		synctest.Wait()
		equal(t, "when it is up", d.read(), append(before, "delete 10.0.0.1 n1", "delete 10.0.0.2 n1",
			"add 10.0.0.2 again",
			"update 10.0.0.3 changed", "add 10.0.0.5 n1", "delete 10.0.0.5 n1", "add 10.0.0.6 n1"))
		err := informers.Get(t.Context(), client.ObjectKeyFromObject(read), read)
		s.refused("cached read", err, metav1.StatusReasonNotFound, 404)
	})
}

func TestRelist(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		d, _ := s.watching()
		s.change()
		s.link.deliver(simapi.Delivery{Relist: true, Delay: 5 * second})
		time.Sleep(7 * second) // the list is taken within this time
		synctest.Wait()
		s.link.deliver(simapi.Delivery{})
		s.delete(s.lease(4)) // the list on its way does not know this
		time.Sleep(5 * second)
		synctest.Wait()
		equal(t, "after the relist", d.read(), append(before, "vanished x.1 10.0.0.1 n1",
			"update 10.0.0.2 again", "update 10.0.0.3 changed", "add 10.0.0.6 n1", "delete 10.0.0.4 n1"))
		equal(t, "lists", s.server.Requests()[simapi.Request{Client: "bad", Verb: simapi.Watch, Kind: "SpiderIPLease"}],
			2)
	})
}

// A process that starts behind a partition knows nothing until that ends, and says so.
func TestStartWhileTheLinkIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		s.create(s.lease(1))
		s.link.deliver(simapi.Delivery{Down: 7 * second})
		d, informers := s.watching()
		ctx, cancel := context.WithTimeout(t.Context(), second)
		defer cancel()
		if err := informers.List(ctx, &v2beta1.SpiderIPLeaseList{}); !apierrors.IsTimeout(err) {
			t.Errorf("list before the first list: %v", err)
		}
		if informers.WaitForCacheSync(ctx) {
			t.Error("synced")
		}
		s.link.deliver(simapi.Delivery{})
		var list v2beta1.SpiderIPLeaseList
		s.ok("list", informers.List(t.Context(), &list)) // waits
		equal(t, "list", names(&list), "x.1")
		synctest.Wait()
		equal(t, "events", d.read(), []string{"there 10.0.0.1 n1"})
	})
}

// What a process knows it shows to a new handler without a link.
func TestLateHandlerWhileTheLinkIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		s.create(s.lease(1))
		_, informers := s.watching()
		s.link.deliver(simapi.Delivery{Down: time.Hour})
		s.create(s.lease(2))
		synctest.Wait()
		late, synced := s.follow(informers, &v2beta1.SpiderIPLease{})
		synctest.Wait()
		equal(t, "events", late.read(), []string{"there 10.0.0.1 n1"})
		equal(t, "synced", synced.HasSynced(), true)
	})
}

func TestStoppedProcessSeesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		informers := s.bad.Informers()
		d, _ := s.follow(informers, &v2beta1.SpiderIPLease{})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = informers.Start(ctx) })
		synctest.Wait()
		s.create(s.lease(1))
		synctest.Wait()
		cancel()
		running.Wait()
		s.create(s.lease(2))
		synctest.Wait()
		equal(t, "events", d.read(), []string{"add 10.0.0.1 n1"})
		informer, err := informers.GetInformer(t.Context(), &v2beta1.SpiderIPLease{})
		s.ok("informer", err)
		if _, err := informer.AddEventHandler(d.handler()); err == nil || !informer.IsStopped() {
			t.Errorf("a handler of a stopped informer: %v", err)
		}
		if err := informers.List(t.Context(), &corev1.PodList{}); !apierrors.IsTimeout(err) {
			t.Errorf("a read that needs another informer: %v", err)
		}
		if err := informers.Start(t.Context()); err == nil {
			t.Error("started again")
		}
	})
}

func TestAdmission(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		s.create(s.lease(1))
		var seen []string
		s.server.Admit(func(verb simapi.Verb, old, next client.Object) error {
			seen = append(seen, fmt.Sprintf("%s %t %t", verb, old != nil, next != nil))
			switch {
			case verb == simapi.Delete:
				return errors.New("it stays")
			case verb == simapi.Update:
				return apierrors.NewBadRequest("no")
			}
			next.SetFinalizers([]string{"example.org/a"})
			return nil
		})
		l := s.lease(2)
		s.create(l)
		equal(t, "finalizers", l.Finalizers, []string{"example.org/a"})
		l.Spec.Node = "other"
		s.refused("update", s.Update(t.Context(), l), metav1.StatusReasonBadRequest, 400)
		s.refused("delete", s.Delete(t.Context(), l), metav1.StatusReasonForbidden, 403)
		equal(t, "asked", seen, []string{"create false true", "update true true", "delete true false"})
	})
}

func TestNamespaceThatEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ends",
			Finalizers: []string{"example.org/a"}}}
		s.create(namespace)
		s.delete(namespace)
		err := s.Create(t.Context(), &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ends",
			Name: "e"}})
		s.refused("create", err, metav1.StatusReasonForbidden, 403)
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Errorf("the cause is not told: %v", err)
		}
	})
}

func TestWhatIsNotDoneIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, s *sim) {
		ctx, l, informers := t.Context(), s.lease(1), s.bad.Informers()
		s.create(l)
		for what, err := range map[string]error{
			"patch":         s.Patch(ctx, l, client.MergeFrom(l)),
			"delete all":    s.DeleteAllOf(ctx, l),
			"apply":         s.Apply(ctx, nil),
			"status patch":  s.Status().Patch(ctx, l, client.MergeFrom(l)),
			"subresource":   s.SubResource("scale").Get(ctx, l, l),
			"dry run":       s.Create(ctx, s.lease(2), client.DryRunAll),
			"orphan":        s.Delete(ctx, l, client.PropagationPolicy(metav1.DeletePropagationOrphan)),
			"unstructured":  s.Get(ctx, client.ObjectKeyFromObject(l), &unstructured.Unstructured{}),
			"metadata only": s.List(ctx, &metav1.PartialObjectMetadataList{}),
			"continue":      s.List(ctx, &v2beta1.SpiderIPLeaseList{}, client.Continue("x")),
			"informer end":  informers.RemoveInformer(ctx, l),
		} {
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		if !s.live(l) || s.live(s.lease(2)) {
			t.Error("something was done all the same")
		}
		if _, err := s.RESTMapper().RESTMapping(schema.GroupKind{Kind: "Pod"}); err == nil {
			t.Error("the mapper knows a kind")
		}
	})
}

func TestScopes(t *testing.T) {
	s := newServer(t).Client("c", nil)
	for _, c := range []struct {
		o          client.Object
		kind       string
		namespaced bool
	}{
		{&v2beta1.SpiderIPLease{}, "SpiderIPLease", false}, {&v2beta1.SpiderReservedIP{}, "SpiderReservedIP", false},
		{&v2beta1.SpiderIPPool{}, "SpiderIPPool", false}, {&v2beta1.SpiderEndpoint{}, "SpiderEndpoint", true},
		{&corev1.Node{}, "Node", false}, {&corev1.Namespace{}, "Namespace", false}, {&corev1.Pod{}, "Pod", true},
		{&appsv1.StatefulSet{}, "StatefulSet", true}, {&coordinationv1.Lease{}, "Lease", true},
	} {
		gvk, err := s.GroupVersionKindFor(c.o)
		namespaced, scopeErr := s.IsObjectNamespaced(c.o)
		if gvk.Kind != c.kind || namespaced != c.namespaced || err != nil || scopeErr != nil {
			t.Errorf("%T is %v, namespaced %t: %v, %v", c.o, gvk, namespaced, err, scopeErr)
		}
	}
	if _, err := s.IsObjectNamespaced(&metav1.Status{}); err == nil {
		t.Error("a status has a scope")
	}
}

// The same schedule has the same history, to the nanosecond.
func TestDeterminism(t *testing.T) {
	histories := map[string]bool{}
	for range 20 {
		synctest.Test(t, func(t *testing.T) { histories[schedule(t, 7)] = true })
	}
	if len(histories) != 1 {
		t.Errorf("20 runs have %d histories", len(histories))
	}
	synctest.Test(t, func(t *testing.T) {
		if histories[schedule(t, 8)] {
			t.Error("another schedule has the same history")
		}
	})
}

// schedule lets three processes fight for leases over bad links, and returns all that happened.
func schedule(t *testing.T, seed uint64) string {
	s, start := newServer(t), time.Now()
	var running sync.WaitGroup
	histories := make([][]string, 3)
	diaries := make([]*diary, 3)
	for p := range histories {
		random := rand.New(rand.NewPCG(seed, uint64(p)))
		c := s.Client(fmt.Sprint("p", p), newRandomLink(random))
		cl := &cluster{t: t, Client: c, name: "x"}
		informers := c.Informers()
		diaries[p], _ = cl.follow(informers, &v2beta1.SpiderIPLease{})
		cl.start(informers)
		running.Go(func() {
			for range 50 {
				time.Sleep(delay(random))
				l := cl.lease(random.IntN(4))
				err := c.Create(t.Context(), l)
				if err != nil {
					err = errors.Join(err, c.Delete(t.Context(), l))
				}
				histories[p] = append(histories[p], fmt.Sprint(time.Since(start), l.Name, l.UID, l.ResourceVersion,
					err))
			}
		})
	}
	running.Wait()
	time.Sleep(time.Hour)
	synctest.Wait()
	seen := ""
	for _, d := range diaries {
		seen += fmt.Sprintf("%q", d.read())
	}
	return fmt.Sprintf("%q %s %v", histories, seen, s.Requests())
}

// delay is up to a second, in odd nanoseconds: nothing happens at the same instant.
func delay(random *rand.Rand) time.Duration { return time.Duration(1 + random.IntN(int(second))) }

// newRandomLink draws requests and events from different sources: their order among each other is
// nobody's choice.
func newRandomLink(random *rand.Rand) simapi.Link {
	requests, events := rand.New(rand.NewPCG(random.Uint64(), 0)), rand.New(rand.NewPCG(random.Uint64(), 0))
	one := func(in int, random *rand.Rand) bool { return random.IntN(in) == 0 }
	return simapi.LinkFuncs{
		OnRequest: func(context.Context, simapi.Call) simapi.Fate {
			f := simapi.Fate{Before: delay(requests), After: delay(requests), Lost: one(9, requests),
				AnswerLost: one(9, requests)}
			if one(2, requests) {
				f.Late = delay(requests)
			}
			return f
		},
		OnWatch: func(schema.GroupVersionKind) simapi.Delivery {
			d := simapi.Delivery{Delay: delay(events), Relist: one(9, events)}
			if one(9, events) {
				d.Down = delay(events)
			}
			return d
		},
	}
}

func BenchmarkCreate(b *testing.B) {
	var c *simapi.Client
	l := benchLease()
	for n := 0; b.Loop(); n++ {
		if n%500 == 0 { // about what a schedule makes
			c = benchmark(b)
		}
		l.ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprint("pool.", n*7919%500), Labels: l.Labels}
		if err := c.Create(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatchedCreate is a create that three processes' informers show to their handlers.
func BenchmarkWatchedCreate(b *testing.B) {
	s, l := newServer(b), benchLease()
	c := s.Client("c", nil)
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	seen := make(chan struct{})
	for range 3 {
		informers := c.Informers()
		informer, err := informers.GetInformer(ctx, l)
		if err != nil {
			b.Fatal(err)
		}
		if _,
			err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { seen <- struct{}{} }}); err != nil {
			b.Fatal(err)
		}
		running.Go(func() { _ = informers.Start(ctx) })
	}
	for n := 0; b.Loop(); n++ {
		l.ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprintf("pool.%09d", n), Labels: l.Labels}
		if err := c.Create(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		for range 3 {
			<-seen
		}
	}
	cancel()
	running.Wait()
}

func BenchmarkGet(b *testing.B) {
	c, l := benchmark(b), benchLease()
	if err := c.Create(b.Context(), l); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := c.Get(b.Context(), client.ObjectKeyFromObject(l), l); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	c, l := benchmark(b), benchLease()
	if err := c.Create(b.Context(), l); err != nil {
		b.Fatal(err)
	}
	for n := 0; b.Loop(); n++ {
		l.Spec.Node = []string{"a", "b"}[n%2]
		if err := c.Update(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList100(b *testing.B) {
	c := benchmark(b)
	for n := range 200 {
		l := benchLease()
		l.Name, l.Spec.Pool = fmt.Sprint("pool.", n), fmt.Sprint(n%2)
		if err := c.Create(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		var list v2beta1.SpiderIPLeaseList
		if err := c.List(b.Context(), &list, client.MatchingFields{"spec.pool": "1"}); err != nil ||
			len(list.Items) != 100 {
			b.Fatal(len(list.Items), err)
		}
	}
}

func benchmark(b *testing.B) *simapi.Client { return newServer(b).Client("c", nil) }

func benchLease() *v2beta1.SpiderIPLease {
	l := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: "pool.1", Labels: map[string]string{"a": "1",
		"b": "2"}}}
	l.Spec = v2beta1.IPLeaseSpec{Pool: "pool", IP: "10.0.0.1", Node: "n", Pod: &v2beta1.LeasePod{Namespace: "x",
		Name: "p", UID: "u", Interface: "eth0"}}
	return l
}
