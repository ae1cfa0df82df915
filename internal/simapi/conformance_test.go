// SPDX-License-Identifier: Apache-2.0

package simapi_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/simapi"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

// cluster is a server of either make with a namespace and names for one test.
type cluster struct {
	t *testing.T
	client.Client
	// process returns another process's view, not yet started.
	process func() cache.Cache
	name    string
}

// The same cases hold for the real server and for the simulated one.
func TestConformance(t *testing.T) {
	t.Run("real", func(t *testing.T) {
		conform(t, func(t *testing.T, name string, check func(*cluster)) { check(newRealCluster(t, name)) })
	})
	t.Run("simulated", func(t *testing.T) {
		conform(t, func(t *testing.T, name string, check func(*cluster)) {
			synctest.Test(t, func(t *testing.T) {
				c := newServer(t).Client(name, nil)
				check(newCluster(t, name, c, func() cache.Cache { return c.Informers() }))
			})
		})
	})
}

func newRealCluster(t *testing.T, name string) *cluster {
	t.Helper()
	api := testapi.Start(t)
	return newCluster(t, name, api.Client(t), func() cache.Cache {
		c, err := cache.New(api.Config, cache.Options{Scheme: api.Scheme})
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}

// theScheme is made once: that takes longer than a schedule.
var theScheme = sync.OnceValues(testapi.Scheme)

func newServer(t testing.TB) *simapi.Server {
	t.Helper()
	scheme, err := theScheme()
	if err != nil {
		t.Fatal(err)
	}
	return simapi.New(scheme)
}

func newCluster(t *testing.T, name string, c client.Client, process func() cache.Cache) *cluster {
	cl := &cluster{t: t, Client: c, process: process, name: name}
	cl.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return cl
}

func conform(t *testing.T, run func(t *testing.T, name string, check func(*cluster))) {
	for n, c := range []struct {
		name  string
		check func(*cluster)
	}{
		{"create", create},
		{"refused creates", refusedCreates},
		{"requests without a name", nameless},
		{"update", update},
		{"update without a version", updateWithoutVersion},
		{"update that changes nothing", updateOfNothing},
		{"get and delete of nothing", nothing},
		{"delete preconditions", deletePreconditions},
		{"made again", madeAgain},
		{"finalizers", finalizers},
		{"pod on a node", podOnANode},
		{"pod on no node", podOnNoNode},
		{"pod with a finalizer", podWithFinalizer},
		{"lists", lists},
		{"status", status},
		{"status as a field", statusAsField},
		{"generation", generation},
		{"watch", watch},
		{"late handler", lateHandler},
		{"cached reads", cachedReads},
	} {
		t.Run(c.name, func(t *testing.T) { run(t, fmt.Sprintf("conform-%d", n), c.check) })
	}
}

func (cl *cluster) create(o client.Object) {
	cl.t.Helper()
	cl.ok("create", cl.Create(cl.t.Context(), o))
}

func (cl *cluster) update(o client.Object) {
	cl.t.Helper()
	cl.ok("update", cl.Update(cl.t.Context(), o))
}

func (cl *cluster) delete(o client.Object, opts ...client.DeleteOption) {
	cl.t.Helper()
	cl.ok("delete", cl.Delete(cl.t.Context(), o, opts...))
}

func (cl *cluster) ok(what string, err error) {
	cl.t.Helper()
	if err != nil {
		cl.t.Fatalf("%s: %v", what, err)
	}
}

// refused checks an error's reason and HTTP code.
func (cl *cluster) refused(what string, err error, reason metav1.StatusReason, code int32) {
	cl.t.Helper()
	if err == nil {
		cl.t.Errorf("%s: done, want it refused as %q", what, reason)
		return
	}
	status, _ := err.(apierrors.APIStatus)
	if status == nil || apierrors.ReasonForError(err) != reason || status.Status().Code != code {
		cl.t.Errorf("%s: refused as %q: %#v, want %q, %d", what, apierrors.ReasonForError(err), err, reason, code)
	}
}

// live reads the object again, and reports whether it exists.
func (cl *cluster) live(o client.Object) bool {
	cl.t.Helper()
	err := cl.Get(cl.t.Context(), client.ObjectKeyFromObject(o), o)
	if apierrors.IsNotFound(err) {
		return false
	}
	cl.ok("get", err)
	return true
}

func (cl *cluster) newer(what, a, b string) {
	cl.t.Helper()
	if order, err := resourceversion.CompareResourceVersion(a, b); err != nil || order <= 0 {
		cl.t.Errorf("%s: version %s is not above %s (%v)", what, a, b, err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got\n%s", what, diff)
	}
}

func (cl *cluster) lease(n int) *v2beta1.SpiderIPLease {
	l := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%d", cl.name, n)}}
	l.Spec = v2beta1.IPLeaseSpec{Pool: cl.name, IP: fmt.Sprintf("10.0.0.%d", n), Node: cl.name + "-n1"}
	return l
}

func (cl *cluster) pool() *v2beta1.SpiderIPPool {
	return &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: cl.name},
		Spec: v2beta1.IPPoolSpec{Subnet: "192.0.2.0/24"}}
}

func (cl *cluster) pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: name}, Spec: corev1.PodSpec{
		NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "image"}},
		AutomountServiceAccountToken: new(false),
	}}
}

