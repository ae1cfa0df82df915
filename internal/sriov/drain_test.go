// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// Whom a blocked change waits for: pods, if nothing else is in the way and all are known.
func TestPlannedWaitsFor(t *testing.T) {
	tests := []struct {
		name  string
		inUse bool
		want  []string
		node  func(*Node, []VF)
	}{
		{"pods, each once and in order", true, []string{"default/a", "default/b"}, func(_ *Node, v []VF) {
			hold(&v[0], "default/b")
			hold(&v[1], "default/a")
			hold(&v[2], "default/b")
		}},
		{"a pod and a stranger", false, nil, func(_ *Node, v []VF) { hold(&v[0], "default/a"); hold(&v[1], "") }},
		{"a pod and a virtual machine", false, nil,
			func(_ *Node, v []VF) { hold(&v[0], "default/a"); unbind(&v[1]); v[1].Driver = vfioDriver }},
		{"a pod on vfio-pci", false, nil, func(_ *Node, v []VF) { hold(&v[0], "default/a"); v[0].Driver = vfioDriver }},
		{"a pod whose name is not known yet", true, nil,
			func(_ *Node, v []VF) { hold(&v[0], "default/a"); v[1].Pod = "a pod that the kubelet is starting" }},
		{"use unknown", true, nil,
			func(n *Node, v []VF) { hold(&v[0], "default/a"); n.UseUnknown = "the kubelet does not answer" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := configured(4)
			tt.node(&n, n.PFs[0].VFs)
			got := Planned(Plan(guideSpec(12), n))
			if got[0].Blocked == "" || got[0].InUse != tt.inUse || !cmp.Equal(got[0].WaitsFor, tt.want) {
				t.Errorf("%+v; want waitsFor %v", got[0], tt.want)
			}
		})
	}
	if got := Planned(Plan(guideSpec(32), configured(2))); got[0].InUse || got[0].WaitsFor != nil {
		t.Errorf("what a person has to mend waits for pods: %+v", got)
	}
}

// While a node is drained, the VFs that a change waits for are offered to nobody, and those of
// other cards are.
func TestDrainingWithholds(t *testing.T) {
	two := func() (*v1.SriovNetworkNodeStateSpec, Node) {
		spec, n := guideSpec(12), configured(4)
		other := guidePF()
		other.PCI, other.GUID[7] = "0000:87:00.0", 0x20
		other = fresh(other, 2)
		for i := range other.VFs {
			v := &other.VFs[i]
			v.NodeGUID = ib.VFGUID(other.GUID, i)
			v.PortGUID = v.NodeGUID
			bind(v)
			n.Identities = append(n.Identities, Identity{PCI: v.PCI, PF: other.PCI, PFGUID: other.GUID, Index: i,
				GUID: v.PortGUID})
		}
		n.PFs = append(n.PFs, other)
		card := guideSpec(2).Interfaces[0]
		card.PciAddress = other.PCI
		spec.Interfaces = append(spec.Interfaces, card)
		hold(&n.PFs[0].VFs[1], "default/a")
		hold(&n.PFs[1].VFs[0], "default/b")
		return spec, n
	}
	offered := func(spec *v1.SriovNetworkNodeStateSpec, n Node) int { return len(Pools(spec, n)[0].Devices) }

	spec, n := two()
	if got := offered(spec, n); got != 6 {
		t.Fatalf("%d offered before the drain", got)
	}
	n.Draining = true
	if got := offered(spec, n); got != 2 {
		t.Errorf("%d offered, want those of the other card", got)
	}
	for _, vf := range Status(spec, n)[0].VFs {
		if vf.Resource != "" || vf.NotReady == "" {
			t.Errorf("shown as offered: %+v", vf)
		}
	}
	n.UseUnknown = "the kubelet does not answer"
	if got := offered(spec, n); got != 2 {
		t.Errorf("%d offered while the kubelet does not answer", got)
	}
	spec, n = two()
	n.Draining = true
	hold(&n.PFs[0].VFs[2], "")
	if got := offered(spec, n); got != 6 {
		t.Errorf("%d offered of a card that a stranger uses, for which nobody is evicted", got)
	}
}
