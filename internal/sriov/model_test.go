// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// apply does what a change says, as the kernel would.
func apply(n *Node, c Change) {
	pf := find(n.PFs, c.PF)
	var v *VF
	for i := range pf.VFs {
		if pf.VFs[i].PCI == c.VF {
			v = &pf.VFs[i]
		}
	}
	switch c.Kind {
	case SetNumVFs:
		*pf = fresh(*pf, c.Number)
	case SetUp:
		pf.Up = true
	case SetMTU:
		if v == nil {
			pf.MTU = c.Number
		} else {
			v.MTU = c.Number
		}
	case Record:
		n.Identities = append(n.Identities, c.Identity)
	case SetGUID:
		n.Identities = append(n.Identities, c.Identity)
		v.NodeGUID, v.PortGUID = c.Identity.GUID, c.Identity.GUID
	case SetState:
		v.State = "auto"
	case Bind:
		bind(v)
	case Unbind:
		unbind(v)
	}
}

// drawNode draws a node with up to three cards in any state that other tools, crashes and pods can leave.
func drawNode(t *rapid.T) Node {
	var n Node
	for c := range rapid.IntRange(1, 3).Draw(t, "cards") {
		p := guidePF()
		p.PCI = fmt.Sprintf("0000:%02x:00.0", 0x86+c)
		p.GUID[7] += byte(c)
		if rapid.IntRange(0, 9).Draw(t, "like another") == 0 {
			p.GUID = pfGUID
			p.GUID[4] += byte(c) // derived GUIDs collide with the first card's
		}
		p.Up = rapid.Bool().Draw(t, "up")
		p = fresh(p, rapid.IntRange(0, 6).Draw(t, "VFs"))
		for i := range p.VFs {
			drawVF(t, &n, &p, &p.VFs[i])
		}
		n.PFs = append(n.PFs, p)
	}
	n.GUIDs = drawGUIDs(t, n)
	return n
}

// drawGUIDs draws an administrator's file: for some cards GUIDs of their own, among them ones that
// VFs of the card bear already.
func drawGUIDs(t *rapid.T, n Node) *GUIDFile {
	var entries []string
	for _, p := range n.PFs {
		start := ib.VFGUID(p.GUID, 0)
		start[7] += byte(rapid.IntRange(0, 1).Draw(t, "apart")) * 0x80
		var guids []string
		for i := range 6 {
			guids = append(guids, fmt.Sprintf("%q", ib.VFGUID(start, i)))
		}
		switch rapid.IntRange(0, 3).Draw(t, "entry") {
		case 1: // the order of GUIDs that VFs may have changes
			guids = rapid.Permutation(guids).Draw(t, "order")
		case 2:
			guids = guids[:rapid.IntRange(1, 6).Draw(t, "few")]
		case 3:
			continue
		}
		entries = append(entries, fmt.Sprintf(`{"pci_address": %q, "guids": [%s]}`, p.PCI, strings.Join(guids, ",")))
	}
	if len(entries) == 0 {
		return nil
	}
	return ParseGUIDs("/guids", []byte("["+strings.Join(entries, ",")+"]"))
}

func drawVF(t *rapid.T, n *Node, p *PF, v *VF) {
	guids := []ib.GUID{{}, ib.VFGUID(p.GUID, v.Index), {2, 0, 0, 0, 0, 0, 0, 7}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff}}
	v.NodeGUID = rapid.SampledFrom(guids).Draw(t, "node GUID")
	v.PortGUID = rapid.SampledFrom([]ib.GUID{v.NodeGUID, v.NodeGUID, {}}).Draw(t, "port GUID")
	v.State = rapid.SampledFrom([]string{"auto", "disable", "enable"}).Draw(t, "state")
	if rapid.Bool().Draw(t, "bound") {
		bind(v)
		if rapid.IntRange(0, 3).Draw(t, "held") == 0 {
			hold(v, rapid.SampledFrom([]string{"default/a", "default/b", ""}).Draw(t, "pod"))
		}
	}
	if rapid.Bool().Draw(t, "recorded") {
		g := rapid.SampledFrom(guids[1:3]).Draw(t, "recorded GUID")
		n.Identities = append(n.Identities, Identity{PCI: v.PCI, PF: p.PCI, PFGUID: p.GUID, Index: v.Index, GUID: g})
	}
}

func drawSpec(t *rapid.T, n Node) *v1.SriovNetworkNodeStateSpec {
	spec := &v1.SriovNetworkNodeStateSpec{}
	for _, p := range n.PFs {
		i := v1.Interface{PciAddress: p.PCI, NumVfs: rapid.IntRange(0, 6).Draw(t, "numVfs")}
		if i.NumVfs > 0 {
			first := rapid.IntRange(0, i.NumVfs-1).Draw(t, "first")
			i.VfGroups = []v1.VfGroup{{ResourceName: "r", DeviceType: "netdevice", IsRdma: true,
				VfRange: v1.VFRange{First: first, Last: i.NumVfs - 1}.String()}}
		}
		spec.Interfaces = append(spec.Interfaces, i)
	}
	return spec
}

