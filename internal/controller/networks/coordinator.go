// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

type coordinatorReconciler struct {
	client client.Client
	// live reads the API server: what is read there is too rare to keep a cache of it.
	live   client.Reader
	resync time.Duration
}

func setupCoordinator(mgr ctrl.Manager, resync time.Duration) error {
	r := &coordinatorReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), resync: resync}
	theOne := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: v2beta1.DefaultCoordinatorName}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("spidercoordinator").
		For(&v2beta1.SpiderCoordinator{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Node{}, theOne, builder.WithPredicates(podCIDRsChanged())).
		Complete(r)
}

func podCIDRsChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*corev1.Node)
			after, ok2 := e.ObjectNew.(*corev1.Node)
			return !ok1 || !ok2 || !slices.Equal(before.Spec.PodCIDRs, after.Spec.PodCIDRs)
		},
	}
}

// Reconcile learns the cluster's networks and writes them into the status.
func (r *coordinatorReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var c v2beta1.SpiderCoordinator
	if err := r.client.Get(ctx, req.NamespacedName, &c); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if c.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	before := c.DeepCopy()
	if c.Name != v2beta1.DefaultCoordinatorName {
		c.Status = v2beta1.CoordinatorStatus{
			Phase:  v2beta1.CoordinatorNotReady,
			Reason: fmt.Sprintf("only the SpiderCoordinator named %q is read", v2beta1.DefaultCoordinatorName),
		}
	} else {
		cidrType := v2beta1.PodCIDRAuto
		if c.Spec.PodCIDRType != nil {
			cidrType = *c.Spec.PodCIDRType
		}
		c.Status = decide(cidrType, gather(ctx, r.live))
	}
	if !equality.Semantic.DeepEqual(before.Status, c.Status) {
		if err := r.client.Status().Patch(ctx, &c, client.MergeFrom(before)); err != nil {
			return ctrl.Result{}, fmt.Errorf("write the status of SpiderCoordinator %s: %w", c.Name,
				client.IgnoreNotFound(err))
		}
	}
	return ctrl.Result{RequeueAfter: r.resync}, nil
}
