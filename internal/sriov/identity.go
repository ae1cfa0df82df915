// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"fmt"
	"slices"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// owner is what a GUID belongs to: a VF by its card and index, or a PF's port (index -1). A card
// keeps its VFs' GUIDs when it moves to another slot, and another card in the slot does not inherit
// them.
type owner struct {
	pf    ib.GUID
	index int
}

// identities chooses the GUID of each VF. What the administrator's file says counts first. Else
// choices are stable: an identity in the ledger is kept, a VF that works under a GUID of its own
// keeps it, and only then one is derived from the PF's.
type identities struct {
	file   *GUIDFile
	wishes map[string]pfWish // by the PF's PCI address
	known  map[owner]Identity
	taken  map[ib.GUID]owner
	chosen map[owner]Identity
	bound  map[ib.GUID][]*VF // that may be in use under the GUID
	ours   map[owner]bool    // what was made or configured by us, whatever GUID it has by now
}

// pfWish is what the administrator's file says of one PF.
type pfWish struct {
	pf      ib.GUID
	entry   *guidEntry // nil when it says nothing that can be used
	problem string
}

func newIdentities(n Node) *identities {
	ids := &identities{file: n.GUIDs, wishes: map[string]pfWish{}, known: map[owner]Identity{},
		taken:  map[ib.GUID]owner{},
		chosen: map[owner]Identity{}, bound: map[ib.GUID][]*VF{}, ours: map[owner]bool{}}
	for _, p := range n.PFs {
		if p.GUID.Valid() {
			ids.taken[p.GUID] = owner{p.GUID, -1}
		}
	}
	ids.readFile(n)
	for _, id := range n.Identities {
		ids.learn(id)
	}
	for i := range n.PFs {
		if n.PFs[i].LinkType == v1.LinkTypeIB {
			for j := range n.PFs[i].VFs {
				ids.choose(&n.PFs[i], &n.PFs[i].VFs[j])
			}
		}
	}
	return ids
}

// readFile finds out what the file says of each PF, and what is wrong with it.
func (ids *identities) readFile(n Node) {
	for i := range n.PFs {
		p := &n.PFs[i]
		if p.LinkType != v1.LinkTypeIB {
			continue
		}
		for j := range p.VFs {
			if v := &p.VFs[j]; v.Driver != "" {
				ids.bound[v.guid()] = append(ids.bound[v.guid()], v)
			}
		}
		wish := pfWish{pf: p.GUID}
		if wish.entry, wish.problem = n.GUIDs.of(p); wish.entry != nil {
			if problem := conflict(wish.entry, n); problem != "" {
				wish.entry, wish.problem = nil, n.GUIDs.about(wish.entry, problem)
			}
		}
		ids.wishes[p.PCI] = wish
	}
}

// conflict looks for GUIDs of an entry that a port on the node has for good: a PF's, or one of a VF
// that the file does not choose for.
func conflict(e *guidEntry, n Node) string {
	for i := range n.PFs {
		p := &n.PFs[i]
		if e.has(p.GUID) {
			return fmt.Sprintf("GUID %s is that of the port of %s: want one that nothing bears", p.GUID, p.PCI)
		}
		if entry, _ := n.GUIDs.of(p); entry != nil {
			continue // what has it will get another
		}
		for j := range p.VFs {
			if g := settled(&p.VFs[j], n.Identities, p); e.has(g) {
				return fmt.Sprintf(
					"GUID %s is that of VF %s, which the file does not choose for: want one that nothing bears", g,
					p.VFs[j].PCI)
			}
		}
	}
	return ""
}

// settled is the GUID that a VF has by the ledger, or that it works under; zero when it has none yet.
func settled(v *VF, recorded []Identity, p *PF) ib.GUID {
	for _, id := range recorded {
		if id.PFGUID == p.GUID && id.Index == v.Index {
			return id.GUID
		}
	}
	if v.Driver != "" {
		return v.guid()
	}
	return ib.GUID{}
}

