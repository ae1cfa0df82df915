// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// freshVFs destroys the PF's VFs and makes n with GUIDs, bound.
func freshVFs(t *testing.T, h API, env Env, n int) host.PF {
	t.Helper()
	ok(t, h.SetNumVFs(env.IBPF, 0))
	ok(t, h.SetNumVFs(env.IBPF, n))
	t.Cleanup(func() {
		if err := h.SetNumVFs(env.IBPF, 0); err != nil {
			t.Error(err)
		}
	})
	pf, err := FindPF(h, env.IBPF)
	ok(t, err)
	for _, vf := range pf.VFs {
		ok(t, h.SetVFGUID(env.IBPF, vf.Index, ib.VFGUID(pf.RDMA.PortGUID, vf.Index)))
		ok(t, h.BindVF(vf.PCI))
	}
	pf, err = FindPF(h, env.IBPF)
	ok(t, err)
	return pf
}

func testPF(t *testing.T, h API, env Env) {
	pf, err := FindPF(h, env.IBPF)
	ok(t, err)
	if pf.LinkLayer != host.InfiniBand || pf.TotalVFs < 3 || pf.Driver == "" || len(pf.Vendor) != 4 ||
		len(pf.Device) != 4 {
		t.Errorf("PF: %+v", pf)
	}
	if pf.Link == nil || pf.RDMA == nil {
		t.Fatalf("PF without netdev or RDMA device: %+v", pf)
	}
	if l := pf.Link; l.Kind != "ipoib" || l.PCI != env.IBPF || l.LinkLayer != host.InfiniBand || l.Parent != 0 ||
		l.Mode != "datagram" || l.PKey&0x7fff == 0 {
		t.Errorf("netdev: %+v", l)
	}
	guid, err := ib.LinkAddrGUID(pf.Link.HardwareAddr)
	ok(t, err)
	if d := pf.RDMA; d.PCI != env.IBPF || d.State != "ACTIVE" || d.PhysState != "LINK_UP" || d.LID == 0 ||
		d.SMLID == 0 || d.LinkLayer != host.InfiniBand || d.PortGUID != guid || !d.NodeGUID.Valid() {
		t.Errorf("RDMA device: %+v; the netdev's GUID is %s", d, guid)
	}
	_, err = h.VFDevices(env.IBPF)
	is(t, "the devices of a PF as those of a VF", err, host.ErrNotFound)
}

func testNumVFs(t *testing.T, h API, env Env) {
	ok(t, h.SetNumVFs(env.IBPF, 0))
	ok(t, h.SetNumVFs(env.IBPF, 0))
	ok(t, h.SetNumVFs(env.IBPF, 2))
	ok(t, h.SetNumVFs(env.IBPF, 3))
	ok(t, h.SetNumVFs(env.IBPF, 3))
	pf, err := FindPF(h, env.IBPF)
	ok(t, err)
	if pf.NumVFs != 3 || len(pf.VFs) != 3 {
		t.Fatalf("asked for 3 virtual functions: %+v", pf)
	}
	for i, vf := range pf.VFs {
		if vf.Index != i || vf.PF != env.IBPF || vf.Driver != "" || vf.Link != nil || vf.RDMA != nil ||
			vf.Uverbs != "" || vf.Umad != "" || vf.State != host.VFAuto {
			t.Errorf("fresh virtual function: %+v", vf)
		}
		sameDevices(t, h, vf)
		_, err := FindPF(h, vf.PCI)
		is(t, "a VF as a PF", err, host.ErrNotFound)
	}
	is(t, "one VF too many", h.SetNumVFs(env.IBPF, pf.TotalVFs+1), host.ErrUnsupported)
	is(t, "the GUID of a VF that is not there", h.SetVFGUID(env.IBPF, 3, GuidePFGUID), host.ErrNotFound)
	is(t, "the state of a VF that is not there", h.SetVFState(env.IBPF, 3, host.VFEnable), host.ErrNotFound)
	_, err = h.VFState(env.IBPF, 3)
	is(t, "asking for the state of a VF that is not there", err, host.ErrNotFound)
	is(t, "a PF bound as a VF", h.BindVF(env.IBPF), host.ErrNotFound)
	ok(t, h.SetNumVFs(env.IBPF, 0))
	if pf, err = FindPF(h, env.IBPF); err != nil || pf.NumVFs != 0 || len(pf.VFs) != 0 {
		t.Errorf("no virtual functions: %+v, %v", pf, err)
	}
}

