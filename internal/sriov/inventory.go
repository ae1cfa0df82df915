// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// Node is a node as it was observed, with what its ledger holds.
type Node struct {
	PFs        []PF
	Identities []Identity
	// GUIDs is the administrator's choice; nil when there is none.
	GUIDs *GUIDFile
	// UseUnknown says why it is not known which VFs pods hold; nothing is reset meanwhile. "" when
	// it is known.
	UseUnknown string
	// VerbsNumbers are the numbers of all verbs devices of the machine, in whatever namespace and
	// of whatever card; none when they are not known.
	VerbsNumbers []int
	// GivenVerbs are the numbers of the verbs devices that containers were given last, by the VF's
	// PCI address.
	GivenVerbs map[string]int
	// Draining: pods are being asked to leave VFs that have to be free; nobody is to take their
	// place meanwhile.
	Draining bool
}

// PF is a physical function.
type PF struct {
	PCI              string // "0000:86:00.0"
	Vendor, Device   string // "15b3", "1017"
	Driver           string // "" when unbound
	TotalVFs, NumVFs int
	NUMANode         int    // -1 when unknown
	LinkType         string // v1.LinkTypeIB or v1.LinkTypeETH
	// Name is its netdev's; "" when it has none in the node's namespace, and then the next five are zero.
	Name        string
	AltNames    []string
	MAC         string
	MTU         int
	Up, Carrier bool
	// RDMA is its RDMA device's name; "" when it has none, and then the next two are zero.
	RDMA      string
	GUID      ib.GUID // of the port
	PortState string  // "ACTIVE", …
	VFs       []VF    // in order of index
}

// VF is a virtual function.
type VF struct {
	PCI            string
	Index          int // 0-based
	Vendor, Device string
	Driver         string // "" when unbound
	// NodeGUID, PortGUID and State are what the PF reports. Zero GUIDs: none, or the PF does not
	// report any (kernels before 5.6).
	NodeGUID, PortGUID ib.GUID
	State              string // "auto", "enable", "disable"
	// Name is its netdev's; "" when it has none in the node's namespace.
	Name, MAC string
	MTU       int
	// RDMA is its RDMA device's name; "" when it has none in the node's namespace, and then the
	// next three are zero.
	RDMA                           string
	DeviceNodeGUID, DevicePortGUID ib.GUID // as the device shows them
	PortState                      string
	// Verbs tells whether it has a verbs device (uverbsN), wherever its RDMA device is, and
	// VerbsNumber its number.
	Verbs       bool
	VerbsNumber int
	// Pod is "namespace/name" of the pod that holds it; "" when none is known to.
	Pod string
}

// Away tells whether the VF is in another network namespace: it has a driver, but the node does not
// see its netdev. Somebody may use it although no pod is known to.
func (v *VF) Away() bool {
	return v.Driver != "" && v.Driver != vfioDriver && v.Name == ""
}

// vfioDriver is the driver for virtual machines; a VF bound to it has no netdev anywhere.
const vfioDriver = "vfio-pci"

// holder says who holds the VF; "" when it is free.
func (v *VF) holder() string {
	switch {
	case v.Pod != "":
		return v.Pod
	case v.Driver == vfioDriver:
		return "something that is no known pod (it is bound to vfio-pci)"
	case v.Away():
		return "something that is no known pod (its netdev is not in the node's namespace; is ib_ipoib loaded?)"
	}
	return ""
}

// Identity is the permanent identity of a VF.
type Identity struct {
	PCI, PF string // PCI addresses of the VF and its PF, as they were when it was given
	PFGUID  ib.GUID
	Index   int
	GUID    ib.GUID
	// Adopted: somebody else had made and configured the VF.
	Adopted bool
}

// GroupOf finds the group that a VF index belongs to; nil when it belongs to none.
func GroupOf(i *v1.Interface, index int) *v1.VfGroup {
	for g := range i.VfGroups {
		if r, err := v1.ParseVFRange(i.VfGroups[g].VfRange); err == nil && r.Contains(index) {
			return &i.VfGroups[g]
		}
	}
	return nil
}

