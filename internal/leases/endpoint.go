// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// endpointDelay gathers the interfaces of one pod into one write, and lets its ADD end.
const endpointDelay = time.Second

// endpointTries bounds the writing of one endpoint: it only shows what the leases say.
const endpointTries = 12

// endpointWriter writes SpiderEndpoint objects behind the allocations. They
// are for people to read; nothing decides by them.
type endpointWriter struct {
	client client.Client
	live   client.Reader
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu     sync.Mutex
	wanted map[types.NamespacedName]wantedEndpoint
}

// wantedEndpoint is what is still to be written about a pod.
type wantedEndpoint struct {
	pod     ipam.Pod
	details []v2beta1.IPAllocationDetail // by interface name
}

func newEndpointWriter(o Options) *endpointWriter {
	return &endpointWriter{
		client: o.Client, live: o.Live, log: o.Log, wanted: map[types.NamespacedName]wantedEndpoint{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](endpointDelay, 30*time.Second)),
	}
}

// set notes the addresses of one interface and returns at once.
func (w *endpointWriter) set(r ipam.Request, clean bool, a ipam.Allocation) {
	key := endpointKey(r.Pod)
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted := w.wanted[key]
	if wanted.pod.UID != r.Pod.UID {
		wanted = wantedEndpoint{}
	}
	wanted.pod = r.Pod
	wanted.details = mergeDetails(wanted.details, []v2beta1.IPAllocationDetail{detail(r.Interface, clean, a)})
	w.wanted[key] = wanted
	w.queue.AddAfter(key, endpointDelay)
}

// endpointKey names the endpoint of a pod: a virtual machine's has the machine's name, whatever its
// pod is called.
func endpointKey(p ipam.Pod) types.NamespacedName {
	if p.Owner != nil && p.Owner.Kind == v2beta1.OwnerVirtualMachineInstance {
		return types.NamespacedName{Namespace: p.Namespace, Name: p.Owner.Name}
	}
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

// run writes until the queue is shut down.
func (w *endpointWriter) run(ctx context.Context) {
	for {
		key, shutdown := w.queue.Get()
		if shutdown {
			return
		}
		w.write(ctx, key)
		w.queue.Done(key)
	}
}

// write brings one object up to date, and puts it back into the queue when that fails.
func (w *endpointWriter) write(ctx context.Context, key types.NamespacedName) {
	w.mu.Lock()
	wanted, ok := w.wanted[key]
	delete(w.wanted, key)
	w.mu.Unlock()
	if !ok {
		w.queue.Forget(key)
		return
	}
	err := w.apply(ctx, key, wanted)
	tries := w.queue.NumRequeues(key)
	if err == nil || ctx.Err() != nil || tries >= endpointTries {
		w.queue.Forget(key)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("write the SpiderEndpoint: given up", "pod", key.String(), "tries", tries, "error", err)
		}
		return
	}
	w.putBack(key, wanted)
	w.queue.AddRateLimited(key)
}

// putBack keeps what was not written, unless something newer is wanted by now.
func (w *endpointWriter) putBack(key types.NamespacedName, failed wantedEndpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	newer, ok := w.wanted[key]
	if ok && newer.pod.UID != failed.pod.UID {
		return
	}
	if ok {
		failed.details = mergeDetails(failed.details, newer.details)
	}
	w.wanted[key] = failed
}

// namespaceGoes tells whether a create failed because the namespace is gone or being deleted.
func namespaceGoes(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err)
}

// apply creates the object, as most pods need, and else updates what is there.
func (w *endpointWriter) apply(ctx context.Context, key types.NamespacedName, wanted wantedEndpoint) error {
	err := w.client.Create(ctx, endpoint(wanted, nil))
	switch {
	case apierrors.IsAlreadyExists(err):
		return w.update(ctx, key, wanted)
	case err != nil && !namespaceGoes(err):
		return fmt.Errorf("create SpiderEndpoint %s: %w", key, err)
	}
	return nil
}

func (w *endpointWriter) update(ctx context.Context, key types.NamespacedName, wanted wantedEndpoint) error {
	have := &v2beta1.SpiderEndpoint{}
	if err := w.live.Get(ctx, key, have); err != nil {
		return fmt.Errorf("read SpiderEndpoint %s: %w", key, err)
	}
	want := endpoint(wanted, have)
	if equality.Semantic.DeepEqual(want.Status, have.Status) && equality.Semantic.DeepEqual(want.OwnerReferences,
		have.OwnerReferences) {
		return nil
	}
	if err := w.client.Update(ctx, want); err != nil {
		return fmt.Errorf("update SpiderEndpoint %s: %w", key, err)
	}
	return nil
}

