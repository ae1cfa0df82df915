// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NodeCards is what is known of a node when a policy is judged.
type NodeCards struct {
	Name   string
	Labels map[string]string
	// Interfaces are empty until the node's agent has reported.
	Interfaces InterfaceExts
}

// maxNodesNamed bounds the nodes that messages list.
const maxNodesNamed = 5

// ValidateAgainst judges a policy beside the other policies of its namespace
// and what the nodes have. A policy that selects nothing is admitted with a
// warning for each node: cards may come later.
func (p *SriovNetworkNodePolicy) ValidateAgainst(others []SriovNetworkNodePolicy, nodes []NodeCards) (warnings []string,
	errs field.ErrorList) {
	for i := range others {
		if others[i].Name != p.Name {
			errs = append(errs, p.conflicts(&others[i], nodes)...)
		}
	}
	if tooMany, warn := p.tooManyVFs(nodes); tooMany != nil {
		errs = append(errs, tooMany)
	} else {
		warnings = append(warnings, warn...)
	}
	return append(warnings, p.WhyNothing(nodes)...), errs
}

func (p *SriovNetworkNodePolicy) conflicts(o *SriovNetworkNodePolicy, nodes []NodeCards) (errs field.ErrorList) {
	a, b, spec := &p.Spec, &o.Spec, field.NewPath("spec")
	if a.ResourceName == b.ResourceName && a.ExcludeTopology != b.ExcludeTopology {
		errs = append(errs, field.Invalid(spec.Child("excludeTopology"), a.ExcludeTopology,
			fmt.Sprintf("policy %s has %t for the same resourceName %s: want one value for a resource", o.Name,
				b.ExcludeTopology, a.ResourceName)))
	}
	if a.PriorityOrDefault() != b.PriorityOrDefault() {
		return errs
	}
	if where := sharedRange(a, b, nodes); where != "" {
		errs = append(errs, field.Invalid(spec.Child("nicSelector"), where,
			fmt.Sprintf(
				"policy %s claims the same VFs at the same priority %d: give each policy its own range in pfNames "+
					"(such as ibs5f0#0-5 and ibs5f0#6-11), "+
					"other cards or nodes, or another priority (the smaller number wins)", o.Name,
				a.PriorityOrDefault())))
	}
	return errs
}

// sharedRange says which VFs two policies both claim; "" when none are known.
func sharedRange(a, b *SriovNetworkNodePolicySpec, nodes []NodeCards) string {
	for _, node := range nodes {
		if !a.SelectsNode(node.Labels) || !b.SelectsNode(node.Labels) {
			continue
		}
		for i := range node.Interfaces {
			pf := &node.Interfaces[i]
			if okA, _ := a.Selects(pf); !okA {
				continue
			}
			if okB, _ := b.Selects(pf); okB && a.RangeOn(pf).Overlaps(b.RangeOn(pf)) {
				return fmt.Sprintf("card %s on node %s: VFs %s and %s", pf.PciAddress, node.Name, a.RangeOn(pf),
					b.RangeOn(pf))
			}
		}
	}
	if !sameNodePossible(a.NodeSelector, b.NodeSelector) || !sameCardPossible(&a.NicSelector, &b.NicSelector) {
		return ""
	}
	return sharedName(a, b)
}

// sameCardPossible tells whether one card can have the IDs of both selectors.
func sameCardPossible(a, b *SriovNetworkNicSelector) bool {
	agree := func(x, y string) bool { return x == "" || y == "" || strings.EqualFold(x, y) }
	return agree(a.Vendor, b.Vendor) && agree(a.DeviceID, b.DeviceID)
}

// sameNodePossible tells whether one node can have the labels of both selectors.
func sameNodePossible(a, b map[string]string) bool {
	for k, v := range a {
		if w, ok := b[k]; ok && w != v {
			return false
		}
	}
	return true
}

// sharedName finds a card that both policies name, whatever the nodes have.
func sharedName(a, b *SriovNetworkNodePolicySpec) string {
	for _, x := range a.NicSelector.RootDevices {
		for _, y := range b.NicSelector.RootDevices {
			whole := len(a.NicSelector.PfNames) == 0 && len(b.NicSelector.PfNames) == 0
			if strings.EqualFold(x, y) && whole {
				return fmt.Sprintf("card %s: VFs 0-%d and 0-%d", x, a.NumVfs-1, b.NumVfs-1)
			}
		}
	}
	for _, x := range a.NicSelector.PfNames {
		name, _, err := ParsePFName(x)
		if err != nil {
			continue
		}
		for _, y := range b.NicSelector.PfNames {
			pf := &InterfaceExt{Name: name}
			if other, _, err := ParsePFName(y); err == nil && other == name && a.RangeOn(pf).Overlaps(b.RangeOn(pf)) {
				return fmt.Sprintf("card %s: VFs %s and %s", name, a.RangeOn(pf), b.RangeOn(pf))
			}
		}
	}
	return ""
}

