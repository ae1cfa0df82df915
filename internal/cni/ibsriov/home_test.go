// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// nodes are the kernels and settings in which a VF may come home differently.
func nodes(t *testing.T, do func(t *testing.T, node func(*testing.T) *hosttest.Fake, dead bool)) {
	for name, o := range map[string]hosttest.Options{
		"old kernel": {Naming: hosttest.GuideNaming},
		"new kernel": {Naming: hosttest.GuideNaming, FollowRDMA: true},
	} {
		for _, mode := range []host.RDMAMode{host.RDMAExclusive, host.RDMAShared} {
			for _, dead := range []bool{false, true} {
				name := name + ", " + string(mode) + map[bool]string{true: ", dead", false: ", alive"}[dead]
				t.Run(name, func(t *testing.T) {
					do(t, func(t *testing.T) *hosttest.Fake {
						f := guideNodeWith(t, o)
						f.ForceRDMAMode(mode)
						return f
					}, dead)
				})
			}
		}
	}
}

// TestRDMADeviceRenamed has a pod rename its RDMA device.
func TestRDMADeviceRenamed(t *testing.T) {
	for _, name := range []string{"x", "..", ".", "a/b", "mlx5_9", "mlx5_1 "} {
		nodes(t, func(t *testing.T, node func(*testing.T) *hosttest.Fake, dead bool) {
			f := node(t)
			before := f.Snapshot()
			p := &Plugin{Kernel: f}
			r := call(`{"deviceID":"` + vf0 + `"}`)
			_, err := p.Add(t.Context(), r)
			must(t, err)
			d, err := f.RDMAByPCI(pod, vf0)
			must(t, err)
			must(t, f.NameRDMA(pod, d.Index, name))
			if dead {
				f.DeleteNS(pod)
			}
			for range 2 {
				must(t, p.Del(t.Context(), r))
			}
			f.AddNS(pod)
			if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
				t.Errorf("%q: %s", name, diff)
			}
			_, err = p.Add(t.Context(), call(`{"deviceID":"`+vf0+`"}`))
			must(t, err)
		})
	}
}

// TestRDMANamesExchanged: two pods, or one with two devices, have changed the names of their
// devices. The first that comes home finds its name taken, and must not keep that of the second.
func TestRDMANamesExchanged(t *testing.T) {
	f := guideNode(t)
	p := &Plugin{Kernel: f}
	var calls []*cni.Request
	for i, pci := range []string{vf0, "0000:86:00.2"} {
		r := call(`{"deviceID":"` + pci + `"}`)
		r.IfName = []string{"eth0", "net1"}[i]
		_, err := p.Add(t.Context(), r)
		must(t, err)
		calls = append(calls, r)
	}
	a, err := f.RDMAByPCI(pod, vf0)
	must(t, err)
	b, err := f.RDMAByPCI(pod, "0000:86:00.2")
	must(t, err)
	must(t, f.NameRDMA(pod, a.Index, ".."))
	must(t, f.NameRDMA(pod, b.Index, a.Name))
	must(t, f.NameRDMA(pod, a.Index, b.Name))
	for _, r := range calls {
		must(t, p.Del(t.Context(), r))
	}
	for pci, want := range map[string]string{vf0: "pci_0000_86_00_1", "0000:86:00.2": b.Name} {
		if d, err := f.RDMAByPCI(host.NodeNS, pci); err != nil || d.Name != want {
			t.Errorf("RDMA device of %s: %+v, %v; want the name %s", pci, d, err, want)
		}
	}
	_, err = p.Add(t.Context(), call(`{"deviceID":"`+vf0+`"}`))
	must(t, err)
}

// TestSweepRDMANames: a device that came home under a name of no use gets another, unless it is of
// an attachment, whose DEL knows the name that it had. In shared mode a pod can rename a PF's, too.
func TestSweepRDMANames(t *testing.T) {
	f := guideNode(t)
	p := &Plugin{Kernel: f}
	for i, pci := range []string{vf0, "0000:86:00.2", "0000:86:00.3", hosttest.GuidePF} {
		d, err := f.RDMAByPCI(host.NodeNS, pci)
		must(t, err)
		must(t, f.NameRDMA(host.NodeNS, d.Index, []string{"..", "a/b", "fine", "."}[i]))
	}
	for range 2 {
		_, err := p.Sweep(func() []cni.Recorded { return []cni.Recorded{{DeviceID: "0000:86:00.2"}} })
		must(t, err)
	}
	for pci, want := range map[string]string{vf0: "pci_0000_86_00_1", "0000:86:00.2": "a/b", "0000:86:00.3": "fine",
		hosttest.GuidePF: "pci_0000_86_00_0"} {
		if d, err := f.RDMAByPCI(host.NodeNS, pci); err != nil || d.Name != want {
			t.Errorf("RDMA device of %s: %+v, %v; want the name %s", pci, d, err, want)
		}
	}
}

