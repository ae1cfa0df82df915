// SPDX-License-Identifier: Apache-2.0

// Package operator is the sriov-operator process, and the admission of its
// policies, which the controller process serves: from policies, nodes and what
// the nodes' agents report it writes the spec of each node's
// SriovNetworkNodeState, and tells each policy what becomes of it. On request
// it evicts the pods that a card's change waits for, and it warns of GUIDs that
// two functions bear. Pods that a kubelet refused for want of a device it
// removes when a controller makes others. Of each SriovIBNetwork it makes a
// NetworkAttachmentDefinition.
//
// What a node shall have is decided in package sriov, what is a good policy in
// the API's own package, and what a network's configuration looks like in
// package nad; here are only the reads and writes of the API
// server. It never touches a node.
package operator

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/process"
)

// RunOptions are those of the process.
type RunOptions struct {
	// Config reaches the API server.
	Config *rest.Config
	Log    *slog.Logger
	// Name is that of the leader election lease.
	Name string
	// Namespace is the product's: only objects in it count.
	Namespace string
	// HealthAddress is host:port; MetricsAddress too, empty is no metrics.
	HealthAddress, MetricsAddress string
	// Replicas is how many of this process are meant to run.
	Replicas int
	// ResourcePrefix of the nodes' resources, such as "spidernet.io".
	ResourcePrefix string
	// Drain are the waits of a drain.
	Drain DrainTiming
}

// Run runs the sriov-operator process until ctx ends; then it returns nil.
func Run(ctx context.Context, o RunOptions) error {
	own := cache.ByObject{Namespaces: map[string]cache.Config{o.Namespace: {}}}
	mgr, _, err := process.NewManager(o.Config, process.Options{
		Log: o.Log, Name: o.Name, Namespace: o.Namespace, HealthAddress: o.HealthAddress,
		MetricsAddress: o.MetricsAddress,
		Replicas:       o.Replicas,
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&v1.SriovNetworkNodePolicy{}: own, &v1.SriovNetworkNodeState{}: own, &v1.SriovNetworkPoolConfig{}: own,
			&v1.SriovOperatorConfig{}: own,
			&v1.SriovIBNetwork{}:      own, &corev1.Pod{}: failedPods(),
		}},
	})
	if err != nil {
		return err
	}
	if err := SetupWithManager(mgr, Options{Namespace: o.Namespace, ResourcePrefix: o.ResourcePrefix,
		Drain: o.Drain}); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the sriov-operator: %w", err)
	}
	return nil
}

// Options of the controllers and of the webhooks.
type Options struct {
	// Namespace is the product's: only objects in it count.
	Namespace string
	// ResourcePrefix of the nodes' resources, such as "spidernet.io", for the controllers.
	ResourcePrefix string
	// Drain are the waits of a drain, for the controllers.
	Drain DrainTiming
}

// SetupWithManager adds the controllers of the sriov-operator process.
//
// RBAC, in all: nodes get, list, watch; pods get, list, watch; pods/eviction create;
// events.k8s.io/events create, patch; network-attachment-definitions get, list, watch, create,
// patch, delete. RBAC, in the product's namespace: sriovnetworknodepolicies,
// sriovnetworkpoolconfigs, sriovoperatorconfigs get, list, watch; sriovnetworknodepolicies/status,
// sriovnetworknodestates/status patch; sriovnetworknodestates get, list, watch, create, patch,
// delete; sriovibnetworks get, list, watch, patch; sriovibnetworks/status patch;
// sriovibnetworks/finalizers update; and for leader election leases create, and get, update of the
// one named after the process.
func SetupWithManager(mgr ctrl.Manager, o Options) error {
	if err := setupNodes(mgr, o); err != nil {
		return fmt.Errorf("set up the controller of nodes: %w", err)
	}
	if err := setupPolicies(mgr, o); err != nil {
		return fmt.Errorf("set up the controller of policies: %w", err)
	}
	if err := setupDrains(mgr, o); err != nil {
		return fmt.Errorf("set up the controller of drains: %w", err)
	}
	if err := setupGuids(mgr, o); err != nil {
		return fmt.Errorf("set up the controller of GUIDs: %w", err)
	}
	if err := setupNetworks(mgr, o); err != nil {
		return fmt.Errorf("set up the controller of networks: %w", err)
	}
	if err := setupRefused(mgr, o); err != nil {
		return fmt.Errorf("set up the controller of refused pods: %w", err)
	}
	return nil
}

// inNamespace lets objects of one namespace through.
func inNamespace(namespace string) predicate.Predicate {
	return predicate.NewPredicateFuncs(func(object client.Object) bool { return object.GetNamespace() == namespace })
}
