// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

const (
	// catchUp is how long whoever met somebody else's address waits for the watch to show it.
	catchUp = 500 * time.Millisecond
	// nearTries is how many addresses of the node's own part of a pool are tried before any of the pool.
	nearTries = 3
	// conflictTries bounds the re-reading of a lease that somebody else keeps changing.
	conflictTries = 5
	// doubtAfter is how long the watch may lag before an entry it never showed is looked up.
	doubtAfter = 2 * time.Second
	// doubtBatch bounds those look-ups for one allocation.
	doubtBatch = 16
	// undoTimeout bounds the giving back of a half-made allocation.
	undoTimeout = 5 * time.Second
	// returnWait is how long a pod waits for the stock of other nodes when a pool is full.
	returnWait = 5 * time.Second
	lookAround = 250 * time.Millisecond
)

// Allocate returns the addresses of a pod's interface, and takes them if it
// has none. Asked again for the same pod UID and interface it returns the same
// addresses, also to a new sandbox, which from then on holds them. Either
// every family gets an address or none does. A *ipam.Refusal lists every pool
// with the reason why it does not serve; other errors may pass by themselves.
func (a *Allocator) Allocate(ctx context.Context, r ipam.Request) (ipam.Allocation, error) {
	if err := a.waitSynced(ctx); err != nil {
		return ipam.Allocation{}, err
	}
	r.Pod.Node = a.Node
	r.Pod.Owner = a.stickyOwner(r.Pod.Owner)
	unlock, err := a.locks.lock(ctx, r.Pod.UID)
	if err != nil {
		return ipam.Allocation{}, err
	}
	defer unlock()
	a.asked.note(r.Pod.UID)
	if err := a.settleDoubts(ctx, r.Pod.UID); err != nil {
		return ipam.Allocation{}, err
	}
	facts, err := a.facts(ctx, r)
	if err != nil {
		return ipam.Allocation{}, err
	}
	choice, chooseErr := ipam.Choose(r, facts)
	have, stale, err := a.reclaim(ctx, r, choice)
	if err != nil {
		return ipam.Allocation{}, err
	}
	if chooseErr != nil && len(have) == 0 {
		return ipam.Allocation{}, chooseErr
	}
	taken, err := a.takeMissing(ctx, r, choice.Families, have)
	if err != nil {
		return ipam.Allocation{}, err
	}
	if err := ctx.Err(); err != nil {
		return ipam.Allocation{}, fmt.Errorf("the runtime gave up while addresses were being taken: %w", err)
	}
	a.giveBackStale(ctx, r, stale)
	allocation := choice.Build(slices.Concat(have, taken), facts.Pools)
	a.endpoints.set(r, choice.CleanGateway, allocation)
	return allocation, nil
}

// takeMissing takes an address of every family that has none. No address is
// taken unless every family has a pool, and none is kept when one fails.
func (a *Allocator) takeMissing(ctx context.Context, r ipam.Request, families []ipam.Family,
	have []ipam.Address) ([]ipam.Address, error) {
	missing := slices.DeleteFunc(slices.Clone(families), func(f ipam.Family) bool {
		return slices.ContainsFunc(have, func(h ipam.Address) bool { return ipam.VersionOf(h.IP.Addr()) == f.Version })
	})
	if err := ipam.Refuse(missing); err != nil {
		return nil, err
	}
	var taken []*held
	var addresses []ipam.Address
	for _, family := range missing {
		got, pool, err := a.takeFamily(ctx, r, family)
		if err != nil {
			return nil, errors.Join(err, a.undo(ctx, taken))
		}
		ip, err := got.lease.Address()
		if err != nil {
			return nil, errors.Join(err, a.undo(ctx, append(taken, got)))
		}
		taken, addresses = append(taken, got), append(addresses, address(ip, pool))
	}
	return addresses, nil
}

// takeFamily tries the pools one after another. When all are full it waits a moment for the stock
// of other nodes, which give it back as they see the same.
func (a *Allocator) takeFamily(ctx context.Context, r ipam.Request, f ipam.Family) (*held, *ipam.Pool, error) {
	deadline := time.Now().Add(returnWait)
	for {
		hope, freed := a.hope(f.Pools)
		avoid := a.avoided.list()
		for _, pool := range f.Pools {
			got, err := a.takeFrom(ctx, r, pool.Without(avoid))
			if err != nil || got != nil {
				return got, pool, err
			}
		}
		if !hope || !waitForChange(ctx, freed, deadline, time.Duration(a.Random()%uint64(lookAround/8))) {
			return nil, nil, a.exhausted(f)
		}
	}
}

