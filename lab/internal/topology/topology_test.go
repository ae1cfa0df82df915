// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCardsAreTheGuides(t *testing.T) {
	n, err := Find("10-20-1-10")
	if err != nil {
		t.Fatal(err)
	}
	want := []Card{
		{PCI: "0000:86:00.0", Interface: "ibs5f0", AltName: "ibp134s0f0", IPv4: netip.MustParsePrefix("172.91.0.10/16"),
			IPv6: netip.MustParsePrefix("fd00:91::172:91:0:10/64")},
		{PCI: "0000:87:00.0", Interface: "ibs6f0", AltName: "ibp135s0f0", IPv4: netip.MustParsePrefix("172.92.0.10/16"),
			IPv6: netip.MustParsePrefix("fd00:92::172:92:0:10/64")},
	}
	equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, n.Cards(2), equal); diff != "" {
		t.Errorf("cards (-want +got):\n%s", diff)
	}
}

func TestModuleOptions(t *testing.T) {
	nodes := Nodes()
	want := []string{
		"cards=1 link=eth1 sm=1 vf_guid=zero lid_base=2 guid_base=0xe8ebd3030093ae10",
		"cards=1 link=eth1 sm=0 vf_guid=zero lid_base=66 guid_base=0xe8ebd3030093be10",
	}
	for i, n := range nodes {
		if got := n.ModuleOptions(1); got != want[i] {
			t.Errorf("node %s:\n got %s\nwant %s", n.Name, got, want[i])
		}
	}
}

func TestMACsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range Nodes() {
		for nic := range 2 {
			if mac := n.MAC(nic); seen[mac] {
				t.Errorf("%s twice", mac)
			} else {
				seen[mac] = true
			}
		}
	}
}

func TestFindNamesTheNodes(t *testing.T) {
	_, err := Find("node-1")
	if err == nil || !strings.Contains(err.Error(), "10-20-1-20") {
		t.Errorf("error is %v, want one that lists the nodes", err)
	}
}