func testVFGUID(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 2)
	first := ib.VFGUID(pf.RDMA.PortGUID, 0)
	for _, vf := range pf.VFs {
		want := ib.VFGUID(pf.RDMA.PortGUID, vf.Index)
		if vf.NodeGUID != want || vf.PortGUID != want {
			t.Errorf("the PF reports %s and %s of virtual function %d, want %s", vf.NodeGUID, vf.PortGUID, vf.Index,
				want)
		}
		if vf.Driver != pf.Driver || vf.Link == nil || vf.RDMA == nil || vf.Uverbs == "" {
			t.Fatalf("bound virtual function: %+v", vf)
		}
		if vf.RDMA.NodeGUID != want || vf.RDMA.PortGUID != want || vf.RDMA.PCI != vf.PCI || vf.Link.PCI != vf.PCI {
			t.Errorf("its devices: %+v, %+v", vf.RDMA, vf.Link)
		}
		sameDevices(t, h, vf)
	}
	other := ib.VFGUID(pf.RDMA.PortGUID, 77)
	ok(t, h.SetVFGUID(env.IBPF, 0, other))
	vf, err := FindVF(h, pf.VFs[0].PCI)
	ok(t, err)
	if vf.NodeGUID != other || vf.RDMA.NodeGUID != first {
		t.Errorf("before the rebind the PF reports %s, the VF has %s; want %s and %s", vf.NodeGUID, vf.RDMA.NodeGUID,
			other, first)
	}
	for range 2 {
		ok(t, h.UnbindVF(vf.PCI))
	}
	if vf, err = FindVF(h, vf.PCI); err != nil || vf.Driver != "" || vf.Link != nil || vf.RDMA != nil ||
		vf.Uverbs != "" {
		t.Errorf("unbound: %+v, %v", vf, err)
	}
	for range 2 {
		ok(t, h.BindVF(vf.PCI))
	}
	if vf, err = FindVF(h, vf.PCI); err != nil || vf.RDMA == nil || vf.RDMA.NodeGUID != other ||
		vf.RDMA.PortGUID != other {
		t.Errorf("after the rebind: %+v, %v", vf, err)
	}
}

func testVFState(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 1)
	pci := pf.VFs[0].PCI
	for _, c := range []struct {
		state host.VFState
		port  string
	}{{host.VFDisable, "DOWN"}, {host.VFEnable, "ACTIVE"}, {host.VFDisable, "DOWN"}, {host.VFAuto, "ACTIVE"}} {
		ok(t, h.SetVFState(env.IBPF, 0, c.state))
		eventually(t, "port state "+c.port, func() bool {
			vf, err := FindVF(h, pci)
			ok(t, err)
			return vf.State == c.state && vf.RDMA != nil && vf.RDMA.State == c.port
		})
		if state, err := h.VFState(env.IBPF, 0); err != nil || state != c.state {
			t.Errorf("VFState = %q, %v; want %q", state, err, c.state)
		}
	}
}

// intoPod moves a VF as a pod's plugin does: RDMA device first, then the netdev wherever it is by
// then, as eth0.
func intoPod(t *testing.T, h API, vf host.VF, ns host.NS) host.Link {
	t.Helper()
	ok(t, h.MoveRDMA(host.NodeNS, vf.RDMA.Name, ns))
	l := findByPCI(t, h, vf.PCI, ns)
	l, err := h.MoveLink(l.NS, l.Index, ns, "eth0")
	ok(t, err)
	return l
}

// findByPCI looks for a netdev in the namespace and on the node, as kernels differ.
func findByPCI(t *testing.T, h API, pci string, ns host.NS) host.Link {
	t.Helper()
	l, err := h.LinkByPCI(ns, pci)
	if errors.Is(err, host.ErrNotFound) {
		l, err = h.LinkByPCI(host.NodeNS, pci)
	}
	ok(t, err)
	return l
}

// verbsNumbers are those of the machine; the VFs' have to be among them.
func verbsNumbers(t *testing.T, h API, vfs ...host.VF) []int {
	t.Helper()
	numbers, err := h.VerbsNumbers()
	ok(t, err)
	for _, vf := range vfs {
		if !slices.ContainsFunc(numbers, func(n int) bool { return vf.Uverbs == fmt.Sprint("uverbs", n) }) {
			t.Errorf("%s of %s is not among the numbers %v", vf.Uverbs, vf.PCI, numbers)
		}
	}
	return numbers
}

