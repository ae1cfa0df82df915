// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
)

// nodes are the kernels and settings in which a VF may come home differently.
func nodes(t *testing.T, do func(t *testing.T, node func(*testing.T) *hosttest.Fake, dead bool)) {
	for name, o := range map[string]hosttest.Options{
		"old kernel": {Naming: hosttest.GuideNaming},
		"new kernel": {Naming: hosttest.GuideNaming, FollowRDMA: true},
	} {
		for _, mode := range []host.RDMAMode{host.RDMAExclusive, host.RDMAShared} {
			for _, dead := range []bool{false, true} {
				t.Run(name+", "+string(mode)+map[bool]string{true: ", dead", false: ", alive"}[dead], func(t *testing.T) {
					do(t, func(t *testing.T) *hosttest.Fake {
						f := hosttest.GuideNodeWith(o)
						must(t, f.SetNumVFs(hosttest.GuidePF, 3))
						for i, pci := range []string{vf0, "0000:86:00.2", "0000:86:00.3"} {
							must(t, f.SetVFGUID(hosttest.GuidePF, i, ib.VFGUID(hosttest.GuidePFGUID, i)))
							must(t, f.BindVF(pci))
						}
						f.AddNS(pod)
						f.ForceRDMAMode(mode)
						f.Revive()
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
// an attachment, whose DEL knows the name that it had.
func TestSweepRDMANames(t *testing.T) {
	f := guideNode(t)
	p := &Plugin{Kernel: f}
	for i, pci := range []string{vf0, "0000:86:00.2", "0000:86:00.3"} {
		d, err := f.RDMAByPCI(host.NodeNS, pci)
		must(t, err)
		must(t, f.NameRDMA(host.NodeNS, d.Index, []string{"..", "a/b", "fine"}[i]))
	}
	for range 2 {
		_, err := p.Sweep(func() []cni.Recorded { return []cni.Recorded{{DeviceID: "0000:86:00.2"}} })
		must(t, err)
	}
	for pci, want := range map[string]string{vf0: "pci_0000_86_00_1", "0000:86:00.2": "a/b", "0000:86:00.3": "fine"} {
		if d, err := f.RDMAByPCI(host.NodeNS, pci); err != nil || d.Name != want {
			t.Errorf("RDMA device of %s: %+v, %v; want the name %s", pci, d, err, want)
		}
	}
}
