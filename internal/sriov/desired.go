// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// Desired is what the policies want of a node with these labels and cards.
//
// The policies are applied from the weakest (largest number) to the strongest, those of one
// priority in order of name; each lays its VF group over the earlier ones: groups whose ranges it
// does not touch stay. numVfs and mtu are the largest where groups stay or priorities are equal,
// else the stronger policy's. A function that the agent manages and that no policy selects any more
// is listed with no VFs: only so are VFs ever removed.
func Desired(policies []v1.SriovNetworkNodePolicy, nodeLabels map[string]string,
	cards v1.InterfaceExts) v1.SriovNetworkNodeStateSpec {
	var spec v1.SriovNetworkNodeStateSpec
	ordered := weakestFirst(policies, nodeLabels)
	for i := range cards {
		pf := &cards[i]
		out, selected := desiredOf(ordered, pf)
		if !selected && pf.Managed && pf.Name != "" { // without its netdev, pfNames cannot be compared
			out, selected = v1.Interface{PciAddress: pf.PciAddress, Name: pf.Name}, true
		}
		if selected {
			spec.Interfaces = append(spec.Interfaces, out)
		}
	}
	slices.SortFunc(spec.Interfaces, func(a, b v1.Interface) int { return cmp.Compare(a.PciAddress, b.PciAddress) })
	return spec
}

func weakestFirst(policies []v1.SriovNetworkNodePolicy, nodeLabels map[string]string) []*v1.SriovNetworkNodePolicy {
	var out []*v1.SriovNetworkNodePolicy
	for i := range policies {
		if policies[i].DeletionTimestamp == nil && policies[i].Spec.NumVfs > 0 &&
			policies[i].Spec.SelectsNode(nodeLabels) {
			out = append(out, &policies[i])
		}
	}
	slices.SortFunc(out, func(a, b *v1.SriovNetworkNodePolicy) int {
		return cmp.Or(cmp.Compare(b.Spec.PriorityOrDefault(), a.Spec.PriorityOrDefault()), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func desiredOf(ordered []*v1.SriovNetworkNodePolicy, pf *v1.InterfaceExt) (out v1.Interface, selected bool) {
	priority := 0
	for _, p := range ordered {
		if ok, _ := p.Spec.Selects(pf); !ok {
			continue
		}
		next := interfaceOf(p, pf)
		if selected {
			next = layOver(out, next, priority == p.Spec.PriorityOrDefault())
		}
		out, selected, priority = next, true, p.Spec.PriorityOrDefault()
	}
	return out, selected
}

func interfaceOf(p *v1.SriovNetworkNodePolicy, pf *v1.InterfaceExt) v1.Interface {
	s := &p.Spec
	return v1.Interface{
		PciAddress: pf.PciAddress, Name: pf.Name, NumVfs: s.NumVfs, Mtu: s.Mtu, LinkType: s.LinkType,
		EswitchMode:       s.ESwitchMode,
		ExternallyManaged: s.ExternallyManaged,
		VfGroups: []v1.VfGroup{{
			ResourceName: s.ResourceName, DeviceType: cmp.Or(s.DeviceType, v1.DeviceTypeNetDevice),
			VfRange:    s.RangeOn(pf).String(),
			PolicyName: p.Name, Mtu: s.Mtu, IsRdma: s.IsRdma, VdpaType: s.VdpaType, ExcludeTopology: s.ExcludeTopology,
		}},
	}
}

func layOver(weaker, stronger v1.Interface, equal bool) v1.Interface {
	over, err := v1.ParseVFRange(stronger.VfGroups[0].VfRange)
	kept := slices.DeleteFunc(slices.Clone(weaker.VfGroups), func(g v1.VfGroup) bool {
		r, bad := v1.ParseVFRange(g.VfRange)
		return err != nil || bad != nil || r.Overlaps(over)
	})
	if equal || len(kept) > 0 {
		stronger.NumVfs = max(stronger.NumVfs, weaker.NumVfs)
		stronger.Mtu = max(stronger.Mtu, weaker.Mtu)
	}
	stronger.VfGroups = append(kept, stronger.VfGroups...)
	slices.SortFunc(stronger.VfGroups, func(a, b v1.VfGroup) int {
		x, _ := v1.ParseVFRange(a.VfRange)
		y, _ := v1.ParseVFRange(b.VfRange)
		return cmp.Compare(x.First, y.First)
	})
	return stronger
}

// RdmaMode is the mode that pool configurations want of a node; the first in order of name counts. Others
// that select the node and want another mode are returned by name.
func RdmaMode(configs []v1.SriovNetworkPoolConfig, nodeLabels map[string]string) (mode string, overruled []string) {
	ordered := slices.Clone(configs)
	slices.SortFunc(ordered, func(a, b v1.SriovNetworkPoolConfig) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range ordered {
		switch {
		case c.Spec.RdmaMode == "" || c.DeletionTimestamp != nil || !selects(c.Spec.NodeSelector, nodeLabels):
		case mode == "":
			mode = c.Spec.RdmaMode
		case c.Spec.RdmaMode != mode:
			overruled = append(overruled, c.Name)
		}
	}
	return mode, overruled
}

// selects tells whether a label selector fits; none at all fits every node.
func selects(s *metav1.LabelSelector, nodeLabels map[string]string) bool {
	if s == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(nodeLabels))
}
