// SPDX-License-Identifier: Apache-2.0

// Package fence owns the promise between a node's agent and the controller on
// which addresses without a pod rest. The agent renews a Lease object, its
// heartbeat, and hands out addresses of its stock only for a limited time after
// the last renewal that it knows of. The controller takes such addresses from a
// node only when it has seen no renewal for that time and a margin. Each side
// measures on its own clock: they need not agree on the time of day.
//
// The package knows nothing of addresses and pods.
//
// RBAC: coordination.k8s.io leases get, create, update for the agent; get, list, watch for the controller.
package fence

import (
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// DefaultValid is how long a node may hand out stock after its last renewal: long enough for an API
// server to be restarted.
const DefaultValid = 2 * time.Minute

// MaxValid is the longest promise that counts: the largest value that the settings allow. A heartbeat is
// written by its node, and a node must not keep addresses for ever by naming a longer time.
const MaxValid = 24 * time.Hour

// margin is what the controller waits beyond the time that the heartbeat names, as a part of it:
// for clocks that do not run alike, and for what was checked just in time to be done.
const margin = 2

// Name is the name of a node's heartbeat.
func Name(node string) string { return "spiderpool-agent-" + node }

// Watcher is the controller's side. It notes when it first saw the present renewal of each
// heartbeat. The zero value is ready and safe for concurrent use.
type Watcher struct {
	// Valid is what a heartbeat may have promised that is not there any more; at least DefaultValid.
	Valid time.Duration

	mu    sync.Mutex
	nodes map[string]sighting
}

// sighting is one state of a heartbeat; version is empty when there is none.
type sighting struct {
	version string
	since   time.Time
	valid   time.Duration
}

// Silent tells how long it takes until the node counts as silent if nothing changes: zero or less
// when it is silent. The heartbeat is as the API server itself shows it now, nil when there is
// none.
func (w *Watcher) Silent(node string, heartbeat *coordinationv1.Lease, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes == nil {
		w.nodes = map[string]sighting{}
	}
	last, known := w.nodes[node]
	seen := sighting{since: now, valid: max(last.valid, w.Valid, DefaultValid)}
	if heartbeat != nil {
		seen.version, seen.valid = string(heartbeat.UID)+"/"+heartbeat.ResourceVersion, validity(heartbeat)
	}
	if known && last.version == seen.version {
		seen = last
	}
	w.nodes[node] = seen
	return seen.since.Add(seen.valid + seen.valid/margin).Sub(now)
}

// Forget drops what is known of a node.
func (w *Watcher) Forget(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, node)
}

func validity(heartbeat *coordinationv1.Lease) time.Duration {
	if s := heartbeat.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		return min(time.Duration(*s)*time.Second, MaxValid)
	}
	return DefaultValid
}
