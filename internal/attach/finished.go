// SPDX-License-Identifier: Apache-2.0

package attach

import "sync"

// keepFinished is how many sandboxes are remembered after they were taken down.
const keepFinished = 4096

// finished remembers sandboxes that were taken down. Runtimes ask for DEL several times, and what
// has no record would go to the plugins of the default network on disk each time. It is for speed
// alone: what it forgets is taken down once more.
type finished struct {
	mu   sync.Mutex
	ids  map[string]bool
	ring []string
	next int
}

func (f *finished) add(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids[id] {
		return
	}
	if f.ids == nil {
		f.ids, f.ring = map[string]bool{}, make([]string, keepFinished)
	}
	delete(f.ids, f.ring[f.next])
	f.ids[id], f.ring[f.next] = true, id
	f.next = (f.next + 1) % keepFinished
}

func (f *finished) has(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids[id]
}

// forget is for a sandbox that is being made: nothing of before counts.
func (f *finished) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ids, id)
}