// want finds what the spec says of a function.
func want(spec *v1.SriovNetworkNodeStateSpec, pci string) *v1.Interface {
	i := slices.IndexFunc(spec.Interfaces, func(i v1.Interface) bool { return strings.EqualFold(i.PciAddress, pci) })
	if i < 0 {
		return nil
	}
	return &spec.Interfaces[i]
}

func find(pfs []PF, pci string) *PF {
	i := slices.IndexFunc(pfs, func(p PF) bool { return strings.EqualFold(p.PCI, pci) })
	if i < 0 {
		return nil
	}
	return &pfs[i]
}

// Status is the inventory as SriovNetworkNodeState shows it.
func Status(spec *v1.SriovNetworkNodeStateSpec, n Node) v1.InterfaceExts {
	ids, held := newIdentities(n), withheld(spec, n)
	var out v1.InterfaceExts
	for i := range n.PFs {
		pf := statusOf(want(spec, n.PFs[i].PCI), &n.PFs[i], ids)
		for v := range pf.VFs {
			if vf := &pf.VFs[v]; vf.Resource != "" && held[vf.PciAddress] != "" {
				vf.Resource, vf.NotReady = "", held[vf.PciAddress]
			}
		}
		out = append(out, pf)
	}
	slices.SortFunc(out, func(a, b v1.InterfaceExt) int { return cmp.Compare(a.PciAddress, b.PciAddress) })
	return out
}

func statusOf(w *v1.Interface, p *PF, ids *identities) v1.InterfaceExt {
	out := v1.InterfaceExt{
		Name: p.Name, AltNames: p.AltNames, Mac: p.MAC, Driver: p.Driver, PciAddress: p.PCI, Vendor: p.Vendor,
		DeviceID: p.Device,
		Mtu:      p.MTU, NumVfs: p.NumVFs, TotalVfs: p.TotalVFs, LinkType: p.LinkType, PortState: p.PortState,
		RdmaDevice: p.RDMA,
		Guid:       guidText(p.GUID), NumaNode: &p.NUMANode, Managed: ids.managed(p),
		ExternallyManaged: w != nil && w.ExternallyManaged,
	}
	if p.Name != "" {
		out.LinkAdminState = map[bool]string{true: "up", false: "down"}[p.Up]
	}
	for i := range p.VFs {
		v := &p.VFs[i]
		vf := v1.VirtualFunction{
			Name: v.Name, Mac: v.MAC, Driver: v.Driver, PciAddress: v.PCI, Vendor: v.Vendor, DeviceID: v.Device,
			Mtu: v.MTU, VfID: v.Index,
			GUID: guidText(v.guid()), RdmaDevice: v.RDMA, LinkState: v.State, PortState: v.PortState, Pod: v.Pod,
		}
		if g := groupOf(w, v.Index); g != nil {
			if vf.NotReady = notReady(w, g, p, v, ids); vf.NotReady == "" {
				vf.Resource = g.ResourceName
			}
		}
		out.VFs = append(out.VFs, vf)
	}
	return out
}

func groupOf(w *v1.Interface, index int) *v1.VfGroup {
	if w == nil {
		return nil
	}
	return GroupOf(w, index)
}

func guidText(g ib.GUID) string {
	if g.IsZero() {
		return ""
	}
	return g.String()
}

// guid is the GUID that the VF bears now: what its device shows, else what the PF reports.
func (v *VF) guid() ib.GUID {
	if v.RDMA != "" {
		return v.DevicePortGUID
	}
	return v.PortGUID
}

// bears tells whether the VF works under a GUID: its device shows it, or, where the device cannot
// be seen, the PF reports it.
func (v *VF) bears(g ib.GUID) bool {
	if v.RDMA != "" {
		return v.DeviceNodeGUID == g && v.DevicePortGUID == g
	}
	return v.reported(g)
}

// reported tells whether the PF reports the GUID, which the VF then bears when it is next bound.
func (v *VF) reported(g ib.GUID) bool { return v.NodeGUID == g && v.PortGUID == g }

func describeVF(v *VF) string { return fmt.Sprintf("VF %d (%s)", v.Index, v.PCI) }
