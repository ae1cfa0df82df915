package leases

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	// lowestTries is how often the lowest free address is tried before one at a random place: nodes
	// that all start at the bottom of a pool would otherwise meet at every address.
	lowestTries = 3
	// conflictTries bounds the re-reading of a lease that somebody else keeps changing.
	conflictTries = 5
	// doubtAfter is how long the watch may lag before an entry it never showed is looked up.
	doubtAfter = 2 * time.Second
	// doubtBatch bounds those look-ups for one allocation.
	doubtBatch = 16
	// undoTimeout bounds the giving back of a half-made allocation.
	undoTimeout = 5 * time.Second
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
	defer a.pods.lock(r.Pod.UID)()
	if err := a.settleDoubts(ctx, r.Pod.UID); err != nil {
		return ipam.Allocation{}, err
	}
	facts, err := a.facts(ctx, r)
	if err != nil {
		return ipam.Allocation{}, err
	}
	choice, chooseErr := ipam.Choose(r, facts)
	held, stale, err := a.reclaim(ctx, r, choice)
	if err != nil {
		return ipam.Allocation{}, err
	}
	if chooseErr != nil && len(held) == 0 {
		return ipam.Allocation{}, chooseErr
	}
	taken, err := a.takeMissing(ctx, r, choice.Families, held)
	if err != nil {
		return ipam.Allocation{}, err
	}
	a.giveBackStale(ctx, r, stale)
	allocation := choice.Build(slices.Concat(held, taken), facts.Pools)
	a.endpoints.set(r, choice.CleanGateway, allocation)
	return allocation, nil
}

// takeMissing takes an address of every family that has none. No address is
// taken unless every family has a pool, and none is kept when one fails.
func (a *Allocator) takeMissing(ctx context.Context, r ipam.Request, families []ipam.Family, held []ipam.Address) ([]ipam.Address, error) {
	missing := slices.DeleteFunc(slices.Clone(families), func(f ipam.Family) bool {
		return slices.ContainsFunc(held, func(h ipam.Address) bool { return versionOf(h.IP.Addr()) == f.Version })
	})
	if err := ipam.Refuse(missing); err != nil {
		return nil, err
	}
	var taken []*v2beta1.SpiderIPLease
	var addresses []ipam.Address
	for _, family := range missing {
		lease, got, err := a.takeFamily(ctx, r, family)
		if err != nil {
			return nil, errors.Join(err, a.undo(ctx, taken))
		}
		taken, addresses = append(taken, lease), append(addresses, got)
	}
	return addresses, nil
}

// takeFamily tries the pools one after another.
func (a *Allocator) takeFamily(ctx context.Context, r ipam.Request, f ipam.Family) (*v2beta1.SpiderIPLease, ipam.Address, error) {
	exhausted := ipam.Family{Version: f.Version, Source: f.Source, Dropped: slices.Clone(f.Dropped)}
	for _, pool := range f.Pools {
		lease, ip, err := a.takeFrom(ctx, r, pool)
		if err != nil {
			return nil, ipam.Address{}, err
		}
		if lease != nil {
			return lease, address(ip, pool), nil
		}
		exhausted.Dropped = append(exhausted.Dropped, ipam.Drop{Pool: pool.Name, Reason: exhaustedReason(pool)})
	}
	return nil, ipam.Address{}, ipam.Refuse([]ipam.Family{exhausted})
}

func exhaustedReason(p *ipam.Pool) string {
	if p.Size() == 0 {
		return "has no addresses: spec.ips is empty, or all of it is excluded or reserved"
	}
	return fmt.Sprintf("has no free address: all %d are in use; add addresses to spec.ips, or delete pods", p.Size())
}

// takeFrom creates a lease for a free address of the pool, and returns nil
// when there is none. The create decides; whoever loses takes the next address.
func (a *Allocator) takeFrom(ctx context.Context, r ipam.Request, pool *ipam.Pool) (*v2beta1.SpiderIPLease, netip.Addr, error) {
	for try := 0; ; try++ {
		var start netip.Addr
		if try >= lowestTries {
			start = pool.At(rand.Uint64())
		}
		ip, ok := a.index.reserve(pool, start)
		if !ok {
			freed, err := a.lookUpDoubtful(ctx, pool.Name)
			if err != nil || !freed {
				return nil, netip.Addr{}, err
			}
			continue
		}
		lease := a.newLease(r, pool.Name, ip)
		err := a.create(ctx, lease)
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return nil, netip.Addr{}, fmt.Errorf("take address %s of pool %s: %w", ip, pool.Name, err)
		}
		return lease, ip, nil
	}
}

// create writes a new lease and tells the index and the doubts how it ended.
func (a *Allocator) create(ctx context.Context, lease *v2beta1.SpiderIPLease) error {
	name, podUID := lease.Name, lease.Spec.Pod.UID
	err := a.Client.Create(ctx, lease)
	switch {
	case err == nil:
		a.index.put(lease)
	case apierrors.IsAlreadyExists(err):
		a.index.occupied(name)
	case refusedForSure(err):
		a.index.forget(name, "")
	default: // the request may have reached the API server
		a.index.occupied(name)
		a.doubts.add(podUID, name)
	}
	return err
}

// refusedForSure tells whether the API server answered that it did not do what was asked.
func refusedForSure(err error) bool {
	reason := apierrors.ReasonForError(err)
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsNotFound(err) || apierrors.IsTooManyRequests(err) || reason == metav1.StatusReasonMethodNotAllowed
}

