// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Names of scenarios that the comparison looks for.
const (
	scenarioExact  = "exact fit"
	scenarioObject = "one pool object, exact fit"
)

// usual are the scenarios of agents with the product's default stock.
func (b *bench) usual(ctx context.Context, n int) error {
	return b.withFleet(ctx, n, stockPerPool, func(f *fleet) error {
		if err := b.fillAndRecreate(ctx, f, b.plan.Pods, scenarioExact); err != nil {
			return err
		}
		return b.fillAndRecreate(ctx, f, b.plan.Roomy, fmt.Sprintf("of %d", b.plan.Roomy))
	})
}

// fillAndRecreate gives every pod an address, and then every pod's to another one, on the next
// node, that starts while it stops.
func (b *bench) fillAndRecreate(ctx context.Context, f *fleet, size int, name string) error {
	pool, err := b.makePool(ctx, size)
	if err != nil {
		return err
	}
	old, err := b.makePods(ctx, pool.Name, b.plan.Pods, f.size(), 0)
	if err != nil {
		return err
	}
	fill, err := b.measure(ctx, name, f, old, nil)
	if err != nil {
		return err
	}
	successors, err := b.makePods(ctx, pool.Name, b.plan.Pods, f.size(), 1)
	if err != nil {
		return err
	}
	recreate, err := b.measure(ctx, "re-creation, "+name, f, successors,
		func(ctx context.Context) error { return f.release(ctx, old) })
	if err != nil {
		return err
	}
	b.report.ours = append(b.report.ours, fill, recreate)
	return nil
}

// warmed are bursts from stock: as much of it as the product has by default, and much more.
func (b *bench) warmed(ctx context.Context, n int) error {
	pods, stock := b.plan.burstOf(n)
	for _, s := range []struct{ pods, stock int }{{stockPerPool, stockPerPool}, {pods, stock}} {
		err := b.withFleet(ctx, n, s.stock, func(f *fleet) error { return b.fromStock(ctx, f, s.pods, s.stock) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fromStock(ctx context.Context, f *fleet, pods, stock int) error {
	pool, err := b.makePool(ctx, burstPool(f.size(), stock))
	if err != nil {
		return err
	}
	if err := b.warm(ctx, f, pool.Name, stock); err != nil {
		return err
	}
	jobs, err := b.makePods(ctx, pool.Name, pods*f.size(), f.size(), 0)
	if err != nil {
		return err
	}
	if err := b.quiet(ctx, f); err != nil {
		return err
	}
	o, err := b.measure(ctx, fmt.Sprintf("from stock, %d of %d", pods, stock), f, jobs, nil)
	if err != nil {
		return err
	}
	b.report.bursts = append(b.report.bursts, o)
	return nil
}

// warm has one pod on each node ask for the pool, and waits until every node holds so many addresses.
func (b *bench) warm(ctx context.Context, f *fleet, pool string, stock int) error {
	b.say("filling the stock of %d agents with %d addresses each", f.size(), stock)
	ctx, cancel := context.WithTimeout(ctx, 2*startLimit)
	defer cancel()
	jobs, err := b.makePods(ctx, pool, f.size(), f.size(), 0)
	if err != nil {
		return err
	}
	err = each(ctx, len(jobs), jobs, func(ctx context.Context, j job) error {
		return again(ctx, func() error { _, err := f.take(ctx, j); return err })
	})
	if err != nil {
		return fmt.Errorf("have a pod on each node ask for pool %s: %w", pool, err)
	}
	return b.stocked(ctx, pool, f.size(), stock)
}

// stocked waits until each of n nodes holds so many addresses of the pool without a pod.
func (b *bench) stocked(ctx context.Context, pool string, n, stock int) error {
	what := fmt.Sprintf("%d nodes hold %d addresses each of pool %s", n, stock, pool)
	return until(ctx, what, 200*time.Millisecond, func() (bool, error) {
		var list v2beta1.SpiderIPLeaseList
		if err := b.server.admin.List(ctx, &list, client.MatchingFields{"spec.pool": pool}); err != nil {
			return false, err
		}
		held := map[string]int{}
		full := 0
		for _, l := range list.Items {
			if l.Spec.Pod != nil {
				continue
			}
			if held[l.Spec.Node]++; held[l.Spec.Node] == stock {
				full++
			}
		}
		return full == n, nil
	})
}
