// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"net"
	"net/netip"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// The guide's card and what GuideNode has beside it.
const (
	GuidePF      = "0000:86:00.0"
	GuideEthPCI  = "0000:01:00.0"
	GuideEthName = "eno1"
)

// GuidePFGUID is the GUID of the guide's card.
var GuidePFGUID = ib.GUID{0xe8, 0xeb, 0xd3, 0x03, 0x00, 0x93, 0xae, 0x10}

// GuideNode is a node of the user's guide: one InfiniBand card at 0000:86:00.0 (15b3:1017, 16
// virtual functions possible, none made) with netdev ibs5f0, alternative name ibp134s0f0, address
// 172.91.0.10/16, and RDMA device mlx5_0; and an Ethernet card without SR-IOV, eno1, 10.20.1.10/24,
// that carries the default route. RDMA is in exclusive mode. Netdevs of VFs are named as udev
// would: ibs5f0v3, alternative name ibp134s0f0v3.
func GuideNode() *Fake { return GuideNodeWith(Options{Naming: GuideNaming}) }

// GuideNodeWith is GuideNode with other options.
func GuideNodeWith(o Options) *Fake {
	f := NewFake(o)
	f.AddPF(host.PF{
		PCI: GuideEthPCI, Vendor: "8086", Device: "1521", Driver: "igb", LinkLayer: host.Ethernet, NUMANode: 0,
		Link: &host.Link{Name: GuideEthName, MTU: 1500, HardwareAddr: net.HardwareAddr{0x02, 0, 0x5e, 0x10, 0, 0x0a}},
	}, ib.GUID{})
	f.AddPF(host.PF{
		PCI: GuidePF, Vendor: "15b3", Device: "1017", Driver: "mlx5_core", LinkLayer: host.InfiniBand, TotalVFs: 16,
		NUMANode: 1,
		Link:     &host.Link{Name: "ibs5f0", AltNames: []string{"ibp134s0f0"}},
	}, GuidePFGUID)
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for pci, address := range map[string]string{GuideEthPCI: "10.20.1.10/24", GuidePF: "172.91.0.10/16"} {
		l, err := f.LinkByPCI(host.NodeNS, pci)
		must(err)
		must(f.AddAddress(host.NodeNS, l.Index, netip.MustParsePrefix(address)))
		must(f.SetLinkUp(host.NodeNS, l.Index))
		if pci == GuideEthPCI {
			must(f.AddRoute(host.NodeNS, host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"),
				Gateway: netip.MustParseAddr("10.20.1.1"), Index: l.Index}))
		}
	}
	f.Revive()
	return f
}

// GuideNaming names the netdevs of the guide's card as udev does.
func GuideNaming(pci string, vf int) (string, []string) {
	switch {
	case vf >= 0:
		return fmt.Sprintf("ibs5f0v%d", vf), []string{fmt.Sprintf("ibp134s0f0v%d", vf)}
	case pci == GuidePF:
		return "ibs5f0", []string{"ibp134s0f0"}
	}
	return "", nil
}