// TestPodChangedNetdev has a pod do to its VF's netdev what NET_ADMIN allows, with and without its
// RDMA device, while it lives and after its namespace has ended.
func TestPodChangedNetdev(t *testing.T) {
	for name, change := range map[string]func(f *hosttest.Fake, l host.Link) error{
		"an alternative name of the node's bridge": func(f *hosttest.Fake, l host.Link) error {
			return f.AddAltName(pod, l.Index, "cni0")
		},
		"several, one of them the PF's": func(f *hosttest.Fake, l host.Link) error {
			return errors.Join(f.AddAltName(pod, l.Index, "cni0"), f.AddAltName(pod, l.Index, "ibs5f0"),
				f.AddAltName(pod, l.Index, "ibp134s0f0"), f.AddAltName(pod, l.Index, "free"))
		},
		"its own name on the node": func(f *hosttest.Fake, l host.Link) error {
			return f.AddAltName(pod, l.Index, "ibs5f0v0")
		},
		"none of its alternative names": func(f *hosttest.Fake, l host.Link) (err error) {
			for _, alt := range l.AltNames {
				err = errors.Join(err, f.DeleteAltName(pod, l.Index, alt))
			}
			return err
		},
		"the name of the node's bridge": func(f *hosttest.Fake, l host.Link) error {
			return f.RenameLink(pod, l.Index, "cni0")
		},
		"MTU":          func(f *hosttest.Fake, l host.Link) error { return f.SetLinkMTU(pod, l.Index, 1280) },
		"queue length": func(f *hosttest.Fake, l host.Link) error { return f.SetLinkTxQueueLen(pod, l.Index, 1) },
		"alias": func(f *hosttest.Fake, l host.Link) error {
			return f.SetLinkAlias(pod, l.Index, "spiderpool:c/eth0")
		},
		"down": func(f *hosttest.Fake, l host.Link) error { return f.SetLinkDown(pod, l.Index) },
		"addresses": func(f *hosttest.Fake, l host.Link) error {
			return f.AddAddress(pod, l.Index, netip.MustParsePrefix("10.96.0.1/12"))
		},
		"IPoIB children": func(f *hosttest.Fake, l host.Link) error {
			return errors.Join(f.AddChildInPod(pod, l.Index, "eth0.8001"), f.AddChildInPod(pod, l.Index, "cni0"))
		},
		"everything": func(f *hosttest.Fake, l host.Link) error {
			return errors.Join(f.AddAltName(pod, l.Index, "cni0"), f.RenameLink(pod, l.Index, "ibs5f0"),
				f.SetLinkMTU(pod, l.Index, 1280), f.SetLinkTxQueueLen(pod, l.Index, 1),
				f.SetLinkAlias(pod, l.Index, "x"), f.AddChildInPod(pod, l.Index, "child"),
				f.SetLinkUp(pod, l.Index))
		},
	} {
		nodes(t, func(t *testing.T, node func(*testing.T) *hosttest.Fake, dead bool) {
			f := node(t)
			_, _, err := f.AddVeth(host.NodeNS, "cni0", host.NodeNS, "other0", 1500)
			must(t, err)
			before := f.Snapshot()
			p := &Plugin{Kernel: f}
			r := call(`{"deviceID":"` + vf0 + `"}`)
			_, err = p.Add(t.Context(), r)
			must(t, err)
			link, err := f.LinkByPCI(pod, vf0)
			must(t, err)
			must(t, change(f, link))
			if dead {
				f.DeleteNS(pod)
			}
			for range 2 {
				must(t, p.Del(t.Context(), r))
			}
			f.AddNS(pod)
			after := f.Snapshot()
			before.Namespaces[pod], after.Namespaces[pod] = hosttest.NamespaceState{}, hosttest.NamespaceState{}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		})
	}
}

// TestDelSparesChildrenOfTheNode: an IPoIB child of the VF that is up on the node is in somebody's
// use, and one of the ipoib plugin is that plugin's.
func TestDelSparesChildrenOfTheNode(t *testing.T) {
	f := guideNode(t)
	f.ForceRDMAMode(host.RDMAShared)
	link, err := f.LinkByPCI(host.NodeNS, vf0)
	must(t, err)
	for _, name := range []string{"admins0", "ours0"} {
		child, err := f.AddIPoIBChild(link.Index, name, 0)
		must(t, err)
		if name == "ours0" {
			must(t, f.SetLinkAlias(host.NodeNS, child.Index, cni.LinkAliasPrefix+"d/eth0"))
		} else {
			must(t, f.SetLinkUp(host.NodeNS, child.Index))
		}
	}
	p := &Plugin{Kernel: f}
	r := call(`{"deviceID":"` + vf0 + `"}`)
	_, err = p.Add(t.Context(), r)
	must(t, err)
	must(t, p.Del(t.Context(), r))
	for _, name := range []string{"admins0", "ours0"} {
		if _, err := f.LinkByName(host.NodeNS, name); err != nil {
			t.Error(err)
		}
	}
}