// hope tells whether addresses of the pools may come free soon, and returns what tells of the next
// one that does.
func (a *Allocator) hope(pools []*ipam.Pool) (bool, <-chan struct{}) {
	soon, freed := false, (<-chan struct{})(nil)
	for _, pool := range pools {
		var here bool
		if pool.Wanted.IsValid() { // nobody gives stock back for one certain address
			here, freed = a.index.changing(v2beta1.LeaseName(pool.Name, pool.Wanted))
		} else {
			here, freed = a.index.unsettled(pool.Name)
		}
		soon = soon || here
	}
	return soon, freed
}

// waitForChange waits for the event, but looks around now and then, because not all that helps is
// an event. Pods that one event woke look again at moments apart. It returns false when the time is
// over.
func waitForChange(ctx context.Context, event <-chan struct{}, deadline time.Time, apart time.Duration) bool {
	left := time.Until(deadline)
	if left <= 0 {
		return false
	}
	timer := time.NewTimer(min(left, lookAround+apart))
	defer timer.Stop()
	select {
	case <-event:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// takeFrom takes an address of the pool, from this node's stock or else by creating a lease, and
// returns nil when there is none. The create decides; whoever loses takes the next address.
func (a *Allocator) takeFrom(ctx context.Context, r ipam.Request, pool *ipam.Pool) (*held, error) {
	if got, err := a.takeStock(ctx, r, pool); got != nil || err != nil {
		return got, err
	}
	if err := a.paces.enter(ctx, pool.Name); err != nil {
		return nil, err
	}
	defer a.kick(pool.Name) // the stock was left alone meanwhile
	defer a.paces.leave(pool.Name)
	for try := 0; ; try++ {
		if got, err := a.takeStock(ctx, r, pool); got != nil || err != nil {
			return got, err
		}
		ip, ok := a.index.reserve(pool, a.part(pool, try))
		if !ok {
			freed, err := a.lookUpDoubtful(ctx, pool.Name)
			if err != nil || !freed {
				return nil, err
			}
			continue
		}
		got, err := a.createFor(ctx, r, pool, ip)
		if got != nil || err != nil {
			return got, err
		}
	}
}

// createFor creates a lease for the pod at an address that the index has reserved; nil when
// somebody else has it.
func (a *Allocator) createFor(ctx context.Context, r ipam.Request, pool *ipam.Pool, ip netip.Addr) (*held, error) {
	lease := a.newLease(pool.Name, ip, holder(r))
	err := a.create(ctx, lease, 0)
	a.paces.tell(pool.Name, apierrors.IsAlreadyExists(err))
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, a.letShow(ctx, lease.Name)
	case err != nil:
		return nil, fmt.Errorf("take address %s of pool %s: %w", ip, pool.Name, err)
	}
	return &held{name: lease.Name, lease: lease, pod: lease.Spec.Pod, pool: pool.Name}, nil
}

// letShow waits until the watch shows a lease that a create has met, and with it all that was made before.
func (a *Allocator) letShow(ctx context.Context, name string) error {
	timer := time.NewTimer(catchUp)
	defer timer.Stop()
	select {
	case <-a.index.shown(name):
	case <-timer.C:
	case <-ctx.Done():
		return fmt.Errorf("wait for the watch of leases: %w", ctx.Err())
	}
	return nil
}

// part is where in a pool this node looks first: at the lowest address of a pool that no other node
// uses, else in its own part. Nodes that all started at the bottom would meet at every address.
// They do not know of each other at first, so of several pods at once only one begins there.
func (a *Allocator) part(pool *ipam.Pool, try int) part {
	switch {
	case try == 0 && a.index.stock(pool).Nodes == 1 && !a.index.creates(pool.Name):
		return part{}
	case try >= nearTries:
		return part{from: pool.At(a.Random())}
	}
	return a.index.part(pool, a.place)
}

// create writes a new lease and tells the index and the doubts how it ended. The epoch is for
// stock; see index.putStock.
func (a *Allocator) create(ctx context.Context, lease *v2beta1.SpiderIPLease, epoch uint64) error {
	name, pod := lease.Name, lease.Spec.Pod
	err := a.Client.Create(ctx, lease)
	switch {
	case err == nil:
		a.index.putStock(lease, epoch)
	case apierrors.IsAlreadyExists(err):
		a.index.occupied(name)
	case refusedForSure(err):
		a.index.forget(name, "")
	default: // the request may have reached the API server; of stock, the watch shows it then
		a.index.occupied(name)
		if pod != nil {
			a.doubts.add(pod.UID, name)
		}
	}
	return err
}

// refusedForSure tells whether the API server answered that it did not do what was asked.
func refusedForSure(err error) bool {
	reason := apierrors.ReasonForError(err)
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) ||
		apierrors.IsBadRequest(err) ||
		apierrors.IsNotFound(err) || apierrors.IsTooManyRequests(err) || reason == metav1.StatusReasonMethodNotAllowed
}