func create(cl *cluster) {
	started := time.Now().Truncate(time.Second)
	l := cl.lease(1)
	l.UID, l.Generation = "mine", 7 // a creator has no say in these
	cl.create(l)
	if l.UID == "" || l.UID == "mine" || l.CreationTimestamp.Before(&metav1.Time{Time: started}) ||
		l.CreationTimestamp.Nanosecond() != 0 {
		cl.t.Errorf("created as %+v", l.ObjectMeta)
	}
	if _, err := resourceversion.CompareResourceVersion(l.ResourceVersion, l.ResourceVersion); err != nil {
		cl.t.Errorf("version: %v", err)
	}
	read := cl.lease(1)
	if !cl.live(read) || read.Spec != l.Spec || read.UID != l.UID || read.ResourceVersion != l.ResourceVersion {
		cl.t.Errorf("read %+v, created %+v", read, l)
	}
	other := cl.lease(2)
	cl.create(other)
	if other.UID == l.UID {
		cl.t.Error("two objects have one UID")
	}
	cl.newer("a later create", other.ResourceVersion, l.ResourceVersion)
	named := cl.lease(3)
	named.Name, named.GenerateName = "", cl.name+"-"
	cl.create(named)
	if rest, ok := strings.CutPrefix(named.Name, cl.name+"-"); !ok || len(rest) != 5 {
		cl.t.Errorf("the generated name is %q", named.Name)
	}
}

func refusedCreates(cl *cluster) {
	cl.create(cl.lease(1))
	again := cl.lease(1)
	err := cl.Create(cl.t.Context(), again)
	cl.refused("create twice", err, metav1.StatusReasonAlreadyExists, 409)
	if again.UID != "" {
		cl.t.Errorf("a refused create changed the object: %+v", again)
	}
	versioned := cl.lease(2)
	versioned.ResourceVersion = "1"
	cl.refused("create with a version", cl.Create(cl.t.Context(), versioned), "", 500)
	nameless := cl.lease(3)
	nameless.Name = ""
	cl.refused("create without a name", cl.Create(cl.t.Context(), nameless), metav1.StatusReasonInvalid, 422)
	nowhere := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name + "-absent", Name: "e"}}
	cl.refused("create in no namespace", cl.Create(cl.t.Context(), nowhere), metav1.StatusReasonNotFound, 404)
}

func nameless(cl *cluster) {
	ctx, l, endpoint := cl.t.Context(), &v2beta1.SpiderIPLease{},
		&v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "e"}}
	for what, err := range map[string]error{
		"get": cl.Get(ctx, client.ObjectKey{}, l), "update": cl.Update(ctx, l), "delete": cl.Delete(ctx, l),
		"get in no namespace":    cl.Get(ctx, client.ObjectKey{Name: "e"}, endpoint),
		"create in no namespace": cl.Create(ctx, endpoint), "delete in no namespace": cl.Delete(ctx, endpoint),
	} {
		if err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			cl.t.Errorf("%s: %v, want an error of the client itself", what, err)
		}
	}
}