func testMoveVF(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 2)
	ns := env.NewNS(t)
	vf, other := pf.VFs[0], pf.VFs[1]
	numbers := verbsNumbers(t, h, vf, other)
	l := intoPod(t, h, vf, ns)
	if now := verbsNumbers(t, h, vf, other); !slices.Equal(now, numbers) {
		t.Errorf("verbs numbers were %v, and are %v with a device in a pod", numbers, now)
	}
	guid, err := ib.LinkAddrGUID(l.HardwareAddr)
	if err != nil || l.Name != "eth0" || l.Kind != "ipoib" || l.PCI != vf.PCI || guid != vf.PortGUID {
		t.Errorf("netdev in the pod: %+v, %v", l, err)
	}
	devices, err := h.RDMADevices(ns)
	ok(t, err)
	if len(devices) != 1 || devices[0].PCI != vf.PCI || devices[0].Name != vf.RDMA.Name ||
		devices[0].PortGUID != vf.PortGUID || devices[0].NS != ns || devices[0].LinkLayer != host.InfiniBand {
		t.Errorf("RDMA devices in the pod: %+v", devices)
	}
	same := func(a, b host.RDMADevice) bool {
		// its state may change
		return a.NS == b.NS && a.Index == b.Index && a.Name == b.Name && a.PCI == b.PCI && a.PortGUID == b.PortGUID
	}
	if d, err := h.RDMAByPCI(ns, vf.PCI); err != nil || !same(d, devices[0]) {
		t.Errorf("the RDMA device in the pod by its function: %+v, %v; want %+v", d, err, devices[0])
	}
	for _, pci := range []string{vf.PCI, "0000:ff:1f.7", ""} {
		_, err := h.RDMAByPCI(host.NodeNS, pci)
		is(t, "RDMAByPCI of "+pci+" on the node", err, host.ErrNotFound)
	}
	if d, err := h.RDMAByPCI(host.NodeNS, other.PCI); err != nil || !same(d, *other.RDMA) {
		t.Errorf("the other RDMA device by its function: %+v, %v; want %+v", d, err, *other.RDMA)
	}
	now, err := FindVF(h, vf.PCI)
	ok(t, err)
	if now.Link != nil || now.RDMA != nil || now.Uverbs == "" || now.Umad == "" || now.Driver == "" ||
		now.PortGUID != vf.PortGUID {
		t.Errorf("a virtual function in a pod, seen from the node: %+v", now)
	}
	sameDevices(t, h, now)
	if o, err := FindVF(h, other.PCI); err != nil || o.Link == nil || o.RDMA == nil || o.Uverbs == now.Uverbs {
		t.Errorf("the other one: %+v, %v", o, err)
	}
	ok(t, h.AddAddress(ns, l.Index, prefix("172.91.0.100/16")))
	ok(t, h.SetLinkUp(ns, l.Index))
	ok(t, h.Announce(ns, l.Index, addr("172.91.0.100")))
	ok(t, h.AddNeighbor(ns, host.Neighbor{Index: l.Index, IP: addr("172.91.0.1"), HardwareAddr: pf.Link.HardwareAddr}))
	eventually(t, "carrier in the pod", func() bool {
		l, err := h.LinkByIndex(ns, l.Index)
		ok(t, err)
		return l.Carrier
	})
	ok(t, h.MoveRDMA(ns, vf.RDMA.Name, host.NodeNS))
	if l = findByPCI(t, h, vf.PCI, ns); l.NS != host.NodeNS {
		_, err := h.MoveLink(l.NS, l.Index, host.NodeNS, "")
		ok(t, err)
	}
	if now, err = FindVF(h, vf.PCI); err != nil || now.Link == nil || now.RDMA == nil || now.RDMA.Name != vf.RDMA.Name {
		t.Errorf("home again: %+v, %v", now, err)
	}
	sameDevices(t, h, now)
}

// sameDevices checks that VFDevices and VFState tell the same as a look at all cards. A netdev's
// name may be another by now: udev renames new ones.
func sameDevices(t *testing.T, h API, vf host.VF) {
	t.Helper()
	d, err := h.VFDevices(vf.PCI)
	ok(t, err)
	if d.PF != vf.PF || d.Index != vf.Index || d.Driver != vf.Driver || d.Uverbs != vf.Uverbs || d.Umad != vf.Umad {
		t.Errorf("devices of a virtual function: %+v; want those of %+v", d, vf)
	}
	if (d.Link == nil) != (vf.Link == nil) || d.Link != nil && (d.Link.Index != vf.Link.Index || d.Link.PCI != vf.PCI) {
		t.Errorf("netdev of a virtual function: %+v; want %+v", d.Link, vf.Link)
	}
	if (d.RDMA == "") != (vf.RDMA == nil) || vf.RDMA != nil && d.RDMA != vf.RDMA.Name {
		t.Errorf("RDMA device of a virtual function: %q; want %+v", d.RDMA, vf.RDMA)
	}
	if state, err := h.VFState(vf.PF, vf.Index); err != nil || state != vf.State {
		t.Errorf("link state of a virtual function: %q, %v; want %q", state, err, vf.State)
	}
}

