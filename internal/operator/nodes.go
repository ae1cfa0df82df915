// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	"spidernet.io/spiderpool/internal/sriov"
)

// nodes keeps one SriovNetworkNodeState for each node whose cards are managed.
type nodes struct {
	Options
	client client.Client
	events events.EventRecorder
}

func setupNodes(mgr ctrl.Manager, o Options) error {
	r := &nodes{Options: o, client: mgr.GetClient(), events: mgr.GetEventRecorder("spiderpool-sriov-operator")}
	every := handler.EnqueueRequestsFromMapFunc(r.everyNode)
	sameName := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, object client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: object.GetName()}}}
	})
	here := inNamespace(o.Namespace)
	spec := builder.WithPredicates(here, predicate.GenerationChangedPredicate{})
	return ctrl.NewControllerManagedBy(mgr).Named("sriov-nodes").
		For(&corev1.Node{}, builder.WithPredicates(predicate.LabelChangedPredicate{})). // not at each heartbeat
		Watches(&v1.SriovNetworkNodePolicy{}, every, spec).
		Watches(&v1.SriovNetworkPoolConfig{}, every, spec).
		Watches(&v1.SriovOperatorConfig{}, every, spec).
		Watches(&v1.SriovNetworkNodeState{}, sameName, builder.WithPredicates(here)).
		Complete(r)
}

func (r *nodes) everyNode(ctx context.Context, _ client.Object) []reconcile.Request {
	var all corev1.NodeList
	if err := r.client.List(ctx, &all); err != nil {
		log.FromContext(ctx).Error(err, "cannot list nodes")
		return nil
	}
	var out []reconcile.Request
	for i := range all.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Name: all.Items[i].Name}})
	}
	return out
}

// Reconcile writes one node's spec, or removes the object of a node that is gone or not managed.
func (r *nodes) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	managed, labels, err := r.managed(ctx, req.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	state := &v1.SriovNetworkNodeState{}
	err = r.client.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: req.Name}, state)
	absent := apierrors.IsNotFound(err)
	switch {
	case err != nil && !absent:
		return reconcile.Result{}, fmt.Errorf("read SriovNetworkNodeState %s: %w", req.Name, err)
	case !managed && absent:
		return reconcile.Result{}, nil
	case !managed:
		if err := r.client.Delete(ctx, state); client.IgnoreNotFound(err) != nil {
			return reconcile.Result{},
				fmt.Errorf("delete SriovNetworkNodeState %s of a node that is gone or not selected: %w", req.Name, err)
		}
		return reconcile.Result{}, nil
	}
	spec, err := r.desired(ctx, labels, state)
	if err != nil {
		return reconcile.Result{}, err
	}
	if absent {
		return reconcile.Result{}, r.create(ctx, req.Name, spec)
	}
	return reconcile.Result{}, r.update(ctx, state, spec)
}

// managed tells whether a node's cards are managed, and the node's labels.
func (r *nodes) managed(ctx context.Context, name string) (bool, map[string]string, error) {
	node := &corev1.Node{}
	if err := r.client.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil, nil
		}
		return false, nil, fmt.Errorf("read node %s: %w", name, err)
	}
	config, err := readConfig(ctx, r.client, r.Namespace)
	if err != nil {
		return false, nil, err
	}
	if node.Labels[corev1.LabelOSStable] != "linux" {
		return false, nil, nil
	}
	for k, v := range config.Spec.ConfigDaemonNodeSelector {
		if got, ok := node.Labels[k]; !ok || got != v {
			return false, nil, nil
		}
	}
	return true, node.Labels, nil
}

// readConfig returns the operator's configuration, empty when there is none.
func readConfig(ctx context.Context, reader client.Reader, namespace string) (*v1.SriovOperatorConfig, error) {
	config := &v1.SriovOperatorConfig{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: v1.DefaultOperatorConfigName}, config)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read SriovOperatorConfig %s: %w", v1.DefaultOperatorConfigName, err)
	}
	return config, nil
}

func readPoolConfigs(ctx context.Context, reader client.Reader, namespace string) ([]v1.SriovNetworkPoolConfig, error) {
	var configs v1.SriovNetworkPoolConfigList
	if err := reader.List(ctx, &configs, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list pool configurations: %w", err)
	}
	return configs.Items, nil
}

func (r *nodes) desired(ctx context.Context, labels map[string]string,
	state *v1.SriovNetworkNodeState) (v1.SriovNetworkNodeStateSpec, error) {
	var policies v1.SriovNetworkNodePolicyList
	if err := r.client.List(ctx, &policies, client.InNamespace(r.Namespace)); err != nil {
		return v1.SriovNetworkNodeStateSpec{}, fmt.Errorf("list policies: %w", err)
	}
	configs, err := readPoolConfigs(ctx, r.client, r.Namespace)
	if err != nil {
		return v1.SriovNetworkNodeStateSpec{}, err
	}
	spec := sriov.Desired(policies.Items, labels, state.Status.Interfaces)
	mode, overruled := sriov.RdmaMode(configs, labels)
	spec.System.RdmaMode = mode
	if len(overruled) > 0 && state.UID != "" && state.Spec.System.RdmaMode != mode {
		r.events.Eventf(state, nil, corev1.EventTypeWarning, "RdmaModeConflict", "Decide",
			"SriovNetworkPoolConfigs want different RDMA modes: %s is taken, that of %s is not; the first in order "+
				"of name counts", mode, strings.Join(overruled, ", "))
	}
	return spec, nil
}

func (r *nodes) create(ctx context.Context, name string, spec v1.SriovNetworkNodeStateSpec) error {
	state := &v1.SriovNetworkNodeState{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: name,
			Annotations: map[string]string{v1.AnnotationDesiredState: v1.StateIdle,
				v1.AnnotationCurrentState: v1.StateIdle}},
		Spec: spec,
	}
	if err := r.client.Create(ctx, state); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create SriovNetworkNodeState %s: %w", name, err)
	}
	return nil
}

func (r *nodes) update(ctx context.Context, state *v1.SriovNetworkNodeState, spec v1.SriovNetworkNodeStateSpec) error {
	if equality.Semantic.DeepEqual(state.Spec, spec) {
		return nil
	}
	before := state.DeepCopy()
	state.Spec = spec
	if err := r.client.Patch(ctx, state, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("write the spec of SriovNetworkNodeState %s: %w", state.Name, err)
	}
	log.FromContext(ctx).Info("wrote what the node shall have", "node", state.Name, "interfaces", len(spec.Interfaces))
	return nil
}
