// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Release gives back what a sandbox of a pod holds: of one interface, or of
// all when the interface is empty. It may be repeated and succeeds when nothing
// is held. What a newer sandbox of the same pod holds stays, and so does what
// belongs to an owner that outlives the pod, which the collector judges. An
// error means that the caller must ask again later; ErrNotReady that the API
// server has not been reached yet.
func (a *Allocator) Release(ctx context.Context, podUID, sandbox, iface string) error {
	if !a.hasSynced() {
		return fmt.Errorf("release the addresses of sandbox %s: %w", sandbox, ErrNotReady)
	}
	unlock, err := a.locks.lock(ctx, podUID)
	if err != nil {
		return fmt.Errorf("release the addresses of sandbox %s: %w", sandbox, err)
	}
	defer unlock()
	if err := a.settleDoubts(ctx, podUID); err != nil {
		return fmt.Errorf("release the addresses of sandbox %s: %w", sandbox, err)
	}
	var errs []error
	for _, h := range a.index.ofPod(podUID) {
		if !heldBy(h.pod, podUID, sandbox, iface) {
			continue
		}
		still := func(l *v2beta1.SpiderIPLease) bool { return heldBy(l.Spec.Pod, podUID, sandbox, iface) }
		if err := a.giveBack(ctx, h, still); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", h.name, err))
		}
	}
	return errors.Join(errs...)
}

// heldBy tells whether Release may take the address from the pod.
func heldBy(p *v2beta1.LeasePod, podUID, sandbox, iface string) bool {
	return p != nil && p.UID == podUID && p.Owner == nil &&
		(iface == "" || p.Interface == iface) && (p.Sandbox == sandbox || p.Sandbox == "")
}

// giveBack ends a pod's use of an address: the hand-out if the API server was never told, else the
// lease, as long as what it is still allows. The object may be another's by now: whoever deleted it
// made room for that.
func (a *Allocator) giveBack(ctx context.Context, h held, still func(*v2beta1.SpiderIPLease) bool) error {
	if h.handedOut {
		if err := a.takeBack(h); err != nil {
			return err
		}
	}
	if h.lease == nil || h.lease.Spec.Pod == nil || !still(h.lease) {
		return nil
	}
	return a.remove(ctx, h.lease, still)
}

// remove makes the lease stock if this node wants some, else deletes it: exactly the object that
// was judged, in exactly that version. When it has changed meanwhile it is read and judged again.
func (a *Allocator) remove(ctx context.Context, lease *v2beta1.SpiderIPLease,
	still func(*v2beta1.SpiderIPLease) bool) error {
	defer a.kickIfKept(lease.Spec.Pool)
	for range conflictTries {
		a.index.lend(lease.Name)
		err := a.putBack(ctx, lease)
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err):
			a.index.forget(lease.Name, lease.UID)
			return nil
		case !apierrors.IsConflict(err):
			a.index.unborrow(lease.Name)
			return err
		}
		fresh, err := a.lookUp(ctx, lease.Name)
		if err != nil || fresh == nil || !still(fresh) {
			a.index.unborrow(lease.Name)
			return err
		}
		lease = fresh
	}
	a.index.unborrow(lease.Name)
	return errors.New("the lease keeps changing")
}

// putBack writes the end of a lease's use once.
func (a *Allocator) putBack(ctx context.Context, lease *v2beta1.SpiderIPLease) error {
	if epoch := a.wantsBack(lease); epoch != 0 {
		want := lease.DeepCopy()
		a.unassign(want)
		err := a.Client.Update(ctx, want)
		if err == nil {
			a.index.putStock(want, epoch)
		}
		return err
	}
	err := a.Client.Delete(ctx, lease, client.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion})
	if err == nil {
		a.index.forget(lease.Name, lease.UID)
	}
	return err
}

// wantsBack tells whether the address is to stay with this node as stock: the epoch in which it
// will be some, else 0.
func (a *Allocator) wantsBack(lease *v2beta1.SpiderIPLease) uint64 {
	pool := a.catalogue.snapshot()[lease.Spec.Pool]
	ip, err := lease.Address()
	if err != nil || pool == nil || !pool.Has(ip) || lease.Spec.Node != a.Node {
		return 0
	}
	if s := a.stock(pool); s.Mine >= s.Target() {
		return 0
	}
	return a.Promise.Epoch()
}
