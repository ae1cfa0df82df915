// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
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
	"spidernet.io/spiderpool/internal/fence"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/text"
)

// stockCollector takes the stock of nodes that are silent: leases without a pod whose node has let
// its promise lapse. Such a node may have given an address to a pod and been cut off before it
// could tell. The pods that may be in that position are known (ipam.MayHoldUnseen), and while one
// of them exists, the stock stays.
//
// The order of the steps is what makes it safe against a node that comes back: first the lease is
// read, then the heartbeat, then the pods, and the lease is deleted only in the version that was
// read. A node that has renewed its heartbeat writes its stock once more before it hands any of it
// out.
type stockCollector struct {
	Options
	client   client.Client
	live     client.Reader
	recorder events.EventRecorder
	watcher  *fence.Watcher

	mu    sync.Mutex
	clear map[string]time.Time // since when no pod of a silent node may have its stock
	told  map[string]string    // the pods that keep a silent node's stock, as told last
}

// NewStockCollector returns what reconciles nodes by name. The client reads from a cache that finds
// leases by spec.node, live from the API server itself.
func NewStockCollector(c client.Client, live client.Reader, recorder events.EventRecorder,
	o Options) reconcile.Reconciler {
	o.setDefaults()
	return &stockCollector{Options: o, client: c, live: live, recorder: recorder,
		watcher: &fence.Watcher{Valid: o.Heartbeat}, clear: map[string]time.Time{}, told: map[string]string{}}
}

func setupStockCollector(mgr ctrl.Manager, o Options) error {
	c := NewStockCollector(mgr.GetClient(), mgr.GetAPIReader(), mgr.GetEventRecorder("spiderpool-collector"), o)
	node := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, l client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: l.(*v2beta1.SpiderIPLease).Spec.Node}}}
	})
	err := ctrl.NewControllerManagedBy(mgr).Named("stock-collector").
		Watches(&v2beta1.SpiderIPLease{}, node, builder.WithPredicates(becomesStock())).
		Complete(c)
	if err != nil {
		return fmt.Errorf("set up the collector of silent nodes' stock: %w", err)
	}
	return nil
}

// becomesStock passes on leases without a pod; a node that has some is looked at again by itself.
func becomesStock() predicate.Predicate {
	stock := func(o client.Object) bool { return o.(*v2beta1.SpiderIPLease).Spec.Pod == nil }
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return stock(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return stock(e.ObjectNew) && !stock(e.ObjectOld) },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// Reconcile looks at one node.
func (c *stockCollector) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	node := request.Name
	stock, err := c.stockOf(ctx, node)
	if err != nil || len(stock) == 0 {
		if err == nil {
			c.forget(node)
		}
		return reconcile.Result{}, err
	}
	again, err := c.judge(ctx, node)
	if err != nil || again > 0 {
		return reconcile.Result{RequeueAfter: again}, err
	}
	var errs []error
	for i := range stock {
		_, err := freeLease(ctx, c.client, c.recorder, &stock[i],
			fmt.Sprintf("it was stock of node %s, which is silent", node))
		errs = append(errs, err)
	}
	return reconcile.Result{RequeueAfter: time.Second}, errors.Join(errs...) // what changed meanwhile is judged anew
}

func (c *stockCollector) stockOf(ctx context.Context, node string) ([]v2beta1.SpiderIPLease, error) {
	leases, err := leasesBy(ctx, c.client, indexNode, node)
	return slices.DeleteFunc(leases, func(l v2beta1.SpiderIPLease) bool { return l.Spec.Pod != nil }), err
}

// judge returns 0 when the node's stock may be taken, else when to ask again.
func (c *stockCollector) judge(ctx context.Context, node string) (time.Duration, error) {
	heartbeat := &coordinationv1.Lease{}
	gone, err := absent(ctx, c.live, client.ObjectKey{Namespace: c.Namespace, Name: fence.Name(node)}, heartbeat)
	if err != nil {
		return 0, err
	}
	if gone {
		heartbeat = nil
	}
	if again := c.watcher.Silent(node, heartbeat, time.Now()); again > 0 {
		c.note(node, nil, false)
		return again, nil
	}
	var pods corev1.PodList
	if err := c.live.List(ctx, &pods, client.MatchingFields{"spec.nodeName": node}); err != nil {
		return 0, fmt.Errorf("list the pods of node %s: %w", node, err)
	}
	holders := mayHold(pods.Items)
	since := c.note(node, holders, len(holders) == 0)
	if len(holders) > 0 {
		return c.SilentRescan, nil
	}
	return max(time.Until(since.Add(c.GoneGrace)), 0), nil
}

// mayHold names the pods that may have an address that the API server shows as stock.
func mayHold(pods []corev1.Pod) []string {
	return ipam.MayHoldUnseen(slices.DeleteFunc(pods, func(p corev1.Pod) bool { return stopped(&p) }))
}

// note remembers since when nothing keeps the node's stock, and tells of the pods that do.
func (c *stockCollector) note(node string, holders []string, unheld bool) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !unheld {
		delete(c.clear, node)
	} else if c.clear[node].IsZero() {
		c.clear[node] = time.Now()
	}
	slices.Sort(holders)
	if pods := strings.Join(holders, ", "); pods != c.told[node] {
		c.told[node] = pods
		if pods != "" {
			c.tell(node, pods)
		}
	}
	return c.clear[node]
}

func (c *stockCollector) tell(node, pods string) {
	object := &corev1.Node{}
	object.Name, object.UID = node, types.UID(node) // as the kubelet does it, or kubectl describe would not show it
	c.recorder.Eventf(object, nil, corev1.EventTypeWarning, "StockKept", "Collect",
		"the agent of node %s is silent, and one of these pods may have an address of its stock: %s; delete them, "+
			"or the node, and the addresses are freed", node, text.Limit(pods, text.MaxNote/2))
}

func (c *stockCollector) forget(node string) {
	c.watcher.Forget(node)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.clear, node)
	delete(c.told, node)
}