func (a *Allocator) newLease(r ipam.Request, pool string, ip netip.Addr) *v2beta1.SpiderIPLease {
	lease := &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{
		Name: v2beta1.LeaseName(pool, ip), Labels: map[string]string{v2beta1.LabelLeasePool: labelValue(pool)},
	}}
	lease.Spec.Pool, lease.Spec.IP = pool, ip.String()
	a.assign(lease, r)
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

// assign makes the lease that of the request's pod interface on this node.
func (a *Allocator) assign(lease *v2beta1.SpiderIPLease, r ipam.Request) {
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels[v2beta1.LabelLeaseNode] = labelValue(a.Node)
	lease.Spec.Node = a.Node
	lease.Spec.Pod = &v2beta1.LeasePod{
		Namespace: r.Pod.Namespace, Name: r.Pod.Name, UID: r.Pod.UID,
		Interface: r.Interface, Sandbox: r.Sandbox, Owner: r.Pod.Owner,
	}
}

// reclaim finds the leases that the interface has already: those of the pod's
// UID always, and those that its owner kept for a pod of this name if the
// pools of today still name theirs. The latter are returned as stale if not.
func (a *Allocator) reclaim(ctx context.Context, r ipam.Request, choice ipam.Choice) (held []ipam.Address, stale []*v2beta1.SpiderIPLease, err error) {
	pools := a.catalogue.snapshot()
	have := map[int64]bool{}
	for _, lease := range a.candidatesToReclaim(r) {
		ip, err := lease.Address()
		pool := pools[lease.Spec.Pool]
		if err != nil || pool == nil || !pool.Subnet.IsValid() {
			continue
		}
		version := versionOf(ip)
		if have[version] || lease.Spec.Pod.UID != r.Pod.UID && !keeps(choice, version, pool.Name) {
			stale = append(stale, lease)
			continue
		}
		ours, err := a.adopt(ctx, lease, r)
		if err != nil {
			return nil, nil, fmt.Errorf("take over address %s of pool %s: %w", ip, pool.Name, err)
		}
		if ours {
			have[version] = true
			held = append(held, address(ip, pool))
		}
	}
	return held, stale, nil
}

// candidatesToReclaim lists leases of the pod itself before those of its owner.
func (a *Allocator) candidatesToReclaim(r ipam.Request) []*v2beta1.SpiderIPLease {
	byName := func(x, y *v2beta1.SpiderIPLease) int { return strings.Compare(x.Name, y.Name) }
	own, owners := a.index.ofPod(r.Pod.UID), a.index.ofOwnerOf(r.Pod)
	slices.SortFunc(own, byName)
	slices.SortFunc(owners, byName)
	owners = slices.DeleteFunc(owners, func(l *v2beta1.SpiderIPLease) bool { return l.Spec.Pod.UID == r.Pod.UID })
	return slices.DeleteFunc(append(own, owners...), func(l *v2beta1.SpiderIPLease) bool { return l.Spec.Pod.Interface != r.Interface })
}

func keeps(choice ipam.Choice, version int64, pool string) bool {
	return slices.ContainsFunc(choice.Families, func(f ipam.Family) bool { return f.Version == version && f.Keeps(pool) })
}

// adopt makes a lease that this pod may have the request's own, and makes sure
// at the API server that it still exists: the index may be late. It returns
// false when the lease is gone or somebody else's.
func (a *Allocator) adopt(ctx context.Context, lease *v2beta1.SpiderIPLease, r ipam.Request) (bool, error) {
	for range conflictTries {
		want := lease.DeepCopy()
		a.assign(want, r)
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
	owned := p.Owner != nil && holder.Owner != nil && *p.Owner == *holder.Owner && p.Namespace == holder.Namespace && p.Name == holder.Name
	return holder.UID == p.UID || owned
}

// lookUp reads one lease from the API server and corrects the index. The
// lease is nil when there is none.
func (a *Allocator) lookUp(ctx context.Context, name string) (*v2beta1.SpiderIPLease, error) {
	known := a.index.uid(name)
	lease := &v2beta1.SpiderIPLease{}
	err := a.Live.Get(ctx, client.ObjectKey{Name: name}, lease)
	if apierrors.IsNotFound(err) {
		a.index.forget(name, known)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lease %s: %w", name, err)
	}
	a.index.put(lease)
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
func (a *Allocator) undo(ctx context.Context, taken []*v2beta1.SpiderIPLease) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, lease := range taken {
		errs = append(errs, a.remove(ctx, lease, func(fresh *v2beta1.SpiderIPLease) bool { return fresh.UID == lease.UID }))
	}
	return errors.Join(errs...)
}

// giveBackStale frees what the interface no longer uses. A failure is only
// logged: the interface has its addresses, and the collector frees the rest.
func (a *Allocator) giveBackStale(ctx context.Context, r ipam.Request, stale []*v2beta1.SpiderIPLease) {
	for _, lease := range stale {
		err := a.remove(ctx, lease, func(fresh *v2beta1.SpiderIPLease) bool { return mayHave(fresh, r.Pod) })
		if err != nil {
			a.Log.Warn("give back an address that is no longer used", "pod", r.Pod.Namespace+"/"+r.Pod.Name,
				"ip", lease.Spec.IP, "pool", lease.Spec.Pool, "error", err)
		}
	}
}

func versionOf(ip netip.Addr) int64 {
	if ip.Is4() {
		return 4
	}
	return 6
}
