// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// collector frees leases that nobody can be using. It runs on the leader. The
// cache only tells where to look; what frees an address is read from the API
// server itself, and the lease is deleted only in the version that was judged.
type collector struct {
	Options
	client   client.Client
	live     client.Reader
	recorder events.EventRecorder

	mu        sync.Mutex
	goneSince map[string]goneLease // by the lease's name
}

// goneLease is when the pod of exactly this lease object was first seen gone.
type goneLease struct {
	uid   types.UID
	since time.Time
}

// newCollector returns what reconciles leases by name. The client reads from a cache, live from the
// API server itself.
func newCollector(c client.Client, live client.Reader, recorder events.EventRecorder, o Options) *collector {
	o.setDefaults()
	return &collector{Options: o, client: c, live: live, recorder: recorder, goneSince: map[string]goneLease{}}
}

// NewCollector returns the same as a reconciler alone, for whoever drives it without a manager.
func NewCollector(c client.Client, live client.Reader, recorder events.EventRecorder, o Options) reconcile.Reconciler {
	return newCollector(c, live, recorder, o)
}

func setupCollector(mgr ctrl.Manager, o Options) error {
	c := newCollector(mgr.GetClient(), mgr.GetAPIReader(), mgr.GetEventRecorder("spiderpool-collector"), o)
	err := ctrl.NewControllerManagedBy(mgr).Named("lease-collector").
		For(&v2beta1.SpiderIPLease{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(c.leasesOfPod), builder.WithPredicates(podEnds())).
		Watches(&appsv1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(c.leasesOfSet),
			builder.WithPredicates(setShrinks())).
		Complete(c)
	if err != nil {
		return fmt.Errorf("set up the lease collector: %w", err)
	}
	return nil
}

// StripPod is a cache transform: of a pod it leaves what the collector asks for. A cluster has many
// pods, and most of a pod is its template and its conditions.
func StripPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil // a tombstone
	}
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName, Containers: make([]corev1.Container,
			len(pod.Spec.Containers))},
		Status: corev1.PodStatus{
			Phase: pod.Status.Phase, InitContainerStatuses: stripStatuses(pod.Status.InitContainerStatuses),
			ContainerStatuses:          stripStatuses(pod.Status.ContainerStatuses),
			EphemeralContainerStatuses: stripStatuses(pod.Status.EphemeralContainerStatuses),
		},
	}
	if hash, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		kept.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: hash}
	}
	return kept, nil
}

func stripStatuses(all []corev1.ContainerStatus) []corev1.ContainerStatus {
	var kept []corev1.ContainerStatus
	for _, s := range all {
		kept = append(kept, corev1.ContainerStatus{State: s.State})
	}
	return kept
}

// podEnds passes on what may end a pod's use of its addresses.
func podEnds() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false }, // every lease is judged at the start
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc:  func(e event.UpdateEvent) bool { return stopped(e.ObjectNew.(*corev1.Pod)) },
	}
}

func setShrinks() predicate.Predicate {
	return predicate.And(predicate.GenerationChangedPredicate{}, predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
	})
}

func (c *collector) leasesOfPod(ctx context.Context, o client.Object) []reconcile.Request {
	return c.requests(ctx, indexUID, string(o.GetUID()))
}

func (c *collector) leasesOfSet(ctx context.Context, o client.Object) []reconcile.Request {
	return c.requests(ctx, indexOwner, ownerKey(v2beta1.OwnerStatefulSet, o.GetNamespace(), o.GetName()))
}

func (c *collector) requests(ctx context.Context, field, value string) []reconcile.Request {
	leases, err := leasesBy(ctx, c.client, field, value)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "find the leases to judge")
		return nil
	}
	var requests []reconcile.Request
	for _, l := range leases {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKey{Name: l.Name}})
	}
	return requests
}

// Reconcile judges one lease, first by the cache, then by the API server.
func (c *collector) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	lease := &v2beta1.SpiderIPLease{}
	if err := c.client.Get(ctx, request.NamespacedName, lease); err != nil {
		c.remember(&v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: request.Name}}, false)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	v, err := c.judgeBy(ctx, c.client, lease)
	if err == nil && (v.free || v.again > 0) {
		v, err = c.judgeBy(ctx, c.live, lease)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	c.remember(lease, v.gone && !v.free)
	switch {
	case v.free:
		return reconcile.Result{}, c.free(ctx, lease, v.why)
	case v.again > 0:
		return reconcile.Result{RequeueAfter: v.again}, nil
	}
	return reconcile.Result{RequeueAfter: c.Rescan}, nil
}

// judgeBy gathers the evidence from one reader and judges.
func (c *collector) judgeBy(ctx context.Context, from client.Reader, lease *v2beta1.SpiderIPLease) (verdict, error) {
	e := evidence{lease: lease, now: time.Now(), goneSince: c.since(lease)}
	holder := lease.Spec.Pod
	if holder == nil {
		return c.judge(e), nil
	}
	var pod corev1.Pod
	gone, err := absent(ctx, from, client.ObjectKey{Namespace: holder.Namespace, Name: holder.Name}, &pod)
	if err != nil {
		return verdict{}, err
	}
	if !gone {
		e.pod = &pod
	}
	if holder.Owner != nil {
		if err := c.addOwner(ctx, from, &e); err != nil {
			return verdict{}, err
		}
	}
	return c.judge(e), nil
}

