// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"

	"spidernet.io/spiderpool/internal/ib"
)

func TestCheckPCI(t *testing.T) {
	for text, want := range map[string]bool{
		"0000:86:00.0": true, "0001:ff:1f.7": true, "10000:01:00.0": true, // VMD has domains of more digits
		"86:00.0": false, "0000:86:00.8": false, "0000:86:20.0": false, "0000:8G:00.0": false, "../../../etc": false,
		"": false, "0000:86:00.0/..": false,
	} {
		if got := checkPCI(text) == nil; got != want {
			t.Errorf("checkPCI(%q) is %v, want %v", text, got, want)
		}
	}
}

func TestLastPCI(t *testing.T) {
	for path, want := range map[string]string{
		"../../devices/pci0000:85/0000:85:02.0/0000:86:00.1/infiniband/mlx5_1":     "0000:86:00.1",
		"../../devices/pci0000:85/0000:86:00.0/mlx5_core.rdma.0/infiniband/mlx5_0": "0000:86:00.0",
		"../../devices/virtual/infiniband/rxe0":                                    "",
		"":                                                                         "",
	} {
		if got := lastPCI(path); got != want {
			t.Errorf("lastPCI(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestIsNetworkClass(t *testing.T) {
	for text, want := range map[string][2]bool{
		"0x020700": {true, true}, "0x020000": {true, false}, "0x028000": {true, false},
		"0x010802": {}, "0x02070000": {}, "": {}, "network": {},
	} {
		network, infiniband := isNetworkClass(text)
		if got := [2]bool{network, infiniband}; got != want {
			t.Errorf("isNetworkClass(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{"6.1.0-56-amd64": true, "5.14.0-1.el9": true, "5.13.19": false,
		"4.18.0-553.el8": false, "": false} {
		if got := atLeast(release, 5, 14); got != want {
			t.Errorf("%q is at least 5.14: %v, want %v", release, got, want)
		}
	}
}

func TestCarriesDefault(t *testing.T) {
	link := func(index, parent, master int) rawLink {
		return rawLink{Link: Link{Index: index, Parent: parent}, master: master}
	}
	// 2 and 3 are in bond 4, on which VLAN 5 lies; 6 stands alone.
	v := view{links: []rawLink{link(1, 0, 0), link(2, 0, 4), link(3, 0, 4), link(4, 0, 0), link(5, 4, 0),
		link(6, 0, 0)}}
	for through, want := range map[int][]bool{4: {true, true, true, false}, 5: {true, true, true, false},
		6: {false, false, false, true}} {
		v.routes = []Route{{Index: through}}
		for i, index := range []int{2, 3, 4, 6} {
			if got := v.carriesDefault(index); got != want[i] {
				t.Errorf("default route through %d: link %d carries it: %v, want %v", through, index, got, want[i])
			}
		}
	}
}

func TestPortGUID(t *testing.T) {
	if g, err := guidOfGID("fe80:0000:0000:0000:e8eb:d303:0093:ae10"); err != nil ||
		g.String() != "e8:eb:d3:03:00:93:ae:10" {
		t.Errorf("GUID %s, %v", g, err)
	}
}

func FuzzSysfsTexts(f *testing.F) {
	for _, s := range []string{"0x020700", "virtfn11", "fe80:0000:0000:0000:e8eb:d303:0093:ae10", "10.0.0.1",
		"0000:86:00.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if i, ok := virtfnIndex(s); ok && (i < 0 || !strings.HasPrefix(s, "virtfn")) {
			t.Errorf("virtfnIndex(%q) = %d", s, i)
		}
		if network, infiniband := isNetworkClass(s); infiniband && !network {
			t.Errorf("isNetworkClass(%q): InfiniBand but no network", s)
		}
		if pci := lastPCI(s); pci != "" && !strings.Contains(s, pci) {
			t.Errorf("lastPCI(%q) = %q", s, pci)
		}
		if checkPCI(s) == nil && filepath.Base(s) != s {
			t.Errorf("checkPCI takes %q, which is no single path element", s)
		}
		_, _ = guidOfGID(s)
	})
}

// portAnswer builds what the kernel says of a port.
func portAnswer(state, phys byte, lid, smLID uint32) []byte {
	var b []byte
	for kind, value := range map[int][]byte{
		nl.RDMA_NLDEV_ATTR_DEV_NAME: nl.ZeroTerminated("mlx5_0"), nl.RDMA_NLDEV_ATTR_LID: nl.Uint32Attr(lid),
		nl.RDMA_NLDEV_ATTR_SM_LID:     nl.Uint32Attr(smLID),
		nl.RDMA_NLDEV_ATTR_PORT_STATE: nl.Uint8Attr(state), nl.RDMA_NLDEV_ATTR_PORT_PHYS_STATE: nl.Uint8Attr(phys),
	} {
		b = append(b, nl.NewRtAttr(kind, value).Serialize()...)
	}
	return b
}

func TestPort(t *testing.T) {
	for want, answer := range map[RDMADevice][]byte{
		{State: "ACTIVE", PhysState: "LINK_UP", LID: 0x1a, SMLID: 1}: portAnswer(4, 5, 0x1a, 1),
		{State: "DOWN", PhysState: "POLLING"}:                        portAnswer(1, 2, 0, 0),
		// what we do not know has no name
		{}: portAnswer(77, 77, 0, 0),
	} {
		var got RDMADevice
		if err := eachAttribute(answer, got.takePort); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

func FuzzPort(f *testing.F) {
	f.Add(portAnswer(4, 5, 0x1a, 1))
	f.Add([]byte{5, 0, 9, 0, 1, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, data []byte) {
		var d RDMADevice
		_ = eachAttribute(data, d.takePort) // what it says is checked above; here it must not panic
	})
}

// vfInfoList builds IFLA_VFINFO_LIST as the kernel does for one VF.
func vfInfoList(vf uint32, guid ib.GUID, state uint32) []byte {
	order := nl.NativeEndian()
	guidAttr := func() []byte {
		b := make([]byte, 16)
		order.PutUint32(b, vf)
		order.PutUint64(b[8:], guid.Uint64())
		return b
	}
	link := make([]byte, 8)
	order.PutUint32(link, vf)
	order.PutUint32(link[4:], state)
	info := nl.NewRtAttr(nl.IFLA_VF_INFO, nil)
	info.AddRtAttr(nl.IFLA_VF_LINK_STATE, link)
	info.AddRtAttr(nl.IFLA_VF_IB_NODE_GUID, guidAttr())
	info.AddRtAttr(nl.IFLA_VF_IB_PORT_GUID, guidAttr())
	return info.Serialize()
}

func TestParseVFInfoList(t *testing.T) {
	g1, g2 := ib.GUIDFromUint64(0x0200000000000001), ib.GUIDFromUint64(0xfe00000000000002)
	got, err := parseVFInfoList(append(vfInfoList(0, g1, 0), vfInfoList(5, g2, 2)...))
	want := map[int]vfInfo{0: {g1, g1, VFAuto}, 5: {g2, g2, VFDisable}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(vfInfo{})); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func FuzzParseVFInfoList(f *testing.F) {
	f.Add(vfInfoList(3, ib.GUIDFromUint64(7), 1))
	f.Add([]byte{8, 0, 1, 0, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		infos, err := parseVFInfoList(data)
		if err != nil && infos != nil {
			t.Errorf("an error and %v", infos)
		}
	})
}

func TestARPAnnouncement(t *testing.T) {
	ip := netip.MustParseAddr("172.91.0.100")
	hw, _ := net.ParseMAC("80:00:10:49:fe:80:00:00:00:00:00:00:e8:eb:d3:03:00:93:ae:10")
	got := arpAnnouncement(Link{LinkLayer: InfiniBand, HardwareAddr: hw}, ip)
	want := append([]byte{0, 32, 8, 0, 20, 4, 0, 1}, hw...)
	want = append(want, 172, 91, 0, 100)
	want = append(want, make([]byte, 20)...)
	want = append(want, 172, 91, 0, 100)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAdvertisement(t *testing.T) {
	ip := netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		hw     net.HardwareAddr
		option []byte
	}{
		{net.HardwareAddr{2, 0, 0, 0, 0, 9}, []byte{2, 1, 2, 0, 0, 0, 0, 9}},
		{append(make(net.HardwareAddr, 19), 9), append([]byte{2, 3, 0, 0}, append(make([]byte, 19), 9)...)},
	} {
		want := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, ip.AsSlice()...)
		if diff := cmp.Diff(append(want, c.option...), advertisement(c.hw, ip)); diff != "" {
			t.Error(diff)
		}
	}
}
