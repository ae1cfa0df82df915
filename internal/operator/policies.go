// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/text"
)

// policies tells each policy what becomes of it.
type policies struct {
	Options
	client client.Client
	events events.EventRecorder
}

func setupPolicies(mgr ctrl.Manager, o Options) error {
	r := &policies{Options: o, client: mgr.GetClient(), events: mgr.GetEventRecorder("spiderpool-sriov-operator")}
	every := handler.EnqueueRequestsFromMapFunc(r.everyPolicy)
	here := inNamespace(o.Namespace)
	return ctrl.NewControllerManagedBy(mgr).Named("sriov-policies").
		For(&v1.SriovNetworkNodePolicy{}, builder.WithPredicates(here, predicate.GenerationChangedPredicate{})).
		Watches(&v1.SriovNetworkNodeState{}, every, builder.WithPredicates(here)).
		Watches(&corev1.Node{}, every, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Complete(r)
}

func (r *policies) everyPolicy(ctx context.Context, _ client.Object) []reconcile.Request {
	var all v1.SriovNetworkNodePolicyList
	if err := r.client.List(ctx, &all, client.InNamespace(r.Namespace)); err != nil {
		log.FromContext(ctx).Error(err, "cannot list policies")
		return nil
	}
	var out []reconcile.Request
	for i := range all.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
	}
	return out
}

// Reconcile writes one policy's condition.
func (r *policies) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	policy := &v1.SriovNetworkNodePolicy{}
	if err := r.client.Get(ctx, req.NamespacedName, policy); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	known, states, err := readNodes(ctx, r.client, r.Namespace)
	if err != nil {
		return reconcile.Result{}, err
	}
	var all v1.SriovNetworkNodePolicyList
	if err := r.client.List(ctx, &all, client.InNamespace(r.Namespace)); err != nil {
		return reconcile.Result{}, fmt.Errorf("list policies: %w", err)
	}
	before := policy.DeepCopy()
	v := judge(policy, all.Items, known, states)
	status := metav1.ConditionFalse
	if v.ready {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&policy.Status.Conditions, metav1.Condition{
		Type: v1.ConditionReady, Status: status, Reason: v.reason, Message: v.message,
		ObservedGeneration: policy.Generation,
	})
	if equality.Semantic.DeepEqual(before.Status, policy.Status) {
		return reconcile.Result{}, nil
	}
	if err := r.client.Status().Patch(ctx, policy, client.MergeFrom(before)); err != nil {
		return reconcile.Result{}, fmt.Errorf("write the status of policy %s: %w", policy.Name, err)
	}
	r.tell(before, policy, v)
	return reconcile.Result{}, nil
}

// tell records an event when the reason is a new one. Steps on the way are not worth one.
func (r *policies) tell(before, policy *v1.SriovNetworkNodePolicy, v verdict) {
	old := meta.FindStatusCondition(before.Status.Conditions, v1.ConditionReady)
	if v.reason == reasonConfiguring || old != nil && old.Reason == v.reason {
		return
	}
	kind := corev1.EventTypeWarning
	if v.ready {
		kind = corev1.EventTypeNormal
	}
	r.events.Eventf(policy, nil, kind, v.reason, "Observe", "%s", text.Note(v.message))
}

// readNodes gathers what is known of the nodes, and their states by name.
func readNodes(ctx context.Context, reader client.Reader, namespace string) ([]v1.NodeCards,
	map[string]*v1.SriovNetworkNodeState, error) {
	var all corev1.NodeList
	if err := reader.List(ctx, &all); err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	var list v1.SriovNetworkNodeStateList
	if err := reader.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, nil, fmt.Errorf("list SriovNetworkNodeStates: %w", err)
	}
	states := map[string]*v1.SriovNetworkNodeState{}
	for i := range list.Items {
		states[list.Items[i].Name] = &list.Items[i]
	}
	var known []v1.NodeCards
	for i := range all.Items {
		cards := v1.NodeCards{Name: all.Items[i].Name, Labels: all.Items[i].Labels}
		if state := states[cards.Name]; state != nil {
			cards.Interfaces = state.Status.Interfaces
		}
		known = append(known, cards)
	}
	return known, states, nil
}