// newLease is the lease of a pod's interface, or stock of this node without one.
func (a *Allocator) newLease(pool string, ip netip.Addr, pod *v2beta1.LeasePod) *v2beta1.SpiderIPLease {
	lease := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{
		Name: v2beta1.LeaseName(pool, ip), Labels: map[string]string{v2beta1.LabelLeasePool: labelValue(pool)},
	}}
	lease.Spec.Pool, lease.Spec.IP = pool, ip.String()
	if pod == nil {
		a.unassign(lease)
	} else {
		a.assign(lease, pod)
	}
	return lease
}

// labelValue cuts a name to the 63 characters of a label's value; spec.pool has it in full.
func labelValue(name string) string {
	const most = 63
	if len(name) <= most {
		return name
	}
	return strings.TrimRight(name[:most], "-._")
}

// assign makes the lease that of a pod's interface on this node, or, without one, of this node alone.
func (a *Allocator) assign(lease *v2beta1.SpiderIPLease, pod *v2beta1.LeasePod) {
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels[v2beta1.LabelLeaseNode] = labelValue(a.Node)
	lease.Spec.Node, lease.Spec.Pod = a.Node, pod
	delete(lease.Annotations, v2beta1.AnnotationLeaseStock)
}

// holder is the request's pod interface.
func holder(r ipam.Request) *v2beta1.LeasePod {
	return &v2beta1.LeasePod{
		Namespace: r.Pod.Namespace, Name: r.Pod.Name, UID: r.Pod.UID,
		Interface: r.Interface, Sandbox: r.Sandbox, Owner: r.Pod.Owner,
	}
}

// stickyOwner leaves out an owner whose pods are not to keep their addresses.
func (a *Allocator) stickyOwner(o *v2beta1.LeaseOwner) *v2beta1.LeaseOwner {
	if o == nil || o.Kind == v2beta1.OwnerVirtualMachineInstance && a.ForgetVirtualMachines ||
		o.Kind == v2beta1.OwnerStatefulSet && a.ForgetStatefulSets {
		return nil
	}
	return o
}

// reclaim finds the leases that the interface has already: those of the pod's
// UID always, and those that its owner kept for it if the pools of today still
// name theirs. The latter are returned as stale if not.
func (a *Allocator) reclaim(ctx context.Context, r ipam.Request, choice ipam.Choice) (have []ipam.Address, stale []held,
	err error) {
	pools := a.catalogue.snapshot()
	families := map[int64]bool{}
	for _, h := range a.candidatesToReclaim(r) {
		if h.handedOut {
			if h, err = a.reuse(ctx, h, r); err != nil {
				return nil, nil, err
			}
		}
		if h.lease == nil {
			continue
		}
		ip, err := h.lease.Address()
		pool := pools[h.pool]
		if err != nil || pool == nil || !pool.Subnet.IsValid() {
			continue
		}
		version := ipam.VersionOf(ip)
		if families[version] || !r.Takes(ip) || h.pod.UID != r.Pod.UID && !keeps(choice, version, pool.Name) {
			stale = append(stale, h)
			continue
		}
		ours := h.handedOut
		if !ours {
			if ours, err = a.adopt(ctx, h.lease, r); err != nil {
				return nil, nil, fmt.Errorf("take over address %s of pool %s: %w", ip, pool.Name, err)
			}
		}
		if ours {
			families[version] = true
			have = append(have, address(ip, pool))
		}
	}
	return have, stale, nil
}

// reuse gives an address that was handed out to the pod to its new sandbox: in the ledger alone
// while the promise holds, else the API server has to show it first.
func (a *Allocator) reuse(ctx context.Context, h held, r ipam.Request) (held, error) {
	if a.Promise.Epoch() == 0 || h.lease == nil || !a.mayWrite(h.lease, h.pod) || a.sealed.has(r.Pod.UID) {
		if err := a.writeLocked(ctx, h.name, r.Pod.UID); err != nil {
			return h, err
		}
		e, _ := a.index.get(h.name)
		if h.lease, h.handedOut = e.lease, false; e.lease != nil &&
			(e.lease.Spec.Pod == nil || e.lease.Spec.Pod.UID != r.Pod.UID) {
			h.lease = nil // another's
		}
		return h, nil
	}
	h.pod = holder(r)
	if err := a.Book.PutHandOut(handOutOf(h)); err != nil {
		return h, fmt.Errorf("record the hand-out of address %s: %w", h.lease.Spec.IP, err)
	}
	a.index.use(h.name, h.pod)
	a.writer.ask(h.name)
	return h, nil
}

