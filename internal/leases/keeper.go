// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

const (
	// keepDelay gathers events of a pool into one look at its stock.
	keepDelay = 100 * time.Millisecond
	// keepEvery is how often every pool's stock is looked at without an event.
	keepEvery = 30 * time.Second
	// keepTimeout bounds one look.
	keepTimeout = 30 * time.Second
	// takers is how many addresses are taken at once.
	takers = 4
	// idleAfter is how long after the last request a pool's stock is given back.
	idleAfter = 30 * time.Minute
)

// kick asks for a look at the pool's stock.
func (a *Allocator) kick(pool string) { a.keeper.ask(pool) }

// kickIfKept does so after an event that may be about a pool this node has nothing to do with.
func (a *Allocator) kickIfKept(pool string) {
	if a.demand.within(pool, idleAfter) || a.index.hasStock(pool) {
		a.kick(pool)
	}
}

func (a *Allocator) kickAll() {
	for _, pool := range a.index.stockPools() {
		a.kick(pool)
	}
	for _, pool := range a.demand.pools() {
		a.kick(pool)
	}
}

// runKeeper keeps the stock until its queue is shut down. What the node had in stock is taken for
// wanted. Of a pool from which it has pods' addresses alone nobody knows whether they were asked
// for one by one, for which there is no stock.
func (a *Allocator) runKeeper(ctx context.Context) {
	for _, pool := range a.index.stockPools() {
		a.demand.note(pool)
	}
	go a.kickOften(ctx)
	a.keeper.run(ctx, a.Log, a.keep)
}

func (a *Allocator) kickOften(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		a.kickAll()
		a.endTwins(ctx)
		select {
		case <-ctx.Done():
			return
		case <-a.Promise.Changed():
		case <-tick.C:
		}
	}
}

// keep brings the stock of one pool to what it should be.
func (a *Allocator) keep(ctx context.Context, name string) error {
	epoch := a.Promise.Epoch()
	if epoch == 0 {
		return nil // the API server cannot be reached; the next epoch asks again
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if err := a.renewStock(ctx, name, epoch); err != nil {
		return err
	}
	pool := a.catalogue.snapshot()[name]
	if pool == nil {
		return a.give(ctx, name, -1, func(*entry) bool { return true })
	}
	if err := a.give(ctx, name, -1, func(e *entry) bool { return !pool.Has(e.ip) }); err != nil {
		return err
	}
	take, give := a.stock(pool).Plan()
	if take > 0 && a.paces.used(name) {
		return nil // pods first; the last of them asks again
	}
	if take > 0 {
		return a.take(ctx, pool, epoch, take)
	}
	return a.give(ctx, name, give, func(*entry) bool { return true })
}

// stock is what is known of this node's stock in a pool, and whether it wants one.
func (a *Allocator) stock(pool *ipam.Pool) ipam.Stock {
	s := a.index.stock(pool)
	s.PerPool, s.Wanted = a.PerPool, pool.Serves() && a.demand.within(pool.Name, idleAfter)
	return s
}

// renewStock writes leases without a pod again that were written before the promise last began, by
// this process or one before it.
func (a *Allocator) renewStock(ctx context.Context, pool string, epoch uint64) error {
	old := func(e *entry) bool { return e.epoch != epoch }
	for {
		lease, ok := a.index.borrow(pool, func(e *entry) bool { return old(e) && a.isMine(e) })
		if !ok {
			break
		}
		if err := a.rewrite(ctx, lease, epoch); err != nil {
			return err
		}
	}
	lease, ok := a.index.borrow(pool, old)
	if !ok {
		return nil
	}
	return a.adoptOrphan(ctx, lease, epoch)
}

// adoptOrphan takes over a lease of this node of which its ledger, lost since, may have known that
// a pod has the address.
func (a *Allocator) adoptOrphan(ctx context.Context, lease *v2beta1.SpiderIPLease, epoch uint64) error {
	var pods corev1.PodList
	err := a.Live.List(ctx, &pods, client.MatchingFields{"spec.nodeName": a.Node})
	if err != nil {
		a.index.unborrow(lease.Name)
		return fmt.Errorf("list the pods of node %s: %w", a.Node, err)
	}
	others := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return a.asked.has(string(p.UID)) })
	if holders := ipam.MayHoldUnseen(others); len(holders) > 0 {
		a.index.unborrow(lease.Name)
		a.Log.Info("leaving an address alone that an earlier record of this node may have given to a pod", "ip",
			lease.Spec.IP,
			"pool", lease.Spec.Pool, "pods", strings.Join(holders, " "))
		return nil
	}
	return a.rewrite(ctx, lease, epoch)
}

// rewrite makes a borrowed lease stock of this epoch.
func (a *Allocator) rewrite(ctx context.Context, lease *v2beta1.SpiderIPLease, epoch uint64) error {
	want := lease.DeepCopy()
	a.unassign(want)
	err := a.Client.Update(ctx, want)
	switch {
	case err == nil:
		a.index.putStock(want, epoch)
		return nil
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		_, err = a.lookUp(ctx, lease.Name)
		a.index.unborrow(lease.Name)
		return err
	}
	a.index.unborrow(lease.Name)
	return fmt.Errorf("renew lease %s: %w", lease.Name, err)
}

// take adds addresses to the stock, several at once.
func (a *Allocator) take(ctx context.Context, pool *ipam.Pool, epoch uint64, count int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(takers)
	for range count {
		g.Go(func() error { return a.takeOne(ctx, pool, epoch) })
	}
	return g.Wait()
}

// takeOne takes one address without a pod, none when others are quicker.
func (a *Allocator) takeOne(ctx context.Context, pool *ipam.Pool, epoch uint64) error {
	for range conflictTries {
		ip, ok := a.index.reserve(pool, a.index.part(pool, a.place))
		if !ok {
			return nil
		}
		lease := a.newLease(pool.Name, ip, nil)
		err := a.create(ctx, lease, epoch)
		switch {
		case err == nil:
			return nil
		case !apierrors.IsAlreadyExists(err):
			return fmt.Errorf("take address %s of pool %s into stock: %w", ip, pool.Name, err)
		}
		if err := a.letShow(ctx, lease.Name); err != nil {
			return err
		}
	}
	return nil
}

// give gives stock that fits back to the pool: at most count addresses, all when count is negative.
func (a *Allocator) give(ctx context.Context, pool string, count int, fits func(*entry) bool) error {
	var errs []error
	for n := 0; n != count; n++ {
		lease, ok := a.index.borrow(pool, func(e *entry) bool { return a.isMine(e) && fits(e) })
		if !ok {
			break
		}
		err := a.Client.Delete(ctx, lease, client.Preconditions{UID: &lease.UID,
			ResourceVersion: &lease.ResourceVersion})
		switch {
		case err == nil || apierrors.IsNotFound(err):
			a.index.forget(lease.Name, lease.UID)
		case apierrors.IsConflict(err):
			a.index.suspect(lease.Name) // it is not what it was, whether that can be read or not
			_, err := a.lookUp(ctx, lease.Name)
			a.index.unborrow(lease.Name)
			errs = append(errs, err)
		default: // it may be gone, and is no stock before it was written again
			a.index.suspect(lease.Name)
			a.index.unborrow(lease.Name)
			return fmt.Errorf("give address %s back to pool %s: %w", lease.Spec.IP, pool, err)
		}
	}
	return errors.Join(errs...)
}
