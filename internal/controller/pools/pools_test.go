// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/fence"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

const patience = 30 * time.Second

// lab is an API server with the controllers and webhooks of this package.
type lab struct {
	t *testing.T
	c client.Client
}

func newLab(t *testing.T, o Options) *lab {
	t.Helper()
	api := testapi.Start(t)
	o.Families = v2beta1.Families{IPv4: true, IPv6: true}
	mgr, err := ctrl.NewManager(api.Config, ctrl.Options{
		Scheme: api.Scheme, WebhookServer: api.WebhookServer(), Metrics: server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)}, // one manager after another in this process
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := SetupWithManager(mgr, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("manager: %v", err)
		}
	})
	l := &lab{t: t, c: api.Client(t)}
	t.Cleanup(func() { cancel(); running.Wait(); l.clean() })
	if !mgr.GetCache().WaitForCacheSync(ctx) {
		t.Fatal("the manager's cache did not fill")
	}
	l.eventually("the webhook server answers",
		func() bool { return mgr.GetWebhookServer().StartedChecker()(nil) == nil })
	group := v2beta1.GroupVersion
	api.InstallWebhooks(t,
		testapi.Hook{Kind: group.WithKind("SpiderIPPool"), Resource: "spiderippools", Mutate: true, Validate: true},
		testapi.Hook{Kind: group.WithKind("SpiderReservedIP"), Resource: "spiderreservedips", Mutate: true,
			Validate: true})
	l.eventually("the webhooks are in force", func() bool {
		probe := guidePool(func(p *v2beta1.SpiderIPPool) { p.Name, p.Spec.Subnet = "probe", "junk" })
		return l.c.Create(t.Context(), probe, client.DryRunAll) != nil
	})
	return l
}

// clean removes what a test left, without webhooks and controllers.
func (l *lab) clean() {
	ctx := context.Background()
	for _, kind := range []client.Object{&v2beta1.SpiderIPLease{}, &v2beta1.SpiderReservedIP{},
		&v2beta1.SpiderIPPool{}} {
		if err := l.c.DeleteAllOf(ctx, kind); err != nil {
			l.t.Errorf("clean: %v", err)
		}
	}
	var pools v2beta1.SpiderIPPoolList
	if err := l.c.List(ctx, &pools); err != nil {
		l.t.Errorf("clean: %v", err)
	}
	for i := range pools.Items {
		pool := &pools.Items[i]
		if err := testapi.Change(ctx, l.c, pool, func() { pool.Finalizers = nil }); client.IgnoreNotFound(err) != nil {
			l.t.Errorf("clean: %v", err)
		}
	}
}

