// SPDX-License-Identifier: Apache-2.0

// Package sandboxlock orders the calls of one sandbox, and keeps the collector
// away from sandboxes that a call is at work on.
package sandboxlock

import (
	"context"
	"fmt"
	"sync"
)

// Locks orders the calls of one sandbox.
//
// Our meta plugin's calls exclude each other. A plugin of ours that is called by itself may be
// called from inside such a call (a plugin on disk delegates its addresses to us), so it does not
// wait for it; it only excludes the collector. The collector takes a sandbox only when nobody is at
// work on it, and everybody waits for it.
type Locks struct {
	mu    sync.Mutex
	cond  *sync.Cond
	users map[string]*use // by container ID
}

type use struct {
	meta, collector bool
	direct          int
	plugins         map[string]bool // direct calls by interface and plugin
}

// New makes locks that nobody has.
func New() *Locks {
	l := &Locks{users: map[string]*use{}}
	l.cond = sync.NewCond(&l.mu)
	return l
}

// Meta waits for the sandbox.
func (l *Locks) Meta(ctx context.Context, id string) (unlock func(), err error) {
	return l.wait(ctx, id, func(u *use) bool { return !u.meta && !u.collector }, func(u *use, on bool) { u.meta = on })
}

// Direct waits for another call of the same plugin and interface and, for ADD, for the collector.
// DEL does not wait for that: the collector may be the one who asked, through a plugin on disk.
func (l *Locks) Direct(ctx context.Context, id, key string, add bool) (unlock func(), err error) {
	return l.wait(ctx, id, func(u *use) bool { return !(add && u.collector) && !u.plugins[key] },
		func(u *use, on bool) {
			if on {
				u.direct++
				u.plugins[key] = true
				return
			}
			u.direct--
			delete(u.plugins, key)
		})
}

// Collector takes the sandbox if nobody is at work on it.
func (l *Locks) Collector(id string) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.use(id)
	if u.meta || u.collector || u.direct > 0 {
		return nil, false
	}
	u.collector = true
	return func() { l.change(id, func(u *use) { u.collector = false }) }, true
}

// Next is Collector, but waits for a collector that has the sandbox: it looks, or finishes
// something, and goes on to others.
func (l *Locks) Next(ctx context.Context, id string) (unlock func(), ok bool, err error) {
	unlock, err = l.wait(ctx, id, func(u *use) bool { return !u.collector }, func(u *use, on bool) {
		if on {
			ok = !u.meta && u.direct == 0
		}
		u.collector = on && ok
	})
	if err == nil && !ok {
		unlock()
	}
	return unlock, ok, err
}

func (l *Locks) wait(ctx context.Context, id string, free func(*use) bool, set func(*use, bool)) (func(), error) {
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.cond.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !free(l.use(id)) {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait for another call of sandbox %s: %w", id, ctx.Err())
		}
		l.cond.Wait()
	}
	set(l.use(id), true)
	return func() { l.change(id, func(u *use) { set(u, false) }) }, nil
}

func (l *Locks) use(id string) *use {
	u := l.users[id]
	if u == nil {
		u = &use{plugins: map[string]bool{}}
		l.users[id] = u
	}
	return u
}

func (l *Locks) change(id string, fn func(*use)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.use(id)
	fn(u)
	if !u.meta && !u.collector && u.direct == 0 {
		delete(l.users, id)
	}
	l.cond.Broadcast()
}
