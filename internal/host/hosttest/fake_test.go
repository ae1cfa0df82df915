// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

var _ API = (*Fake)(nil)

const pod = host.NS("/var/run/netns/pod")

// withVFs is the guide's node with n bound VFs that have GUIDs, and an empty pod namespace.
func withVFs(t *testing.T, o Options, n int) *Fake {
	t.Helper()
	f := GuideNodeWith(o)
	ok(t, f.SetNumVFs(GuidePF, n))
	for i := range n {
		ok(t, f.SetVFGUID(GuidePF, i, ib.VFGUID(GuidePFGUID, i)))
		ok(t, f.BindVF(vfAddress(GuidePF, i)))
	}
	f.AddNS(pod)
	f.Revive()
	return f
}

// toPod moves a VF's RDMA device and then its netdev as eth0.
func toPod(t *testing.T, f *Fake, pci string) host.Link {
	t.Helper()
	vf, err := f.VF(pci)
	ok(t, err)
	ok(t, f.MoveRDMA(host.NodeNS, vf.RDMA.Name, pod))
	l, err := f.LinkByPCI(host.NodeNS, pci)
	ok(t, err)
	l, err = f.MoveLink(host.NodeNS, l.Index, pod, "eth0")
	ok(t, err)
	return l
}

func TestFakeVFLifecycle(t *testing.T) {
	f := GuideNode()
	ok(t, f.SetNumVFs(GuidePF, 12))
	pf, err := f.PF(GuidePF)
	ok(t, err)
	if last := pf.VFs[11]; last.PCI != "0000:86:01.4" || last.Device != "1018" || last.Driver != "" ||
		last.Link != nil || !last.NodeGUID.IsZero() {
		t.Errorf("fresh VF 11 is %+v", last)
	}
	ok(t, f.BindVF("0000:86:00.1"))
	vf, _ := f.VF("0000:86:00.1")
	if vf.RDMA == nil || vf.RDMA.State != "INIT" || vf.Link.Name != "ibs5f0v0" {
		t.Errorf("a VF bound without a GUID is %+v", vf)
	}
	guid := ib.VFGUID(GuidePFGUID, 0)
	ok(t, f.SetVFGUID(GuidePF, 0, guid))
	vf, _ = f.VF("0000:86:00.1")
	if vf.NodeGUID != guid || !vf.RDMA.NodeGUID.IsZero() {
		t.Errorf("before the rebind the PF reports %s and the VF has %s", vf.NodeGUID, vf.RDMA.NodeGUID)
	}
	ok(t, f.UnbindVF("0000:86:00.1"))
	ok(t, f.BindVF("0000:86:00.1"))
	vf, _ = f.VF("0000:86:00.1")
	if vf.RDMA.NodeGUID != guid || vf.RDMA.State != "ACTIVE" {
		t.Errorf("after the rebind the VF's RDMA device is %+v", vf.RDMA)
	}
	if err := f.SetNumVFs(GuidePF, 17); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("17 VFs: %v", err)
	}
}

func TestFakeMoveAndReturn(t *testing.T) {
	f := withVFs(t, Options{Naming: GuideNaming}, 3)
	start := f.Snapshot()
	const pci = "0000:86:00.2"
	before, _ := f.VF(pci)
	l := toPod(t, f, pci)
	if l.Name != "eth0" || l.Up || l.Index == before.Link.Index {
		t.Errorf("in the pod it is %+v", l)
	}
	if vf, _ := f.VF(pci); vf.Link != nil || vf.RDMA != nil || vf.Uverbs == "" {
		t.Errorf("the node still sees %+v", vf)
	}
	ok(t, f.MoveRDMA(pod, before.RDMA.Name, host.NodeNS))
	if diff := cmp.Diff(start, f.Snapshot()); diff != "" {
		t.Errorf("moving the RDMA device home does not restore the node:\n%s", diff)
	}
}

