// SPDX-License-Identifier: Apache-2.0

// Package nodestate keeps this node's virtual functions as its
// SriovNetworkNodeState says: it observes the node, has package sriov decide,
// takes one small step after the other, observes again, and publishes what is
// ready. What it sees and does is in the object's status.
//
// It owns the order of steps and what is told about them. What has to be done
// is decided in package sriov, how a step is taken is package host's, and who
// advertises the result is not its business.
package nodestate

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/sriov"
)

// Kernel is what the package asks of the node.
type Kernel interface {
	PFs() ([]host.PF, error)
	SetNumVFs(pf string, n int) error
	SetVFGUID(pf string, index int, guid ib.GUID) error
	SetVFState(pf string, index int, state host.VFState) error
	BindVF(pci string) error
	UnbindVF(pci string) error
	LinkByPCI(ns host.NS, pci string) (host.Link, error)
	SetLinkUp(ns host.NS, index int) error
	SetLinkMTU(ns host.NS, index int, mtu int) error
	VerbsNumbers() ([]int, error)
	RDMAMode() (host.RDMAMode, error)
	SetRDMAMode(m host.RDMAMode) error
	// LinkChanges tells when netdevs of cards come, go, or change their carrier, until the context ends.
	LinkChanges(ctx context.Context) (<-chan struct{}, error)
}

// Ledger keeps identities and knows which pods have which VFs.
type Ledger interface {
	VFs() ([]ledger.VF, error)
	PutVF(ledger.VF) error
	DevicesInUse() map[string]ledger.Pod
	// Verbs returns the verbs device ("uverbs3") and the management device that a container was
	// given last with a VF; "" when none is known.
	Verbs(pci string) (verbs, umad string, err error)
}

// Front advertises VFs.
type Front interface {
	Publish([]sriov.Pool)
	// RecentlyGiven lists VFs, by PCI address, that were given away too short a time ago for
	// Allocated to know. Once Publish has returned, a VF that it left out is not given away any
	// more without being listed here.
	RecentlyGiven() map[string]string
}

// Options of the reconciler. All but Root, Allocated and Interval are needed.
type Options struct {
	// Namespace and Node name the SriovNetworkNodeState.
	Namespace, Node string
	// Root is where the node's own root directory is seen: the administrator's choice of GUIDs is
	// below its /etc.
	Root   string
	Kernel Kernel
	Ledger Ledger
	Front  Front
	// Allocated lists the VFs, by PCI address, that pods have been promised, with "namespace/name"
	// of the pod: from a pod's admission on, before anything is attached. While it fails, no VF is
	// taken from under anybody. Nil: nothing is promised.
	Allocated func(context.Context) (map[string]string, error)
	// Busy tells whether pods are being attached or detached, or were a moment ago: they come in
	// waves. A look reads every function of every card and would take from their time: it waits for
	// the end, though not for long. Nil: never.
	Busy func() bool
	// Interval is the time between looks at the node when nothing calls for one: 30 seconds.
	Interval time.Duration
}

// triggerDelay gathers the attachments and detachments of pods that come together.
const triggerDelay = 200 * time.Millisecond

// linkPause is the least time between two looks that link changes call for: a look reads every
// function of every card.
const linkPause = time.Second

// Bounds of the wait for pods that are being attached.
const (
	busyPause    = 300 * time.Millisecond
	busyPatience = 5 * time.Second
)