func (l *lab) create(o client.Object) {
	l.t.Helper()
	if err := l.c.Create(l.t.Context(), o); err != nil {
		l.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

func (l *lab) delete(o client.Object, opts ...client.DeleteOption) {
	l.t.Helper()
	if err := l.c.Delete(l.t.Context(), o, opts...); err != nil {
		l.t.Fatalf("delete %T %s: %v", o, o.GetName(), err)
	}
}

// exists tells whether the object is there; it is read into o.
func (l *lab) exists(o client.Object) bool {
	l.t.Helper()
	err := l.c.Get(l.t.Context(), client.ObjectKeyFromObject(o), o)
	if err != nil && !apierrors.IsNotFound(err) {
		l.t.Fatal(err)
	}
	return err == nil
}

func (l *lab) eventually(what string, ask func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ask() {
			return
		}
	}
	l.t.Fatalf("never happened: %s", what)
}

// What kubectl answers: the message reaches the user whole.
func TestAdmission(t *testing.T) {
	l := newLab(t, Options{})
	guide := guidePool()
	l.create(guide)
	if guide.Labels[v2beta1.LabelIPPoolCIDR] != "172-91-0-0-16" || len(guide.Finalizers) != 1 ||
		*guide.Spec.IPVersion != 4 || *guide.Spec.Default || *guide.Spec.Disable {
		t.Errorf("the guide's pool after admission: %+v", guide)
	}
	used := podLease("v4-91", "172.91.0.100", "a")
	l.create(&used)
	other := func(change func(*v2beta1.SpiderIPPool)) client.Object {
		return guidePool(func(p *v2beta1.SpiderIPPool) { p.Name = "other"; change(p) })
	}
	changed := func(change func(*v2beta1.SpiderIPPool)) client.Object {
		p := guide.DeepCopy()
		change(p)
		return p
	}
	tests := []struct {
		name, want string
		object     client.Object
	}{
		{"gateway among the addresses",
			`spec.gateway: Invalid value: "172.91.0.105": is one of the addresses in spec.ips, so a pod could be given it; add 172.91.0.105 to spec.excludeIPs`,
			other(func(p *v2beta1.SpiderIPPool) {
				p.Spec.Gateway = new("172.91.0.105")
				p.Spec.Subnet = "172.91.0.0/16"
			})},
		{"gateway outside", `spec.gateway: Invalid value: "172.92.0.1": lies outside the subnet 172.91.0.0/16`,
			other(func(p *v2beta1.SpiderIPPool) { p.Spec.Gateway = new("172.92.0.1") })},
		{"range backwards",
			`spec.ips[0]: Invalid value: "172.91.0.9-172.91.0.1": runs backwards; write 172.91.0.1-172.91.0.9`,
			other(func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.9-172.91.0.1"} })},
		{"host bits", `spec.subnet: Invalid value: "172.91.0.1/16": has host bits set; write 172.91.0.0/16`,
			other(func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet = "172.91.0.1/16" })},
		{"addresses of another pool", `spec.ips: Forbidden: 172.91.0.100-172.91.0.120 belong to pool v4-91 already`,
			other(func(*v2beta1.SpiderIPPool) {})},
		{"overlapping subnet", `overlaps the subnet 172.91.0.0/16 of pool v4-91`,
			other(func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet, p.Spec.IPs = "172.91.0.0/24", nil })},
		{"subnet changed", `spec.subnet: Invalid value: "172.93.0.0/16": cannot be changed from 172.91.0.0/16`,
			changed(func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet = "172.93.0.0/16" })},
		{"address in use taken out", `addresses in use cannot be taken out of the pool: 172.91.0.100 (pod default/a)`,
			changed(func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"172.91.0.100"} })},
		{"reserved, two families", `spec.ips[1]: Invalid value: "fd00::1": is IPv6, but spec.ipVersion is 4`,
			&v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"},
				Spec: v2beta1.ReservedIPSpec{IPVersion: new(int64(4)), IPs: []string{"10.0.0.1", "fd00::1"}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			write := func() error { return l.c.Create(t.Context(), test.object, client.DryRunAll) }
			if test.object.GetResourceVersion() != "" {
				// A patch holds whatever the status controller wrote meanwhile.
				write = func() error {
					return l.c.Patch(t.Context(), test.object.DeepCopyObject().(client.Object), client.MergeFrom(guide),
						client.DryRunAll)
				}
			}
			var err error
			l.eventually("a refusal that is not about a race", func() bool {
				err = write()
				return err != nil // the lease may not have reached the webhook's cache yet
			})
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("\n got %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestStatusFollowsTheLeases(t *testing.T) {
	l := newLab(t, Options{GoneGrace: time.Hour})
	pool := guidePool(func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.100-172.91.0.101"} })
	l.create(pool)
	status := func(count int64, reason string) func() bool {
		return func() bool {
			s := pool.Status
			return l.exists(pool) && s.AllocatedIPCount != nil && *s.AllocatedIPCount == count &&
				*s.TotalIPCount == 2 && readyReason(s) == reason
		}
	}
	l.eventually("an empty pool serves", status(0, reasonServing))
	one, two := podLease("v4-91", "172.91.0.100", "ib-sriov-abcde"), podLease("v4-91", "172.91.0.101", "b")
	l.create(&one)
	l.eventually("one address in use", status(1, reasonServing))
	const want = `{"172.91.0.100":{"pod":"default/ib-sriov-abcde","podUid":"uid-ib-sriov-abcde"}}`
	if pool.Status.AllocatedIPs == nil || *pool.Status.AllocatedIPs != want {
		t.Errorf("allocatedIPs %v, want %s", pool.Status.AllocatedIPs, want)
	}
	l.create(&two)
	l.eventually("exhausted", status(2, reasonExhausted))
	l.eventually("an event tells of it", func() bool {
		var list eventsv1.EventList
		if err := l.c.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Regarding.Name == "v4-91" && e.Reason == reasonExhausted && e.Type == corev1.EventTypeWarning {
				return true
			}
		}
		return false
	})
	l.delete(&one)
	l.delete(&two)
	l.eventually("all given back", status(0, reasonServing))
	if pool.Status.AllocatedIPs != nil {
		t.Errorf("allocatedIPs %q after all were given back, want none", *pool.Status.AllocatedIPs)
	}
}

// Pools that share addresses, as two that are created at the same moment may: the younger one says
// so until one gives way.
func TestPoolsThatShareAddresses(t *testing.T) {
	l := newLab(t, Options{})
	l.delete(&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "testapi"}})
	older := guidePool()
	l.create(older)
	younger := guidePool(func(p *v2beta1.SpiderIPPool) {
		p.Name, p.Spec.IPs = "v4-92",
			[]string{"172.91.0.110-172.91.0.130"}
	})
	l.eventually("nobody admits", func() bool { return l.c.Create(t.Context(), younger) == nil })
	l.eventually("the younger pool tells of it", func() bool {
		return l.exists(younger) &&
			readyReason(younger.Status) == reasonInvalid
	})
	const want = "172.91.0.110-172.91.0.120 belong to the older pool v4-91 too; take them out of one of the two pools"
	if got := younger.Status.Conditions[0].Message; !strings.Contains(got, want) {
		t.Errorf("message %q, want %q", got, want)
	}
	l.eventually("the older pool serves", func() bool {
		return l.exists(older) &&
			readyReason(older.Status) == reasonServing
	})
	before := older.DeepCopy()
	older.Spec.IPs = []string{"172.91.0.100-172.91.0.109"}
	if err := l.c.Patch(t.Context(), older, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	l.eventually("the younger pool serves once the older has given way", func() bool {
		return l.exists(younger) &&
			readyReason(younger.Status) == reasonServing
	})
}

func TestPoolGoesWithItsLastLease(t *testing.T) {
	l := newLab(t, Options{GoneGrace: time.Hour})
	pool := guidePool()
	l.create(pool)
	used := podLease("v4-91", "172.91.0.100", "a")
	l.create(&used)
	l.eventually("the lease is seen", func() bool {
		return l.exists(pool) && pool.Status.AllocatedIPCount != nil && *pool.Status.AllocatedIPCount == 1
	})
	l.delete(pool)
	l.eventually("the pool is terminating", func() bool {
		return l.exists(pool) &&
			readyReason(pool.Status) == reasonTerminating
	})
	err := testapi.Change(t.Context(), l.c, pool, func() { pool.Spec.Disable = new(true) })
	if err == nil || !strings.Contains(err.Error(), "the pool is being deleted and cannot be changed") {
		t.Errorf("a change of a terminating pool: %v", err)
	}
	l.delete(&used)
	l.eventually("the pool is gone", func() bool { return !l.exists(pool) })
}

// running creates a pod that runs on a node, and its lease.
func (l *lab) running(name, ip string) (*corev1.Pod, *v2beta1.SpiderIPLease) {
	l.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{NodeName: "10-20-1-10", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	l.create(pod)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	if err := l.c.Status().Update(l.t.Context(), pod); err != nil {
		l.t.Fatal(err)
	}
	lease := podLease("v4-91", ip, name)
	lease.Spec.Pod.UID = string(pod.UID)
	l.create(&lease)
	return pod, &lease
}

func TestCollector(t *testing.T) {
	l := newLab(t, Options{GoneGrace: 100 * time.Millisecond, FinishedGrace: 100 * time.Millisecond,
		YoungLease: 100 * time.Millisecond, Rescan: 200 * time.Millisecond})
	now := client.GracePeriodSeconds(0)
	l.create(guidePool())
	stays, staysLease := l.running("stays", "172.91.0.100")
	deleted, deletedLease := l.running("deleted", "172.91.0.101")
	finished, finishedLease := l.running("finished", "172.91.0.102")
	replaced, replacedLease := l.running("replaced", "172.91.0.103")
	orphan := podLease("v4-91", "172.91.0.104", "never-was")
	l.create(&orphan)
	l.eventually("a lease without a pod is freed", func() bool { return !l.exists(&orphan) })

	l.delete(deleted, now)
	l.eventually("the address of a deleted pod is freed", func() bool { return !l.exists(deletedLease) })

	finished.Status.Phase = corev1.PodSucceeded
	finished.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		FinishedAt: metav1.Now()}}
	if err := l.c.Status().Update(t.Context(), finished); err != nil {
		t.Fatal(err)
	}
	l.eventually("the address of a finished pod is freed", func() bool { return !l.exists(finishedLease) })

	l.delete(replaced, now)
	second, secondLease := l.running("replaced", "172.91.0.105")
	l.eventually("the address of a replaced pod is freed", func() bool { return !l.exists(replacedLease) })
	if !l.exists(secondLease) {
		t.Error("the new pod of the same name lost its address")
	}
	if !l.exists(staysLease) {
		t.Error("a running pod lost its address")
	}
	for _, p := range []*corev1.Pod{stays, finished, second} {
		l.delete(p, now)
	}
}

