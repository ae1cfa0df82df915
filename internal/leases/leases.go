// SPDX-License-Identifier: Apache-2.0

// Package leases owns the taking and giving back of addresses over the API
// server. An address is taken exactly when its SpiderIPLease exists; creating
// that object is what decides between two nodes, and what this process
// remembers of other leases only spares it useless attempts.
//
// The package asks package ipam which pools may serve. It knows nothing of
// CNI, sandboxes' namespaces or the kernel.
//
// RBAC of the process that allocates:
//
// RBAC: spideripleases get, list, watch, create, update, delete; spiderippools, spiderreservedips
// get, list, watch; RBAC: spiderendpoints get, create, update; namespaces, nodes, pods get, list,
// watch.
package leases

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// ErrNotReady means that the leases have not been read from the API server
// yet. What was asked can be asked again later.
var ErrNotReady = errors.New(
	"the address leases have not been read from the API server yet; is it reachable from this node?")

// Informers is the part of a cache.Cache that feeds an Allocator.
type Informers interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// Options are what an Allocator works with. All fields but Log are required.
type Options struct {
	// Client writes, and reads namespaces, nodes and pods from a cache.
	Client client.Client
	// Live reads from the API server itself.
	Live client.Reader
	// Informers of pools, reserved addresses and leases of the whole cluster.
	Informers Informers
	// Node is the name of this node.
	Node     string
	Families v2beta1.Families
	// NetworkNamespace completes names in a pool's multusName that have no namespace.
	NetworkNamespace string
	// ForgetStatefulSets and ForgetVirtualMachines have their pods give up their addresses as others do.
	ForgetStatefulSets, ForgetVirtualMachines bool
	// Book and Promise make the node keep a stock of at most PerPool addresses of each pool that
	// its pods ask for; see Stock. Without them every address is asked of the API server.
	Book    Book
	Promise Promise
	PerPool int
	// Sandboxes returns the container IDs of the pod's sandboxes that this node knows; nil leaves
	// what depends on it undone.
	Sandboxes func(podUID string) []string
	// Attached returns the addresses that pods of this node have by the node's own records; nil
	// when there are none to compare with. A lease that is missing then, because somebody deleted
	// it while this process was not there, is made again.
	Attached func() ([]Attached, error)
	// Lost is told of a pod whose address turned out to be another's, with what to do; nil tells
	// only the log.
	Lost func(pod v2beta1.LeasePod, why string)
	// Random chooses where in a pool to look after other nodes were met; nil is
	// math/rand/v2.Uint64. A simulation gives numbers that its seed decides.
	Random func() uint64
	Log    *slog.Logger
}

// Allocator takes and gives back the addresses of pods on one node.
type Allocator struct {
	Options
	index     *index
	catalogue *catalogue
	endpoints *endpointWriter
	locks     keyedLocks // by pod UID
	doubts    doubts
	writer    *behind // tells the API server of hand-outs, by the lease's name
	keeper    *behind // fills and empties this node's stock, by the pool's name
	demand    demand
	paces     paces
	// sealed are pods whose network-status has been, or may have been, written: what they are given
	// from then on is written to the API server first. The pod itself tells so soon after.
	sealed pods
	// asked are pods for which an address was asked of this process. The runtime does so for a new
	// sandbox, and has ended the one before it: such a pod has no address of which this process
	// knows nothing.
	asked pods
	place uint64 // where in a pool this node begins to look
	// avoided are addresses that others were found to use.
	avoided avoided
	synced  []toolscache.InformerSynced
}

// New returns an Allocator that follows the informers. Start must run for the
// SpiderEndpoint objects to be written.
func New(ctx context.Context, o Options) (*Allocator, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Book == nil || o.Promise == nil {
		o.Book, o.Promise, o.PerPool = noBook{}, noPromise{}, 0
	}
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	a := &Allocator{
		Options: o, index: newIndex(o.Node, o.Random), catalogue: newCatalogue(), endpoints: newEndpointWriter(o),
		writer: newBehind("tell the API server of a hand-out", writeDelay, writeAgain),
		keeper: newBehind("keep the stock of addresses", keepDelay, keepEvery), place: placeOf(o.Node),
	}
	if err := a.recall(); err != nil {
		return nil, err
	}
	for _, follow := range []struct {
		object  client.Object
		handler toolscache.ResourceEventHandler
	}{
		{&v2beta1.SpiderIPPool{}, handlerOf(a.sawPool, a.sawPoolGone)},
		{&v2beta1.SpiderReservedIP{}, handlerOf(a.sawReserved, a.sawReservedGone)},
		{&v2beta1.SpiderIPLease{}, handlerOf(a.sawLease, a.sawLeaseGone)},
	} {
		informer, err := o.Informers.GetInformer(ctx, follow.object, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", follow.object, err)
		}
		registration, err := informer.AddEventHandler(follow.handler)
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", follow.object, err)
		}
		a.synced = append(a.synced, registration.HasSynced)
	}
	return a, nil
}