func update(cl *cluster) {
	ctx, l := cl.t.Context(), cl.lease(1)
	cl.create(l)
	stale := l.DeepCopy()
	l.Spec.Node = "other"
	l.CreationTimestamp, l.Generation = metav1.Time{}, 0 // an update has no say in these
	cl.update(l)
	cl.newer("update", l.ResourceVersion, stale.ResourceVersion)
	if l.UID != stale.UID || !l.CreationTimestamp.Equal(&stale.CreationTimestamp) || l.Generation != 2 {
		cl.t.Errorf("updated as %+v", l.ObjectMeta)
	}
	cl.refused("update of an old version", cl.Update(ctx, stale), metav1.StatusReasonConflict, 409)
	wrong := l.DeepCopy()
	wrong.UID = "wrong"
	wrong.Spec.Node = "third"
	cl.refused("update of another UID", cl.Update(ctx, wrong), metav1.StatusReasonConflict, 409)
	wrong.UID = ""
	cl.ok("update without a UID", cl.Update(ctx, wrong))
	if wrong.UID != l.UID || wrong.Spec.Node != "third" {
		cl.t.Errorf("updated without a UID as %+v", wrong)
	}
	absent := cl.lease(2)
	absent.ResourceVersion = l.ResourceVersion
	cl.refused("update of nothing", cl.Update(ctx, absent), metav1.StatusReasonNotFound, 404)
}

// Custom resources and Leases are not overwritten unseen; Kubernetes' older kinds are.
func updateWithoutVersion(cl *cluster) {
	ctx := cl.t.Context()
	heartbeat := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "l"}}
	for _, o := range []client.Object{cl.lease(1), heartbeat} {
		cl.create(o)
		o.SetResourceVersion("")
		o.SetLabels(map[string]string{"a": "b"})
		cl.refused(fmt.Sprintf("update of a %T", o), cl.Update(ctx, o), metav1.StatusReasonInvalid, 422)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: cl.name}}
	for _, o := range []client.Object{node, cl.pod("p", ""), cl.set()} {
		cl.create(o)
		o.SetResourceVersion("")
		o.SetLabels(map[string]string{"a": "b"})
		cl.update(o)
		if !cl.live(o) || o.GetLabels()["a"] != "b" {
			cl.t.Errorf("update of a %T: %v", o, o.GetLabels())
		}
	}
}

func (cl *cluster) set() *appsv1.StatefulSet {
	labels := map[string]string{"app": "s"}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "s"}}
	s.Spec.Replicas = new(int32(2))
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	s.Spec.Template.Labels = labels
	s.Spec.Template.Spec = cl.pod("", "").Spec
	return s
}

func updateOfNothing(cl *cluster) {
	l := cl.lease(1)
	cl.create(l)
	before := l.ResourceVersion
	cl.update(l)
	equal(cl.t, "version after an update that changed nothing", l.ResourceVersion, before)
}

func nothing(cl *cluster) {
	ctx := cl.t.Context()
	cl.refused("get", cl.Get(ctx, client.ObjectKey{Name: cl.name}, cl.lease(1)), metav1.StatusReasonNotFound, 404)
	cl.refused("delete", cl.Delete(ctx, cl.lease(1)), metav1.StatusReasonNotFound, 404)
	uid, version := types.UID("u"), "1"
	err := cl.Delete(ctx, cl.lease(1), client.Preconditions{UID: &uid, ResourceVersion: &version})
	cl.refused("delete with preconditions", err, metav1.StatusReasonNotFound, 404)
}

func deletePreconditions(cl *cluster) {
	ctx, l := cl.t.Context(), cl.lease(1)
	cl.create(l)
	stale := l.DeepCopy()
	l.Spec.Node = "other"
	cl.update(l)
	wrong := types.UID("wrong")
	err := cl.Delete(ctx, l, client.Preconditions{UID: &l.UID, ResourceVersion: &stale.ResourceVersion})
	cl.refused("delete of an old version", err, metav1.StatusReasonConflict, 409)
	cl.refused("delete of another UID", cl.Delete(ctx, l, client.Preconditions{UID: &wrong}),
		metav1.StatusReasonConflict, 409)
	if !cl.live(l) {
		cl.t.Fatal("a refused delete deleted")
	}
	cl.delete(l, client.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion})
	if cl.live(l) {
		cl.t.Error("the object is still there")
	}
}

