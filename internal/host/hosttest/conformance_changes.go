// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/host"
)

// quiet is how long nothing must come to count as silence.
const quiet = 100 * time.Millisecond

// signalled tells whether a signal comes, and stops the test when the channel closes.
func signalled(t *testing.T, changes <-chan struct{}, within time.Duration) bool {
	t.Helper()
	select {
	case _, open := <-changes:
		if !open {
			t.Fatal("the channel closed before its context's end")
		}
		return true
	case <-time.After(within):
		return false
	}
}

func wantSignal(t *testing.T, what string, changes <-chan struct{}) {
	t.Helper()
	if !signalled(t, changes, 20*time.Second) {
		t.Errorf("%s: no signal", what)
	}
}

// settle takes signals until none comes.
func settle(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); signalled(t, changes, quiet); {
		if time.Now().After(deadline) {
			t.Fatal("signals come without end")
		}
	}
}

// What pods' veth pairs do is no signal, and the channel closes with its context.
func testLinkChangesOfPods(t *testing.T, h API, env Env) {
	ctx, stop := context.WithCancel(t.Context())
	changes, err := h.LinkChanges(ctx)
	ok(t, err)
	settle(t, changes)
	l, _, err := h.AddVeth(host.NodeNS, "vchange0", env.NewNS(t), "eth0", 1500)
	ok(t, err)
	ok(t, h.SetLinkDown(host.NodeNS, l.Index))
	ok(t, h.SetLinkUp(host.NodeNS, l.Index))
	ok(t, h.DeleteLink(host.NodeNS, l.Index))
	if signalled(t, changes, quiet) && env.IBPF == "" { // a real node's cards may do as they like
		t.Error("a veth pair is taken for a card")
	}
	stop()
	eventually(t, "the channel closes with its context", func() bool {
		select {
		case _, open := <-changes:
			return !open
		default:
			return false
		}
	})
}

func testLinkChanges(t *testing.T, h API, env Env) {
	pf, err := FindPF(h, env.IBPF)
	ok(t, err)
	changes, err := h.LinkChanges(t.Context())
	ok(t, err)
	settle(t, changes)
	if env.SetCable != nil {
		ok(t, h.SetLinkUp(host.NodeNS, pf.Link.Index))
		eventually(t, "carrier", func() bool { pf, err := FindPF(h, env.IBPF); ok(t, err); return pf.Link.Carrier })
		settle(t, changes)
		for _, plugged := range []bool{false, true} {
			env.SetCable(t, plugged)
			wantSignal(t, "the cable", changes)
			settle(t, changes)
		}
	}
	vfs := freshVFs(t, h, env, 1).VFs
	wantSignal(t, "a virtual function's netdev came", changes)
	settle(t, changes)
	ok(t, h.SetLinkUp(host.NodeNS, vfs[0].Link.Index))
	wantSignal(t, "a netdev went up", changes)
	settle(t, changes)
	intoPod(t, h, vfs[0], env.NewNS(t))
	wantSignal(t, "a netdev went into a pod", changes)
	settle(t, changes)
}
