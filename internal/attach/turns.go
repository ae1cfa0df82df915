// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// errGivenUp is what an attachment ends with that waited for one that failed.
var errGivenUp = errors.New("another network of the pod could not be attached")

// turns lets the attachments of a sandbox be made beside each other up to where their order shows:
// addresses, routes, and plugins that look at all of the pod. From there on one waits for those
// before it.
type turns struct {
	complete []chan struct{} // by attachment
	failed   chan struct{}

	mu    sync.Mutex
	cause error
}

func newTurns(n int) *turns {
	t := &turns{complete: make([]chan struct{}, n), failed: make(chan struct{})}
	for i := range t.complete {
		t.complete[i] = make(chan struct{})
	}
	return t
}

// wait returns when all before attachment i are complete. It may be called again.
func (t *turns) wait(ctx context.Context, i int) error {
	if i == 0 {
		return nil
	}
	select {
	case <-t.complete[i-1]:
		return nil
	case <-t.failed:
		return errGivenUp
	case <-ctx.Done():
		return fmt.Errorf("wait for the pod's networks before this one: %w", ctx.Err())
	}
}

// fail keeps the first cause and has those that wait give up.
func (t *turns) fail(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause == nil {
		t.cause = cause
		close(t.failed)
	}
}

// run makes n attachments and returns what the first that failed failed with. All have ended when
// it returns, those that had begun too: what is undone has to stand still. A panic of one is the
// caller's.
func (t *turns) run(ctx context.Context, attach func(i int) error) error {
	var all sync.WaitGroup
	var panicked any
	for i := range t.complete {
		all.Go(func() {
			defer func() {
				if fault := recover(); fault != nil {
					t.fail(fmt.Errorf("%w: it panicked: %v", errGivenUp, fault))
					t.mu.Lock()
					panicked = fault
					t.mu.Unlock()
				}
			}()
			err := attach(i)
			if err == nil {
				err = t.wait(ctx, i) // so that "complete" is said of all before it
			}
			if err != nil {
				t.fail(err)
				return
			}
			close(t.complete[i])
		})
	}
	all.Wait()
	if panicked != nil {
		panic(panicked)
	}
	return t.cause
}
