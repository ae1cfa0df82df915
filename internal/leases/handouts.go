// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/ledger"
)

const (
	// writeDelay lets an ADD end, and a burst of them pass, before the API server is told. Settle
	// does not wait for it.
	writeDelay = time.Second
	// writers is how many hand-outs are written at once.
	writers = 4
	// writeTimeout bounds one of them.
	writeTimeout = 10 * time.Second
	// writeAgain is the longest wait before a write that failed is tried again.
	writeAgain = 15 * time.Second
)

// writeHandOut tells the API server of one hand-out, if it still stands.
func (a *Allocator) writeHandOut(ctx context.Context, name string) error {
	e, ok := a.index.get(name)
	if !ok || e.user == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	unlock, err := a.locks.lock(ctx, e.user.UID)
	if err != nil {
		return err
	}
	defer unlock()
	return a.writeLocked(ctx, name, e.user.UID)
}

// writeLocked does it while the pod is locked, which keeps Release away.
func (a *Allocator) writeLocked(ctx context.Context, name, podUID string) error {
	for range conflictTries {
		e, ok := a.index.get(name)
		if !ok || e.user == nil || e.user.UID != podUID {
			return nil
		}
		switch {
		case e.lease == nil:
			if done, err := a.makeAgain(ctx, name, e); done || err != nil {
				return err
			}
			continue
		case !a.mayWrite(e.lease, e.user):
			a.lost(name, e, fmt.Sprintf("%s has it", e.lease.Holder()))
			return a.endHandOut(name, podUID)
		case equality.Semantic.DeepEqual(e.lease.Spec.Pod, e.user):
			return a.endHandOut(name, podUID)
		}
		want := e.lease.DeepCopy()
		a.assign(want, e.user)
		err := a.Client.Update(ctx, want)
		switch {
		case err == nil:
			a.index.put(want)
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
			if _, err := a.lookUp(ctx, name); err != nil {
				return err
			}
		default:
			a.index.suspect(name)
			a.doubts.add(podUID, name)
			return fmt.Errorf("write lease %s: %w", name, err)
		}
	}
	return errors.New("the lease keeps changing")
}

// mayWrite tells whether the lease is as it was when its address was handed out, or shows the pod
// already, maybe with an earlier sandbox.
func (a *Allocator) mayWrite(l *v2beta1.SpiderIPLease, user *v2beta1.LeasePod) bool {
	p := l.Spec.Pod
	return l.Spec.Node == a.Node && (p == nil || p.UID == user.UID && p.Interface == user.Interface)
}

// endHandOut forgets a hand-out, in the ledger first.
func (a *Allocator) endHandOut(name, podUID string) error {
	if err := a.Book.DeleteHandOut(name, podUID); err != nil {
		return fmt.Errorf("record the end of the hand-out of lease %s: %w", name, err)
	}
	a.index.use(name, nil)
	return nil
}

// makeAgain makes a lease that vanished while a pod had its address: somebody deleted it by hand.
// When the pod has ended, the collector has freed the address, and so does this node.
func (a *Allocator) makeAgain(ctx context.Context, name string, e entry) (done bool, err error) {
	if alive, err := a.alive(ctx, e.user); err != nil {
		return true, err
	} else if !alive {
		return true, a.endHandOut(name, e.user.UID)
	}
	lease := a.newLease(e.pool, e.ip, e.user)
	err = a.Client.Create(ctx, lease)
	switch {
	case err == nil:
		a.index.put(lease)
		a.Log.Warn("made a lease again that was deleted while its address was in use", "lease", name, "pod",
			e.user.Namespace+"/"+e.user.Name)
		return false, nil // and once more, to record it
	case apierrors.IsAlreadyExists(err):
		_, err = a.lookUp(ctx, name)
		return false, err
	}
	return false, fmt.Errorf("make lease %s again: %w", name, err)
}

// alive asks the API server whether the pod exists and has not finished.
func (a *Allocator) alive(ctx context.Context, user *v2beta1.LeasePod) (bool, error) {
	var pod corev1.Pod
	err := a.Live.Get(ctx, client.ObjectKey{Namespace: user.Namespace, Name: user.Name}, &pod)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read pod %s/%s: %w", user.Namespace, user.Name, err)
	}
	return string(pod.UID) == user.UID && !ipam.Finished(&pod), nil
}

// lost tells that a pod uses an address that is another's. It takes a fault that the promise cannot
// rule out, such as a lease deleted by hand or a virtual machine whose clocks stood still.
func (a *Allocator) lost(name string, e entry, why string) {
	a.Log.Error("an address in use is another's", "lease", name, "ip", e.ip.String(), "pod", e.user.Namespace+"/"+
		e.user.Name, "reason", why)
	if a.Lost != nil {
		a.Lost(*e.user, fmt.Sprintf("address %s of pool %s is used by this pod, and %s: delete one of the two pods",
			e.ip, e.pool, why))
	}
}

// Settle makes the API server show all addresses of a pod, and has it told first of any that the
// pod is given later. It must have succeeded before the pod's network-status is written.
func (a *Allocator) Settle(ctx context.Context, podUID string) error {
	unlock, err := a.locks.lock(ctx, podUID)
	if err != nil {
		return err
	}
	defer unlock()
	a.sealed.note(podUID)
	var errs []error
	for _, h := range a.index.ofPod(podUID) {
		if h.handedOut {
			errs = append(errs, a.writeLocked(ctx, h.name, podUID))
		}
	}
	return errors.Join(errs...)
}

// recall enters the hand-outs of an earlier process into the index.
func (a *Allocator) recall() error {
	all, err := a.Book.HandOuts()
	if err != nil {
		return fmt.Errorf("read the addresses given out: %w", err)
	}
	for _, h := range all {
		ip, err := netip.ParseAddr(h.IP)
		if err != nil || v2beta1.LeaseName(h.Pool, ip) != h.Lease {
			a.Log.Error("a recorded hand-out names no address and is passed over", "lease", h.Lease, "pool", h.Pool,
				"ip", h.IP, "pod", h.Pod.Namespace+"/"+h.Pod.Name)
			continue
		}
		a.index.recall(h.Lease, entry{ip: ip, pool: h.Pool, user: userOf(h), since: h.Since})
		a.writer.ask(h.Lease)
	}
	return nil
}

func userOf(h ledger.HandOut) *v2beta1.LeasePod {
	return &v2beta1.LeasePod{Namespace: h.Pod.Namespace, Name: h.Pod.Name, UID: h.Pod.UID, Interface: h.Interface,
		Sandbox: h.Sandbox}
}
