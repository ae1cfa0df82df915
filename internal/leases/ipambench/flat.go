// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// flatness is what a pool of one size shows.
type flatness struct {
	Size, Leases  int // Leases in the whole cluster
	Stock, Direct []time.Duration
	// Disk and Create are their floors, measured in turn with them: one durable write to a ledger,
	// and the create of a lease that no pool has.
	Disk, Create      []time.Duration
	StockAsks         counts // on the path of the ADDs from stock
	Agent, Controller int64  // bytes of heap
	StartsIn          time.Duration
}

// elsewhere is the node whose pods fill half of each pool.
const elsewhere = "node-elsewhere"

// flatStock is the stock from which ADDs are measured: what two nodes may each hold of the smallest
// pool, a quarter of its free half. A batch leaves more than half of it, so that it is not filled
// meanwhile.
const flatStock, flatBatch = 60, 28

// flatDirects is how many ADDs each have a create of their own.
const flatDirects = 100

// flat measures pools of growing size that are half full.
func (b *bench) flat(ctx context.Context) error {
	if err := b.makeFiller(ctx); err != nil {
		return err
	}
	leases := 0
	empty := heap()
	for _, size := range b.plan.Flat {
		pool, err := b.makePool(ctx, size)
		if err != nil {
			return err
		}
		if err := b.fill(ctx, pool, size/2); err != nil {
			return err
		}
		leases += size / 2
		f := flatness{Size: size, Leases: leases, Controller: heap() - empty}
		if err := b.flatStock(ctx, pool.Name, &f); err != nil {
			return fmt.Errorf("ADDs from stock in a pool of %d addresses: %w", size, err)
		}
		if err := b.flatDirect(ctx, pool.Name, &f); err != nil {
			return fmt.Errorf("ADDs by create in a pool of %d addresses: %w", size, err)
		}
		b.report.flat = append(b.report.flat, f)
	}
	return nil
}

// heap is what is in use after a collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what had a finalizer goes with the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// makeFiller makes the one pod that all the leases name. It has the mark of a static pod: of such a
// pod the collector does not ask whether its UID is that of the lease, so that it need not exist
// thousands of times.
func (b *bench) makeFiller(ctx context.Context) error {
	pod := newPod("filler", elsewhere)
	pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "1"}
	if err := b.server.admin.Create(ctx, pod); err != nil {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	b.filler = pod
	return nil
}

