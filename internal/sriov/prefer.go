// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"fmt"
	"slices"
)

// Preference says which free VFs a container gets when it may have any of several.
type Preference string

// The preferences.
const (
	// Spread takes VFs of as many PFs as it can, and of the one with the most free VFs first: rails
	// share the load.
	Spread Preference = "spread"
	// Pack takes VFs of as few PFs as it can, and of the fullest that suffices: whole PFs stay free
	// for what needs them.
	Pack Preference = "pack"
	// NoPreference leaves the choice to whoever asks.
	NoPreference Preference = ""
)

// ParsePreference reads one.
func ParsePreference(text string) (Preference, error) {
	switch p := Preference(text); p {
	case Spread, Pack, NoPreference:
		return p, nil
	}
	return "", fmt.Errorf("the preferred allocation is %q, want %s, %s or nothing", text, Spread, Pack)
}

// Candidate is a VF that may be chosen.
type Candidate struct {
	PCI, PF  string
	Index    int
	NUMANode int // -1 when unknown
	// Class orders candidates before everything else: one of a higher class is taken only when
	// those of the lower are used up.
	Class int
}

// Choose picks n of the candidates, or all when there are fewer. Those that must names are among
// them. After class and PFs it is VFs of one NUMA node that count, then how many are free. The same
// question has the same answer, whatever the order of candidates.
func (p Preference) Choose(candidates []Candidate, must []string, n int) []string {
	candidates = slices.Clone(candidates)
	slices.SortFunc(candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.PF, b.PF), cmp.Compare(a.Index, b.Index), cmp.Compare(a.PCI, b.PCI))
	})
	free := map[string]int{}
	for _, c := range candidates {
		free[c.PF]++
	}
	const anywhere = -2
	nodes := []int{anywhere}
	for _, c := range candidates {
		if !slices.Contains(nodes, c.NUMANode) {
			nodes = append(nodes, c.NUMANode)
		}
	}
	slices.Sort(nodes)
	var best *draft
	for _, node := range nodes { // what is best overall need not be so one VF after the other
		d := p.draft(candidates, must, n, node)
		if best == nil || p.compare(d.score(free), best.score(free)) < 0 {
			best = d
		}
	}
	var out []string
	for _, c := range best.chosen {
		out = append(out, c.PCI)
	}
	return out
}

// draft is a choice in the making that prefers VFs of one NUMA node.
type draft struct {
	chosen []Candidate
	left   []Candidate
	perPF  map[string]int // of the chosen
	node   int
}

func (p Preference) draft(candidates []Candidate, must []string, n, node int) *draft {
	d := &draft{left: slices.Clone(candidates), perPF: map[string]int{}, node: node}
	for _, pci := range must {
		if i := slices.IndexFunc(d.left, func(c Candidate) bool { return c.PCI == pci }); i >= 0 {
			d.take(i)
		}
	}
	for len(d.chosen) < n && len(d.left) > 0 {
		d.take(p.next(d, n-len(d.chosen)))
	}
	return d
}

func (d *draft) take(i int) {
	c := d.left[i]
	d.chosen, d.left = append(d.chosen, c), slices.Delete(d.left, i, i+1)
	d.perPF[c.PF]++
}

// next is the index of the candidate to take when so many are missing.
func (p Preference) next(d *draft, missing int) int {
	class := slices.MinFunc(d.left, func(a, b Candidate) int { return cmp.Compare(a.Class, b.Class) }).Class
	free := map[string]int{}
	for _, c := range d.left {
		if c.Class == class {
			free[c.PF]++
		}
	}
	best, bestKey := -1, []int(nil)
	for i, c := range d.left {
		if c.Class != class {
			continue
		}
		if key := p.key(d, c, free[c.PF], missing); best < 0 || slices.Compare(key, bestKey) < 0 {
			best, bestKey = i, key
		}
	}
	return best
}

// key of a candidate; the least is taken.
func (p Preference) key(d *draft, c Candidate, free, missing int) []int {
	elsewhere := number(c.NUMANode != d.node)
	if p != Pack {
		return []int{d.perPF[c.PF], elsewhere, -free}
	}
	// A PF that is begun goes on; then the tightest that suffices, and when none does, the largest:
	// that makes the fewest.
	tight := -free
	if free >= missing {
		tight = free
	}
	return []int{elsewhere, number(d.perPF[c.PF] == 0), number(free < missing), tight}
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// score is what finished drafts are compared by.
type score struct{ pfs, nodes, free int }

func (d *draft) score(free map[string]int) score {
	nodes := map[int]bool{}
	var s score
	for _, c := range d.chosen {
		nodes[c.NUMANode] = true
	}
	for pf := range d.perPF {
		s.free += free[pf]
	}
	s.pfs, s.nodes = len(d.perPF), len(nodes)
	return s
}

// compare tells which score is better: a negative number for a.
func (p Preference) compare(a, b score) int {
	if p == Pack {
		return cmp.Or(a.pfs-b.pfs, a.nodes-b.nodes, a.free-b.free)
	}
	return cmp.Or(b.pfs-a.pfs, a.nodes-b.nodes, b.free-a.free)
}
