// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// keyedLocks is one lock for each key in use. The zero value is ready.
type keyedLocks struct {
	mu   sync.Mutex
	held map[string]*keyedLock
}

// keyedLock is held by whoever has put something into the channel.
type keyedLock struct {
	holder chan struct{}
	users  int
}

// lock waits for the key, as long as the context lasts, and returns what frees it.
func (k *keyedLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyedLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyedLock{holder: make(chan struct{}, 1)}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.holder <- struct{}{}:
		return func() { <-l.holder; k.leave(key, l) }, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, fmt.Errorf("wait for another call about pod %s: %w", key, ctx.Err())
	}
}

func (k *keyedLocks) leave(key string, l *keyedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}

// doubts are the leases, by pod UID, whose create ended without an answer:
// they may exist. The zero value is ready.
type doubts struct {
	mu    sync.Mutex
	names map[string][]string
}

func (d *doubts) add(podUID, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil {
		d.names = map[string][]string{}
	}
	if !slices.Contains(d.names[podUID], name) {
		d.names[podUID] = append(d.names[podUID], name)
	}
}

func (d *doubts) of(podUID string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.names[podUID])
}

func (d *doubts) settle(podUID, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rest := slices.DeleteFunc(d.names[podUID], func(n string) bool { return n == name })
	if d.names[podUID] = rest; len(rest) == 0 {
		delete(d.names, podUID)
	}
}