func TestFakeFollowRDMA(t *testing.T) {
	f := withVFs(t, Options{Naming: GuideNaming, FollowRDMA: true}, 1)
	ok(t, f.MoveRDMA(host.NodeNS, "mlx5_1", pod))
	if l, err := f.LinkByPCI(pod, "0000:86:00.1"); err != nil || l.Name != "ib0" {
		t.Errorf("netdev in the pod: %+v, %v", l, err)
	}
}

func TestFakeNamespaceDeath(t *testing.T) {
	f := withVFs(t, Options{}, 2)
	toPod(t, f, "0000:86:00.1")
	parent, err := f.LinkByPCI(host.NodeNS, GuidePF)
	ok(t, err)
	child, err := f.AddIPoIBChild(parent.Index, "c0", 0x8001)
	ok(t, err)
	_, err = f.MoveLink(host.NodeNS, child.Index, pod, GuideEthName)
	ok(t, err)
	f.DeleteNS(pod)
	vf, _ := f.VF("0000:86:00.1")
	if vf.Link == nil || vf.Link.Name != "ib0" || vf.RDMA == nil {
		t.Errorf("VF after its namespace died: %+v", vf)
	}
	links, _ := f.Links(host.NodeNS)
	var orphan string
	for _, l := range links {
		if l.Kind == "ipoib" && l.Parent != 0 {
			orphan = l.Name
		}
	}
	if len(orphan) < 4 || orphan[:3] != "dev" {
		t.Errorf("the IPoIB child came home as %q", orphan)
	}
	if _, err := f.Links(pod); !errors.Is(err, host.ErrNSGone) {
		t.Errorf("links of a dead namespace: %v", err)
	}
}

func TestFakeSharedMode(t *testing.T) {
	f := withVFs(t, Options{}, 1)
	if err := f.SetRDMAMode(host.RDMAShared); !errors.Is(err, host.ErrBusy) {
		t.Errorf("mode change with a pod: %v", err)
	}
	f.ForceRDMAMode(host.RDMAShared)
	if err := f.MoveRDMA(host.NodeNS, "mlx5_1", pod); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("move in shared mode: %v", err)
	}
	l, err := f.LinkByPCI(host.NodeNS, "0000:86:00.1")
	ok(t, err)
	_, err = f.MoveLink(host.NodeNS, l.Index, pod, GuideEthName)
	ok(t, err)
	f.DeleteNS(pod)
	if vf, _ := f.VF("0000:86:00.1"); vf.Link == nil || vf.Link.Name != fmt.Sprintf("dev%d", vf.Link.Index) {
		t.Errorf("the VF's netdev came home as %+v", vf.Link)
	}
}

func TestFakeAlternativeNames(t *testing.T) {
	f := withVFs(t, Options{Naming: GuideNaming}, 2)
	l, _ := f.LinkByName(host.NodeNS, "ibp134s0f0v0")
	if err := f.RenameLink(host.NodeNS, l.Index, "ibp134s0f0v1"); !errors.Is(err, host.ErrExists) {
		t.Errorf("a name that is another link's alternative: %v", err)
	}
	ok(t, f.RenameLink(host.NodeNS, l.Index, "ibp134s0f0v0"))
}

func TestFakeCable(t *testing.T) {
	f := withVFs(t, Options{}, 1)
	f.SetCable(GuidePF, false)
	if pf, _ := f.PF(GuidePF); pf.Link.Carrier || pf.RDMA.State != "DOWN" || pf.VFs[0].RDMA.State != "DOWN" {
		t.Errorf("without a cable: %+v", pf)
	}
}

