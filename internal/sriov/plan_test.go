// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

var pfGUID = ib.GUID{0xe8, 0xeb, 0xd3, 0x03, 0x00, 0x93, 0xae, 0x10}

func guidePF() PF {
	return PF{PCI: "0000:86:00.0", Vendor: "15b3", Device: "1017", Driver: "mlx5_core", TotalVFs: 16, NUMANode: 1,
		LinkType: v1.LinkTypeIB,
		Name:     "ibs5f0", AltNames: []string{"ibp134s0f0"}, MTU: 2044, Up: true, Carrier: true, RDMA: "mlx5_0",
		GUID: pfGUID, PortState: "ACTIVE"}
}

// fresh makes n VFs as sriov_numvfs does: unbound, without GUIDs.
func fresh(p PF, n int) PF {
	p.NumVFs, p.VFs = n, nil
	for i := range n {
		p.VFs = append(p.VFs, VF{PCI: fmt.Sprintf("%s%02x.%x", p.PCI[:8], (i+1)/8, (i+1)%8), Index: i, Vendor: p.Vendor,
			Device: "1018", State: "auto"})
	}
	return p
}

// bind is what the kernel does with a VF: it takes the GUID that the PF was told.
func bind(v *VF) {
	v.Driver, v.Name, v.MTU, v.RDMA, v.Verbs = "mlx5_core", fmt.Sprintf("ib%d", v.Index), 2044, fmt.Sprintf("mlx5_%d",
		v.Index+1), true
	v.DeviceNodeGUID, v.DevicePortGUID, v.PortState = v.NodeGUID, v.PortGUID, "ACTIVE"
	if !v.PortGUID.Valid() {
		v.PortState = "INIT"
	}
}

func unbind(v *VF) {
	v.Driver, v.Name, v.MTU, v.RDMA, v.Verbs, v.PortState = "", "", 0, "", false, ""
	v.DeviceNodeGUID, v.DevicePortGUID = ib.GUID{}, ib.GUID{}
}

// hold is a VF whose devices went into a pod's namespace.
func hold(v *VF, pod string) { v.Pod, v.Name, v.RDMA, v.PortState = pod, "", "", "" }

// configured is a node with the guide's n VFs in service.
func configured(n int) Node {
	node := Node{PFs: []PF{fresh(guidePF(), n)}}
	for i := range node.PFs[0].VFs {
		v := &node.PFs[0].VFs[i]
		v.NodeGUID = ib.VFGUID(pfGUID, i)
		v.PortGUID = v.NodeGUID
		bind(v)
		node.Identities = append(node.Identities, Identity{PCI: v.PCI, PF: "0000:86:00.0", PFGUID: pfGUID, Index: i,
			GUID: v.PortGUID})
	}
	return node
}

func guideSpec(n int) *v1.SriovNetworkNodeStateSpec {
	return &v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: "0000:86:00.0", Name: "ibs5f0",
		NumVfs: n,
		VfGroups: []v1.VfGroup{{ResourceName: "mellanoxibsriov", DeviceType: "netdevice",
			VfRange: fmt.Sprintf("0-%d", n-1), PolicyName: "ib-sriov", IsRdma: true}}}}}
}

func lines(plan []Change) (out []string) {
	for _, c := range plan {
		line := c.PF + ": " + c.String()
		if c.Blocked != "" {
			line += " | " + c.Blocked
		}
		out = append(out, line)
	}
	return out
}

