// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// tryLimit bounds one call, as the runtime does.
	tryLimit = time.Minute
	// tryAgain is when the kubelet comes back after a call that failed.
	tryAgain = time.Second
)

// crew are agents of either design.
type crew interface {
	size() int
	// count is where their requests are counted.
	count() *meter
	// take gets an address for one pod.
	take(context.Context, job) (netip.Addr, error)
	// settled tells whether nothing that they know of is still to be written.
	settled() (bool, error)
}

// outcome is what one scenario showed.
type outcome struct {
	Scenario             string
	Agents, Pods, Done   int
	Wall, Quiet          time.Duration
	Times                []time.Duration // of each pod, from the first call to its address
	On, Off, Controller  counts
	Failures, Duplicates int
	Failure              string          // the first
	Window               map[asked]int64 // what the API server counted until the last pod had its address
}

// results gathers what concurrent pods report.
type results struct {
	mu   sync.Mutex
	seen map[netip.Addr]bool
	*outcome
}

func (r *results) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Failures++; r.Failures == 1 {
		r.Failure = err.Error()
	}
}

func (r *results) took(ip netip.Addr, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Done++
	r.Times = append(r.Times, d)
	if r.seen[ip] {
		r.Duplicates++
	}
	r.seen[ip] = true
}

// measure has all pods ask at once, while beside runs if there is one, and waits until nothing more
// follows from it.
func (b *bench) measure(ctx context.Context, scenario string, c crew, jobs []job,
	beside func(context.Context) error) (outcome, error) {
	b.say("%d agents, %s: %d pods", c.size(), scenario, len(jobs))
	o := outcome{Scenario: scenario, Agents: c.size(), Pods: len(jobs)}
	before, err := b.server.requests(ctx)
	if err != nil {
		return o, err
	}
	on, off, control := c.count().on.now(), c.count().off.now(), b.controlled()
	begun := time.Now()
	if err := b.burst(ctx, c, jobs, beside, &o); err != nil {
		return o, fmt.Errorf("%s with %d agents: %w", scenario, c.size(), err)
	}
	after, err := b.server.requests(ctx)
	if err != nil {
		return o, err
	}
	o.Window = grown(before, after)
	if err := b.quiet(ctx, c); err != nil {
		return o, fmt.Errorf("%s with %d agents: %w", scenario, c.size(), err)
	}
	o.Quiet = time.Since(begun) - b.plan.Still
	o.On, o.Off, o.Controller = c.count().on.now().minus(on), c.count().off.now().minus(off),
		b.controlled().minus(control)
	b.say("  %d of %d in %s, p50 %s, %d failures", o.Done, o.Pods, round(o.Wall), round(percentile(o.Times, 50)),
		o.Failures)
	return o, nil
}

// burst runs all pods at once until all have an address or the scenario's time is over.
func (b *bench) burst(ctx context.Context, c crew, jobs []job, beside func(context.Context) error, o *outcome) error {
	ctx, cancel := context.WithTimeout(ctx, b.plan.Limit)
	defer cancel()
	r := &results{outcome: o, seen: map[netip.Addr]bool{}}
	begun := time.Now()
	var g errgroup.Group
	if beside != nil {
		g.Go(func() error { return beside(ctx) })
	}
	for _, j := range jobs {
		g.Go(func() error { keepAsking(ctx, c, j, begun, r); return nil })
	}
	err := g.Wait()
	o.Wall = time.Since(begun)
	return err
}

// keepAsking has one pod ask until it has an address, as the kubelet does. What it waits for is
// counted from the beginning of all.
func keepAsking(ctx context.Context, c crew, j job, begun time.Time, r *results) {
	_ = again(ctx, func() error {
		try, cancel := context.WithTimeout(waiting(ctx), tryLimit)
		defer cancel()
		ip, err := c.take(try, j)
		if err != nil {
			if ctx.Err() == nil {
				r.failed(err)
			}
			return err
		}
		r.took(ip, time.Since(begun))
		return nil
	}) // what it did not get shows in the count
}

// again repeats what fails until the time is over.
func again(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last failure was: %w", context.Cause(ctx), err)
		case <-time.After(tryAgain):
		}
	}
}

// quiet waits until no request has been made for a while and nothing is left to be written.
func (b *bench) quiet(ctx context.Context, c crew) error {
	ctx, cancel := context.WithTimeout(ctx, b.plan.QuietLimit)
	defer cancel()
	var last [3]counts
	since := time.Now()
	return until(ctx, "agents and controller are quiet", 50*time.Millisecond, func() (bool, error) {
		now := [3]counts{c.count().on.now(), c.count().off.now(), b.controlled()}
		settled, err := c.settled()
		if now != last || !settled {
			last, since = now, time.Now()
		}
		return time.Since(since) >= b.plan.Still, err
	})
}

// controlled is all that the controller has asked so far.
func (b *bench) controlled() counts {
	if b.controller == nil {
		return counts{}
	}
	on, off := b.controller.meter.on.now(), b.controller.meter.off.now()
	return counts{on.Reads + off.Reads, on.Writes + off.Writes, on.Refused + off.Refused}
}

// until asks until the answer is yes.
func until(ctx context.Context, what string, pause time.Duration, ask func() (bool, error)) error {
	var last error
	for {
		yes, err := ask()
		if yes && err == nil {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("wait until %s: %w; the last failure was: %w", what, context.Cause(ctx), last)
			}
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// each works on all items, so many at once, up to the first failure.
func each[T any](ctx context.Context, atOnce int, items []T, do func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(atOnce, 1))
	for _, item := range items {
		g.Go(func() error { return do(ctx, item) })
	}
	return g.Wait()
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
