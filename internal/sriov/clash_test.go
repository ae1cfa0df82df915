// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

func TestClashes(t *testing.T) {
	card := func(pci, guid string, vfs ...string) v1.InterfaceExt {
		pf := v1.InterfaceExt{PciAddress: pci + ".0", LinkType: v1.LinkTypeIB, Guid: guid}
		for i, g := range vfs {
			pf.VFs = append(pf.VFs, v1.VirtualFunction{PciAddress: pci + "." + string(rune('1'+i)), VfID: i, GUID: g})
		}
		return pf
	}
	const a, b, c = "e8:eb:d3:03:00:93:ae:10", "02:00:00:00:00:00:00:01", "02:00:00:00:00:00:00:02"
	ethernet := card("0000:01:00", a)
	ethernet.LinkType = v1.LinkTypeETH
	tests := []struct {
		name  string
		nodes map[string]v1.InterfaceExts
		want  []Clash
	}{
		{"none", map[string]v1.InterfaceExts{"x": {card("0000:86:00", a, b)},
			"y": {card("0000:86:00", "e8:eb:d3:03:00:93:ae:20", c)}}, nil},
		{"zero, none and every bit are no GUIDs", map[string]v1.InterfaceExts{
			"x": {card("0000:86:00", "", "00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff")},
			"y": {card("0000:86:00", "", "00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff")}}, nil},
		{"Ethernet", map[string]v1.InterfaceExts{"x": {ethernet}, "y": {ethernet}}, nil},
		{"two cards, however written", map[string]v1.InterfaceExts{"y": {card("0000:86:00", "E8:EB:D3:03:00:93:AE:10")},
			"x": {card("0000:87:00", a)}},
			[]Clash{{a, []Bearer{{Node: "x", PCI: "0000:87:00.0"}, {Node: "y", PCI: "0000:86:00.0"}}}}},
		{"on one node", map[string]v1.InterfaceExts{"x": {card("0000:87:00", a), card("0000:86:00", a)}},
			[]Clash{{a, []Bearer{{Node: "x", PCI: "0000:86:00.0"}, {Node: "x", PCI: "0000:87:00.0"}}}}},
		{"a VF and a card, and three VFs", map[string]v1.InterfaceExts{"x": {card("0000:86:00", a, b, c)},
			"y": {card("0000:86:00", b, c)}, "z": {card("0000:86:00", "", c)}}, []Clash{
			{b, []Bearer{{"x", "0000:86:00.1", true, "0000:86:00.0"}, {Node: "y", PCI: "0000:86:00.0"}}},
			{c, []Bearer{{"x", "0000:86:00.2", true, "0000:86:00.0"}, {"y", "0000:86:00.1", true, "0000:86:00.0"},
				{"z", "0000:86:00.1", true, "0000:86:00.0"}}},
		}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, Clashes(tt.nodes)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}