func TestPlan(t *testing.T) {
	other := ib.GUID{2, 0, 0, 0, 0, 0, 0, 9}
	tests := []struct {
		name string
		spec *v1.SriovNetworkNodeStateSpec
		node func() Node
		want []string
	}{
		{"in force", guideSpec(2), func() Node { return configured(2) }, nil},
		{"nothing wanted", &v1.SriovNetworkNodeStateSpec{}, func() Node { return configured(2) }, nil},
		{"no VFs yet", guideSpec(12), func() Node { return Node{PFs: []PF{guidePF()}} },
			[]string{"0000:86:00.0: numVfs 0 -> 12"}},
		{"PF down", guideSpec(2), func() Node { n := configured(2); n.PFs[0].Up = false; return n },
			[]string{"0000:86:00.0: set the PF's netdev up"}},
		{"fresh VFs", guideSpec(2), func() Node { return Node{PFs: []PF{fresh(guidePF(), 2)}} }, []string{
			"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:01:93:ae:10",
			"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver",
			"0000:86:00.0: VF 0000:86:00.2: set GUID ea:eb:d3:03:02:93:ae:10",
			"0000:86:00.0: VF 0000:86:00.2: bind the kernel's driver"}},
		{"fresh VFs, link state disable", guideSpec(1),
			func() Node { n := Node{PFs: []PF{fresh(guidePF(), 1)}}; n.PFs[0].VFs[0].State = "disable"; return n },
			[]string{
				"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:01:93:ae:10",
				"0000:86:00.0: VF 0000:86:00.1: set link state auto",
				"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"after a reboot the ledger's GUIDs come back", guideSpec(1), func() Node {
			n := Node{PFs: []PF{fresh(guidePF(), 1)}}
			n.Identities = []Identity{{PFGUID: pfGUID, Index: 0, GUID: other}}
			return n
		}, []string{"0000:86:00.0: VF 0000:86:00.1: set GUID 02:00:00:00:00:00:00:09",
			"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"also when its pod is coming back", guideSpec(1), func() Node {
			n := Node{PFs: []PF{fresh(guidePF(), 1)}}
			n.PFs[0].VFs[0].Pod = "default/a"
			return n
		}, []string{"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:01:93:ae:10",
			"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"another card in the slot gets its own", guideSpec(1), func() Node {
			n := Node{PFs: []PF{fresh(guidePF(), 1)}}
			n.Identities = []Identity{{PCI: "0000:86:00.1", PF: "0000:86:00.0", PFGUID: other, Index: 0, GUID: other}}
			return n
		}, []string{"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:01:93:ae:10",
			"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"a taken GUID is not given twice", guideSpec(1), func() Node {
			n := Node{PFs: []PF{fresh(guidePF(), 1)}}
			n.Identities = []Identity{{PFGUID: other, Index: 5, GUID: ib.VFGUID(pfGUID, 0)}}
			return n
		}, []string{"0000:86:00.0: VF 0000:86:00.1: set GUID " + ib.VFGUID(pfGUID, tryStep).String(),
			"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"somebody else's VFs that work are adopted", guideSpec(2), func() Node {
			n := configured(2)
			n.Identities = nil
			v := &n.PFs[0].VFs[1]
			v.NodeGUID, v.PortGUID = other, other
			bind(v)
			return n
		}, []string{"0000:86:00.0: VF 0000:86:00.1: keep GUID ea:eb:d3:03:01:93:ae:10",
			"0000:86:00.0: VF 0000:86:00.2: keep GUID 02:00:00:00:00:00:00:09"}},
		{"a VF bound without a GUID is bound anew", guideSpec(1),
			func() Node { n := Node{PFs: []PF{fresh(guidePF(), 1)}}; bind(&n.PFs[0].VFs[0]); return n }, []string{
				"0000:86:00.0: VF 0000:86:00.1: unbind the driver",
				"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:01:93:ae:10",
				"0000:86:00.0: VF 0000:86:00.1: set link state auto",
				"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"unless somebody uses it", guideSpec(1), func() Node {
			n := Node{PFs: []PF{fresh(guidePF(), 1)}}
			bind(&n.PFs[0].VFs[0])
			hold(&n.PFs[0].VFs[0], "default/a")
			return n
		}, []string{
			"0000:86:00.0: VF 0000:86:00.1: unbind the driver | a VF takes another GUID only when its driver is " +
				"bound anew, and these are in use: 0000:86:00.1 by default/a; it goes on when these pods are deleted"}},
		{"a PF that does not report GUIDs is believed by the device", guideSpec(1), func() Node {
			n := configured(1)
			n.PFs[0].VFs[0].NodeGUID, n.PFs[0].VFs[0].PortGUID = ib.GUID{}, ib.GUID{}
			return n
		}, nil},
		{"more VFs while one is in use", guideSpec(12), func() Node {
			n := configured(4)
			hold(&n.PFs[0].VFs[0], "default/a")
			hold(&n.PFs[0].VFs[2], "default/b")
			return n
		}, []string{
			"0000:86:00.0: numVfs 4 -> 12 | the number changes by removing all VFs, and these are in use: " +
				"0000:86:00.1 by default/a, 0000:86:00.3 by default/b; it goes on when these pods are deleted"}},
		{"fewer VFs while none is in use", guideSpec(4), func() Node { return configured(12) },
			[]string{"0000:86:00.0: numVfs 12 -> 4"}},
		{"a VF that went where nobody knows", guideSpec(4),
			func() Node { n := configured(2); hold(&n.PFs[0].VFs[0], ""); return n }, []string{
				"0000:86:00.0: numVfs 2 -> 4 | the number changes by removing all VFs, and these are in use: " +
					"0000:86:00.1 by something that is no known pod (its netdev is not in the node's namespace; is " +
					"ib_ipoib loaded?); it goes on when these pods are deleted"}},
		{"use unknown", guideSpec(4),
			func() Node { n := configured(2); n.UseUnknown = "the kubelet does not answer"; return n }, []string{
				"0000:86:00.0: numVfs 2 -> 4 | the number changes by removing all VFs, and it is not known which of " +
					"them pods use: the kubelet does not answer"}},
		{"too many", guideSpec(32), func() Node { return configured(12) }, []string{
			"0000:86:00.0: numVfs 12 -> 32 | the card supports at most 16 (sriov_totalvfs): lower numVfs, or " +
				"`mstconfig -d 0000:86:00.0 set SRIOV_EN=True NUM_OF_VFS=32` and reboot"}},
		{"no card", guideSpec(1), func() Node { return Node{} },
			[]string{
				"0000:86:00.0: find the card | the node has no network card at 0000:86:00.0: put it back, or take " +
					"it out of the policy"}},
		{"no netdev", guideSpec(1), func() Node { n := configured(1); n.PFs[0].Name = ""; return n }, []string{
			"0000:86:00.0: find the PF's netdev | GUIDs are given through the PF's IPoIB netdev, and it has none in " +
				"the node's namespace: `modprobe ib_ipoib`"}},
		{"policy gone", &v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: "0000:86:00.0"}}},
			func() Node { return configured(2) }, []string{"0000:86:00.0: numVfs 2 -> 0"}},
		{"policy gone, pod there",
			&v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: "0000:86:00.0"}}},
			func() Node { n := configured(2); hold(&n.PFs[0].VFs[1], "default/b"); return n },
			[]string{
				"0000:86:00.0: numVfs 2 -> 0 | the number changes by removing all VFs, and these are in use: " +
					"0000:86:00.2 by default/b; it goes on when these pods are deleted"}},
		{"policy gone, VFs not ours",
			&v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: "0000:86:00.0"}}},
			func() Node { n := configured(2); n.Identities = nil; return n }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, lines(Plan(tt.spec, tt.node()))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPlanOfSpecDetails(t *testing.T) {
	tests := []struct {
		name   string
		change func(*v1.Interface, *PF)
		want   []string
	}{
		{"link type as it is", func(i *v1.Interface, _ *PF) { i.LinkType = "ib" }, nil},
		{"link type", func(i *v1.Interface, _ *PF) { i.LinkType = "eth" }, []string{
			"0000:86:00.0: linkType IB -> ETH | the link layer is a setting of the firmware: `mstconfig -d " +
				"0000:86:00.0 set LINK_TYPE_P1=2` and reboot, or remove linkType from the policy"}},
		{"mtu", func(i *v1.Interface, _ *PF) { i.Mtu, i.VfGroups[0].Mtu = 2044, 4092 },
			[]string{"0000:86:00.0: VF 0000:86:00.1: mtu 2044 -> 4092"}},
		{"mtu of the PF", func(i *v1.Interface, _ *PF) { i.Mtu = 4092 }, []string{"0000:86:00.0: mtu 2044 -> 4092"}},
		{"mtu of a VF in use", func(i *v1.Interface, p *PF) { i.VfGroups[0].Mtu = 4092; hold(&p.VFs[0], "default/a") },
			nil},
		{"link state", func(_ *v1.Interface, p *PF) { p.VFs[0].State = "disable" },
			[]string{"0000:86:00.0: VF 0000:86:00.1: set link state auto"}},
		{"link state of a VF in use", func(_ *v1.Interface, p *PF) {
			p.VFs[0].State = "disable"
			hold(&p.VFs[0],
				"default/a")
		}, nil},
		{"outside every group", func(i *v1.Interface, p *PF) { *p = fresh(*p, 1); i.VfGroups[0].VfRange = "4-7" }, nil},
		{"unbound", func(_ *v1.Interface, p *PF) { unbind(&p.VFs[0]) },
			[]string{"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"bound to vfio-pci", func(_ *v1.Interface, p *PF) { unbind(&p.VFs[0]); p.VFs[0].Driver = vfioDriver },
			[]string{
				"0000:86:00.0: VF 0 (0000:86:00.1): bind the kernel's driver | it is bound to vfio-pci, perhaps by " +
					"a virtual machine: `driverctl unset-override 0000:86:00.1`"}},
		{"to be bound to vfio-pci", func(i *v1.Interface, _ *PF) { i.VfGroups[0].DeviceType = "vfio-pci" }, []string{
			"0000:86:00.0: VF 0 (0000:86:00.1): bind vfio-pci | deviceType vfio-pci is not supported: use netdevice"}},
		{"externally managed, enough", func(i *v1.Interface, p *PF) { i.ExternallyManaged, p.Up = true, false }, nil},
		{"externally managed, too few", func(i *v1.Interface, _ *PF) { i.ExternallyManaged, i.NumVfs = true, 2 },
			[]string{
				"0000:86:00.0: numVfs 1 -> 2 | the policy says externallyManaged, so the VFs are made by somebody " +
					"else: `echo 2 > /sys/bus/pci/devices/0000:86:00.0/sriov_numvfs`"}},
		{"switchdev", func(i *v1.Interface, _ *PF) { i.EswitchMode = "switchdev" },
			[]string{
				"0000:86:00.0: eSwitchMode switchdev | only legacy is supported: remove eSwitchMode from the policy"}},
		{"no driver", func(_ *v1.Interface, p *PF) { p.Driver = "" }, []string{
			"0000:86:00.0: bind a driver to the PF | no driver is bound: load the card's module (`modprobe " +
				"mlx5_core`) and see `dmesg | grep 0000:86:00.0`"}},
		{"no RDMA device", func(_ *v1.Interface, p *PF) { p.RDMA, p.GUID = "", ib.GUID{} }, []string{
			"0000:86:00.0: find the PF's RDMA device | GUIDs are derived from its port's, and the node has no RDMA " +
				"device for the PF: `modprobe mlx5_ib`, then see `rdma link`"}},
		{"Ethernet", func(_ *v1.Interface, p *PF) { p.LinkType = "ETH"; *p = fresh(*p, 1) },
			[]string{"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec, node := guideSpec(1), configured(1)
			tt.change(&spec.Interfaces[0], &node.PFs[0])
			if diff := cmp.Diff(tt.want, lines(Plan(spec, node))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPools(t *testing.T) {
	names := func(p []Pool) (out []string) {
		for _, pool := range p {
			for _, d := range pool.Devices {
				out = append(out, fmt.Sprintf("%s %s numa %d %s %s %s", pool.Resource, d.PCI, d.NUMANode, d.RDMADevice,
					d.PortState, d.Pod))
			}
		}
		return out
	}
	node := configured(6)
	vfs := node.PFs[0].VFs
	hold(&vfs[0], "default/a")                                              // in a pod: counted
	unbind(&vfs[1])                                                         // not bound yet
	vfs[2].DevicePortGUID = ib.GUID{}                                       // bound without its GUID
	vfs[3].PortState = "DOWN"                                               // unhealthy, but offered
	node.Identities = append(node.Identities[:4:4], node.Identities[5:]...) // VF 4 is not recorded yet
	vfs[5].Verbs = false                                                    // no uverbs
	want := []string{"mellanoxibsriov 0000:86:00.1 numa 1   default/a",
		"mellanoxibsriov 0000:86:00.4 numa 1 mlx5_4 DOWN "}
	if diff := cmp.Diff(want, names(Pools(guideSpec(6), node))); diff != "" {
		t.Error(diff)
	}
	spec := guideSpec(6)
	spec.Interfaces[0].VfGroups[0].ExcludeTopology = true
	spec.Interfaces[0].VfGroups[0].VfRange = "3-4"
	if diff := cmp.Diff([]string{"mellanoxibsriov 0000:86:00.4 numa -1 mlx5_4 DOWN "},
		names(Pools(spec, node))); diff != "" {
		t.Error(diff)
	}
	empty := Pools(guideSpec(6), Node{PFs: []PF{guidePF()}})
	if len(empty) != 1 || empty[0].Resource != "mellanoxibsriov" || len(empty[0].Devices) != 0 {
		t.Errorf("a resource without VFs yet: %+v", empty)
	}
}

// TestNoUsableRDMADevice: a free VF whose RDMA device is elsewhere, or has a name that nothing can
// use, is not offered, and the reason is given. One that a pod holds stays in the count.
func TestNoUsableRDMADevice(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*VF)
		offered bool
	}{
		"free":                        {func(v *VF) { v.RDMA, v.PortState = "", "" }, false},
		"of a pod":                    {func(v *VF) { v.RDMA, v.PortState, v.Pod = "", "", "default/a" }, true},
		"not home yet":                {func(v *VF) { v.RDMA, v.PortState, v.Name = "", "", "" }, true},
		"usable, under another name":  {func(v *VF) { v.RDMA = "pci_0000_86_00_1" }, true},
		"none, and no verbs device":   {func(v *VF) { v.RDMA, v.PortState, v.Verbs = "", "", false }, false},
		"seen, but without a netdev":  {func(v *VF) { v.Name = "" }, false},
		"the policy is not for verbs": {func(v *VF) { v.RDMA, v.PortState = "", "" }, false},
	} {
		node, spec := configured(2), guideSpec(2)
		spec.Interfaces[0].VfGroups[0].IsRdma = name != "the policy is not for verbs"
		test.change(&node.PFs[0].VFs[0])
		if got := len(Pools(spec, node)[0].Devices) == 2; got != test.offered {
			t.Errorf("%s: offered: %t, want %t", name, got, test.offered)
		}
		why := Status(spec, node)[0].VFs[0].NotReady
		if (why == "") != test.offered || name == "free" && !strings.Contains(why, "a name that cannot be used") {
			t.Errorf("%s: the reason is %q", name, why)
		}
	}
}

func TestStatus(t *testing.T) {
	node := configured(3)
	hold(&node.PFs[0].VFs[0], "default/a")
	unbind(&node.PFs[0].VFs[1])
	node.PFs = append(node.PFs, PF{PCI: "0000:01:00.0", Vendor: "8086", Device: "1521", Driver: "igb", LinkType: "ETH",
		Name: "eno1", NUMANode: -1, MTU: 1500, Up: true})
	golden(t, "status", Status(guideSpec(3), node))
}

func TestHolders(t *testing.T) {
	n := configured(2)
	if got := Holders(n.PFs[0].VFs, "why"); got != "" {
		t.Errorf("free VFs are held: %s", got)
	}
	hold(&n.PFs[0].VFs[1], "default/b")
	if got := Holders(n.PFs[0].VFs, "why"); !strings.Contains(got, "0000:86:00.2 by default/b") ||
		strings.Contains(got, "0000:86:00.1") {
		t.Error(got)
	}
}