func testMoveRDMARefused(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 1)
	ns := env.NewNS(t)
	name := pf.VFs[0].RDMA.Name
	is(t, "a device that is not there", h.MoveRDMA(ns, name, host.NodeNS), host.ErrNotFound)
	ok(t, h.MoveRDMA(host.NodeNS, name, host.NodeNS))
	env.DeleteNS(t, ns)
	is(t, "a namespace that is gone", h.MoveRDMA(host.NodeNS, name, ns), host.ErrNSGone)
}

// testRenameRDMA has a pod give its device names; after it the device is found by its function.
func testRenameRDMA(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 2)
	vf, taken := pf.VFs[0], pf.VFs[1].RDMA.Name
	for _, name := range []string{"x", "..", ".", "a/b", "../..", "mlx5_1 "} {
		ns := env.NewNS(t)
		ok(t, h.MoveRDMA(host.NodeNS, vf.RDMA.Name, ns))
		d, err := h.RDMAByPCI(ns, vf.PCI)
		ok(t, err)
		is(t, "a name that another device has", h.RenameRDMA(ns, d.Index, taken), host.ErrExists)
		is(t, "a device of another namespace", h.RenameRDMA(host.NodeNS, d.Index, "y"), host.ErrNotFound)
		env.NameRDMA(t, ns, d.Index, name)
		if !host.UsableRDMAName(name) {
			d, err = h.RDMAByPCI(ns, vf.PCI)
			if err != nil || d.Name != name {
				t.Errorf("the device called %q by its function: %+v, %v", name, d, err)
			}
			ok(t, h.RenameRDMA(ns, d.Index, name)) // so it is already
		}
		env.DeleteNS(t, ns)
		eventually(t, "the device comes home", func() bool {
			d, err = h.RDMAByPCI(host.NodeNS, vf.PCI)
			now, errVF := h.VFDevices(vf.PCI)
			ok(t, errVF)
			return err == nil && now.Link != nil
		})
		now, err := FindVF(h, vf.PCI)
		ok(t, err)
		if d.Name != name || (now.RDMA != nil) != host.UsableRDMAName(name) {
			t.Errorf("the device called %q at home: %+v; of its function: %+v", name, d, now.RDMA)
		}
		sameDevices(t, h, now)
		if host.UsableRDMAName(name) {
			if err := h.RenameRDMA(host.NodeNS, d.Index, ".."); err == nil {
				t.Error("a device may be called ..")
			}
		}
		for range 2 {
			ok(t, h.RenameRDMA(host.NodeNS, d.Index, vf.RDMA.Name))
		}
		if now, err := FindVF(h, vf.PCI); err != nil || now.RDMA == nil || now.RDMA.Name != vf.RDMA.Name {
			t.Errorf("after RenameRDMA: %+v, %v", now, err)
		}
	}
}

func testVFOfDeadNamespace(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 1)
	ns := env.NewNS(t)
	vf := pf.VFs[0]
	intoPod(t, h, vf, ns)
	env.DeleteNS(t, ns)
	eventually(t, "the devices of a dead namespace come home", func() bool {
		now, err := FindVF(h, vf.PCI)
		ok(t, err)
		return now.Link != nil && now.RDMA != nil && now.RDMA.Name == vf.RDMA.Name
	})
}

