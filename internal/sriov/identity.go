package sriov

import (
	"slices"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// owner is what a GUID belongs to: a VF by its card and index, or a PF's port (index -1). A card keeps its VFs' GUIDs
// when it moves to another slot, and another card in the slot does not inherit them.
type owner struct {
	pf    ib.GUID
	index int
}

// identities chooses the GUID of each VF. Choices are stable: an identity in the ledger is kept, a VF that works under a
// GUID of its own keeps it, and only then one is derived from the PF's.
type identities struct {
	known  map[owner]Identity
	taken  map[ib.GUID]owner
	chosen map[owner]Identity
}

func newIdentities(n Node) *identities {
	ids := &identities{known: map[owner]Identity{}, taken: map[ib.GUID]owner{}, chosen: map[owner]Identity{}}
	for _, p := range n.PFs {
		if p.GUID.Valid() {
			ids.taken[p.GUID] = owner{p.GUID, -1}
		}
	}
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

// learn takes an identity from the ledger unless its GUID is unusable or another's already.
func (ids *identities) learn(id Identity) {
	o := owner{id.PFGUID, id.Index}
	if _, clash := ids.taken[id.GUID]; clash && ids.taken[id.GUID] != o || !id.GUID.Valid() {
		return
	}
	ids.known[o] = id
	ids.taken[id.GUID] = o
}

// maxTries bounds the search for a free GUID; tryStep is beyond the VFs of any card in use.
const (
	maxTries = 64
	tryStep  = 1024
)

// choose fixes the identity of one VF. Its GUID is zero when there is none to be had: the PF's GUID is not known.
func (ids *identities) choose(p *PF, v *VF) Identity {
	o := owner{p.GUID, v.Index}
	if id, ok := ids.chosen[o]; ok {
		return id
	}
	id, known := ids.known[o]
	if !known {
		id = Identity{PCI: v.PCI, PF: p.PCI, PFGUID: p.GUID, Index: v.Index}
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
		if g := ib.VFGUID(p.GUID, v.Index+try*tryStep); g.Valid() && ids.free(g, o) {
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
	_, ok := ids.known[owner{p.GUID, v.Index}]
	return ok
}

// managed tells whether the PF has VFs that were made or configured by us.
func (ids *identities) managed(p *PF) bool {
	return slices.ContainsFunc(p.VFs, func(v VF) bool {
		id, ok := ids.known[owner{p.GUID, v.Index}]
		return ok && !id.Adopted
	})
}
