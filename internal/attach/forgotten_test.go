// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// A runtime that has lost a pod's sandbox makes another one: what the lost one had is taken back
// first, its device among it.
func TestSandboxThatTheRuntimeLost(t *testing.T) {
	const otherNS, neighborNS = host.NS("/var/run/netns/cni-2"), host.NS("/var/run/netns/cni-3")
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ib-sriov"))
	n.pod("q", annotations("ipoib"))
	n.devices = map[string][]string{resource: {vf0}}
	before := n.snapshot()
	n.mustCall("ADD", "p")
	n.fake.AddNS(otherNS)
	n.fake.AddNS(neighborNS)
	for _, r := range []cnisock.Request{request("ADD", "q", "sandbox-q", neighborNS), request("ADD", "p", "sandbox-new",
		otherNS)} {
		if resp := n.service.Handle(context.Background(), r); resp.Error != nil {
			t.Fatalf("ADD of %s: %s", r.Env["CNI_CONTAINERID"], resp.Error)
		}
	}
	if l, err := n.fake.LinkByName(otherNS, "eth0"); err != nil || l.PCI != vf0 {
		t.Errorf("eth0 of the new sandbox: %+v, %v", l, err)
	}
	if all := n.ledger.Sandboxes(); len(all) != 2 {
		t.Errorf("%d sandboxes are recorded, want the new one and that of the other pod: %+v", len(all), all)
	}
	n.mustCall("DEL", "p") // the runtime asks for it after all
	if _, err := n.fake.LinkByName(otherNS, "eth0"); err != nil {
		t.Errorf("the late DEL of the lost sandbox took eth0 of the new one: %v", err)
	}
	for _, r := range []cnisock.Request{request("DEL", "q", "sandbox-q", neighborNS), request("DEL", "p", "sandbox-new",
		otherNS)} {
		if resp := n.service.Handle(context.Background(), r); resp.Error != nil {
			t.Errorf("DEL of %s: %s", r.Env["CNI_CONTAINERID"], resp.Error)
		}
	}
	n.collect()
	n.fake.DeleteNS(otherNS)
	n.fake.DeleteNS(neighborNS)
	n.same(before, "after all DELs")
}

// A pod that API server and kubelet both have no more, longer than it may take to end, has no
// sandbox; any other has.
func TestForgottenWithItsNamespace(t *testing.T) {
	forgotten := func(*node) {}
	for name, test := range map[string]struct {
		change func(*node)
		passes []time.Duration // between passes of the collector
		goes   bool
	}{
		"gone": {forgotten, []time.Duration{0, forgottenAfter, 2 * time.Minute}, true},
		// its grace is a minute
		"not long enough":  {forgotten, []time.Duration{0, forgottenAfter + 50*time.Second}, false},
		"seen once":        {forgotten, []time.Duration{2 * forgottenAfter}, false},
		"the pod is there": {func(n *node) { n.pod("p", nil) }, []time.Duration{0, 2 * forgottenAfter}, false},
		"another pod of its name": {func(n *node) { n.pod("p", nil); n.pods["default/p"].UID = "other" },
			[]time.Duration{0, 2 * forgottenAfter}, true},
		"the kubelet has it": {func(n *node) { n.kubeletHas = map[string]bool{"default/p": true} },
			[]time.Duration{0, 2 * forgottenAfter}, false},
		"the kubelet is away": {func(n *node) { n.kubeletDown = true }, []time.Duration{0, 2 * forgottenAfter},
			false},
		"the API server is away": {func(n *node) { n.apiDown = true }, []time.Duration{0, 2 * forgottenAfter}, false},
		"not gone for the kubelet": {func(n *node) { n.kubeletHas = map[string]bool{"default/q": true} },
			[]time.Duration{0, 2 * forgottenAfter}, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", annotations("ib-sriov"))
			n.pods["default/p"].Spec.TerminationGracePeriodSeconds = new(int64(60))
			before := n.snapshot()
			n.mustCall("ADD", "p")
			delete(n.pods, "default/p")
			test.change(n)
			now := time.Now()
			n.service.now = func() time.Time { return now }
			for _, wait := range test.passes {
				now = now.Add(wait)
				if err := n.service.Collect(context.Background()); (err != nil) != (n.kubeletDown || n.apiDown) {
					t.Errorf("collect: %v", err)
				}
			}
			n.kubeletDown, n.apiDown = false, false
			if recorded(n) == test.goes {
				t.Errorf("the sandbox is recorded: %t", recorded(n))
			}
			if test.goes {
				n.collect() // its address, which the pass that took it down noted
				n.same(before, "after it was taken down")
			}
		})
	}
}

// A ledger that was lost takes the record of a child along that is still on the node. What is
// somebody else's stays, and what is recorded too.
func TestStrayChildren(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	before := n.snapshot()
	n.fake.CrashAt(2, false) // the child is made and not moved
	n.call("ADD", "p")
	n.fake.Revive()
	master, err := n.fake.LinkByName(host.NodeNS, "ibs5f0")
	must(t, err)
	for _, name := range []string{"ibc0123456789ab", "ibs5f0.8001", "ibcafe"} {
		_, err := n.fake.AddIPoIBChild(master.Index, name, 0x7fff)
		must(t, err)
	}
	must(t, n.service.sweep())
	for name, want := range map[string]bool{"ibc0123456789ab": false, "ibs5f0.8001": true, "ibcafe": true} {
		l, err := n.fake.LinkByName(host.NodeNS, name)
		if (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", name, err == nil, want)
		}
		if err == nil {
			must(t, n.fake.DeleteLink(host.NodeNS, l.Index))
		}
	}
	left := n.snapshot().Host.Namespaces[host.NodeNS].Links
	if extra := len(left) - len(before.Host.Namespaces[host.NodeNS].Links); extra != 1 {
		t.Errorf("%d links more than before, want the child that is recorded: %+v", extra, left)
	}
	must(t, n.ledger.Close())
	must(t, os.Remove(n.path))
	n.ledger = nil
	n.start()
	n.collect()
	n.mu.Lock()
	n.held = map[string]netip.Addr{} // addresses are found again by others
	n.mu.Unlock()
	n.same(before, "after the loss of the ledger")
}

// One pass in which the kubelet lists the pod again begins the wait anew.
func TestMissedBeginsAnew(t *testing.T) {
	var m missed
	at := time.Now()
	for i, step := range []struct {
		missing, want bool
	}{{true, false}, {true, false}, {false, false}, {true, false}, {true, false}, {true, true}} {
		if got := m.check("a", at.Add(time.Duration(i)*6*time.Minute), step.missing, forgottenAfter); got != step.want {
			t.Errorf("pass %d: %t, want %t", i, got, step.want)
		}
	}
}
