// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/text"
)

// Condition Ready of a pool and its reasons.
const (
	conditionReady    = "Ready"
	reasonServing     = "Serving"
	reasonTerminating = "Terminating"
	reasonInvalid     = "Invalid"
	reasonDisabled    = "Disabled"
	reasonEmpty       = "Empty"
	reasonExhausted   = "Exhausted"
)

// maxListed bounds status.allocatedIPs: an object of the API server may have
// about 1.5 MB. The counts are of all.
const maxListed = 5000

// statusReconciler writes what the leases say into the status of their pool,
// completes pools that admission did not see, and lets a deleted pool go when
// its last lease is gone.
type statusReconciler struct {
	client   client.Client
	live     client.Reader
	recorder events.EventRecorder
}

func setupStatus(mgr ctrl.Manager, o Options) error {
	r := &statusReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(),
		recorder: mgr.GetEventRecorder("spiderpool-pools")}
	later := laterHandler{delay: r.delayOf(o.StatusDelay), pools: r.poolsOf}
	err := ctrl.NewControllerManagedBy(mgr).Named("pool-status").
		For(&v2beta1.SpiderIPPool{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{},
			predicate.LabelChangedPredicate{}))).
		Watches(&v2beta1.SpiderIPLease{}, later.funcs()).
		Watches(&v2beta1.SpiderReservedIP{}, later.funcs()).
		// see sharedWithOlder
		Watches(&v2beta1.SpiderIPPool{}, later.funcs(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up the pool status controller: %w", err)
	}
	return nil
}

// perDelay is how many listed addresses make the writes of a pool's status as rare again.
const perDelay = 100

// delayOf returns how long the changes of a pool are gathered: the longer, the more its status
// lists. Every agent watches the pools, so a write of a few hundred kilobytes travels to every
// node.
func (r *statusReconciler) delayOf(least time.Duration) func(context.Context, string) time.Duration {
	return func(ctx context.Context, name string) time.Duration {
		var pool v2beta1.SpiderIPPool
		if err := r.client.Get(ctx, client.ObjectKey{Name: name}, &pool); err != nil ||
			pool.Status.AllocatedIPCount == nil {
			return least
		}
		return least * time.Duration(1+min(*pool.Status.AllocatedIPCount, maxListed)/perDelay)
	}
}

// laterHandler asks for the pools of an object after a delay, so that many changes cost one write.
type laterHandler struct {
	delay func(ctx context.Context, pool string) time.Duration
	pools func(context.Context, client.Object) []string
}

func (h laterHandler) funcs() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(ctx context.Context, o client.Object, q queue) {
		for _, name := range h.pools(ctx, o) {
			q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKey{Name: name}}, h.delay(ctx, name))
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { add(ctx, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(ctx, e.Object, q) },
	}
}

// poolsOf names the pools whose status an object changes: its own of a lease, all of a reserved
// address or of another pool.
func (r *statusReconciler) poolsOf(ctx context.Context, o client.Object) []string {
	if lease, ok := o.(*v2beta1.SpiderIPLease); ok {
		return []string{lease.Spec.Pool}
	}
	pools, err := r.pools(ctx)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "find the pools whose status may change")
		return nil
	}
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return names
}

func (r *statusReconciler) pools(ctx context.Context) ([]v2beta1.SpiderIPPool, error) {
	var list v2beta1.SpiderIPPoolList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // read only
		return nil, fmt.Errorf("list pools: %w", err)
	}
	return list.Items, nil
}