// SetupWithManager adds the reconciler of this node's object. The function that it returns asks for
// a look at the node soon; call it when a pod has got or given back a VF. It never blocks.
//
// RBAC, in the product's namespace: sriovnetworknodestates get, list, watch (the cache may be
// restricted to the own object); sriovnetworknodestates/status patch. In all: events.k8s.io/events
// create, patch.
func SetupWithManager(mgr ctrl.Manager, o Options) (trigger func(), err error) {
	if o.Interval == 0 {
		o.Interval = 30 * time.Second
	}
	r := &reconciler{Options: o, client: mgr.GetClient(), events: mgr.GetEventRecorder("spiderpool-agent")}
	key := reconcile.Request{NamespacedName: client.ObjectKey{Namespace: o.Namespace, Name: o.Node}}
	wakes := make(chan event.GenericEvent, 1)
	enqueue := handler.Funcs{GenericFunc: func(_ context.Context, _ event.GenericEvent,
		q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		q.AddAfter(key, triggerDelay)
	}}
	own := predicate.NewPredicateFuncs(func(object client.Object) bool {
		return object.GetNamespace() == o.Namespace && object.GetName() == o.Node
	})
	err = ctrl.NewControllerManagedBy(mgr).Named("nodestate").
		For(&v1.SriovNetworkNodeState{},
			builder.WithPredicates(own, predicate.Or(predicate.GenerationChangedPredicate{}, drainChanged))).
		WatchesRawSource(source.Channel(wakes, enqueue)).
		WatchesRawSource(source.Func(func(ctx context.Context,
			q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			go r.followLinks(ctx, linkPause, func() { q.AddAfter(key, triggerDelay) })
			return nil
		})).
		WithOptions(controller.Options{NeedLeaderElection: new(false)}).
		Complete(r)
	if err != nil {
		return nil, fmt.Errorf("set up the reconciler of this node's virtual functions: %w", err)
	}
	return func() {
		select {
		case wakes <- event.GenericEvent{Object: &v1.SriovNetworkNodeState{}}:
		default: // one is waiting already
		}
	}, nil
}

// drainChanged lets the operator's word through that the node is being drained, or not any more.
var drainChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetAnnotations()[v1.AnnotationCurrentState] !=
		e.ObjectNew.GetAnnotations()[v1.AnnotationCurrentState]
}}

// reconciler keeps one object. controller-runtime runs it in one goroutine.
type reconciler struct {
	Options
	client client.Client
	events events.EventRecorder

	triedMode string        // the RDMA mode that was last tried to be set
	wait      time.Duration // the last one of next that was shorter than Interval
	ports     string        // the cards' ports at the last look
	busySince time.Time     // when a look began to wait for pods; zero when none does
}

// followLinks asks for a look whenever the netdevs of cards change: the one of an InfiniBand card
// loses its carrier with the port. What changes without them, as the port of a VF alone does, is
// seen by the look that comes by itself.
func (r *reconciler) followLinks(ctx context.Context, pause time.Duration, look func()) {
	changes, err := r.Kernel.LinkChanges(ctx)
	if err != nil {
		log.FromContext(ctx).Error(err, "ports that go down will be seen late", "after", r.Interval)
		return
	}
	for range changes {
		look()
		select {
		case <-ctx.Done():
		case <-time.After(pause): // what comes meanwhile is one signal
		}
	}
}

// Reconcile makes the node what the object says, as far as can be done now.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if r.waits(time.Now()) {
		return reconcile.Result{RequeueAfter: busyPause}, nil
	}
	state := &v1.SriovNetworkNodeState{}
	if err := r.client.Get(ctx, req.NamespacedName, state); err != nil {
		// Without an object nothing is wanted and nothing unwanted: VFs and what is advertised stay
		// as they are.
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	before := state.DeepCopy()
	out := r.converge(ctx, state)
	if out.node != nil {
		r.Front.Publish(sriov.Pools(&state.Spec, *out.node))
	}
	err := r.report(ctx, before, state, out)
	if apierrors.IsConflict(err) { // the object is a newer one by now
		return reconcile.Result{RequeueAfter: staleWait}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: r.next(out)}, nil
}

// waits tells whether a look that is due had better wait.
func (r *reconciler) waits(now time.Time) bool {
	if r.Busy == nil || !r.Busy() || !r.busySince.IsZero() && now.Sub(r.busySince) >= busyPatience {
		r.busySince = time.Time{}
		return false
	}
	if r.busySince.IsZero() {
		r.busySince = now
	}
	return true
}

// staleWait is the time for the cache to learn of the write that made ours refused.
const staleWait = 100 * time.Millisecond

// firstWait is the wait after a step has failed or while a port is on its way to ACTIVE; it doubles
// up to Interval, and begins anew when a card's port changes: its VFs' ports follow a moment later.
const firstWait = time.Second

// next is the time until the next look.
func (r *reconciler) next(out outcome) time.Duration {
	if !out.restless() && !out.failed() {
		r.wait = 0
		return r.Interval
	}
	if ports := out.ports(); ports != r.ports {
		r.ports, r.wait = ports, 0
	}
	r.wait = min(max(2*r.wait, firstWait), r.Interval)
	return r.wait
}