func madeAgain(cl *cluster) {
	first, second := cl.lease(1), cl.lease(1)
	cl.create(first)
	cl.delete(first)
	cl.create(second)
	if first.UID == second.UID {
		cl.t.Error("the new object has the UID of the old one")
	}
	cl.newer("made again", second.ResourceVersion, first.ResourceVersion)
	first.Spec.Node = "other"
	cl.refused("update of the former object", cl.Update(cl.t.Context(), first), metav1.StatusReasonConflict, 409)
}

func finalizers(cl *cluster) {
	ctx, l := cl.t.Context(), cl.lease(1)
	l.Finalizers = []string{"example.org/a", "example.org/b"}
	cl.create(l)
	before := l.ResourceVersion
	cl.delete(l)
	if !cl.live(l) || l.DeletionTimestamp == nil || l.Generation != 2 {
		cl.t.Fatalf("deleted, with finalizers: %+v", l.ObjectMeta)
	}
	equal(cl.t, "grace", l.DeletionGracePeriodSeconds, new(int64(0)))
	cl.newer("delete", l.ResourceVersion, before)
	before = l.ResourceVersion
	cl.delete(l) // again: nothing changes
	if !cl.live(l) || l.ResourceVersion != before {
		cl.t.Errorf("deleted again: %+v", l.ObjectMeta)
	}
	more := l.DeepCopy()
	more.Finalizers = append(more.Finalizers, "example.org/c")
	cl.refused("another finalizer", cl.Update(ctx, more), metav1.StatusReasonInvalid, 422)
	cl.refused("create again", cl.Create(ctx, cl.lease(1)), metav1.StatusReasonAlreadyExists, 409)
	l.Finalizers = l.Finalizers[1:]
	cl.update(l)
	if !cl.live(l) {
		cl.t.Fatal("gone with a finalizer left")
	}
	l.Finalizers = nil
	cl.update(l)
	if cl.live(l) {
		cl.t.Error("still there without a finalizer")
	}
}

func podOnANode(cl *cluster) {
	p := cl.pod("p", "node")
	cl.create(p)
	equal(cl.t, "phase", p.Status.Phase, corev1.PodPending)
	began := time.Now()
	cl.delete(p)
	if !cl.live(p) || p.DeletionTimestamp == nil {
		cl.t.Fatalf("deleted: %+v", p.ObjectMeta)
	}
	equal(cl.t, "grace", p.DeletionGracePeriodSeconds, new(int64(30)))
	if in := p.DeletionTimestamp.Sub(began); in < 28*time.Second || in > 60*time.Second {
		cl.t.Errorf("it ends in %v", in)
	}
	before := p.DeepCopy()
	cl.delete(p)
	cl.delete(p, client.GracePeriodSeconds(40))
	if !cl.live(p) || p.ResourceVersion != before.ResourceVersion {
		cl.t.Errorf("deleted again: %+v", p.ObjectMeta)
	}
	cl.delete(p, client.GracePeriodSeconds(10))
	if !cl.live(p) || !p.DeletionTimestamp.Time.Equal(before.DeletionTimestamp.Add(-20*time.Second)) {
		cl.t.Errorf("deleted sooner: %v, before %v", p.DeletionTimestamp, before.DeletionTimestamp)
	}
	wrong := types.UID("wrong")
	err := cl.Delete(cl.t.Context(), p, client.GracePeriodSeconds(0), client.Preconditions{UID: &wrong})
	cl.refused("delete of another pod", err, metav1.StatusReasonConflict, 409)
	cl.delete(p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion})
	if cl.live(p) {
		cl.t.Error("still there after its kubelet deleted it")
	}
}