// endpoint is the object to be written over what there is. Interfaces that are
// there already stay when they are of the same pod.
func endpoint(wanted wantedEndpoint, have *v2beta1.SpiderEndpoint) *v2beta1.SpiderEndpoint {
	key := endpointKey(wanted.pod)
	e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	details := wanted.details
	if have != nil {
		e = have.DeepCopy()
		if have.Status.Current.UID == wanted.pod.UID {
			details = mergeDetails(have.Status.Current.IPs, details)
		}
	}
	e.OwnerReferences = nil
	if wanted.pod.Owner == nil { // an owner's addresses outlive the pod, and the collector deletes their endpoint
		e.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "v1", Kind: "Pod", Name: wanted.pod.Name, UID: types.UID(wanted.pod.UID),
		}}
	}
	e.Status = v2beta1.WorkloadEndpointStatus{
		Current:             v2beta1.PodIPAllocation{UID: wanted.pod.UID, Node: wanted.pod.Node, IPs: details},
		OwnerControllerType: wanted.pod.Controller.Kind,
		OwnerControllerName: wanted.pod.Controller.Name,
	}
	return e
}

// mergeDetails replaces entries of the same interface and sorts by name.
func mergeDetails(have, news []v2beta1.IPAllocationDetail) []v2beta1.IPAllocationDetail {
	merged := slices.Clone(news)
	for _, h := range have {
		if !slices.ContainsFunc(news, func(n v2beta1.IPAllocationDetail) bool { return n.NIC == h.NIC }) {
			merged = append(merged, h)
		}
	}
	slices.SortFunc(merged, func(a, b v2beta1.IPAllocationDetail) int { return strings.Compare(a.NIC, b.NIC) })
	return merged
}

// detail writes an allocation as the entry of its interface.
func detail(iface string, clean bool, a ipam.Allocation) v2beta1.IPAllocationDetail {
	d := v2beta1.IPAllocationDetail{NIC: iface, Vlan: new(int64(0)), CleanGateway: new(clean)}
	for _, address := range a.Addresses {
		ip, pool := new(address.IP.String()), new(address.Pool)
		var gateway *string
		if address.Gateway.IsValid() {
			gateway = new(address.Gateway.String())
		}
		if address.IP.Addr().Is4() {
			d.IPv4, d.IPv4Pool, d.IPv4Gateway = ip, pool, gateway
		} else {
			d.IPv6, d.IPv6Pool, d.IPv6Gateway = ip, pool, gateway
		}
	}
	for _, r := range a.Routes {
		if r.Dst.Bits() > 0 { // the default route is the gateway
			d.Routes = append(d.Routes, v2beta1.Route{Dst: r.Dst.String(), Gw: r.Gateway.String()})
		}
	}
	return d
}

// repairEndpoints writes what a previous process may have left unwritten: the
// interfaces of this node's pods whose leases exist. It runs once.
func (a *Allocator) repairEndpoints(ctx context.Context) {
	type podInterface struct{ uid, iface string }
	pools := a.catalogue.snapshot()
	addresses := map[podInterface][]ipam.Address{}
	users := map[podInterface]*v2beta1.LeasePod{}
	for _, h := range a.index.onNode() {
		if h.lease == nil {
			continue
		}
		ip, err := h.lease.Address()
		pool := pools[h.pool]
		if err != nil || pool == nil || !pool.Subnet.IsValid() {
			continue
		}
		key := podInterface{h.pod.UID, h.pod.Interface}
		users[key] = h.pod
		addresses[key] = append(addresses[key], address(ip, pool))
	}
	inOrder := func(a, b podInterface) int { return cmp.Or(cmp.Compare(a.uid, b.uid), cmp.Compare(a.iface, b.iface)) }
	for _, key := range slices.SortedFunc(maps.Keys(users), inOrder) {
		if r, ok := a.requestOf(ctx, users[key]); ok {
			a.endpoints.repair(ctx, r, ipam.Choice{}.Build(addresses[key], pools))
		}
	}
}

// requestOf reads the pod that uses an address; false when it is another by now.
func (a *Allocator) requestOf(ctx context.Context, holder *v2beta1.LeasePod) (ipam.Request, bool) {
	var pod corev1.Pod
	err := a.Client.Get(ctx, client.ObjectKey{Namespace: holder.Namespace, Name: holder.Name}, &pod)
	if err != nil || string(pod.UID) != holder.UID {
		return ipam.Request{}, false
	}
	return ipam.Request{Pod: ipam.PodFrom(&pod), Interface: holder.Interface, Sandbox: holder.Sandbox}, true
}

// repair notes the addresses unless the endpoint shows them already.
func (w *endpointWriter) repair(ctx context.Context, r ipam.Request, a ipam.Allocation) {
	have := &v2beta1.SpiderEndpoint{}
	err := w.live.Get(ctx, endpointKey(r.Pod), have)
	shown := err == nil && have.Status.Current.UID == r.Pod.UID &&
		slices.ContainsFunc(have.Status.Current.IPs,
			func(d v2beta1.IPAllocationDetail) bool { return shows(d, r.Interface, a) })
	if !shown {
		w.set(r, false, a)
	}
}

// shows tells whether the entry has every address of the allocation.
func shows(d v2beta1.IPAllocationDetail, iface string, a ipam.Allocation) bool {
	return d.NIC == iface && !slices.ContainsFunc(a.Addresses, func(address ipam.Address) bool {
		text := address.IP.String()
		return (d.IPv4 == nil || *d.IPv4 != text) && (d.IPv6 == nil || *d.IPv6 != text)
	})
}