func testIPoIBChild(t *testing.T, h API, env Env) {
	pf, err := FindPF(h, env.IBPF)
	ok(t, err)
	ns := env.NewNS(t)
	child, err := h.AddIPoIBChild(pf.Link.Index, "vchild0", 0)
	ok(t, err)
	if child.Kind != "ipoib" || child.Parent != pf.Link.Index || child.PKey != pf.Link.PKey ||
		child.Mode != pf.Link.Mode || len(child.HardwareAddr) != 20 || child.PCI != "" {
		t.Errorf("child: %+v", child)
	}
	_, err = h.AddIPoIBChild(pf.Link.Index, "vchild0", 0)
	is(t, "a second child of that name", err, host.ErrExists)
	_, err = h.AddIPoIBChild(child.Index, "vchild1", 0)
	is(t, "a child of a child", err, host.ErrUnsupported)
	if l, err := h.LinkByPCI(host.NodeNS, env.IBPF); err != nil || l.Index != pf.Link.Index {
		t.Errorf("the PF's netdev is %+v, %v", l, err)
	}
	is(t, "deleting the parent", h.DeleteLink(host.NodeNS, pf.Link.Index), host.ErrUnsupported)
	eth0, err := h.MoveLink(host.NodeNS, child.Index, ns, "eth0")
	ok(t, err)
	guid := ib.VFGUID(pf.RDMA.PortGUID, 200)
	ok(t, h.SetIPv6LinkLocalGUID(ns, eth0.Index, guid))
	ok(t, h.SetSysctl(ns, "net/ipv4/conf/eth0/proxy_arp", "1"))
	ok(t, h.SetLinkMTU(ns, eth0.Index, 1500))
	ok(t, h.SetLinkTxQueueLen(ns, eth0.Index, 500))
	is(t, "an Ethernet address", h.SetLinkHardwareAddr(ns, eth0.Index, net.HardwareAddr{0x0a, 0x1b, 172, 91, 0, 101}),
		host.ErrUnsupported)
	if l, err := h.LinkByIndex(ns, eth0.Index); err != nil || l.TxQueueLen != 500 || !bytes.Equal(l.HardwareAddr[4:],
		eth0.HardwareAddr[4:]) {
		t.Errorf("with a queue of 500: %+v, %v; want the GID of %s", l, err, eth0.HardwareAddr)
	}
	ok(t, h.AddAddress(ns, eth0.Index, prefix("172.91.0.101/16")))
	ok(t, h.SetLinkUp(ns, eth0.Index))
	ok(t, h.Announce(ns, eth0.Index, addr("172.91.0.101")))
	have, err := h.Addresses(ns, eth0.Index)
	ok(t, err)
	want := []netip.Prefix{netip.PrefixFrom(guid.LinkLocal(), 64), prefix("172.91.0.101/16")}
	for _, p := range append(have, want...) {
		if !slices.Contains(have, p) || !slices.Contains(want, p) {
			t.Errorf("addresses %v, want %v", have, want)
		}
	}
	if _, err := h.LinkByPCI(ns, env.IBPF); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("the child counts as the PF's netdev: %v", err)
	}
	for range 2 {
		ok(t, h.DeleteLink(ns, eth0.Index))
	}
	orphan, err := h.AddIPoIBChild(pf.Link.Index, "vchild2", 0x8001)
	ok(t, err)
	if orphan.PKey != 0x8001 {
		t.Errorf("child with P_Key 0x8001: %+v", orphan)
	}
	ok(t, h.SetLinkAlias(host.NodeNS, orphan.Index, "whose it is"))
	_, err = h.MoveLink(host.NodeNS, orphan.Index, ns, "lostchild0")
	ok(t, err)
	env.DeleteNS(t, ns)
	eventually(t, "a child comes home from a dead namespace", func() bool {
		l, err := h.LinkByName(host.NodeNS, "lostchild0")
		if err == nil {
			if l.Alias != "whose it is" {
				t.Errorf("came home as %+v", l)
			}
			ok(t, h.DeleteLink(host.NodeNS, l.Index))
		}
		return err == nil
	})
}

func testRDMAMode(t *testing.T, h API, env Env) {
	mode, err := h.RDMAMode()
	ok(t, err)
	if mode != host.RDMAExclusive {
		t.Fatalf("the node is in %s mode, the tests want exclusive", mode)
	}
	ns := env.NewNS(t)
	is(t, "a mode change while another namespace exists", h.SetRDMAMode(host.RDMAShared), host.ErrBusy)
	ok(t, h.SetRDMAMode(host.RDMAExclusive))
	is(t, "a mode that is none", h.SetRDMAMode("both"), host.ErrUnsupported)
	env.DeleteNS(t, ns)
	set := func(m host.RDMAMode) {
		t.Helper()
		eventually(t, "mode "+string(m)+" once namespaces are gone", func() bool {
			err := h.SetRDMAMode(m)
			if err != nil && !errors.Is(err, host.ErrBusy) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	set(host.RDMAShared)
	defer set(host.RDMAExclusive)
	pf := freshVFs(t, h, env, 1)
	ns = env.NewNS(t)
	err = h.MoveRDMA(host.NodeNS, pf.VFs[0].RDMA.Name, ns)
	is(t, "moving in shared mode", err, host.ErrUnsupported)
	if err != nil && !strings.Contains(err.Error(), "shared") {
		t.Errorf("the refusal does not say why: %v", err)
	}
	seen, err := h.RDMADevices(ns)
	ok(t, err)
	all, err := h.RDMADevices(host.NodeNS)
	ok(t, err)
	if len(all) < 2 || len(seen) != len(all) {
		t.Errorf("%d RDMA devices in a namespace, shared mode, and %d in the node's", len(seen), len(all))
	}
	env.DeleteNS(t, ns)
}
