// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// paces bound how many creates of each pool this process has under way. Nodes that take from one
// pool at the same moment do not see each other's creates before the watch shows them, and meet the
// more often the more there are. Each begins with a few and doubles them while nobody is met; after
// the first collision it goes one by one, and takes up more slowly. The zero value is ready.
type paces struct {
	mu    sync.Mutex
	lanes map[string]*lane // by pool, while somebody is in it
}

const (
	firstCreates = 2
	// calmCreates is how many creates in a row must meet nobody, for each that is under way at
	// once, before one more may be.
	calmCreates = 8
)

type lane struct {
	limit, busy int
	met         bool // a collision
	calm        int  // creates since the last collision or raise
	waiting     []chan struct{}
}

// enter waits for its turn to create leases of the pool. Whoever got it must leave.
func (p *paces) enter(ctx context.Context, pool string) error {
	turn := p.queue(pool)
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	p.giveUp(pool, turn)
	return fmt.Errorf("wait for other pods of this node that take addresses of pool %s: %w", pool, ctx.Err())
}

func (p *paces) queue(pool string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[pool]
	if l == nil {
		l = &lane{limit: firstCreates}
		if p.lanes == nil {
			p.lanes = map[string]*lane{}
		}
		p.lanes[pool] = l
	}
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	l.advance()
	return turn
}

// giveUp leaves the queue, or the lane if the turn came meanwhile.
func (p *paces) giveUp(pool string, turn <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[pool]
	if i := slices.IndexFunc(l.waiting, func(w chan struct{}) bool { return w == turn }); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		return
	}
	p.end(pool, l)
}

func (p *paces) leave(pool string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(pool, p.lanes[pool])
}

func (p *paces) end(pool string, l *lane) {
	l.busy--
	l.advance()
	if l.busy == 0 {
		delete(p.lanes, pool)
	}
}

// advance lets in whoever may go.
func (l *lane) advance() {
	for len(l.waiting) > 0 && l.busy < l.limit {
		l.busy++
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
	}
}

// tell notes how a create ended, while its caller is in the lane.
func (p *paces) tell(pool string, collided bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[pool]
	if collided {
		l.limit, l.met, l.calm = 1, true, 0
		return
	}
	l.calm++
	if !l.met || l.calm >= calmCreates*l.limit {
		l.limit++
		l.calm = 0
		l.advance()
	}
}

// used tells whether pods of this node wait for creates of the pool.
func (p *paces) used(pool string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lanes[pool] != nil
}