func podOnNoNode(cl *cluster) {
	waiting, forced, finished := cl.pod("waiting", ""), cl.pod("forced", "node"), cl.pod("finished", "node")
	short := cl.pod("short", "node")
	short.Spec.TerminationGracePeriodSeconds = new(int64(5))
	for _, p := range []*corev1.Pod{waiting, forced, finished, short} {
		cl.create(p)
	}
	finished.Status.Phase = corev1.PodSucceeded
	cl.ok("status", cl.Status().Update(cl.t.Context(), finished))
	cl.delete(waiting)
	cl.delete(forced, client.GracePeriodSeconds(0))
	cl.delete(finished)
	for _, p := range []*corev1.Pod{waiting, forced, finished} {
		if cl.live(p) {
			cl.t.Errorf("%s is still there", p.Name)
		}
	}
	cl.delete(short)
	if !cl.live(short) || *short.DeletionGracePeriodSeconds != 5 {
		cl.t.Errorf("%+v", short.ObjectMeta)
	}
}

func podWithFinalizer(cl *cluster) {
	p := cl.pod("p", "node")
	p.Finalizers = []string{"example.org/a"}
	cl.create(p)
	cl.delete(p)
	cl.delete(p, client.GracePeriodSeconds(0))
	if !cl.live(p) || *p.DeletionGracePeriodSeconds != 0 {
		cl.t.Fatalf("%+v", p.ObjectMeta)
	}
	p.Finalizers = nil
	cl.update(p)
	if cl.live(p) {
		cl.t.Error("still there without a finalizer")
	}
	early := cl.pod("early", "node")
	early.Finalizers = []string{"example.org/a"}
	cl.create(early)
	cl.delete(early)
	cl.live(early)
	early.Finalizers = nil
	cl.update(early)
	if !cl.live(early) {
		cl.t.Error("gone before its kubelet deleted it")
	}
}

func lists(cl *cluster) {
	for n := range 4 {
		l := cl.lease(n)
		l.Labels = map[string]string{"parity": fmt.Sprint(n % 2), "of": cl.name}
		if n > 1 {
			l.Spec.Node = cl.name + "-n2"
		}
		cl.create(l)
		cl.create(cl.pod(fmt.Sprint("p", n), []string{"", cl.name + "-n1"}[n%2]))
	}
	node, bound := client.MatchingFields{"spec.node": cl.name + "-n2"}, client.MatchingFields{"spec.nodeName": cl.name +
		"-n1"}
	pool := client.MatchingFields{"spec.pool": cl.name}
	notFirst := client.MatchingFieldsSelector{Selector: fields.AndSelectors(
		fields.OneTermEqualSelector("spec.pool", cl.name), fields.OneTermNotEqualSelector("metadata.name",
			cl.name+".0"))}
	for _, c := range []struct {
		what string
		list client.ObjectList
		opts []client.ListOption
		want string
	}{
		{"pool", &v2beta1.SpiderIPLeaseList{}, []client.ListOption{pool}, "x.0 x.1 x.2 x.3"},
		{"another pool", &v2beta1.SpiderIPLeaseList{}, []client.ListOption{client.MatchingFields{"spec.pool": "other"}},
			""},
		{"node", &v2beta1.SpiderIPLeaseList{}, []client.ListOption{node}, "x.2 x.3"},
		{"name", &v2beta1.SpiderIPLeaseList{},
			[]client.ListOption{client.MatchingFields{"metadata.name": cl.name + ".1"}}, "x.1"},
		{"not a name", &v2beta1.SpiderIPLeaseList{}, []client.ListOption{notFirst}, "x.1 x.2 x.3"},
		{"label", &v2beta1.SpiderIPLeaseList{},
			[]client.ListOption{client.MatchingLabels{"parity": "1", "of": cl.name}}, "x.1 x.3"},
		{"label and node", &v2beta1.SpiderIPLeaseList{}, []client.ListOption{client.MatchingLabels{"parity": "1"},
			node}, "x.3"},
		{"namespace", &corev1.PodList{}, []client.ListOption{client.InNamespace(cl.name)}, "p0 p1 p2 p3"},
		{"namespace and node", &corev1.PodList{}, []client.ListOption{client.InNamespace(cl.name), bound}, "p1 p3"},
		{"node, everywhere", &corev1.PodList{}, []client.ListOption{bound}, "p1 p3"},
		{"another namespace", &corev1.PodList{}, []client.ListOption{client.InNamespace("default")}, ""},
	} {
		cl.ok(c.what, cl.List(cl.t.Context(), c.list, c.opts...))
		equal(cl.t, c.what, strings.ReplaceAll(names(c.list), cl.name, "x"), c.want)
		if c.list.GetResourceVersion() == "" {
			cl.t.Errorf("%s: the list has no version", c.what)
		}
	}
	err := cl.List(cl.t.Context(), &v2beta1.SpiderIPLeaseList{}, client.MatchingFields{"spec.ip": "10.0.0.1"})
	cl.refused("a field that is not selectable", err, metav1.StatusReasonBadRequest, 400)
}