// placeOf spreads nodes over a pool.
func placeOf(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // a hash takes everything
	return h.Sum64()
}

func (a *Allocator) sawPool(p *v2beta1.SpiderIPPool) {
	a.catalogue.putPool(p)
	a.kickIfKept(p.Name)
}

func (a *Allocator) sawPoolGone(p *v2beta1.SpiderIPPool) {
	a.catalogue.removePool(p)
	a.kickIfKept(p.Name)
}

func (a *Allocator) sawReserved(r *v2beta1.SpiderReservedIP) {
	a.catalogue.putReserved(r)
	a.kickAll()
}

func (a *Allocator) sawReservedGone(r *v2beta1.SpiderReservedIP) {
	a.catalogue.removeReserved(r)
	a.kickAll()
}

func (a *Allocator) sawLease(l *v2beta1.SpiderIPLease) {
	a.index.saw(l)
	a.kickIfKept(l.Spec.Pool)
}

// sawLeaseGone has a lease made again whose address a pod of this node goes on using.
func (a *Allocator) sawLeaseGone(l *v2beta1.SpiderIPLease) {
	if a.index.sawGone(l) {
		a.writer.ask(l.Name)
	}
	a.kickIfKept(l.Spec.Pool)
}

// handlerOf adapts two typed functions to an informer.
func handlerOf[T client.Object](put, remove func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { put(obj.(T)) },
		UpdateFunc: func(_, obj any) { put(obj.(T)) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if typed, ok := obj.(T); ok {
				remove(typed)
			}
		},
	}
}

// Start keeps the stock and tells the API server what is written behind the calls, until the
// context ends. It is a manager.Runnable of every replica, leader or not.
func (a *Allocator) Start(ctx context.Context) error {
	defer a.shutDown()
	defer context.AfterFunc(ctx, a.shutDown)()
	if err := a.waitSynced(ctx); err != nil {
		return nil // the context has ended
	}
	a.missLeases()
	a.repairEndpoints(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { a.endpoints.run(ctx) })
	for range writers {
		parts.Go(func() { a.writer.run(ctx, a.Log, a.writeHandOut) })
	}
	parts.Go(func() { a.runKeeper(ctx) })
	parts.Wait()
	return nil
}

// shutDown ends the queues, and with them what works on them.
func (a *Allocator) shutDown() {
	a.endpoints.queue.ShutDown()
	a.writer.queue.ShutDown()
	a.keeper.queue.ShutDown()
}

// NeedLeaderElection tells the manager to run Start everywhere.
func (a *Allocator) NeedLeaderElection() bool { return false }

func (a *Allocator) hasSynced() bool {
	for _, synced := range a.synced {
		if !synced() {
			return false
		}
	}
	return true
}

func (a *Allocator) waitSynced(ctx context.Context) error {
	if a.hasSynced() || toolscache.WaitForCacheSync(ctx.Done(), a.synced...) {
		return nil
	}
	return ErrNotReady
}

// facts reads what the pure decision needs.
func (a *Allocator) facts(ctx context.Context, r ipam.Request) (ipam.Facts, error) {
	var namespace corev1.Namespace
	if err := a.Client.Get(ctx, client.ObjectKey{Name: r.Pod.Namespace}, &namespace); err != nil {
		return ipam.Facts{}, fmt.Errorf("read namespace %s: %w", r.Pod.Namespace, err)
	}
	var node corev1.Node
	if err := a.Client.Get(ctx, client.ObjectKey{Name: a.Node}, &node); err != nil {
		return ipam.Facts{}, fmt.Errorf("read node %s: %w", a.Node, err)
	}
	return ipam.Facts{
		Pools: a.catalogue.snapshot(), Families: a.Families, NetworkNamespace: a.NetworkNamespace,
		NamespaceLabels: namespace.Labels, NamespaceAnnotations: namespace.Annotations, NodeLabels: node.Labels,
	}, nil
}

// address completes a leased address from its pool.
func address(ip netip.Addr, pool *ipam.Pool) ipam.Address {
	return ipam.Address{IP: netip.PrefixFrom(ip, pool.Subnet.Bits()), Gateway: pool.Gateway, Pool: pool.Name}
}