func TestCollectorAndStatefulSets(t *testing.T) {
	l := newLab(t, Options{GoneGrace: 100 * time.Millisecond, Rescan: 200 * time.Millisecond})
	l.create(guidePool())
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		}}
	l.create(set)
	var leases []*v2beta1.SpiderIPLease
	for i, ip := range []string{"172.91.0.100", "172.91.0.101"} {
		lease := podLease("v4-91", ip, []string{"db-0", "db-1"}[i])
		lease.Spec.Pod.Owner = &v2beta1.LeaseOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"}
		l.create(&lease)
		leases = append(leases, &lease)
	}
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-1"},
		Status: v2beta1.WorkloadEndpointStatus{
			Current: v2beta1.PodIPAllocation{UID: "uid-db-1", Node: "10-20-1-10",
				IPs: []v2beta1.IPAllocationDetail{{NIC: "eth0"}}},
		}}
	l.create(endpoint)
	// A lease that is freed meanwhile shows that the collector has been round.
	stray := podLease("v4-91", "172.91.0.102", "stray")
	l.create(&stray)
	l.eventually("the collector has been round", func() bool { return !l.exists(&stray) })
	for _, lease := range leases {
		if !l.exists(lease) {
			t.Fatalf("the address of %s was freed although its StatefulSet keeps it", lease.Spec.Pod.Name)
		}
	}
	if err := testapi.Change(t.Context(), l.c, set, func() { set.Spec.Replicas = new(int32(1)) }); err != nil {
		t.Fatal(err)
	}
	l.eventually("scaling down frees the address and removes the endpoint", func() bool {
		return !l.exists(leases[1]) &&
			!l.exists(endpoint)
	})
	if !l.exists(leases[0]) {
		t.Error("scaling down freed an address of a pod that stays")
	}
	l.delete(set)
	l.eventually("deleting the set frees the rest", func() bool { return !l.exists(leases[0]) })
}