func names(list client.ObjectList) string {
	var out []string
	switch list := list.(type) {
	case *v2beta1.SpiderIPLeaseList:
		for _, l := range list.Items {
			out = append(out, l.Name)
		}
	case *corev1.PodList:
		for _, p := range list.Items {
			out = append(out, p.Name)
		}
	}
	return strings.Join(out, " ")
}

func status(cl *cluster) {
	ctx, p := cl.t.Context(), cl.pool()
	p.Status.TotalIPCount = new(int64(9))
	cl.create(p)
	if p.Status.TotalIPCount != nil {
		cl.t.Error("a create set the status")
	}
	before := p.ResourceVersion
	p.Status.TotalIPCount, p.Spec.Subnet = new(int64(3)), "198.51.100.0/24"
	p.Labels = map[string]string{"a": "b"}
	cl.ok("update the status", cl.Status().Update(ctx, p))
	cl.newer("update of the status", p.ResourceVersion, before)
	equal(cl.t, "status", p.Status.TotalIPCount, new(int64(3)))
	if p.Spec.Subnet != "192.0.2.0/24" || p.Labels != nil || p.Generation != 1 {
		cl.t.Errorf("an update of the status did more: %+v", p)
	}
	p.Status.TotalIPCount, p.Spec.Subnet = new(int64(5)), "198.51.100.0/24"
	cl.update(p)
	equal(cl.t, "status after an update", p.Status.TotalIPCount, new(int64(3)))
	equal(cl.t, "subnet after an update", p.Spec.Subnet, "198.51.100.0/24")
	stale := p.DeepCopy()
	stale.ResourceVersion = before
	stale.Status.TotalIPCount = new(int64(7))
	cl.refused("update of an old status", cl.Status().Update(ctx, stale), metav1.StatusReasonConflict, 409)
	stale.ResourceVersion = ""
	cl.refused("update of a status without a version", cl.Status().Update(ctx, stale), metav1.StatusReasonInvalid, 422)
	absent := cl.pool()
	absent.Name, absent.ResourceVersion = "absent", "1"
	cl.refused("update of no status", cl.Status().Update(ctx, absent), metav1.StatusReasonNotFound, 404)
}

func statusAsField(cl *cluster) {
	e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "e"}}
	e.Status.Current.UID = "1"
	e.Status.Current.IPs = []v2beta1.IPAllocationDetail{}
	cl.create(e)
	equal(cl.t, "after create", e.Status.Current.UID, "1")
	e.Status.Current.UID = "2"
	cl.update(e)
	equal(cl.t, "after update", e.Status.Current.UID, "2")
	equal(cl.t, "generation", e.Generation, int64(2))
	e.Status.Current.UID = "3"
	cl.refused("update the status", cl.Status().Update(cl.t.Context(), e), metav1.StatusReasonNotFound, 404)
}