func TestFakeRoutes(t *testing.T) {
	f := GuideNode()
	pf, _ := f.PF(GuidePF)
	r := host.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("192.0.2.1"),
		Index: pf.Link.Index}
	if err := f.AddRoute(host.NodeNS, r); err == nil {
		t.Error("a gateway on no network was taken")
	}
	r.Gateway = netip.MustParseAddr("172.91.0.1")
	ok(t, f.AddRoute(host.NodeNS, r))
	ok(t, f.AddRoute(host.NodeNS, r))
	ok(t, f.SetLinkDown(host.NodeNS, pf.Link.Index))
	if routes, _ := f.Routes(host.NodeNS, 0); len(routes) != 2 {
		t.Errorf("routes after the link went down: %v", routes)
	}
	if eth, _ := f.PF(GuideEthPCI); !eth.DefaultRoute || pf.DefaultRoute {
		t.Errorf("default route: %s %v, %s %v", GuideEthPCI, eth.DefaultRoute, GuidePF, pf.DefaultRoute)
	}
}

func TestFakeAnswers(t *testing.T) {
	f := GuideNode()
	pf, _ := f.PF(GuidePF)
	child := func(name string, pkey uint16) host.Link {
		l, err := f.AddIPoIBChild(pf.Link.Index, name, pkey)
		ok(t, err)
		ok(t, f.SetLinkUp(host.NodeNS, l.Index))
		return l
	}
	same, apart := child("same", 0), child("apart", 0x8001)
	ask := func(l host.Link, ip string) (net.HardwareAddr, error) {
		return f.Solicit(t.Context(), host.NodeNS, l.Index, addr(ip), nobody)
	}
	if hw, err := ask(same, "172.91.0.10"); err != nil || !bytes.Equal(hw, pf.Link.HardwareAddr) {
		t.Errorf("the card's address is at %s, %v", hw, err)
	}
	_, err := ask(apart, "172.91.0.10")
	is(t, "an address in another partition", err, host.ErrNotFound)
	stranger := append(make(net.HardwareAddr, 19), 7)
	f.Answer(addr("172.91.0.77"), stranger)
	if hw, err := ask(apart, "172.91.0.77"); err != nil || !bytes.Equal(hw, stranger) {
		t.Errorf("the stranger is at %s, %v", hw, err)
	}
	eth, _ := f.PF(GuideEthPCI)
	_, err = ask(*eth.Link, "172.91.0.77")
	is(t, "an InfiniBand stranger on Ethernet", err, host.ErrNotFound)
	f.Answer(addr("172.91.0.77"), nil)
	_, err = ask(same, "172.91.0.77")
	is(t, "a stranger who left", err, host.ErrNotFound)
	f.SetCable(GuidePF, false)
	_, err = ask(same, "172.91.0.10")
	is(t, "a card without a cable", err, host.ErrNoCarrier)
}

func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	up := func(f *Fake) error {
		l, _ := f.LinkByName(host.NodeNS, "ibs5f0")
		return f.SetLinkDown(host.NodeNS, l.Index)
	}
	isUp := func(f *Fake) bool { l, _ := f.LinkByName(host.NodeNS, "ibs5f0"); return l.Up }
	for _, c := range []struct {
		name   string
		inject func(*Fake)
		want   error
		up     bool
		later  error
	}{
		{"before", func(f *Fake) { f.FailAt(1, boom) }, boom, true, nil},
		{"after", func(f *Fake) { f.FailAfter(1, boom) }, boom, false, nil},
		{"crash", func(f *Fake) { f.CrashAt(1, false) }, ErrCrashed, true, ErrCrashed},
		{"not yet", func(f *Fake) { f.FailAt(2, boom) }, nil, false, boom},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := GuideNode()
			c.inject(f)
			if err := up(f); !errors.Is(err, c.want) {
				t.Errorf("first call: %v, want %v", err, c.want)
			}
			if got := isUp(f); got != c.up {
				t.Errorf("up is %v, want %v", got, c.up)
			}
			if err := up(f); !errors.Is(err, c.later) || f.Steps() != 2 {
				t.Errorf("second call: %v, %d steps; want %v", err, f.Steps(), c.later)
			}
		})
	}
}