// stockLease is an address that a node holds without a pod.
func stockLease(ip, node string) *v2beta1.SpiderIPLease {
	l := podLease("v4-91", ip, "none")
	l.Spec.Node, l.Spec.Pod = node, nil
	return &l
}

// heartbeat promises one second.
func heartbeat(node string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: fence.Name(node)},
		Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: new(int32(1)), RenewTime: new(metav1.NowMicro())}}
}

// The stock of a node is taken when its heartbeat has lapsed and no pod of it may have an address
// that nobody can see.
func TestStockOfASilentNode(t *testing.T) {
	l := newLab(t, Options{GoneGrace: time.Second, SilentRescan: time.Second, Namespace: "kube-system"})
	l.create(guidePool())
	beats, silent, held := heartbeat("beats"), heartbeat("silent"), heartbeat("held")
	l.create(beats)
	l.create(silent)
	l.create(held)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "unseen"},
		Spec: corev1.PodSpec{NodeName: "held", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	seen := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "seen",
		Annotations: map[string]string{cncfv1.AnnotationNetworkStatus: "[]"}},
		Spec: corev1.PodSpec{NodeName: "silent", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	l.create(pod)
	l.create(seen)
	t.Cleanup(func() {
		for _, o := range []client.Object{beats, silent, held, pod, seen} {
			_ = l.c.Delete(context.Background(), o, client.GracePeriodSeconds(0))
		}
	})
	ofBeats, ofSilent, ofHeld := stockLease("172.91.0.100", "beats"), stockLease("172.91.0.101", "silent"),
		stockLease("172.91.0.102", "held")
	l.create(ofBeats)
	l.create(ofSilent)
	l.create(ofHeld)
	l.eventually("the stock of the silent node is taken", func() bool {
		beats.Spec.RenewTime = new(metav1.NowMicro())
		if err := l.c.Update(t.Context(), beats); err != nil {
			t.Fatal(err)
		}
		return !l.exists(ofSilent)
	})
	if !l.exists(ofBeats) {
		t.Error("the stock of a node whose heartbeat goes on was taken")
	}
	if !l.exists(ofHeld) {
		t.Error("the stock of a node was taken although one of its pods may have it")
	}
	l.eventually("an event tells which pod keeps the stock", func() bool {
		var list eventsv1.EventList
		if err := l.c.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Reason == "StockKept" && e.Regarding.Name == "held" && strings.Contains(e.Note, "default/unseen")
		})
	})
	l.delete(pod, client.GracePeriodSeconds(0))
	l.eventually("the stock is taken once the pod is gone", func() bool { return !l.exists(ofHeld) })
}

