// SPDX-License-Identifier: Apache-2.0

package ipoib

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
)

// memory is a cni.State.
type memory struct{ raw []byte }

func (m *memory) Load(into any) (bool, error) {
	if m.raw == nil {
		return false, nil
	}
	return true, json.Unmarshal(m.raw, into)
}

func (m *memory) Save(v any) (err error) {
	m.raw, err = json.Marshal(v)
	return err
}

// Note implements cni.State.
func (m *memory) Note(v any) error { return m.Save(v) }

func call(id, conf string, ns host.NS) *cni.Request {
	return &cni.Request{ContainerID: id, NetNS: ns, IfName: "eth0", Network: "net", CNIVersion: "1.0.0",
		Conf: []byte(conf), State: &memory{}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Two children of one port: names, hardware addresses and link-local addresses of their own, the
// parent's P_Key and mode, the MTU asked for, and the master found by its alternative name.
func TestTwoChildren(t *testing.T) {
	f := hosttest.GuideNode()
	before := f.Snapshot()
	p := &Plugin{Kernel: f}
	master, err := f.LinkByName(host.NodeNS, "ibs5f0")
	must(t, err)
	seen := map[string]bool{}
	var calls []*cni.Request
	for _, id := range []string{"a", "b"} {
		ns := host.NS("/var/run/netns/" + id)
		f.AddNS(ns)
		r := call(id, `{"master":"ibp134s0f0","mtu":2000}`, ns)
		calls = append(calls, r)
		res, err := p.Add(context.Background(), r)
		must(t, err)
		l, err := f.LinkByName(ns, "eth0")
		must(t, err)
		if !l.Up || l.MTU != 2000 || l.PKey&0x7fff != master.PKey&0x7fff || l.Mode != master.Mode {
			t.Errorf("child %+v", l)
		}
		if i := res.Interfaces[0]; i.Mac != l.HardwareAddr.String() || i.Mtu != 2000 || i.Sandbox != string(ns) ||
			len(l.HardwareAddr) != ib.LinkAddrLen {
			t.Errorf("result %+v", i)
		}
		addrs, err := f.Addresses(ns, l.Index)
		must(t, err)
		for _, a := range addrs {
			if seen[a.String()] || a.Addr() == hosttest.GuidePFGUID.LinkLocal() {
				t.Errorf("link-local address %s is not the child's own", a)
			}
			seen[a.String()] = true
		}
		must(t, p.Check(context.Background(), r))
	}
	if len(seen) != 2 {
		t.Errorf("link-local addresses %v", seen)
	}
	for _, r := range calls {
		must(t, p.Del(context.Background(), r))
		must(t, p.Del(context.Background(), r))
		f.DeleteNS(r.NetNS)
	}
	if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
		t.Error(diff)
	}
}

func TestRefusals(t *testing.T) {
	f := hosttest.GuideNode()
	f.AddNS("/ns")
	for name, test := range map[string]struct{ conf, says string }{
		"no master": {`{}`, "master is empty"},
		"no such master": {`{"master":"ib9"}`,
			"master ib9 does not exist on this node; the IPoIB interfaces of this node are ibs5f0=ibp134s0f0"},
		"Ethernet":          {`{"master":"eno1"}`, "not an IPoIB interface"},
		"dhcp":              {`{"master":"ibs5f0","ipam":{"type":"dhcp"}}`, "does not work on InfiniBand"},
		"MTU below nothing": {`{"master":"ibs5f0","mtu":-1}`, "mtu is -1"},
		"wrong type":        {`{"master":["ibs5f0"]}`, "does not parse"},
	} {
		_, err := (&Plugin{Kernel: f}).Add(context.Background(), call("c", test.conf, "/ns"))
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}

// A child of the same name that is not ours stays.
func TestDelSparesOthers(t *testing.T) {
	f := hosttest.GuideNode()
	f.AddNS("/ns")
	p := &Plugin{Kernel: f}
	r := call("c", `{"master":"ibs5f0"}`, "/ns")
	_, err := p.Add(context.Background(), r)
	must(t, err)
	master, err := f.LinkByName(host.NodeNS, "ibs5f0")
	must(t, err)
	_, err = f.AddIPoIBChild(master.Index, "eth0", master.PKey)
	must(t, err)
	must(t, p.Del(context.Background(), r))
	if _, err := f.LinkByName(host.NodeNS, "eth0"); err != nil {
		t.Errorf("deleted somebody else's link: %v", err)
	}
	if len(tempName(cni.AttachmentKey{ContainerID: strings.Repeat("c", 64), IfName: "eth0"})) > 15 {
		t.Error("the temporary name is too long for the kernel")
	}
}

// A record that is kept after its child has gone, because something else could not be undone, must
// not cost another pod its child: the kernel gives a queue pair number again.
func TestDelSparesTheNextOwnerOfAnAddress(t *testing.T) {
	f := hosttest.GuideNode()
	f.AddNS("/ns")
	p := &Plugin{Kernel: f}
	r := call("c", `{"master":"ibs5f0"}`, "/ns")
	_, err := p.Add(context.Background(), r)
	must(t, err)
	must(t, p.Del(context.Background(), r))
	master, err := f.LinkByName(host.NodeNS, "ibs5f0")
	must(t, err)
	other, err := f.AddIPoIBChild(master.Index, tempName(cni.AttachmentKey{ContainerID: "d", IfName: "eth0"}),
		master.PKey)
	must(t, err)
	var st state
	_, err = r.State.Load(&st)
	must(t, err)
	st.HardwareAddr = other.HardwareAddr.String()
	must(t, r.State.Save(st))
	must(t, p.Del(context.Background(), r))
	if _, err := f.LinkByIndex(host.NodeNS, other.Index); err != nil {
		t.Errorf("deleted a child that another attachment is making: %v", err)
	}
}

// returning is a node to which a child comes home only after a few looks: namespaces die in the background.
type returning struct {
	*hosttest.Fake
	looks *int
}

func (k returning) Links(ns host.NS) ([]host.Link, error) {
	links, err := k.Fake.Links(ns)
	if ns == host.NodeNS {
		*k.looks++
		if *k.looks < 4 {
			links = slices.DeleteFunc(links, func(l host.Link) bool { return l.Kind == kind && l.Parent != 0 })
		}
	}
	return links, err
}

func TestDelWaitsForADyingNamespace(t *testing.T) {
	f := hosttest.GuideNode()
	before := f.Snapshot()
	f.AddNS("/ns")
	r := call("c", `{"master":"ibs5f0"}`, "/ns")
	_, err := (&Plugin{Kernel: f}).Add(context.Background(), r)
	must(t, err)
	f.DeleteNS("/ns")
	looks := 0
	must(t, (&Plugin{Kernel: returning{f, &looks}}).Del(context.Background(), r))
	if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
		t.Errorf("left on the node after %d looks:\n%s", looks, diff)
	}
}

func TestParseRefusesPartitions(t *testing.T) {
	for conf, want := range map[string]string{
		`{"master":"ibs5f0"}`:                 "",
		`{"master":"ibs5f0","pkey":""}`:       "",
		`{"master":"ibs5f0","pkey":null}`:     "",
		`{"master":"ibs5f0","pkey":"0x8001"}`: `pkey is "0x8001": partitions are not implemented, and the pod would be in the default partition; remove "pkey" from the network's configuration`,
		`{"master":"ibs5f0","pkey":32769}`:    `pkey is 32769: partitions are not implemented, and the pod would be in the default partition; remove "pkey" from the network's configuration`,
	} {
		got := ""
		if _, err := parse(call("c", conf, "/ns")); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", conf, got, want)
		}
	}
}