// fill makes leases for every other address of the pool.
func (b *bench) fill(ctx context.Context, pool *v2beta1.SpiderIPPool, count int) error {
	b.say("filling half of a pool of %d addresses", 2*count)
	addresses, errs := v2beta1.ParseIPPoolSpec(&pool.Spec)
	if err := errs.ToAggregate(); err != nil {
		return err
	}
	first := addresses.IPs.Ranges()[0].From()
	ips := make([]netip.Addr, count)
	for i := range ips {
		ips[i] = later(first, 2*i)
	}
	err := each(ctx, atOnce, ips, func(ctx context.Context, ip netip.Addr) error {
		lease := fillerLease(pool.Name, ip, b.filler)
		if err := b.server.admin.Create(ctx, lease); err != nil {
			return fmt.Errorf("create lease %s: %w", lease.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := b.shown(ctx, pool.Name, count); err != nil {
		return err
	}
	return b.quiet(ctx, &fleet{meter: &meter{}}) // the controller alone
}

// shown waits until the pool's status counts the leases: the more there are, the longer the
// controller gathers changes.
func (b *bench) shown(ctx context.Context, pool string, count int) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return until(ctx, fmt.Sprintf("the status of pool %s shows %d addresses in use", pool, count), 200*time.Millisecond,
		func() (bool, error) {
			var now v2beta1.SpiderIPPool
			err := b.server.admin.Get(ctx, client.ObjectKey{Name: pool}, &now)
			return now.Status.AllocatedIPCount != nil && *now.Status.AllocatedIPCount == int64(count), err
		})
}

func fillerLease(pool string, ip netip.Addr, filler *corev1.Pod) *v2beta1.SpiderIPLease {
	uid := string(uuid.NewUUID())
	return &v2beta1.SpiderIPLease{
		ObjectMeta: metav1.ObjectMeta{Name: v2beta1.LeaseName(pool, ip), Labels: map[string]string{
			v2beta1.LabelLeasePool: pool, v2beta1.LabelLeaseNode: elsewhere,
		}},
		Spec: v2beta1.IPLeaseSpec{Pool: pool, IP: ip.String(), Node: elsewhere, Pod: &v2beta1.LeasePod{
			// a sandbox's ID has 64 characters
			Namespace: filler.Namespace, Name: filler.Name, UID: uid, Interface: "eth0", Sandbox: uid + uid,
		}},
	}
}

// flatStock measures ADDs from stock, one after another, in batches that leave enough of it.
func (b *bench) flatStock(ctx context.Context, pool string, f *flatness) error {
	before, begun := heap(), time.Now()
	agents, err := b.startFleet(ctx, 1, flatStock)
	if err != nil {
		return err
	}
	f.StartsIn = time.Since(begun)
	f.Agent = heap() - before
	err = b.flatBatches(ctx, agents, pool, f)
	return errors.Join(err, agents.stop())
}

func (b *bench) flatBatches(ctx context.Context, agents *fleet, pool string, f *flatness) error {
	if err := b.warm(ctx, agents, pool, flatStock); err != nil {
		return err
	}
	for len(f.Stock) < b.plan.FlatPods {
		jobs, err := b.makePods(ctx, pool, flatBatch, 1, 0)
		if err != nil {
			return err
		}
		if err := b.quiet(ctx, agents); err != nil {
			return err
		}
		before := agents.meter.on.now()
		if err := inTurn(ctx, agents, jobs, b.diskFloor, &f.Disk, &f.Stock); err != nil {
			return err
		}
		asked := agents.meter.on.now().minus(before)
		f.StockAsks = counts{f.StockAsks.Reads + asked.Reads, f.StockAsks.Writes + asked.Writes, f.StockAsks.Refused +
			asked.Refused}
		if err := b.quiet(ctx, agents); err != nil {
			return err
		}
		if err := agents.release(ctx, jobs); err != nil { // it fills the stock again
			return err
		}
	}
	return nil
}

// flatDirect measures ADDs that create their lease, one after another, by an agent without stock.
func (b *bench) flatDirect(ctx context.Context, pool string, f *flatness) error {
	agents, err := b.startFleet(ctx, 1, 0)
	if err != nil {
		return err
	}
	jobs, err := b.makePods(ctx, pool, min(b.plan.FlatPods, flatDirects), 1, 0)
	if err == nil {
		err = inTurn(ctx, agents, jobs, b.createFloor, &f.Create, &f.Direct)
	}
	if err == nil {
		err = b.quiet(ctx, agents)
	}
	if err == nil {
		err = agents.release(ctx, jobs)
	}
	return errors.Join(err, agents.stop())
}

// inTurn has one pod after another ask, each after its floor, and adds how long either took.
func inTurn(ctx context.Context, c crew, jobs []job, floor func(context.Context, int) error, floors,
	times *[]time.Duration) error {
	for i, j := range jobs {
		begun := time.Now()
		if err := floor(ctx, i); err != nil {
			return err
		}
		*floors = append(*floors, time.Since(begun))
		begun = time.Now()
		if _, err := c.take(waiting(ctx), j); err != nil {
			return fmt.Errorf("allocate for pod %s: %w", j.request.Pod.Name, err)
		}
		*times = append(*times, time.Since(begun))
	}
	return nil
}

// diskFloor writes a hand-out to a ledger of its own.
func (b *bench) diskFloor(_ context.Context, i int) error {
	if err := b.floorBook.PutHandOut(floorHandOut(i)); err != nil {
		return fmt.Errorf("write a hand-out: %w", err)
	}
	return nil
}

// createFloor creates a lease of no pool.
func (b *bench) createFloor(ctx context.Context, _ int) error {
	b.floorLeases++
	lease := fillerLease("no-pool", later(netip.MustParseAddr("10.0.0.1"), b.floorLeases), b.filler)
	if err := b.server.admin.Create(ctx, lease); err != nil {
		return fmt.Errorf("create lease %s: %w", lease.Name, err)
	}
	return nil
}
