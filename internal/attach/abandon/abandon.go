// SPDX-License-Identifier: Apache-2.0

// Package abandon owns the decision when a DEL goes on without a plugin on disk
// that does not undo its part of an attachment.
//
// A DEL that fails is asked again, and keeps its pod Terminating: right for a
// plugin that will succeed, wrong for one that cannot. Which it is shows in the
// failure itself, in what the same plugin's ADD failed with, and in time. The
// package keeps no records: an agent that starts again counts the time anew.
package abandon

import (
	"sync"
	"time"

	"spidernet.io/spiderpool/internal/cni"
)

// After is how long a plugin may fail in a way that says nothing of the next time.
const After = 30 * time.Minute

// Tracker remembers what plugins on disk failed with. The zero value is ready; it is safe for concurrent use.
type Tracker struct {
	mu   sync.Mutex
	seen map[key]failure
}

type key struct {
	cni.AttachmentKey
	plugin string
}

type failure struct {
	add   string    // what ADD failed with, "" when it did not
	since time.Time // the first failed DEL
}

// Abandon reports whether the part of the plugin is abandoned, and remembers the failure.
//
// A plugin whose ADD failed with the same words got no further in DEL: both refuse the configuration,
// and there is nothing to undo.
func (t *Tracker) Abandon(a cni.AttachmentKey, r cni.Refusal, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen == nil {
		t.seen = map[key]failure{}
	}
	k := key{a, r.Plugin}
	f := t.seen[k]
	defer func() { t.seen[k] = f }()
	if r.Command == "ADD" {
		f = failure{add: r.Err.Error()}
		return false
	}
	if f.since.IsZero() {
		f.since = now
	}
	return r.Permanent || f.add == r.Err.Error() && !r.Temporary || now.Sub(f.since) >= After
}

// Forget is for an attachment that is taken down.
func (t *Tracker) Forget(a cni.AttachmentKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.seen {
		if k.AttachmentKey == a {
			delete(t.seen, k)
		}
	}
}