// problem says why the file's choice for a PF cannot be carried out for so many VFs; "" when it can.
func (ids *identities) problem(p *PF, numVFs int) string {
	w := ids.wishes[p.PCI]
	switch {
	case numVFs == 0:
		return ""
	case w.entry != nil && !w.entry.enough(numVFs):
		return ids.file.about(w.entry, fmt.Sprintf("it has %d GUIDs: want one for each of the %d VFs", w.entry.count(),
			numVFs))
	}
	return w.problem
}

// wish is the GUID that the file chooses for a VF.
func (ids *identities) wish(p *PF, index int) (ib.GUID, bool) {
	return ids.wishes[p.PCI].entry.at(index)
}

// wished tells whether the file, as far as it can be used, chooses for the owner of an identity.
func (ids *identities) wished(o owner) bool {
	for _, w := range ids.wishes {
		if _, ok := w.entry.at(o.index); ok && w.pf == o.pf {
			return true
		}
	}
	return false
}

// learn takes an identity from the ledger unless its GUID is unusable or another's already. One
// that the file overrules is kept too: it tells what the VF may bear still.
func (ids *identities) learn(id Identity) {
	o := owner{id.PFGUID, id.Index}
	holder, taken := ids.taken[id.GUID]
	ids.ours[o] = !id.Adopted
	switch {
	case !id.GUID.Valid():
		return
	case ids.wished(o):
		ids.known[o] = id
		if !taken {
			ids.taken[id.GUID] = o
		}
	case taken && holder != o:
		return
	default:
		ids.known[o], ids.taken[id.GUID] = id, o
	}
}

// maxTries bounds the search for a free GUID; tryStep is beyond the VFs of any card in use.
const (
	maxTries = 64
	tryStep  = 1024
)

// choose fixes the identity of one VF. Its GUID is zero when there is none to be had: the PF's GUID
// is not known.
func (ids *identities) choose(p *PF, v *VF) Identity {
	o := owner{p.GUID, v.Index}
	if id, ok := ids.chosen[o]; ok {
		return id
	}
	id, known := ids.known[o]
	fresh := Identity{PCI: v.PCI, PF: p.PCI, PFGUID: p.GUID, Index: v.Index}
	wish, wished := ids.wish(p, v.Index)
	switch {
	case wished && id.GUID != wish:
		id = fresh
		id.GUID = wish
		if own := v.guid(); v.Driver != "" && ids.free(own, o) {
			ids.taken[own] = o // it bears that one still
		}
	case !known:
		id = fresh
		id.GUID, id.Adopted = ids.pick(p, v, o)
	}
	if id.GUID.Valid() {
		ids.taken[id.GUID] = o
	}
	ids.chosen[o] = id
	return id
}

func (ids *identities) pick(p *PF, v *VF, o owner) (g ib.GUID, adopted bool) {
	if !p.GUID.Valid() {
		return ib.GUID{}, false
	}
	if own := v.guid(); own.Valid() && v.Driver != "" && v.bears(own) && ids.free(own, o) {
		return own, own != ib.VFGUID(p.GUID, v.Index)
	}
	for try := range maxTries {
		if g := ib.VFGUID(p.GUID, v.Index+try*tryStep); g.Valid() && ids.free(g, o) && !ids.file.has(g) {
			return g, false
		}
	}
	return ib.GUID{}, false
}

func (ids *identities) free(g ib.GUID, o owner) bool {
	holder, taken := ids.taken[g]
	return !taken || holder == o
}

// recorded tells whether the ledger holds the VF's identity.
func (ids *identities) recorded(p *PF, v *VF) bool {
	id, ok := ids.known[owner{p.GUID, v.Index}]
	return ok && id.GUID == ids.choose(p, v).GUID
}

// bearer finds another VF that is bound under the GUID that the file chooses for a VF; nil when
// there is none.
func (ids *identities) bearer(p *PF, v *VF) *VF {
	wish, ok := ids.wish(p, v.Index)
	if !ok {
		return nil
	}
	for _, other := range ids.bound[wish] {
		if other.PCI != v.PCI {
			return other
		}
	}
	return nil
}

// managed tells whether the PF has VFs that were made or configured by us.
func (ids *identities) managed(p *PF) bool {
	return slices.ContainsFunc(p.VFs, func(v VF) bool {
		return ids.ours[owner{p.GUID, v.Index}]
	})
}