// An address of a KubeVirt machine stays while the machine or its instance exists, whatever becomes
// of the pod.
func TestVirtualMachineKeepsItsAddress(t *testing.T) {
	l := newLab(t, Options{GoneGrace: time.Second, Rescan: time.Second})
	l.create(guidePool())
	owned := podLease("v4-91", "172.91.0.100", "virt-launcher-x")
	owned.Spec.Pod.Owner = &v2beta1.LeaseOwner{APIVersion: "kubevirt.io/v1", Kind: v2beta1.OwnerVirtualMachineInstance,
		Name: "vm"}
	orphan := podLease("v4-91", "172.91.0.101", "virt-launcher-y")
	orphan.Spec.Pod.Owner = owned.Spec.Pod.Owner.DeepCopy()
	l.create(&orphan)
	l.eventually("without KubeVirt no machine keeps an address", func() bool { return !l.exists(&orphan) })

	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "virtualmachines.kubevirt.io"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "kubevirt.io", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "virtualmachines", Singular: "virtualmachine",
				Kind: "VirtualMachine", ListKind: "VirtualMachineList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{
					OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}},
		}}
	crds, err := client.New(testapi.Start(t).Config, client.Options{Scheme: crdScheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := crds.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = crds.Delete(context.Background(), crd) })
	machine := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "kubevirt.io/v1",
		"kind":     "VirtualMachine",
		"metadata": map[string]any{"namespace": "default", "name": "vm"}}}
	l.eventually("the machine is there", func() bool { return l.c.Create(t.Context(), machine.DeepCopy()) == nil })
	l.create(&owned)
	time.Sleep(4 * time.Second) // several looks at it, well after the grace
	if !l.exists(&owned) {
		t.Fatal("the address of a machine was freed")
	}
	l.delete(machine)
	l.eventually("the address goes with the machine", func() bool { return !l.exists(&owned) })
}

func crdScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	return s
}
