// SPDX-License-Identifier: Apache-2.0

// Package networks owns what the controller process does for networks:
// admission of SpiderMultusConfig and SpiderCoordinator, the
// NetworkAttachmentDefinition of every SpiderMultusConfig, and what the
// cluster tells of its pod and service networks.
//
// What a network is, and which of its settings are right, is decided in
// api/spiderpool/v2beta1 and internal/nad; here are only the reads and writes
// of the API server. It must not know of nodes' kernels, pods or addresses.
package networks

import (
	"fmt"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
)

// fieldManager owns the fields of NetworkAttachmentDefinitions that we apply; all others stay as they are.
const fieldManager = "spiderpool-controller"

// Options of the controllers.
type Options struct {
	// Resync is how often the cluster's networks are learnt anew, beside every change of a node; a
	// minute when zero.
	Resync time.Duration
}

// SetupWithManager adds the webhooks and the controllers of this package.
//
// RBAC: spiderpool.spidernet.io spidermultusconfigs, spidercoordinators: get, list, watch
// RBAC: spiderpool.spidernet.io spidermultusconfigs/status, spidercoordinators/status: get, patch, update
// RBAC: spiderpool.spidernet.io spidermultusconfigs/finalizers: update (to block owner deletion)
// RBAC: k8s.cni.cncf.io network-attachment-definitions: get, list, watch, create, patch
// RBAC: events.k8s.io events: create, patch
// RBAC: "" nodes: get, list, watch
// RBAC: "" configmaps in kube-system: get, names kubeadm-config and cilium-config
// RBAC: "" pods in kube-system: list
// RBAC: networking.k8s.io servicecidrs: list
// RBAC: crd.projectcalico.org ippools, cilium.io ciliumnodes: list (whether they exist or not)
func SetupWithManager(mgr ctrl.Manager, o Options) error {
	if o.Resync == 0 {
		o.Resync = time.Minute
	}
	if err := setupWebhooks(mgr); err != nil {
		return fmt.Errorf("set up the network webhooks: %w", err)
	}
	if err := setupMultusConfig(mgr); err != nil {
		return fmt.Errorf("set up the SpiderMultusConfig controller: %w", err)
	}
	if err := setupCoordinator(mgr, o.Resync); err != nil {
		return fmt.Errorf("set up the SpiderCoordinator controller: %w", err)
	}
	return nil
}