// addOwner reads what keeps the lease.
func (c *collector) addOwner(ctx context.Context, from client.Reader, e *evidence) error {
	holder := e.lease.Spec.Pod
	key := client.ObjectKey{Namespace: holder.Namespace, Name: holder.Owner.Name}
	switch holder.Owner.Kind {
	case v2beta1.OwnerStatefulSet:
		var set appsv1.StatefulSet
		gone, err := absent(ctx, from, key, &set)
		if err == nil && !gone {
			e.set = &set
		}
		return err
	case v2beta1.OwnerVirtualMachineInstance:
		// No cache holds virtual machines: they are somebody else's, and few are asked for.
		machine, err := c.virtualMachine(ctx, key, holder.Owner.APIVersion)
		e.machine = machine
		return err
	}
	return nil
}

// virtualMachine tells whether a machine exists that may start again, or an instance of it. Without
// KubeVirt there is none.
func (c *collector) virtualMachine(ctx context.Context, key client.ObjectKey, apiVersion string) (bool, error) {
	for _, kind := range []string{v2beta1.OwnerVirtualMachineInstance, "VirtualMachine"} {
		o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}}
		gone, err := absent(ctx, c.live, key, o)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil || !gone && o.DeletionTimestamp.IsZero() {
			return err == nil, err
		}
	}
	return false, nil
}

// absent reads an object and tells whether it does not exist.
func absent(ctx context.Context, from client.Reader, key client.ObjectKey, o client.Object) (bool, error) {
	err := from.Get(ctx, key, o)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %T %s: %w", o, key, err)
	}
	return false, nil
}

// free deletes the lease as it was judged; one that changed meanwhile is judged again by its own event.
func (c *collector) free(ctx context.Context, lease *v2beta1.SpiderIPLease, why string) error {
	freed, err := freeLease(ctx, c.client, c.recorder, lease, why)
	if err != nil || !freed || lease.Spec.Pod == nil || lease.Spec.Pod.Owner == nil {
		return err
	}
	return c.deleteEndpoint(ctx, lease.Spec.Pod)
}

// freeLease deletes a lease in exactly this version and says so at its pool; false when it has
// changed or gone.
func freeLease(ctx context.Context, c client.Client, recorder events.EventRecorder, lease *v2beta1.SpiderIPLease,
	why string) (bool, error) {
	err := c.Delete(ctx, lease, client.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("free address %s of pool %s: %w", lease.Spec.IP, lease.Spec.Pool, err)
	}
	ctrl.LoggerFrom(ctx).Info("freed an address", "pool", lease.Spec.Pool, "ip", lease.Spec.IP, "node", lease.Spec.Node,
		"holder", lease.Holder(), "why", why)
	var pool v2beta1.SpiderIPPool
	if err := c.Get(ctx, client.ObjectKey{Name: lease.Spec.Pool}, &pool); err == nil { // no pool, nobody to tell
		recorder.Eventf(&pool, nil, corev1.EventTypeNormal, "AddressFreed", "Collect", "%s of %s was freed: %s",
			lease.Spec.IP, lease.Holder(), why)
	}
	return true, nil
}

// deleteEndpoint removes the endpoint of a pod whose owner gave its addresses
// up: it has no owner reference by which Kubernetes would remove it.
func (c *collector) deleteEndpoint(ctx context.Context, holder *v2beta1.LeasePod) error {
	var endpoint v2beta1.SpiderEndpoint
	name := holder.Name
	if holder.Owner.Kind == v2beta1.OwnerVirtualMachineInstance {
		name = holder.Owner.Name // see package leases
	}
	err := c.live.Get(ctx, client.ObjectKey{Namespace: holder.Namespace, Name: name}, &endpoint)
	if err == nil && len(endpoint.OwnerReferences) == 0 && endpoint.Status.Current.UID == holder.UID {
		err = c.client.Delete(ctx, &endpoint, client.Preconditions{UID: &endpoint.UID,
			ResourceVersion: &endpoint.ResourceVersion})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete SpiderEndpoint %s/%s: %w", holder.Namespace, holder.Name, err)
	}
	return nil
}

// since is when the pod of a lease was first seen gone.
func (c *collector) since(lease *v2beta1.SpiderIPLease) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.goneSince[lease.Name]; g.uid == lease.UID {
		return g.since
	}
	return time.Time{}
}

// remember notes the first time that a pod was seen gone, and forgets it otherwise.
func (c *collector) remember(lease *v2beta1.SpiderIPLease, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.goneSince[lease.Name]
	switch {
	case !gone:
		delete(c.goneSince, lease.Name)
	case !ok || known.uid != lease.UID:
		c.goneSince[lease.Name] = goneLease{uid: lease.UID, since: time.Now()}
	}
}