func generation(cl *cluster) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: cl.name}}
	node.Status.Phase = corev1.NodeRunning
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: cl.name}}
	heartbeat := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: cl.name, Name: "l"}}
	pod, pool, set := cl.pod("p", "node"), cl.pool(), cl.set()
	for _, c := range []struct {
		o     client.Object
		spec  func()
		start int64
	}{
		{pool, func() { pool.Spec.IPs = []string{"192.0.2.1"} }, 1},
		{reserved, func() { reserved.Spec.IPs = []string{"192.0.2.1"} }, 1},
		{pod, func() { pod.Spec.ActiveDeadlineSeconds = new(int64(5)) }, 1},
		{set, func() { set.Spec.Replicas = new(int32(3)) }, 1},
		{node, func() { node.Spec.Unschedulable = true }, 0},
		{heartbeat, func() { heartbeat.Spec.HolderIdentity = new("h") }, 0},
	} {
		what := fmt.Sprintf("%T", c.o)
		cl.create(c.o)
		equal(cl.t, what, c.o.GetGeneration(), c.start)
		c.o.SetLabels(map[string]string{"a": "b"})
		cl.update(c.o)
		equal(cl.t, what+" with a label", c.o.GetGeneration(), c.start)
		c.spec()
		cl.update(c.o)
		equal(cl.t, what+" with a new spec", c.o.GetGeneration(), 2*c.start)
	}
	equal(cl.t, "a node may be created with a status", node.Status.Phase, corev1.NodeRunning)
}

// start runs a process until the test ends.
func (cl *cluster) start(c cache.Cache) {
	cl.t.Helper()
	ctx, cancel := context.WithCancel(cl.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Start(ctx); err != nil {
			cl.t.Errorf("informers: %v", err)
		}
	})
	cl.t.Cleanup(func() { cancel(); running.Wait() })
}

func (cl *cluster) eventually(what string, ask func() bool) {
	cl.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ask() {
			return
		}
	}
	cl.t.Fatalf("never happened: %s", what)
}

// diary writes down what a handler is shown of this test's objects.
type diary struct {
	of string

	mu      sync.Mutex
	entries []string
}

func (d *diary) handler() toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			d.write(map[bool]string{true: "there", false: "add"}[initial], o)
		},
		UpdateFunc: func(old, o any) {
			if old.(client.Object).GetResourceVersion() == o.(client.Object).GetResourceVersion() {
				d.write("update of nothing", o)
			}
			d.write("update", o)
		},
		DeleteFunc: func(o any) {
			if unknown, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				d.write("vanished "+unknown.Key, unknown.Obj)
				return
			}
			d.write("delete", o)
		},
	}
}

func (d *diary) write(what string, o any) {
	text := what + " "
	switch o := o.(type) {
	case *v2beta1.SpiderIPLease:
		if o.Spec.Pool != d.of {
			return
		}
		text += o.Spec.IP + " " + strings.TrimPrefix(o.Spec.Node, d.of+"-")
	case *corev1.Pod:
		if o.Namespace != d.of {
			return
		}
		text += o.Name
		if grace := o.DeletionGracePeriodSeconds; grace != nil {
			text += fmt.Sprintf(" ends in %d", *grace)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, text)
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.entries...)
}

func (cl *cluster) follow(c cache.Cache, o client.Object) (*diary, toolscache.ResourceEventHandlerRegistration) {
	cl.t.Helper()
	informer, err := c.GetInformer(cl.t.Context(), o, cache.BlockUntilSynced(false))
	cl.ok("informer", err)
	d := &diary{of: cl.name}
	r, err := informer.AddEventHandler(d.handler())
	cl.ok("handler", err)
	return d, r
}

func (cl *cluster) reads(d *diary, want ...string) {
	cl.t.Helper()
	cl.eventually(fmt.Sprintf("the handler is shown %d events: %q", len(want), want),
		func() bool { return len(d.read()) >= len(want) })
	equal(cl.t, "events", d.read(), want)
}

