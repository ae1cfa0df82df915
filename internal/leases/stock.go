// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/ledger"
)

// Stock is what lets a pod have an address without a request to the API server: leases that the
// node holds without a pod.
//
// A hand-out goes through four steps: the lease is claimed in memory; the hand-out is written to
// the node's ledger; the promise is looked at once more; the pod has the address. The API server is
// told afterwards. Four rules keep that safe:
//
//  1. Only a lease that this process itself wrote without a pod, since the promise last began, is
//     handed out (entry.epoch). Another process, or the controller, may have decided about anything
//     older.
//  2. It is handed out only while the promise holds (package fence). The controller takes no lease
//     without a pod from a node before the promise must have lapsed.
//  3. It is handed out only to a pod without a network-status, and that is written only when the API
//     server shows the pod's addresses (Settle). So the controller can tell, of a node that is
//     silent, which pods may have addresses that it cannot see.
//  4. A lease that the API server shows with a pod is not handed out again before the API server
//     shows it without one.

// Book is the part of the node's ledger that this package uses; see package ledger.
type Book interface {
	ID() string
	PutHandOut(ledger.HandOut) error
	HandOuts() ([]ledger.HandOut, error)
	DeleteHandOut(lease, podUID string) error
}

// Promise is the node's side of the fence; see fence.Heartbeat.
type Promise interface {
	Epoch() uint64
	Changed() <-chan struct{}
}

// noBook and noPromise are for a node that keeps no stock.
type noBook struct{}

func (noBook) ID() string { return "none" }
func (noBook) PutHandOut(ledger.HandOut) error {
	return errors.New("this node keeps no stock of addresses")
}
func (noBook) HandOuts() ([]ledger.HandOut, error) { return nil, nil }
func (noBook) DeleteHandOut(_, _ string) error     { return nil }

type noPromise struct{}

func (noPromise) Epoch() uint64            { return 0 }
func (noPromise) Changed() <-chan struct{} { return nil }

// takeStock gives the pod an address that the node holds already. It returns nil when there is none
// that may serve.
func (a *Allocator) takeStock(ctx context.Context, r ipam.Request, pool *ipam.Pool) (*held, error) {
	if !pool.Wanted.IsValid() { // no stock can be laid in for one certain address
		a.demand.note(pool.Name)
	}
	for {
		taken, err := a.handOut(r, pool)
		if taken == nil && err == nil {
			taken, err = a.confirm(ctx, r, pool)
		}
		if !errors.Is(err, errTakenAway) {
			return taken, err
		}
	}
}

// errTakenAway: the lease was not this node's any more.
var errTakenAway = errors.New("the lease is not this node's any more")

// handOut gives stock to the pod without asking the API server, when the rules allow.
func (a *Allocator) handOut(r ipam.Request, pool *ipam.Pool) (*held, error) {
	epoch := a.Promise.Epoch()
	if epoch == 0 || r.Pod.Known || r.Pod.Owner != nil || a.sealed.has(r.Pod.UID) {
		return nil, nil
	}
	taken, ok := a.index.claim(pool, func(e *entry) bool { return e.epoch == epoch }, holder(r))
	if !ok {
		return nil, nil
	}
	if err := a.Book.PutHandOut(handOutOf(taken)); err != nil {
		a.index.use(taken.name, nil)
		return nil, fmt.Errorf("record the hand-out of address %s: %w", taken.lease.Spec.IP, err)
	}
	if a.Promise.Epoch() != epoch { // this process was stopped meanwhile: somebody else may have the address
		return nil, a.takeBack(taken)
	}
	a.writer.ask(taken.name)
	a.kick(pool.Name)
	return &taken, nil
}

func handOutOf(h held) ledger.HandOut {
	return ledger.HandOut{
		Lease: h.name, LeaseUID: string(h.lease.UID), Pool: h.lease.Spec.Pool, IP: h.lease.Spec.IP,
		Pod:       ledger.Pod{Namespace: h.pod.Namespace, Name: h.pod.Name, UID: h.pod.UID},
		Interface: h.pod.Interface, Sandbox: h.pod.Sandbox,
	}
}

// takeBack ends a hand-out that the API server was not told of.
func (a *Allocator) takeBack(h held) error {
	if err := a.endHandOut(h.name, h.pod.UID); err != nil {
		return err
	}
	a.kick(h.pool)
	return nil
}

// confirm gives a lease that this node holds to the pod by writing it, which the API server decides.
func (a *Allocator) confirm(ctx context.Context, r ipam.Request, pool *ipam.Pool) (*held, error) {
	taken, ok := a.index.claim(pool, a.isMine, holder(r))
	if !ok {
		return nil, nil
	}
	defer a.kick(pool.Name)
	want := taken.lease.DeepCopy()
	a.assign(want, taken.pod)
	err := a.Client.Update(ctx, want)
	if err == nil {
		a.index.written(want)
		taken.lease, taken.handedOut = want, false
		return &taken, nil
	}
	a.index.disown(taken.name)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		if _, err := a.lookUp(ctx, taken.name); err != nil {
			return nil, err
		}
		return nil, errTakenAway
	}
	a.doubts.add(r.Pod.UID, taken.name)
	return nil, fmt.Errorf("take address %s of pool %s: %w", taken.lease.Spec.IP, pool.Name, err)
}

// isMine tells of a lease without a pod whether this node's ledger knows that no pod uses it.
func (a *Allocator) isMine(e *entry) bool {
	id, _, _ := strings.Cut(e.lease.Annotations[v2beta1.AnnotationLeaseStock], ".")
	return id == a.Book.ID()
}

// unassign makes the lease stock of this node. The time in the mark makes every write a change, so
// that it raises the object's version: whoever judged the lease before cannot delete it any more.
func (a *Allocator) unassign(lease *v2beta1.SpiderIPLease) {
	a.assign(lease, nil)
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Annotations[v2beta1.AnnotationLeaseStock] = fmt.Sprintf("%s.%d", a.Book.ID(), time.Now().UnixNano())
}

// demand remembers for which pools pods have asked lately. The zero value is ready.
type demand struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (d *demand) note(pool string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = map[string]time.Time{}
	}
	d.last[pool] = time.Now()
}

// within tells whether the pool was asked for in this time.
func (d *demand) within(pool string, limit time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, ok := d.last[pool]
	if ok && time.Since(last) > limit {
		delete(d.last, pool)
		ok = false
	}
	return ok
}

// pools names the pools that were asked for.
func (d *demand) pools() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.last))
}

// pods are pods of which something was noted lately, by UID. The zero value is ready.
type pods struct {
	mu    sync.Mutex
	noted map[string]time.Time
}

// notedFor is much longer than a change of a pod takes to come back with the watch, and than the
// runtime takes to ask again.
const notedFor = 30 * time.Minute

func (p *pods) note(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.noted == nil {
		p.noted = map[string]time.Time{}
	}
	if _, known := p.noted[uid]; !known {
		maps.DeleteFunc(p.noted, func(_ string, since time.Time) bool { return time.Since(since) > notedFor })
	}
	p.noted[uid] = time.Now()
}

func (p *pods) has(uid string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.noted[uid]
	return ok
}