// Reconcile brings one pool up to date.
func (r *statusReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	pool := &v2beta1.SpiderIPPool{}
	if err := r.client.Get(ctx, request.NamespacedName, pool); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if done, err := r.complete(ctx, pool); done || err != nil {
		return reconcile.Result{}, err
	}
	leases, err := leasesBy(ctx, r.client, indexPool, pool.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !pool.DeletionTimestamp.IsZero() && len(leases) == 0 {
		return reconcile.Result{}, r.letGo(ctx, pool)
	}
	reserved, err := r.reserved(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	others, err := r.pools(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, r.write(ctx, pool, statusOf(pool, leases, reserved, others))
}

// complete gives a pool what admission would have given it, and tells whether
// it had to: then the change brings the pool here again.
func (r *statusReconciler) complete(ctx context.Context, pool *v2beta1.SpiderIPPool) (bool, error) {
	completed := pool.DeepCopy()
	v2beta1.DefaultIPPool(completed)
	if equality.Semantic.DeepEqual(pool, completed) {
		return false, nil
	}
	err := r.client.Update(ctx, completed)
	if apierrors.IsInvalid(err) {
		return false, nil // admission refuses the pool as it is; its status must tell all the same
	}
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("complete pool %s: %w", pool.Name, err)
	}
	return true, nil
}

// letGo removes the finalizer once the API server itself says that no lease is left.
func (r *statusReconciler) letGo(ctx context.Context, pool *v2beta1.SpiderIPPool) error {
	var left v2beta1.SpiderIPLeaseList
	err := r.live.List(ctx, &left, client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("spec.pool",
		pool.Name)}, client.Limit(1))
	if err != nil {
		return fmt.Errorf("list the leases left in pool %s: %w", pool.Name, err)
	}
	if len(left.Items) > 0 || !controllerutil.RemoveFinalizer(pool, v2beta1.Finalizer) {
		return nil // the watch will show the lease
	}
	if err := r.client.Update(ctx, pool); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove the finalizer of pool %s: %w", pool.Name, err)
	}
	return nil
}

// reserved reads the addresses that no pool gives out.
func (r *statusReconciler) reserved(ctx context.Context) (*netipx.IPSet, error) {
	var list v2beta1.SpiderReservedIPList
	if err := r.client.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list reserved addresses: %w", err)
	}
	return union(list.Items), nil
}

// write updates the status when it differs, and tells of a change of the condition by an event.
func (r *statusReconciler) write(ctx context.Context, pool *v2beta1.SpiderIPPool, status v2beta1.IPPoolStatus) error {
	if equality.Semantic.DeepEqual(pool.Status, status) {
		return nil
	}
	before, after := readyReason(pool.Status), readyReason(status)
	pool.Status = status
	if err := r.client.Status().Update(ctx, pool); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write the status of pool %s: %w", pool.Name, err)
	}
	if before == after || before == "" && after == reasonServing {
		return nil
	}
	ready := meta.FindStatusCondition(status.Conditions, conditionReady)
	kind := corev1.EventTypeNormal
	if after == reasonExhausted || after == reasonInvalid {
		kind = corev1.EventTypeWarning
	}
	r.recorder.Eventf(pool, nil, kind, after, "UpdateStatus", "%s", text.Note(ready.Message))
	return nil
}

func readyReason(s v2beta1.IPPoolStatus) string {
	if c := meta.FindStatusCondition(s.Conditions, conditionReady); c != nil {
		return c.Reason
	}
	return ""
}

// statusOf says what the leases mean for the pool. Stock is not listed: no pod
// uses it. It is pure but for the time of a condition's change.
func statusOf(pool *v2beta1.SpiderIPPool, leases []v2beta1.SpiderIPLease, reserved *netipx.IPSet,
	others []v2beta1.SpiderIPPool) v2beta1.IPPoolStatus {
	status := v2beta1.IPPoolStatus{Conditions: slices.Clone(pool.Status.Conditions)}
	used := usedAddresses(leases)
	status.AllocatedIPs = listAddresses(used)
	status.AllocatedIPCount = new(int64(len(used)))
	addresses, errs := v2beta1.ParseIPPoolSpec(&pool.Spec)
	if len(errs) == 0 {
		status.TotalIPCount = new(v2beta1.CountAddresses(addresses.IPs))
		errs = sharedWithOlder(pool, addresses, others)
	}
	ready := readiness(pool, addresses, errs.ToAggregate(), leases, reserved)
	ready.Type, ready.ObservedGeneration = conditionReady, pool.Generation
	meta.SetStatusCondition(&status.Conditions, ready)
	return status
}

