// SPDX-License-Identifier: Apache-2.0

package fence

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// renewals in the time that one is good for: some may fail without harm.
	renewals = 8
	// retryPause is the wait after a renewal that failed.
	retryPause = 2 * time.Second
	// renewTimeout bounds one request.
	renewTimeout = 10 * time.Second
)

// Options of a Heartbeat. All fields are required but Log and Clock.
type Options struct {
	Client client.Client
	// Live reads from the API server itself.
	Live client.Reader
	// Namespace and Node say whose heartbeat it is; Holder names the node's records (ledger.ID), for people.
	Namespace, Node, Holder string
	// Valid is how long one renewal is good for, in whole seconds.
	Valid time.Duration
	// Clock is the time since some moment in the past. It must also run while this process is
	// stopped and the machine sleeps, as far as that can be. nil is the clock of the Go runtime,
	// which stands still in a sleeping machine.
	Clock func() time.Duration
	Log   *slog.Logger
}

// Heartbeat is the agent's side. Start must run.
type Heartbeat struct {
	Options
	object *coordinationv1.Lease // as last written; only Start's goroutine uses it

	mu      sync.Mutex
	renewed time.Duration // when the last renewal that succeeded was begun
	epoch   uint64        // 0 before the first
	changed chan struct{} // closed when an epoch begins
}

// New returns a Heartbeat that has not beaten yet.
func New(o Options) *Heartbeat {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		start := time.Now()
		o.Clock = func() time.Duration { return time.Since(start) }
	}
	return &Heartbeat{Options: o, changed: make(chan struct{})}
}

// Epoch tells whether stock may be handed out now. Its number rises whenever the promise had lapsed
// in between: what was stock in an earlier epoch may belong to somebody else by now. It is 0 while
// the promise has lapsed.
func (h *Heartbeat) Epoch() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Clock()-h.renewed > h.Valid {
		return 0
	}
	return h.epoch
}

// Changed is closed when the next epoch begins.
func (h *Heartbeat) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// Start renews until the context ends. It is a manager.Runnable.
func (h *Heartbeat) Start(ctx context.Context) error {
	failures := 0
	for {
		pause := h.Valid / renewals
		if err := h.renew(ctx); err != nil && ctx.Err() == nil {
			pause = min(pause, retryPause)
			if failures++; failures == 1 {
				h.Log.Warn("the heartbeat of this node fails; addresses in stock can be handed out until it lapses",
					"valid", h.Valid, "error", err)
			}
		} else if failures > 0 {
			h.Log.Info("the heartbeat of this node works again", "failures", failures)
			failures = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// NeedLeaderElection tells the manager to run Start everywhere.
func (h *Heartbeat) NeedLeaderElection() bool { return false }

// renew writes the heartbeat once. The promise counts from before the request: the controller
// cannot have seen it earlier.
func (h *Heartbeat) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	begun := h.Clock()
	if err := h.write(ctx); err != nil {
		h.object = nil
		return fmt.Errorf("renew the heartbeat %s/%s: %w", h.Namespace, Name(h.Node), err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if lapsed := h.Clock()-h.renewed > h.Valid; h.epoch == 0 || lapsed {
		h.epoch++
		close(h.changed)
		h.changed = make(chan struct{})
	}
	h.renewed = begun
	return nil
}

func (h *Heartbeat) write(ctx context.Context) error {
	if h.object == nil {
		have := &coordinationv1.Lease{}
		err := h.Live.Get(ctx, client.ObjectKey{Namespace: h.Namespace, Name: Name(h.Node)}, have)
		switch {
		case apierrors.IsNotFound(err):
			return h.create(ctx)
		case err != nil:
			return err
		}
		h.object = have
	}
	next := h.object.DeepCopy()
	h.fill(next)
	if err := h.Client.Update(ctx, next); err != nil {
		return err
	}
	h.object = next
	return nil
}

// create makes the heartbeat, which goes with its node.
func (h *Heartbeat) create(ctx context.Context) error {
	var node corev1.Node
	if err := h.Client.Get(ctx, client.ObjectKey{Name: h.Node}, &node); err != nil {
		return fmt.Errorf("read node %s: %w", h.Node, err)
	}
	next := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: h.Namespace, Name: Name(h.Node),
		Labels:          map[string]string{"app.kubernetes.io/part-of": "spiderpool"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
	}}
	h.fill(next)
	if err := h.Client.Create(ctx, next); err != nil {
		return err
	}
	h.object = next
	return nil
}

func (h *Heartbeat) fill(l *coordinationv1.Lease) {
	now := metav1.NowMicro()
	seconds := int32(h.Valid / time.Second)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &h.Holder, &seconds, &now
}
