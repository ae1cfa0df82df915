// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// commits lets calls that come while a transaction is being written to disk share the next one: the
// disk is asked once for all of them. A call that comes alone waits for nobody. (bbolt's own Batch
// waits a fixed time for company.)
type commits struct {
	mu      sync.Mutex
	waiting []*commit
	busy    bool
}

type commit struct {
	fn   func(*bolt.Tx) error
	done chan error
}

// update runs fn in a transaction that is on disk when it returns. Calls may share a transaction;
// each gets its own error, and fn may run again when another one failed.
func (l *Ledger) update(fn func(*bolt.Tx) error) error {
	c := &commit{fn: fn, done: make(chan error, 1)}
	l.commits.mu.Lock()
	l.commits.waiting = append(l.commits.waiting, c)
	lead := !l.commits.busy
	l.commits.busy = true
	l.commits.mu.Unlock()
	if lead {
		l.writeWaiting()
	}
	return <-c.done
}

// writeWaiting writes what waits now, and leaves what came meanwhile to another goroutine: the
// caller has its answer.
func (l *Ledger) writeWaiting() {
	l.commits.mu.Lock()
	batch := l.commits.waiting
	l.commits.waiting = nil
	l.commits.busy = len(batch) > 0
	l.commits.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	l.write(batch)
	go l.writeWaiting()
}

// write commits a batch; a call that fails is told so and left out, and the others are tried again.
func (l *Ledger) write(batch []*commit) {
	for len(batch) > 0 {
		failed := -1
		err := l.db.Update(func(tx *bolt.Tx) error {
			for i, c := range batch {
				if err := c.fn(tx); err != nil {
					failed = i
					return err
				}
			}
			return nil
		})
		if failed < 0 {
			if err != nil {
				err = errors.Join(err, l.sandboxes.load(l.db))
			}
			for _, c := range batch {
				c.done <- err
			}
			return
		}
		batch[failed].done <- err
		batch = append(batch[:failed:failed], batch[failed+1:]...)
	}
}
