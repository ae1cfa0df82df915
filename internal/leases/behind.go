// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// behind does work behind the calls, for one name at a time, and again until it succeeds.
type behind struct {
	queue workqueue.TypedRateLimitingInterface[string]
	what  string // for the log
	delay time.Duration
}

// newBehind gathers what is asked for within the delay, and lets at most this long pass between attempts.
func newBehind(what string, delay, most time.Duration) *behind {
	limit := workqueue.NewTypedItemExponentialFailureRateLimiter[string](delay, most)
	return &behind{queue: workqueue.NewTypedRateLimitingQueue(limit), what: what, delay: delay}
}

func (b *behind) ask(name string) { b.queue.AddAfter(name, b.delay) }

// run works until the queue is shut down. Several may run at once.
func (b *behind) run(ctx context.Context, log *slog.Logger, do func(ctx context.Context, name string) error) {
	for {
		name, shutdown := b.queue.Get()
		if shutdown {
			return
		}
		if err := do(ctx, name); err == nil {
			b.queue.Forget(name)
		} else if ctx.Err() == nil {
			log.Warn(b.what, "name", name, "error", err)
			b.queue.AddRateLimited(name)
		}
		b.queue.Done(name)
	}
}
