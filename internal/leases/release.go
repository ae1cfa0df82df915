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
	defer a.pods.lock(podUID)()
	if err := a.settleDoubts(ctx, podUID); err != nil {
		return fmt.Errorf("release the addresses of sandbox %s: %w", sandbox, err)
	}
	held := func(l *v2beta1.SpiderIPLease) bool { return heldBy(l, podUID, sandbox, iface) }
	var errs []error
	for _, lease := range a.index.ofPod(podUID) {
		if !held(lease) {
			continue
		}
		if err := a.remove(ctx, lease, held); err != nil {
			errs = append(errs, fmt.Errorf("release address %s of pool %s: %w", lease.Spec.IP, lease.Spec.Pool, err))
		}
	}
	return errors.Join(errs...)
}

// heldBy tells whether Release may take the lease away.
func heldBy(l *v2beta1.SpiderIPLease, podUID, sandbox, iface string) bool {
	p := l.Spec.Pod
	return p != nil && p.UID == podUID && p.Owner == nil &&
		(iface == "" || p.Interface == iface) && (p.Sandbox == sandbox || p.Sandbox == "")
}

// remove deletes exactly the object that was judged, in exactly that version.
// When it has changed meanwhile it is read and judged again.
func (a *Allocator) remove(ctx context.Context, lease *v2beta1.SpiderIPLease, still func(*v2beta1.SpiderIPLease) bool) error {
	for range conflictTries {
		err := a.Client.Delete(ctx, lease, client.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion})
		if err == nil || apierrors.IsNotFound(err) {
			a.index.forget(lease.Name, lease.UID)
			return nil
		}
		if !apierrors.IsConflict(err) {
			return err
		}
		fresh, err := a.lookUp(ctx, lease.Name)
		if err != nil || fresh == nil || !still(fresh) {
			return err
		}
		lease = fresh
	}
	return errors.New("the lease keeps changing")
}
