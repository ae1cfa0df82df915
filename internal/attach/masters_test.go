// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"net/netip"
	"slices"
	"testing"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

func TestMasters(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	pf, err := n.fake.LinkByPCI(host.NodeNS, hosttest.GuidePF)
	must(t, err)
	must(t, n.fake.AddAddress(host.NodeNS, pf.Index, netip.MustParsePrefix("fe80::1/64")))
	want := []netip.Addr{netip.MustParseAddr("172.91.0.10")}
	for _, device := range []string{vf0, vf1} {
		if got, err := n.service.masters(device); err != nil || !slices.Equal(got, want) {
			t.Errorf("masters(%s) = %v, %v; want %v", device, got, err, want)
		}
	}
	for device, says := range map[string]string{
		hosttest.GuidePF: "deviceID 0000:86:00.0 is not a virtual function of this node",
		"mlx5_core.sf.2": "deviceID mlx5_core.sf.2 is not a virtual function of this node",
	} {
		if _, err := n.service.masters(device); err == nil || err.Error() != says {
			t.Errorf("masters(%s): %v, want %s", device, err, says)
		}
	}
	_, err = n.fake.MoveLink(host.NodeNS, pf.Index, podNS, "")
	must(t, err)
	const says = "physical function 0000:86:00.0 of 0000:86:00.1 has no network interface on the node"
	if _, err := n.service.masters(vf0); err == nil || err.Error() != says {
		t.Errorf("without the physical function's interface: %v, want %s", err, says)
	}
}

// The subnet of the physical function is known when the virtual one, and with it its interface, is
// in the pod already.
func TestMatchMasterSubnet(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.network("kube-system", "matching",
		`{"cniVersion":"0.3.1","name":"matching","type":"ib-sriov","ipam":{"type":"spiderpool","match_master_subnet":true}}`, resource)
	n.pod("p", annotations("matching"))
	n.mustCall("ADD", "p")
	if r := n.asked["p eth0"]; !r.MatchMasterSubnet || r.MasterUnknown != "" || !slices.Equal(r.MasterAddresses,
		[]netip.Addr{netip.MustParseAddr("172.91.0.10")}) {
		t.Errorf("asked for %+v", n.asked)
	}
}