// candidatesToReclaim lists leases of the pod itself before those of its owner.
func (a *Allocator) candidatesToReclaim(r ipam.Request) []held {
	own, owners := a.index.ofPod(r.Pod.UID), a.index.ofOwnerOf(r.Pod)
	owners = slices.DeleteFunc(owners, func(h held) bool { return h.pod.UID == r.Pod.UID })
	return slices.DeleteFunc(append(own, owners...), func(h held) bool { return h.pod.Interface != r.Interface })
}

func keeps(choice ipam.Choice, version int64, pool string) bool {
	return slices.ContainsFunc(choice.Families, func(f ipam.Family) bool {
		return f.Version == version &&
			f.Keeps(pool)
	})
}

// adopt makes a lease that this pod may have the request's own, and makes sure
// at the API server that it still exists: the index may be late. It returns
// false when the lease is gone or somebody else's.
func (a *Allocator) adopt(ctx context.Context, lease *v2beta1.SpiderIPLease, r ipam.Request) (bool, error) {
	for range conflictTries {
		want := lease.DeepCopy()
		a.assign(want, holder(r))
		var err error
		changes := !equality.Semantic.DeepEqual(want.Spec, lease.Spec)
		if changes {
			err = a.Client.Update(ctx, want)
		}
		switch {
		case changes && err == nil:
			a.index.put(want)
			return true, nil
		case err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
			return false, err
		}
		fresh, err := a.lookUp(ctx, lease.Name)
		if err != nil || fresh == nil || !mayHave(fresh, r.Pod) {
			return false, err
		}
		if equality.Semantic.DeepEqual(fresh.Spec, want.Spec) {
			return true, nil
		}
		lease = fresh
	}
	return false, errors.New("the lease keeps changing")
}

// mayHave tells whether the lease belongs to the pod, or to its owner for a pod of this name.
func mayHave(lease *v2beta1.SpiderIPLease, p ipam.Pod) bool {
	holder := lease.Spec.Pod
	if holder == nil {
		return false
	}
	owned := p.Owner != nil && holder.Owner != nil &&
		keyOfOwner(p.Namespace, p.Name, *p.Owner) == keyOfOwner(holder.Namespace, holder.Name, *holder.Owner)
	return holder.UID == p.UID || owned
}

// lookUp reads one lease from the API server and corrects the index. The
// lease is nil when there is none.
func (a *Allocator) lookUp(ctx context.Context, name string) (*v2beta1.SpiderIPLease, error) {
	before, _ := a.index.get(name)
	lease := &v2beta1.SpiderIPLease{}
	err := a.Live.Get(ctx, client.ObjectKey{Name: name}, lease)
	if apierrors.IsNotFound(err) {
		a.index.forget(name, before.uid())
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lease %s: %w", name, err)
	}
	a.index.looked(lease)
	return lease, nil
}

// settleDoubts finds out what became of creates of this pod that ended without an answer.
func (a *Allocator) settleDoubts(ctx context.Context, podUID string) error {
	for _, name := range a.doubts.of(podUID) {
		if _, err := a.lookUp(ctx, name); err != nil {
			return err
		}
		a.doubts.settle(podUID, name)
	}
	return nil
}

// lookUpDoubtful checks entries of a full pool that the watch has not shown,
// and tells whether one of them is free.
func (a *Allocator) lookUpDoubtful(ctx context.Context, pool string) (bool, error) {
	freed := false
	for _, name := range a.index.doubtful(pool, doubtAfter, doubtBatch) {
		lease, err := a.lookUp(ctx, name)
		if err != nil {
			return false, err
		}
		freed = freed || lease == nil
	}
	return freed, nil
}

// undo gives back what this call took, even when the caller's time is up.
func (a *Allocator) undo(ctx context.Context, taken []*held) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, h := range taken {
		errs = append(errs,
			a.giveBack(ctx, *h, func(fresh *v2beta1.SpiderIPLease) bool { return fresh.UID == h.lease.UID }))
	}
	return errors.Join(errs...)
}

// giveBackStale frees what the interface no longer uses. A failure is only
// logged: the interface has its addresses, and the collector frees the rest.
func (a *Allocator) giveBackStale(ctx context.Context, r ipam.Request, stale []held) {
	for _, h := range stale {
		if h.lease != nil && h.lease.Spec.Node != a.Node {
			continue // only its own node may write it; the collector frees it once this pod runs
		}
		err := a.giveBack(ctx, h, func(fresh *v2beta1.SpiderIPLease) bool { return mayHave(fresh, r.Pod) })
		if err != nil {
			a.Log.Warn("give back an address that is no longer used", "pod", r.Pod.Namespace+"/"+r.Pod.Name,
				"lease", h.name, "error", err)
		}
	}
}