// TestHomeOfOldRecords: a record of an earlier agent knows no alternative names. Those that stand in
// the way are dropped, and others stay.
func TestHomeOfOldRecords(t *testing.T) {
	f := guideNode(t)
	f.ForceRDMAMode(host.RDMAShared)
	_, _, err := f.AddVeth(host.NodeNS, "cni0", host.NodeNS, "other0", 1500)
	must(t, err)
	p := &Plugin{Kernel: f}
	r := call(`{"deviceID":"` + vf0 + `"}`)
	_, err = p.Add(t.Context(), r)
	must(t, err)
	var st state
	_, err = r.State.Load(&st)
	must(t, err)
	st.Netdev = nil
	must(t, r.State.Save(st))
	link, err := f.LinkByPCI(pod, vf0)
	must(t, err)
	must(t, f.AddAltName(pod, link.Index, "cni0"))
	must(t, f.AddAltName(pod, link.Index, "udevs0"))
	must(t, p.Del(t.Context(), r))
	if l, err := f.LinkByPCI(host.NodeNS, vf0); err != nil || slices.Contains(l.AltNames, "cni0") ||
		!slices.Contains(l.AltNames, "udevs0") {
		t.Errorf("home as %+v, %v", l, err)
	}
}

// TestUnrestorable: a setting that the kernel does not take back is no reason to leave the VF in the
// pod, nor to refuse DEL for ever.
func TestUnrestorable(t *testing.T) {
	f := guideNode(t)
	f.ForceRDMAMode(host.RDMAShared)
	p := &Plugin{Kernel: &stubborn{f}}
	r := call(`{"deviceID":"` + vf0 + `"}`)
	_, err := p.Add(t.Context(), r)
	must(t, err)
	link, err := f.LinkByPCI(pod, vf0)
	must(t, err)
	must(t, errors.Join(f.SetLinkMTU(pod, link.Index, 1280), f.SetLinkAlias(pod, link.Index, "x"),
		f.AddChildInPod(pod, link.Index, "child0"), f.AddAltName(pod, link.Index, "free0")))
	must(t, p.Del(t.Context(), r))
	if l, err := f.LinkByPCI(host.NodeNS, vf0); err != nil || l.Name != "ibs5f0v0" || l.Alias != "" {
		t.Errorf("home as %+v, %v", l, err)
	}
}

// stubborn is a node that takes no MTU, deletes no link and no alternative name.
type stubborn struct{ *hosttest.Fake }

func (s *stubborn) SetLinkMTU(host.NS, int, int) error       { return syscall.EINVAL }
func (s *stubborn) DeleteLink(host.NS, int) error            { return host.ErrUnsupported }
func (s *stubborn) DeleteAltName(host.NS, int, string) error { return host.ErrUnsupported }

// TestOldRecordOfRDMADevice: earlier agents recorded the name of a device only where it went along,
// or not at all.
func TestOldRecordOfRDMADevice(t *testing.T) {
	for _, test := range []struct{ device, rdma, want string }{
		{"mlx5_1", "mlx5_1", "mlx5_1"}, {"", "mlx5_1", "mlx5_1"}, {"mlx5_1", "", "mlx5_1"},
		{"", "", "pci_0000_86_00_1"},
	} {
		f := guideNode(t)
		if test.rdma == "" {
			f.ForceRDMAMode(host.RDMAShared)
		}
		p := &Plugin{Kernel: f}
		r := call(`{"deviceID":"` + vf0 + `"}`)
		_, err := p.Add(t.Context(), r)
		must(t, err)
		var st state
		_, err = r.State.Load(&st)
		must(t, err)
		st.Device, st.RDMA = test.device, test.rdma
		must(t, r.State.Save(st))
		d, err := f.RDMAByPCI(pod, vf0)
		must(t, err)
		must(t, f.NameRDMA(pod, d.Index, ".."))
		must(t, p.Del(t.Context(), r))
		if d, err := f.RDMAByPCI(host.NodeNS, vf0); err != nil || d.Name != test.want {
			t.Errorf("recorded as %q, %q: home as %+v, %v; want %s", test.device, test.rdma, d, err, test.want)
		}
	}
}
