// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// card makes candidates a0, a1, … of PF a.
func card(pf string, numa, class int, indexes ...int) (out []Candidate) {
	for _, i := range indexes {
		out = append(out, Candidate{PCI: fmt.Sprintf("%s%d", pf, i), PF: pf, Index: i, NUMANode: numa, Class: class})
	}
	return out
}

func TestChoose(t *testing.T) {
	two := slices.Concat(card("a", 0, 0, 0, 1), card("b", 1, 0, 0, 1, 2))
	rails := slices.Concat(card("a", 0, 0, 0, 1, 2, 3), card("b", 0, 0, 0), card("c", 1, 0, 0, 1, 2),
		card("d", 1, 0, 0, 1, 2))
	for _, tt := range []struct {
		name         string
		from         []Candidate
		must         string
		n            int
		spread, pack string
	}{
		{"nothing there", nil, "", 2, "", ""},
		{"nothing asked", two, "", 0, "", ""},
		{"one of two PFs", two, "", 1, "b0", "a0"},
		{"two of two PFs", two, "", 2, "b0 a0", "a0 a1"},
		{"four of two PFs", two, "", 4, "b0 a0 b1 a1", "b0 b1 b2 a0"},
		{"three fit one", two, "", 3, "b0 a0 b1", "b0 b1 b2"},
		{"more than there are", two, "", 9, "b0 a0 b1 a1 b2", "b0 b1 b2 a0 a1"},
		{"must be among them", two, "a1", 2, "a1 b0", "a1 a0"},
		{"must that is not there", two, "x1", 1, "b0", "a0"},
		{"two rails of one NUMA node rather than the two with the most free", rails, "", 2, "c0 d0", "c0 c1"},
		{"must decides the NUMA node", rails, "b0", 2, "b0 a0", "b0 a0"},
		{"all rails count more than one NUMA node", rails, "", 4, "a0 c0 d0 b0", "a0 a1 a2 a3"},
		{"a port that is down comes last", slices.Concat(card("a", 0, 2, 0, 1, 2), card("b", 0, 0, 0)), "", 2, "b0 a0",
			"b0 a0"},
		{"and is no reason to spread", slices.Concat(card("a", 0, 2, 0), card("b", 0, 0, 0, 1)), "", 2, "b0 b1",
			"b0 b1"},
		{"what its last pod still has waits", slices.Concat(card("a", 0, 1, 0), card("a", 0, 0, 1)), "", 1, "a1", "a1"},
		{"unknown NUMA nodes", slices.Concat(card("a", -1, 0, 0), card("b", -1, 0, 0)), "", 2, "a0 b0", "a0 b0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for p, want := range map[Preference]string{Spread: tt.spread, Pack: tt.pack} {
				if got := strings.Join(p.Choose(tt.from, strings.Fields(tt.must), tt.n), " "); got != want {
					t.Errorf("%s: %q, want %q", p, got, want)
				}
			}
		})
	}
}

func TestParsePreference(t *testing.T) {
	for _, text := range []string{"spread", "pack", ""} {
		if p, err := ParsePreference(text); err != nil || string(p) != text {
			t.Errorf("%q: %q, %v", text, p, err)
		}
	}
	if _, err := ParsePreference("random"); err == nil || !strings.Contains(err.Error(),
		`"random", want spread, pack or nothing`) {
		t.Error(err)
	}
}

// outcomeOf is what a choice is judged by: how many of each class, PFs and NUMA nodes.
func outcomeOf(from []Candidate, chosen []string) (classes [3]int, pfs, nodes int) {
	seenPF, seenNode := map[string]bool{}, map[int]bool{}
	for _, c := range from {
		if slices.Contains(chosen, c.PCI) {
			classes[c.Class]++
			seenPF[c.PF], seenNode[c.NUMANode] = true, true
		}
	}
	return classes, len(seenPF), len(seenNode)
}

// subsets visits every choice of n that holds must.
func subsets(from []Candidate, must []string, n int, visit func([]string)) {
	for bits := range 1 << len(from) {
		var chosen []string
		for i, c := range from {
			if bits>>i&1 == 1 {
				chosen = append(chosen, c.PCI)
			}
		}
		if len(chosen) == n && !slices.ContainsFunc(must, func(m string) bool { return !slices.Contains(chosen, m) }) {
			visit(chosen)
		}
	}
}

// TestChooseIsBest compares with every possible choice. What the must list allows is taken in order
// of class; with candidates of one class the number of PFs is the best there is, and they are of
// one NUMA node when some equally good choice is.
func TestChooseIsBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var from []Candidate
		oneClass := rapid.Bool().Draw(t, "one class")
		for _, pf := range []string{"a", "b", "c", "d"}[:rapid.IntRange(1, 4).Draw(t, "PFs")] {
			numa := rapid.IntRange(-1, 1).Draw(t, "numa")
			for i := range rapid.IntRange(0, 3).Draw(t, "VFs") {
				class := 0
				if !oneClass {
					class = rapid.IntRange(0, 2).Draw(t, "class")
				}
				from = append(from, card(pf, numa, class, i)...)
			}
		}
		n := rapid.IntRange(0, len(from)).Draw(t, "n")
		var must []string
		for _, c := range from {
			if len(must) < n && rapid.IntRange(0, 4).Draw(t, "must") == 0 {
				must = append(must, c.PCI)
			}
		}
		p := rapid.SampledFrom([]Preference{Spread, Pack}).Draw(t, "preference")
		got := p.Choose(from, must, n)
		check(t, p, from, must, got, n, oneClass)
		if again := p.Choose(rapid.Permutation(from).Draw(t, "order"), must, n); cmp.Diff(got, again) != "" {
			t.Fatalf("in another order: %v, before %v", again, got)
		}
	})
}

func check(t *rapid.T, p Preference, from []Candidate, must, got []string, n int, oneClass bool) {
	sorted := slices.Sorted(slices.Values(got))
	if len(slices.Compact(sorted)) != n {
		t.Fatalf("%d wanted, got %v", n, got)
	}
	classes, pfs, nodes := outcomeOf(from, got)
	possible := false
	subsets(from, must, n, func(other []string) {
		possible = possible || cmp.Diff(sorted, slices.Sorted(slices.Values(other))) == ""
		otherClasses, otherPFs, otherNodes := outcomeOf(from, other)
		switch {
		case slices.Compare(otherClasses[:], classes[:]) > 0:
			t.Fatalf("%v has a better class than %v", other, got)
		case !oneClass || otherClasses != classes:
		case p == Spread && otherPFs > pfs || p == Pack && otherPFs < pfs:
			t.Fatalf("%s: %v has %d PFs, %v %d", p, other, otherPFs, got, pfs)
		case otherPFs == pfs && otherNodes == 1 && nodes > 1:
			t.Fatalf("%s: %v is of one NUMA node, %v of %d", p, other, got, nodes)
		}
	})
	if !possible {
		t.Fatalf("%v lacks %v or holds what is not offered", got, must)
	}
}
