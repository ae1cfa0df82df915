// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"maps"
	"slices"

	"spidernet.io/spiderpool/internal/host"
)

// cardLink is what watchers of links hear of: the netdev of a PCI function in the node's namespace.
type cardLink struct{ up, carrier bool }

// LinkChanges implements API.
func (f *Fake) LinkChanges(ctx context.Context) (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := make(chan struct{}, 1)
	f.cards = f.cardLinks()
	f.watchers = append(f.watchers, w)
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.watchers = slices.DeleteFunc(f.watchers, func(x chan struct{}) bool { return x == w })
		close(w)
	})
	return w, nil
}

func (f *Fake) cardLinks() map[int]cardLink {
	all := map[int]cardLink{}
	for _, l := range f.ns[host.NodeNS].links {
		if v := l.view(); v.PCI != "" {
			all[v.Index] = cardLink{v.Up, v.Carrier}
		}
	}
	return all
}

// tellWatchers signals when something that they hear of has changed. The lock is held.
func (f *Fake) tellWatchers() {
	if len(f.watchers) == 0 {
		return
	}
	now := f.cardLinks()
	if maps.Equal(now, f.cards) {
		return
	}
	f.cards = now
	for _, w := range f.watchers {
		select {
		case w <- struct{}{}:
		default: // one is waiting already
		}
	}
}