// held pictures the VFs that somebody holds.
func held(n Node) map[string]VF {
	out := map[string]VF{}
	for _, p := range n.PFs {
		for _, v := range p.VFs {
			if v.holder() != "" {
				out[v.PCI] = v
			}
		}
	}
	return out
}

// checkWishes: where nothing is blocked, VFs bear what the administrator chose.
func checkWishes(t *rapid.T, spec *v1.SriovNetworkNodeStateSpec, n Node) {
	plan := Plan(spec, n)
	for i := range spec.Interfaces {
		w := &spec.Interfaces[i]
		pf := find(n.PFs, w.PciAddress)
		entry, _ := n.GUIDs.of(pf)
		for _, v := range pf.VFs {
			g, ok := entry.at(v.Index)
			if !ok || GroupOf(w, v.Index) == nil || slices.ContainsFunc(plan,
				func(c Change) bool { return c.PF == pf.PCI && (c.VF == "" || c.VF == v.PCI) }) {
				continue
			}
			if !v.bears(g) {
				t.Fatalf("%s bears %s, the file says %s; plan %q", v.PCI, v.guid(), g, lines(plan))
			}
		}
	}
}

// checkNoTwin: a VF is not bound under a GUID of the file that another is bound under.
func checkNoTwin(t *rapid.T, n Node, c Change) {
	var bound *VF
	bearers := map[ib.GUID][]string{}
	for i := range n.PFs {
		for j := range n.PFs[i].VFs {
			v := &n.PFs[i].VFs[j]
			if v.PCI == c.VF {
				bound = v
			}
			if v.Driver != "" {
				bearers[v.guid()] = append(bearers[v.guid()], v.PCI)
			}
		}
	}
	if g := bound.guid(); n.GUIDs.has(g) && len(bearers[g]) > 1 {
		t.Fatalf("%s is bound under %s, as are %v", c.VF, g, bearers[g])
	}
}

// From any state, plans come to an end; VFs that somebody holds are never touched; what is offered
// works and bears a GUID that nothing else on the node bears; the cards do not affect each other.
func TestPlansConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := drawNode(t)
		spec := drawSpec(t, n)
		before := held(n)
		checkIndependence(t, spec, n)
		for round := 0; ; round++ {
			plan := Plan(spec, n)
			if !Doable(plan) {
				break
			}
			if round == 5 {
				t.Fatalf("no end: %q", lines(plan))
			}
			for _, c := range plan {
				if c.Blocked != "" {
					continue
				}
				apply(&n, c)
				if c.Kind == Bind {
					checkNoTwin(t, n, c)
				}
			}
		}
		if diff := cmp.Diff(before, held(n)); diff != "" {
			t.Fatalf("a VF in use was touched: %s", diff)
		}
		checkOffers(t, spec, n)
		checkWishes(t, spec, n)
	})
}

func checkIndependence(t *rapid.T, spec *v1.SriovNetworkNodeStateSpec, n Node) {
	whole := Plan(spec, n)
	for i := range spec.Interfaces {
		alone := Plan(&v1.SriovNetworkNodeStateSpec{Interfaces: spec.Interfaces[i : i+1]}, n)
		var part []Change
		for _, c := range whole {
			if c.PF == spec.Interfaces[i].PciAddress {
				part = append(part, c)
			}
		}
		if diff := cmp.Diff(alone, part); diff != "" {
			t.Fatalf("the plan for %s depends on what is wanted of other cards: %s", spec.Interfaces[i].PciAddress,
				diff)
		}
	}
}

func checkOffers(t *rapid.T, spec *v1.SriovNetworkNodeStateSpec, n Node) {
	bearers := map[ib.GUID]string{}
	offered := map[string]bool{}
	for _, pool := range Pools(spec, n) {
		for _, d := range pool.Devices {
			offered[d.PCI] = true
			if d.Pod != "" {
				continue
			}
			if other := bearers[d.GUID]; other != "" || !d.GUID.Valid() {
				t.Fatalf("%s is offered with GUID %s, as is %q", d.PCI, d.GUID, other)
			}
			bearers[d.GUID] = d.PCI
		}
	}
	plan := Plan(spec, n)
	for i := range spec.Interfaces {
		w := &spec.Interfaces[i]
		pf := find(n.PFs, w.PciAddress)
		for _, v := range pf.VFs {
			blocked := slices.ContainsFunc(plan, func(c Change) bool {
				return c.PF == pf.PCI &&
					(c.VF == "" || c.VF == v.PCI)
			})
			if GroupOf(w, v.Index) != nil && v.holder() == "" && pf.NumVFs == w.NumVfs && !offered[v.PCI] && !blocked {
				t.Fatalf("%s is free and configured, but not offered: %+v", v.PCI, v)
			}
		}
	}
}
