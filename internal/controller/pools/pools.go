// SPDX-License-Identifier: Apache-2.0

// Package pools owns the cluster's side of addresses: admission of SpiderIPPool
// and SpiderReservedIP, the status and the finalizer of pools, and the
// collector that frees leases nobody can be using. It takes no address itself
// and knows nothing of nodes' insides.
//
// RBAC: spiderippools get, list, watch, update, patch; spiderippools/status update;
// spiderreservedips get, list, watch; RBAC: spideripleases get, list, watch, delete;
// spiderendpoints get, delete; pods, statefulsets (apps), nodes get, list, watch; RBAC: leases
// (coordination.k8s.io) get in the product's namespace; virtualmachines, virtualmachineinstances
// (kubevirt.io) get; RBAC: events (events.k8s.io and core) create, patch.
package pools

import (
	"context"
	"errors"
	"fmt"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Options of the controllers. A zero duration means its default.
type Options struct {
	// Families that the cluster's configuration enables.
	Families v2beta1.Families
	// Namespace of the agents' heartbeats, and how long one is good for by the cluster's configuration.
	Namespace string
	Heartbeat time.Duration
	// StatusDelay gathers the changes of a pool into one write of its status; default 200 ms, and
	// more for a pool with many addresses in use.
	StatusDelay time.Duration
	// GoneGrace is how long a pod must be gone before its address is freed: its
	// node normally frees it first, and a pod deleted by force may still be stopping. Default 30 s.
	GoneGrace time.Duration
	// FinishedGrace is the same for a finished pod, from the end of its last container; default 30 s.
	FinishedGrace time.Duration
	// YoungLease is the age below which a lease is freed only when its pod is gone; default 60 s.
	YoungLease time.Duration
	// Rescan is how often every lease is looked at again; default 10 min.
	Rescan time.Duration
	// SilentRescan is how often the pods of a silent node that keep its stock are looked at again;
	// default 30 s.
	SilentRescan time.Duration
}

func (o *Options) setDefaults() {
	for value, standard := range map[*time.Duration]time.Duration{
		&o.StatusDelay: 200 * time.Millisecond, &o.GoneGrace: 30 * time.Second,
		&o.FinishedGrace: 30 * time.Second, &o.YoungLease: time.Minute, &o.Rescan: 10 * time.Minute,
		&o.SilentRescan: 30 * time.Second,
	} {
		if *value == 0 {
			*value = standard
		}
	}
}

// Names of the fields by which the cache finds leases.
const (
	indexPool  = "spec.pool"
	indexNode  = "spec.node"
	indexUID   = "podUID"
	indexOwner = "owner"
)

// SetupWithManager registers the webhooks and controllers of this package.
func SetupWithManager(mgr ctrl.Manager, o Options) error {
	o.setDefaults()
	return errors.Join(indexLeases(mgr), setupWebhooks(mgr, o), setupStatus(mgr, o), setupCollector(mgr, o),
		setupStockCollector(mgr, o))
}

func indexLeases(mgr ctrl.Manager) error {
	for field, values := range map[string]func(*v2beta1.SpiderIPLease) []string{
		indexPool: func(l *v2beta1.SpiderIPLease) []string { return []string{l.Spec.Pool} },
		indexNode: func(l *v2beta1.SpiderIPLease) []string { return []string{l.Spec.Node} },
		indexUID: func(l *v2beta1.SpiderIPLease) []string {
			if l.Spec.Pod == nil {
				return nil
			}
			return []string{l.Spec.Pod.UID}
		},
		indexOwner: func(l *v2beta1.SpiderIPLease) []string {
			if l.Spec.Pod == nil || l.Spec.Pod.Owner == nil {
				return nil
			}
			return []string{ownerKey(l.Spec.Pod.Owner.Kind, l.Spec.Pod.Namespace, l.Spec.Pod.Owner.Name)}
		},
	} {
		extract := func(o client.Object) []string { return values(o.(*v2beta1.SpiderIPLease)) }
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v2beta1.SpiderIPLease{}, field,
			extract); err != nil {
			return fmt.Errorf("index leases by %s: %w", field, err)
		}
	}
	return nil
}

func ownerKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// leasesBy reads leases from the cache by one of the indexed fields. There may be many, so they are
// not copied: read only.
func leasesBy(ctx context.Context, c client.Reader, field, value string) ([]v2beta1.SpiderIPLease, error) {
	var list v2beta1.SpiderIPLeaseList
	if err := c.List(ctx, &list, client.MatchingFields{field: value}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list leases with %s %s: %w", field, value, err)
	}
	return list.Items, nil
}
