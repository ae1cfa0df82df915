// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// unbound is a node with so many VFs that have no driver yet; numbers 0 is the card's.
func unbound(count int) Node {
	n := Node{PFs: []PF{{PCI: "pf"}}, VerbsNumbers: []int{0}, GivenVerbs: map[string]int{}}
	for i := range count {
		n.PFs[0].VFs = append(n.PFs[0].VFs, VF{PCI: fmt.Sprint("vf", i), Index: i})
	}
	return n
}

func bindAll(n *Node) (plan []Change) {
	plan = append(plan, Change{Kind: SetUp, PF: "pf"})
	for _, v := range n.PFs[0].VFs {
		plan = append(plan, Change{Kind: SetGUID, PF: "pf", VF: v.PCI}, Change{Kind: Bind, PF: "pf", VF: v.PCI})
	}
	return plan
}

// numbersOf binds as the plan says, each VF to the lowest free number.
func numbersOf(n *Node, plan []Change) map[string]int {
	taken, out := slices.Clone(n.VerbsNumbers), map[string]int{}
	for _, c := range plan {
		if c.Kind != Bind {
			continue
		}
		number := 0
		for slices.Contains(taken, number) {
			number++
		}
		out[c.VF], taken = number, append(taken, number)
	}
	return out
}

// Whatever numbers the VFs had before a reboot, as long as they can be had again each VF that a
// container was given with one has it again.
func TestNumbersComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 8).Draw(t, "VFs")
		n := unbound(count)
		numbers := rapid.Permutation(slices.Collect(seq(1, count))).Draw(t, "numbers")
		for i, number := range numbers {
			if rapid.Bool().Draw(t, fmt.Sprint("given ", i)) {
				n.GivenVerbs[fmt.Sprint("vf", i)] = number
			}
		}
		plan := bindAll(&n)
		ordered := inNumberOrder(plan, &n)
		if len(ordered) != len(plan) || ordered[0].Kind != SetUp {
			t.Fatalf("%v became %v", plan, ordered)
		}
		got := numbersOf(&n, ordered)
		for pci, want := range n.GivenVerbs {
			if got[pci] != want {
				t.Fatalf("%s has number %d, its container %d: %v", pci, got[pci], want, ordered)
			}
		}
	})
}

func seq(from, count int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range count {
			if !yield(from + i) {
				return
			}
		}
	}
}

// Of two VFs that were given one number, one after the other, the one in a pod gets it; a number
// that cannot be had costs no other its own.
func TestNumbersThatCannotAllComeBack(t *testing.T) {
	n := unbound(3)
	n.GivenVerbs = map[string]int{"vf0": 1, "vf1": 1, "vf2": 9}
	n.PFs[0].VFs[1].Pod = "default/a"
	got := numbersOf(&n, inNumberOrder(bindAll(&n), &n))
	if got["vf1"] != 1 || got["vf0"] != 2 || got["vf2"] != 3 {
		t.Errorf("%v", got)
	}
}
