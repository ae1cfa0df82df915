// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLinkTally(t *testing.T) {
	tally := linkTally{counts: func(l rawLink) bool { return l.PCI != "" }, known: map[int]linkState{}}
	pf := rawLink{Link: Link{Index: 3, PCI: "0000:86:00.0", Up: true, Carrier: true}}
	noCarrier, down, bare := pf, pf, pf
	noCarrier.Carrier = false
	down.Up, down.Carrier = false, false
	bare.PCI = ""
	veth := rawLink{Link: Link{Index: 9, Up: true}}
	for i, c := range []struct {
		name    string
		deleted bool
		link    rawLink
		want    bool
	}{
		{"first seen", false, pf, true},
		{"the same again", false, pf, false},
		{"cable pulled", false, noCarrier, true},
		{"the same again", false, noCarrier, false},
		{"taken down", false, down, true},
		{"back", false, pf, true},
		{"gone, in a message that does not name its function", true, bare, true},
		{"gone again", true, bare, false},
		{"there again", false, pf, true},
		{"a pod's veth", false, veth, false},
		{"a pod's veth goes", true, veth, false},
	} {
		if got := tally.changed(c.deleted, c.link); got != c.want {
			t.Errorf("step %d, %s: %t", i, c.name, got)
		}
	}
	if len(tally.known) != 1 {
		t.Errorf("kept %v", tally.known)
	}
}

func TestReadLinkMessageRefuses(t *testing.T) {
	bridge := make([]byte, unix.SizeofIfInfomsg)
	bridge[0] = unix.AF_BRIDGE
	for name, c := range map[string]struct {
		kind uint16
		data []byte
	}{"another type": {unix.RTM_NEWADDR, make([]byte, unix.SizeofIfInfomsg)}, "too short": {unix.RTM_NEWLINK, nil},
		"a bridge's port": {unix.RTM_NEWLINK, bridge}} {
		if l, ok := readLinkMessage(c.kind, c.data); ok {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// linkChangesRig is a host in a namespace of its own that watches veth links as if they were cards.
func linkChangesRig(t *testing.T, ctx context.Context) (*Host, <-chan struct{}) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
	h, err := New(Options{NodeNS: ownNS(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	changes, err := h.linkChanges(ctx, func(l rawLink) bool { return l.Kind == "veth" })
	if err != nil {
		t.Fatal(err)
	}
	return h, changes
}

// ownNS makes a namespace that ends with the test. The thread goes back to its own: it may be the
// process's first, which cannot end.
func ownNS(t *testing.T) NS {
	t.Helper()
	runtime.LockOSThread()
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	var f *os.File
	if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
		f, err = os.Open("/proc/thread-self/ns/net")
	}
	if back := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET); back != nil {
		t.Fatal(back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return NS(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()))
}

func wantSignal(t *testing.T, what string, changes <-chan struct{}, want bool) {
	t.Helper()
	wait := 10 * time.Second
	if !want {
		wait = 300 * time.Millisecond
	}
	select {
	case _, open := <-changes:
		if !open || !want {
			t.Fatalf("%s: a signal (channel open: %t), want %t", what, open, want)
		}
	case <-time.After(wait):
		if want {
			t.Fatalf("%s: no signal", what)
		}
	}
}

// drain takes signals until none has come for a while.
func drain(changes <-chan struct{}) {
	for {
		select {
		case <-changes:
		case <-time.After(300 * time.Millisecond):
			return
		}
	}
}

func TestLinkChangesOfKernel(t *testing.T) {
	h, changes := linkChangesRig(t, t.Context())
	wantSignal(t, "nothing happened", changes, false)
	a, b, err := h.AddVeth(NodeNS, "net0", NodeNS, "peer0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	wantSignal(t, "links came", changes, true)
	drain(changes)
	if err := h.SetLinkMTU(NodeNS, a.Index, 1400); err != nil {
		t.Fatal(err)
	}
	wantSignal(t, "an MTU changed", changes, false)
	if err := h.SetLinkDown(NodeNS, b.Index); err != nil { // which takes the other's carrier
		t.Fatal(err)
	}
	wantSignal(t, "no carrier", changes, true)
	drain(changes)
	if err := h.DeleteLink(NodeNS, a.Index); err != nil {
		t.Fatal(err)
	}
	wantSignal(t, "links went", changes, true)
}

// More messages than the socket holds are a signal, and the changes after it are told as before.
func TestLinkChangesSurviveOverflow(t *testing.T) {
	h, _ := linkChangesRig(t, t.Context())
	socket, err := h.subscribeLinks()
	if err != nil {
		t.Fatal(err)
	}
	if err := socket.SetReceiveBufferSize(1, false); err != nil { // the kernel makes it its smallest
		t.Fatal(err)
	}
	a, _, err := h.AddVeth(NodeNS, "net0", NodeNS, "peer0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := h.SetLinkDown(NodeNS, a.Index); err != nil {
			t.Fatal(err)
		}
		if err := h.SetLinkUp(NodeNS, a.Index); err != nil {
			t.Fatal(err)
		}
	}
	changes := make(chan struct{}, 1)
	ended := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		defer close(changes)
		h.watchLinks(ctx, socket, func(l rawLink) bool { return l.Kind == "veth" }, changes)
	}()
	wantSignal(t, "messages were lost", changes, true)
	drain(changes)
	if err := h.SetLinkDown(NodeNS, a.Index); err != nil {
		t.Fatal(err)
	}
	wantSignal(t, "a change after the loss", changes, true)
	stop()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on after its context's end")
	}
}