// TestPodChangedChild has a pod do to its IPoIB child what NET_ADMIN allows. The child goes all the
// same, and with it what the pod gave it.
func TestPodChangedChild(t *testing.T) {
	for name, change := range map[string]func(f *hosttest.Fake, l host.Link) error{
		"an alternative name of the node's bridge": func(f *hosttest.Fake, l host.Link) error {
			return f.AddAltName("/ns", l.Index, "cni0")
		},
		"the name of the node's bridge": func(f *hosttest.Fake, l host.Link) error {
			return f.RenameLink("/ns", l.Index, "cni0")
		},
		"no alias":      func(f *hosttest.Fake, l host.Link) error { return f.SetLinkAlias("/ns", l.Index, "") },
		"another alias": func(f *hosttest.Fake, l host.Link) error { return f.SetLinkAlias("/ns", l.Index, "x") },
		"another pod's alias": func(f *hosttest.Fake, l host.Link) error {
			return f.SetLinkAlias("/ns", l.Index, "spiderpool:d/eth0")
		},
		"the first name of another pod's": func(f *hosttest.Fake, l host.Link) error {
			return errors.Join(f.SetLinkAlias("/ns", l.Index, ""),
				f.RenameLink("/ns", l.Index, tempName(cni.AttachmentKey{ContainerID: "d", IfName: "eth0"})))
		},
		"MTU, queue and state": func(f *hosttest.Fake, l host.Link) error {
			return errors.Join(f.SetLinkMTU("/ns", l.Index, 1280), f.SetLinkTxQueueLen("/ns", l.Index, 1),
				f.SetLinkDown("/ns", l.Index))
		},
	} {
		f := hosttest.GuideNode()
		_, _, err := f.AddVeth(host.NodeNS, "cni0", host.NodeNS, "other0", 1500)
		must(t, err)
		f.AddNS("/other")
		f.AddNS("/ns")
		p := &Plugin{Kernel: f}
		_, err = p.Add(t.Context(), call("d", `{"master":"ibs5f0"}`, "/other"))
		must(t, err)
		before := f.Snapshot()
		r := call("c", `{"master":"ibs5f0"}`, "/ns")
		_, err = p.Add(t.Context(), r)
		must(t, err)
		link, err := f.LinkByName("/ns", "eth0")
		must(t, err)
		must(t, change(f, link))
		for range 2 {
			must(t, p.Del(t.Context(), r))
		}
		if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
