// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"slices"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// Bearer is an InfiniBand function of a node that bears a GUID.
type Bearer struct {
	Node, PCI string
	// VF tells a virtual function; then PF is the PCI address of its card.
	VF bool
	PF string
}

// Clash is a GUID that two or more functions bear. A subnet manager serves one of them, and not
// always the same.
type Clash struct {
	GUID    string
	Bearers []Bearer // in order of node and PCI address
}

// Clashes finds the GUIDs that more than one InfiniBand function bears, over all nodes, in order of
// GUID. All functions count as of one fabric: which ones are is not known. Ethernet functions have
// GUIDs, too, but no fabric in which they matter.
func Clashes(nodes map[string]v1.InterfaceExts) []Clash {
	bearers := map[ib.GUID][]Bearer{}
	add := func(text string, b Bearer) {
		if g, err := ib.ParseGUID(text); err == nil && g.Valid() {
			bearers[g] = append(bearers[g], b)
		}
	}
	for node, cards := range nodes {
		for i := range cards {
			pf := &cards[i]
			if pf.LinkType != v1.LinkTypeIB {
				continue
			}
			add(pf.Guid, Bearer{Node: node, PCI: pf.PciAddress})
			for v := range pf.VFs {
				add(pf.VFs[v].GUID, Bearer{Node: node, PCI: pf.VFs[v].PciAddress, VF: true, PF: pf.PciAddress})
			}
		}
	}
	var out []Clash
	for g, list := range bearers {
		if len(list) < 2 {
			continue
		}
		slices.SortFunc(list, func(a, b Bearer) int {
			return cmp.Or(cmp.Compare(a.Node, b.Node),
				cmp.Compare(a.PCI, b.PCI))
		})
		out = append(out, Clash{GUID: g.String(), Bearers: list})
	}
	slices.SortFunc(out, func(a, b Clash) int { return cmp.Compare(a.GUID, b.GUID) })
	return out
}
