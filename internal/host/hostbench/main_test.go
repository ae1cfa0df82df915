// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
)

// guideNode is the guide's node with two VFs, and a bench on it.
func guideNode(t *testing.T, o hosttest.Options) (*hosttest.Fake, *bench, target) {
	t.Helper()
	f := hosttest.GuideNodeWith(o)
	check(t, f.SetNumVFs(hosttest.GuidePF, 2))
	pf, err := f.PF(hosttest.GuidePF)
	check(t, err)
	for _, vf := range pf.VFs {
		check(t, f.SetVFGUID(pf.PCI, vf.Index, ib.VFGUID(pf.RDMA.PortGUID, vf.Index)))
		check(t, f.BindVF(vf.PCI))
	}
	n := 0
	b := &bench{kernel: f, newNS: func() (host.NS, func() error, error) {
		n++
		ns := host.NS(fmt.Sprintf("/proc/self/fd/%d", n))
		f.AddNS(ns)
		return ns, func() error { f.DeleteNS(ns); return nil }, nil
	}}
	target, err := chooseTarget(f, "")
	check(t, err)
	return f, b, target
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is what a round must leave as it was: links by name and state, RDMA devices, routes and rules.
func node(t *testing.T, f *hosttest.Fake) (out []string) {
	t.Helper()
	links, err := f.Links(host.NodeNS)
	check(t, err)
	for _, l := range links {
		out = append(out, fmt.Sprintf("link %s of %q up=%t", l.Name, l.PCI, l.Up))
	}
	devices, err := f.RDMADevices(host.NodeNS)
	check(t, err)
	for _, d := range devices {
		out = append(out, "rdma "+d.Name+" "+d.PCI)
	}
	routes, err := f.Routes(host.NodeNS, nodeTable)
	check(t, err)
	rules, err := f.Rules(host.NodeNS)
	check(t, err)
	return append(out, fmt.Sprint(routes, rules))
}

var kernels = []hosttest.Options{{}, {FollowRDMA: true}}

func TestRoundsLeaveTheNodeAsItWas(t *testing.T) {
	for _, o := range kernels {
		f, b, target := guideNode(t, o)
		before := node(t, f)
		undo, err := b.nodeRule()
		check(t, err)
		for round := range 3 {
			check(t, b.virtualFunction(target, round))
			check(t, b.child(target, round))
			check(t, b.reads(target, round))
		}
		check(t, undo())
		if diff := cmp.Diff(sorted(before), sorted(node(t, f))); diff != "" {
			t.Errorf("follow=%t: left behind:\n%s", o.FollowRDMA, diff)
		}
		for _, s := range b.samples {
			if s.Series == "" || s.Phase == "" || s.Step == "" || s.Duration < 0 {
				t.Errorf("sample %+v", s)
			}
		}
	}
}

func TestFailedRoundsLeaveTheNodeAsItWas(t *testing.T) {
	for _, o := range kernels {
		for name, round := range map[string]func(*bench, target) error{
			"VF":    func(b *bench, t target) error { return b.virtualFunction(t, 0) },
			"child": func(b *bench, t target) error { return b.child(t, 0) },
		} {
			for k := 1; ; k++ {
				f, b, target := guideNode(t, o)
				before := node(t, f)
				undo, err := b.nodeRule()
				check(t, err)
				b.kernel = &failing{kernel: f, at: k}
				err = round(b, target)
				b.kernel = f
				check(t, undo())
				if err == nil {
					if k < 10 {
						t.Errorf("%s: only %d steps", name, k)
					}
					break
				}
				if diff := cmp.Diff(sorted(before), sorted(node(t, f))); diff != "" {
					t.Errorf("follow=%t, %s, fault at step %d: left behind:\n%s", o.FollowRDMA, name, k, diff)
				}
			}
		}
	}
}

// failing refuses the at-th of the calls that change something.
type failing struct {
	kernel
	at int
}

var errInjected = errors.New("injected")

func (f *failing) fails() bool { f.at--; return f.at == 0 }

func (f *failing) MoveRDMA(from host.NS, name string, to host.NS) error {
	if f.fails() {
		return errInjected
	}
	return f.kernel.MoveRDMA(from, name, to)
}

func (f *failing) MoveLink(from host.NS, index int, to host.NS, name string) (host.Link, error) {
	if f.fails() {
		return host.Link{}, errInjected
	}
	return f.kernel.MoveLink(from, index, to, name)
}

func (f *failing) AddAddress(ns host.NS, index int, p netip.Prefix) error {
	if f.fails() {
		return errInjected
	}
	return f.kernel.AddAddress(ns, index, p)
}

func (f *failing) SetLinkUp(ns host.NS, index int) error {
	if f.fails() {
		return errInjected
	}
	return f.kernel.SetLinkUp(ns, index)
}

func (f *failing) AddVeth(ns host.NS, name string, peer host.NS, peerName string, mtu int) (host.Link, host.Link,
	error) {
	if f.fails() {
		return host.Link{}, host.Link{}, errInjected
	}
	return f.kernel.AddVeth(ns, name, peer, peerName, mtu)
}

func (f *failing) AddRoute(ns host.NS, r host.Route) error {
	if f.fails() {
		return errInjected
	}
	return f.kernel.AddRoute(ns, r)
}

func (f *failing) AddRule(ns host.NS, r host.Rule) error {
	if f.fails() {
		return errInjected
	}
	return f.kernel.AddRule(ns, r)
}

func (f *failing) DeleteLink(ns host.NS, index int) error {
	if f.fails() {
		return errInjected
	}
	return f.kernel.DeleteLink(ns, index)
}

func TestMakesAndRemovesVFs(t *testing.T) {
	f := hosttest.GuideNode()
	before := node(t, f)
	b := &bench{}
	check(t, b.runMake(t.Context(), f, options{rounds: 2, make: "0000:86:00.0", vfs: 3}))
	if diff := cmp.Diff(before, node(t, f)); diff != "" {
		t.Errorf("the node is not as it was: %s", diff)
	}
	if len(b.samples) != 2*len(makeSteps) {
		t.Errorf("%d samples of 2 rounds of %d steps", len(b.samples), len(makeSteps))
	}
	check(t, f.SetNumVFs("0000:86:00.0", 1))
	if err := b.runMake(t.Context(), f, options{rounds: 1, make: "0000:86:00.0", vfs: 3}); err == nil {
		t.Error("VFs that were there were removed")
	}
	if pf, err := f.PF("0000:86:00.0"); err != nil || pf.NumVFs != 1 {
		t.Errorf("the card has %d VFs, want its 1 as before; %v", pf.NumVFs, err)
	}
}

func TestNoFreeVF(t *testing.T) {
	f := hosttest.GuideNodeWith(hosttest.Options{})
	if _, err := chooseTarget(f, ""); err == nil || !strings.Contains(err.Error(), "SriovNetworkNodePolicy") {
		t.Errorf("error %v: want the remedy in it", err)
	}
}

func sorted(lines []string) []string { return slices.Sorted(slices.Values(lines)) }

func TestTakePlace(t *testing.T) {
	defer func(old string) { cgroups = old }(cgroups)
	cgroups = t.TempDir()
	own, err := groupOf(os.Getpid())
	check(t, err)
	procs := filepath.Join(own, "cgroup.procs")
	check(t, os.MkdirAll(own, 0o755))
	check(t, os.WriteFile(procs, nil, 0o600))
	cmd := exec.Command("sleep", "60")
	check(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	state := func(want string) {
		t.Helper()
		var got string
		for range 100 { // the kernel takes a moment
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
			check(t, err)
			if got = strings.Fields(string(text))[2]; got == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("the process is in state %s, want %s", got, want)
	}
	back, err := takePlace(cmd.Process.Pid)
	check(t, err)
	state("T")
	joined := func(when string) {
		t.Helper()
		text, err := os.ReadFile(procs)
		check(t, err)
		if string(text) != fmt.Sprint(os.Getpid()) {
			t.Errorf("%s: wrote %q, want this process", when, text)
		}
		check(t, os.WriteFile(procs, nil, 0o600))
	}
	joined("joining")
	check(t, back())
	state("S")
	joined("coming back")
	if _, err := takePlace(1 << 30); err == nil {
		t.Error("took the place of a process that does not exist")
	}
	back, err = takePlace(0)
	check(t, err)
	check(t, back())
}