func watch(cl *cluster) {
	cl.create(cl.lease(1))
	c := cl.process()
	leases, synced := cl.follow(c, &v2beta1.SpiderIPLease{})
	pods, _ := cl.follow(c, &corev1.Pod{})
	if synced.HasSynced() {
		cl.t.Error("synced before it has started")
	}
	cl.start(c)
	cl.reads(leases, "there 10.0.0.1 n1")
	cl.eventually("synced", synced.HasSynced)
	cl.eventually("caches synced", func() bool { return c.WaitForCacheSync(cl.t.Context()) })
	l, kept := cl.lease(2), cl.lease(3)
	kept.Finalizers = []string{"example.org/a"}
	cl.create(l)
	cl.create(kept)
	l.Spec.Node = "n2"
	cl.update(l)
	cl.update(l) // changes nothing
	cl.delete(l)
	cl.create(cl.lease(2))
	cl.delete(kept)
	cl.live(kept)
	kept.Finalizers, kept.Spec.Node = nil, "n4" // the end shows what was stored before it
	cl.update(kept)
	cl.reads(leases, "there 10.0.0.1 n1", "add 10.0.0.2 n1", "add 10.0.0.3 n1", "update 10.0.0.2 n2",
		"delete 10.0.0.2 n2",
		"add 10.0.0.2 n1", "update 10.0.0.3 n1", "delete 10.0.0.3 n1")
	bound, waiting := cl.pod("bound", "node"), cl.pod("waiting", "")
	cl.create(bound)
	cl.delete(bound)
	cl.delete(bound, client.GracePeriodSeconds(0))
	cl.create(waiting)
	cl.delete(waiting)
	cl.reads(pods, "add bound", "update bound ends in 30", "update bound ends in 0", "delete bound ends in 0",
		"add waiting", "update waiting ends in 0", "delete waiting ends in 0")
}

func lateHandler(cl *cluster) {
	c := cl.process()
	first, synced := cl.follow(c, &v2beta1.SpiderIPLease{})
	cl.start(c)
	cl.eventually("synced", synced.HasSynced)
	cl.create(cl.lease(1))
	cl.create(cl.lease(2))
	cl.reads(first, "add 10.0.0.1 n1", "add 10.0.0.2 n1")
	informer, err := c.GetInformer(cl.t.Context(), &v2beta1.SpiderIPLease{})
	cl.ok("informer", err)
	if !informer.HasSynced() {
		cl.t.Error("not synced")
	}
	late, lateSynced := cl.follow(c, &v2beta1.SpiderIPLease{})
	cl.eventually("the late handler has synced", lateSynced.HasSynced)
	equal(cl.t, "number of events", len(late.read()), 2)
	<-lateSynced.HasSyncedChecker().Done()
	cl.ok("remove the handler", informer.RemoveEventHandler(lateSynced))
	cl.delete(cl.lease(1))
	cl.reads(first, "add 10.0.0.1 n1", "add 10.0.0.2 n1", "delete 10.0.0.1 n1")
	equal(cl.t, "number of events after its removal", len(late.read()), 2)
}

func cachedReads(cl *cluster) {
	ctx, c := cl.t.Context(), cl.process()
	byNode := func(o client.Object) []string { return []string{o.(*v2beta1.SpiderIPLease).Spec.Node} }
	cl.ok("index", c.IndexField(ctx, &v2beta1.SpiderIPLease{}, "node", byNode))
	if err := c.Get(ctx, client.ObjectKey{Name: "l"}, &v2beta1.SpiderIPLease{}); err == nil ||
		err.Error() != (&cache.ErrCacheNotStarted{}).Error() {
		cl.t.Errorf("read before the start: %v", err)
	}
	cl.start(c)
	cl.eventually("synced", func() bool { return c.WaitForCacheSync(ctx) })
	l := cl.lease(1)
	cl.refused("get of nothing", c.Get(ctx, client.ObjectKeyFromObject(l), l), metav1.StatusReasonNotFound, 404)
	cl.create(l)
	read := &v2beta1.SpiderIPLease{}
	cl.eventually("the lease is seen", func() bool { return c.Get(ctx, client.ObjectKeyFromObject(l), read) == nil })
	equal(cl.t, "version", read.ResourceVersion, l.ResourceVersion)
	equal(cl.t, "kind", read.Kind, "SpiderIPLease")
	read.Spec.Pod = &v2beta1.LeasePod{Name: "nobody else sees this"}
	var list v2beta1.SpiderIPLeaseList
	cl.ok("list by an index", c.List(ctx, &list, client.MatchingFields{"node": cl.name + "-n1"}))
	if names(&list) != cl.name+".1" || list.Items[0].Spec.Pod != nil {
		cl.t.Errorf("read %+v", list.Items)
	}
	if err := c.List(ctx, &list, client.MatchingFields{"spec.pool": cl.name}); err == nil {
		cl.t.Error("listed by a field without an index")
	}
}