// tooManyVFs refuses a number that no selected card allows, and warns when only some do not.
func (p *SriovNetworkNodePolicy) tooManyVFs(nodes []NodeCards) (*field.Error, []string) {
	var short []string
	selected := 0
	p.EachSelected(nodes, func(node *NodeCards, pf *InterfaceExt) {
		selected++
		if pf.TotalVfs < p.Spec.NumVfs {
			short = append(short, fmt.Sprintf("card %s on node %s supports at most %d", pf.PciAddress, node.Name,
				pf.TotalVfs))
		}
	})
	if len(short) == 0 {
		return nil, nil
	}
	text := strings.Join(cut(short), "; ")
	if len(short) < selected {
		return nil, []string{fmt.Sprintf("spec.numVfs: %d: %s; these cards get no VFs by this policy", p.Spec.NumVfs,
			text)}
	}
	return field.Invalid(field.NewPath("spec", "numVfs"), p.Spec.NumVfs,
		text+
			": lower numVfs, or raise the card's limit in its firmware (NVIDIA: `mstconfig -d <pci> set "+
			"SRIOV_EN=True NUM_OF_VFS=<n>`, then reboot)"), nil
}

// EachSelected calls fn for every card that the policy selects.
func (p *SriovNetworkNodePolicy) EachSelected(nodes []NodeCards, fn func(*NodeCards, *InterfaceExt)) {
	for i := range nodes {
		if !p.Spec.SelectsNode(nodes[i].Labels) {
			continue
		}
		for j := range nodes[i].Interfaces {
			if ok, _ := p.Spec.Selects(&nodes[i].Interfaces[j]); ok {
				fn(&nodes[i], &nodes[i].Interfaces[j])
			}
		}
	}
}

// WhyNothing explains, node by node, why a policy selects no card; empty when it selects one.
func (p *SriovNetworkNodePolicy) WhyNothing(nodes []NodeCards) (lines []string) {
	found := false
	p.EachSelected(nodes, func(*NodeCards, *InterfaceExt) { found = true })
	if found {
		return nil
	}
	for i := range nodes {
		if p.Spec.SelectsNode(nodes[i].Labels) {
			lines = append(lines, p.whyNothingOn(&nodes[i]))
		}
	}
	if len(lines) == 0 {
		return []string{
			fmt.Sprintf(
				"spec.nodeSelector: no node has %s, so nothing happens until one has; `kubectl get nodes "+
					"--show-labels` lists what they have",
				labels.FormatLabels(p.Spec.NodeSelector))}
	}
	return append([]string{
		"spec.nicSelector: selects no card on any node, so nothing happens until one fits; correct it by what the " +
			"nodes have"}, cut(lines)...)
}

// whyNothingOn says what a node has in place of the cards that the policy selects. A card that
// cannot have VFs and is another than the wanted one, such as a virtual machine's own, is nobody's
// mistake and left out.
func (p *SriovNetworkNodePolicy) whyNothingOn(node *NodeCards) string {
	if len(node.Interfaces) == 0 {
		return fmt.Sprintf("node %s: its agent has not reported any network card yet", node.Name)
	}
	var cards []string
	for i := range node.Interfaces {
		pf := &node.Interfaces[i]
		_, why := p.Spec.Selects(pf)
		able := *pf
		able.TotalVfs = 1
		if wanted, _ := p.Spec.Selects(&able); pf.TotalVfs == 0 && !wanted {
			continue
		}
		cards = append(cards, pf.Describe()+": "+why)
	}
	if len(cards) == 0 {
		return fmt.Sprintf("node %s has no card that can have virtual functions", node.Name)
	}
	return fmt.Sprintf("node %s has %s", node.Name, strings.Join(cards, "; "))
}

func cut(lines []string) []string {
	if len(lines) <= maxNodesNamed {
		return lines
	}
	return append(lines[:maxNodesNamed:maxNodesNamed], fmt.Sprintf("and %d more", len(lines)-maxNodesNamed))
}