// sharedWithOlder lists the older pools that have addresses of this one. The agents give out none
// of its addresses then.
func sharedWithOlder(pool *v2beta1.SpiderIPPool, a v2beta1.IPPoolAddresses,
	others []v2beta1.SpiderIPPool) field.ErrorList {
	var errs field.ErrorList
	for i := range others {
		b, bErrs := v2beta1.ParseIPPoolSpec(&others[i].Spec)
		if len(bErrs) > 0 {
			continue
		}
		if err := v2beta1.SharesWithOlder(pool, a, &others[i], b); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// usedAddress is an address with its pod.
type usedAddress struct {
	ip  netip.Addr
	pod *v2beta1.LeasePod
}

// usedAddresses lists the addresses that pods use, lowest first.
func usedAddresses(leases []v2beta1.SpiderIPLease) []usedAddress {
	var used []usedAddress
	for i := range leases {
		ip, err := leases[i].Address()
		if err == nil && leases[i].Spec.Pod != nil {
			used = append(used, usedAddress{ip, leases[i].Spec.Pod})
		}
	}
	slices.SortFunc(used, func(a, b usedAddress) int { return a.ip.Compare(b.ip) })
	return used
}

// listAddresses writes the JSON text of status.allocatedIPs; nil when there is nothing to list.
func listAddresses(used []usedAddress) *string {
	if len(used) == 0 {
		return nil
	}
	listed := map[string]v2beta1.AllocatedIP{}
	for _, u := range used[:min(len(used), maxListed)] {
		listed[u.ip.String()] = v2beta1.AllocatedIP{Pod: u.pod.Namespace + "/" + u.pod.Name, PodUID: u.pod.UID}
	}
	text, err := json.Marshal(listed)
	if err != nil { // a map of strings always marshals
		return nil
	}
	return new(string(text))
}

// readiness is the Ready condition of a pool.
func readiness(pool *v2beta1.SpiderIPPool, a v2beta1.IPPoolAddresses, invalid error, leases []v2beta1.SpiderIPLease,
	reserved *netipx.IPSet) metav1.Condition {
	no := func(reason, format string, args ...any) metav1.Condition {
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	used := len(usedAddresses(leases))
	switch {
	case !pool.DeletionTimestamp.IsZero():
		return no(reasonTerminating,
			"the pool is being deleted and goes when the last of %d addresses in use, and of %d held ready by "+
				"nodes, is given back",
			used, len(leases)-used)
	case invalid != nil:
		return no(reasonInvalid, "%v", invalid)
	case pool.Spec.Disable != nil && *pool.Spec.Disable:
		return no(reasonDisabled, "spec.disable is set: no new addresses are given out, those in use stay")
	}
	usable := without(a, reserved)
	total, outside, stock := v2beta1.CountAddresses(usable), 0, 0
	free := total
	for i := range leases {
		ip, err := leases[i].Address()
		switch {
		case err != nil:
		case leases[i].Spec.Pod == nil: // as good as free: nodes give it back when the pool runs dry
			stock++
		case usable.Contains(ip):
			free--
		case !a.IPs.Contains(ip):
			outside++
		}
	}
	switch {
	case total == 0:
		return no(reasonEmpty, "the pool has no addresses: spec.ips is empty, or all of it is excluded or reserved")
	case free == 0:
		return no(reasonExhausted, "all %d addresses are in use; add addresses to spec.ips, or delete pods", total)
	}
	message := "addresses can be given out"
	if stock > 0 {
		message += fmt.Sprintf("; held ready by nodes: %d", stock)
	}
	if outside > 0 {
		message += fmt.Sprintf("; in use outside spec.ips, and not given out again: %d", outside)
	}
	return metav1.Condition{Status: metav1.ConditionTrue, Reason: reasonServing, Message: message}
}

// without is what a pool can give out: no reserved address and not the gateway.
func without(a v2beta1.IPPoolAddresses, reserved *netipx.IPSet) *netipx.IPSet {
	var b netipx.IPSetBuilder
	b.AddSet(a.IPs)
	b.RemoveSet(cmp.Or(reserved, &netipx.IPSet{}))
	if a.Gateway.IsValid() {
		b.Remove(a.Gateway)
	}
	set, err := b.IPSet()
	if err != nil { // only for invalid input, and these are parsed sets
		return &netipx.IPSet{}
	}
	return set
}
