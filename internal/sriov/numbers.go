// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"fmt"
	"slices"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// A container is given uverbsN before its VF moves into the pod's namespace, and the kernel gives a
// device that moves the lowest free number. A VF keeps its number only if no lower one is free. So
// when VFs with low numbers go, as those of a card whose policy was deleted, free VFs with higher
// numbers are bound anew to take their numbers, and are offered to nobody before that. Those in
// pods take a low number when they come home.

// gaps are the free verbs numbers below the highest one in use, in order. None when numbers are not known.
func (n *Node) gaps() (out []int) {
	if len(n.VerbsNumbers) == 0 {
		return nil
	}
	for i := range slices.Max(n.VerbsNumbers) {
		if !slices.Contains(n.VerbsNumbers, i) {
			out = append(out, i)
		}
	}
	return out
}

// withholdShifting says of the free VFs that would get another verbs number in a pod why they are
// not offered.
func (n *Node) withholdShifting(out map[string]string) {
	gaps := n.gaps()
	if len(gaps) == 0 {
		return
	}
	for i := range n.PFs {
		for j := range n.PFs[i].VFs {
			v := &n.PFs[i].VFs[j]
			if v.Verbs && v.holder() == "" && v.VerbsNumber >= gaps[0] {
				out[v.PCI] = fmt.Sprintf(
					"in a pod its verbs device would be uverbs%d instead of uverbs%d, as a lower number is free: it "+
						"is bound anew first",
					gaps[0], v.VerbsNumber)
			}
		}
	}
}

// renumber plans for the gaps: the free VFs with the highest numbers are bound anew, one for each
// gap below them.
func renumber(spec *v1.SriovNetworkNodeStateSpec, n *Node) (out []Change) {
	gaps := n.gaps()
	if len(gaps) == 0 || n.UseUnknown != "" {
		return nil
	}
	movable := n.movable(spec)
	for i, gap := range gaps {
		if i >= len(movable) || movable[i].vf.VerbsNumber < gap {
			break
		}
		m := movable[i]
		out = append(out, Change{Kind: Unbind, PF: m.pf, VF: m.vf.PCI,
			Text: fmt.Sprintf("take verbs number %d for %d, so that it keeps it in a pod: unbind the driver", gap,
				m.vf.VerbsNumber)})
		out = append(out, Change{Kind: Bind, PF: m.pf, VF: m.vf.PCI})
	}
	return out
}

type movable struct {
	pf string
	vf *VF
}

// movable are the free VFs of the spec's groups that have verbs devices, the one with the highest
// number first.
func (n *Node) movable(spec *v1.SriovNetworkNodeStateSpec) (out []movable) {
	for i := range spec.Interfaces {
		w := &spec.Interfaces[i]
		pf := find(n.PFs, w.PciAddress)
		if pf == nil {
			continue
		}
		for j := range pf.VFs {
			v := &pf.VFs[j]
			if GroupOf(w, v.Index) != nil && v.Driver != "" && v.Verbs && v.holder() == "" {
				out = append(out, movable{pf.PCI, v})
			}
		}
	}
	slices.SortFunc(out, func(a, b movable) int { return cmp.Compare(b.vf.VerbsNumber, a.vf.VerbsNumber) })
	return out
}

// inNumberOrder puts the binding of VFs last, in an order that gives each the number that its
// container has, as far as can be. After a reboot the kubelet starts the containers of a pod again
// with the devices of before, and does not ask anew.
func inNumberOrder(plan []Change, n *Node) []Change {
	out, groups := bindings(plan, n)
	if !slices.ContainsFunc(groups, func(g binding) bool { return g.given >= 0 }) {
		return plan
	}
	taken := slices.Clone(n.VerbsNumbers)
	for len(groups) > 0 {
		number := 0
		for slices.Contains(taken, number) {
			number++
		}
		i := nextFor(number, groups)
		out, taken = append(out, groups[i].steps...), append(taken, number)
		groups = slices.Delete(groups, i, i+1)
	}
	return out
}

// binding is what has to be done to one unbound VF, up to its Bind.
type binding struct {
	steps []Change
	given int // the number that a container has; -1 when none is known
	held  bool
}

// bindings takes the steps on unbound VFs that end with a Bind out of a plan.
func bindings(plan []Change, n *Node) (rest []Change, groups []binding) {
	for i := 0; i < len(plan); {
		end := i + 1
		for end < len(plan) && plan[i].VF != "" && plan[end].VF == plan[i].VF {
			end++
		}
		steps := plan[i:end]
		v := n.vf(plan[i].VF)
		if v == nil || v.Driver != "" || steps[len(steps)-1].Kind != Bind {
			rest = append(rest, steps...)
		} else {
			groups = append(groups, binding{steps, n.given(v.PCI), v.Pod != ""})
		}
		i = end
	}
	return rest, groups
}

// nextFor chooses the VF to be bound while this number is the lowest free one: the one that had it,
// one in a pod first; else one that had none, so that the number of the next comes up; else the one
// with the lowest.
func nextFor(number int, groups []binding) int {
	best := func(fits func(binding) bool, less func(a, b binding) bool) int {
		found := -1
		for i, g := range groups {
			if fits(g) && (found < 0 || less(g, groups[found])) {
				found = i
			}
		}
		return found
	}
	if i := best(func(g binding) bool { return g.given == number }, func(a, b binding) bool {
		return a.held &&
			!b.held
	}); i >= 0 {
		return i
	}
	if i := best(func(g binding) bool { return g.given < number }, func(_, _ binding) bool { return false }); i >= 0 {
		return i
	}
	return best(func(binding) bool { return true }, func(a, b binding) bool { return a.given < b.given })
}

func (n *Node) vf(pci string) *VF {
	for i := range n.PFs {
		for j := range n.PFs[i].VFs {
			if pci != "" && n.PFs[i].VFs[j].PCI == pci {
				return &n.PFs[i].VFs[j]
			}
		}
	}
	return nil
}

// given is the number of the verbs device that a container was given last with a VF; -1 when none is known.
func (n *Node) given(pci string) int {
	if number, ok := n.GivenVerbs[pci]; ok {
		return number
	}
	return -1
}
