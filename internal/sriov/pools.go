// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"fmt"
	"slices"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/ib"
)

// Pool is what a node offers under one resource name: VFs that are fully configured, free or in use.
type Pool struct {
	Resource string // without its prefix
	Devices  []Device
}

// Device is a VF that may be given to a pod.
type Device struct {
	PCI, PF  string
	Index    int
	NUMANode int // -1 when unknown, or when the policy leaves it out
	LinkType string
	GUID     ib.GUID
	// RDMA: the policy promises an RDMA device.
	RDMA bool
	// RDMADevice and PortState are "" while they cannot be seen from the node's namespace.
	RDMADevice, PortState string
	// Pod is "namespace/name" of the pod that holds it; "" when it is free.
	Pod string
}

// Pools lists the resources that the spec names, in order of name, each with the VFs that are
// ready. A resource whose VFs are all unready is listed empty. While the node is being drained, VFs
// that a change waits for are left out, whether free or in use.
func Pools(spec *v1.SriovNetworkNodeStateSpec, n Node) []Pool {
	ids, held := newIdentities(n), withheld(spec, n)
	byName := map[string][]Device{}
	for i := range spec.Interfaces {
		w := &spec.Interfaces[i]
		for _, g := range w.VfGroups {
			byName[g.ResourceName] = append(byName[g.ResourceName], groupDevices(w, &g, find(n.PFs, w.PciAddress),
				ids)...)
		}
	}
	var out []Pool
	for name, devices := range byName {
		devices = slices.DeleteFunc(devices, func(d Device) bool { return held[d.PCI] != "" })
		slices.SortFunc(devices, func(a, b Device) int {
			return cmp.Or(cmp.Compare(a.PF, b.PF),
				cmp.Compare(a.Index, b.Index))
		})
		out = append(out, Pool{Resource: name, Devices: devices})
	}
	slices.SortFunc(out, func(a, b Pool) int { return cmp.Compare(a.Resource, b.Resource) })
	return out
}

// withheld says of VFs, by PCI address, why they are not offered although they are ready: a pod
// would find another verbs device than its container has, or a change waits for them while the node
// is being drained.
func withheld(spec *v1.SriovNetworkNodeStateSpec, n Node) map[string]string {
	out := map[string]string{}
	n.withholdShifting(out)
	if n.Draining {
		n.withholdForDrain(spec, out)
	}
	return out
}

// withholdForDrain: VFs in use count, else the kubelet would give one to the next pod in the moment
// in which the pod before is gone. What waits for a stranger withholds nothing, as nobody is
// evicted for it.
func (n Node) withholdForDrain(spec *v1.SriovNetworkNodeStateSpec, out map[string]string) {
	for _, c := range Plan(spec, n) {
		pf := find(n.PFs, c.PF)
		if !c.InUse || c.Stranger || pf == nil {
			continue
		}
		for i := range pf.VFs {
			if c.VF == "" || c.VF == pf.VFs[i].PCI {
				out[pf.VFs[i].PCI] = "it is withheld until the pods that use its card are gone: the node is " +
					"being drained"
			}
		}
	}
}

func groupDevices(w *v1.Interface, g *v1.VfGroup, pf *PF, ids *identities) (out []Device) {
	r, err := v1.ParseVFRange(g.VfRange)
	if pf == nil || err != nil {
		return nil
	}
	numa := pf.NUMANode
	if g.ExcludeTopology {
		numa = -1
	}
	for i := range pf.VFs {
		v := &pf.VFs[i]
		if !r.Contains(v.Index) || notReady(w, g, pf, v, ids) != "" {
			continue
		}
		out = append(out, Device{
			PCI: v.PCI, PF: pf.PCI, Index: v.Index, NUMANode: numa, LinkType: pf.LinkType, GUID: v.guid(),
			RDMA: g.IsRdma, RDMADevice: v.RDMA, PortState: v.PortState, Pod: v.Pod,
		})
	}
	return out
}

// notReady says why a VF is not offered; "" when it is. A VF that a pod holds is always offered: it
// must not vanish from the count because it is in a pod.
func notReady(w *v1.Interface, g *v1.VfGroup, p *PF, v *VF, ids *identities) string {
	planner := planner{want: w, pf: p, ids: ids}
	_, blocked := planner.requirement()
	switch {
	case v.Pod != "" && v.Driver != "":
		return ""
	case blocked != "":
		return blocked
	case g.DeviceType == v1.DeviceTypeVfioPci:
		return "deviceType vfio-pci is not supported: use netdevice"
	case v.Driver == "":
		return "no driver is bound yet"
	case v.Driver == vfioDriver:
		return "it is bound to vfio-pci"
	}
	if p.LinkType == v1.LinkTypeIB {
		if why := ibNotReady(p, v, ids); why != "" {
			return why
		}
	}
	if v.RDMA != "" && v.Name == "" {
		return "it has no netdev in the node's namespace: is ib_ipoib loaded, or did something move it?"
	}
	if g.IsRdma && !v.Verbs {
		return "it has no verbs device, and the policy says isRdma: `modprobe ib_uverbs`, and for Ethernet cards " +
			"the vendor's RDMA module"
	}
	if (g.IsRdma || p.LinkType == v1.LinkTypeIB) && v.RDMA == "" && v.Verbs && v.Name != "" {
		return "its RDMA device is not in the node's namespace, or a pod gave it a name that cannot be used " +
			"(`rdma dev`): the agent renames it within some minutes; by hand, `rdma dev set OLD name NEW`"
	}
	return ""
}

func ibNotReady(p *PF, v *VF, ids *identities) string {
	id := ids.choose(p, v)
	switch {
	case !id.GUID.Valid() || !v.bears(id.GUID):
		return fmt.Sprintf("its GUID is %s, to be %s", v.guid(), id.GUID)
	case !ids.recorded(p, v):
		return "its GUID is not recorded yet"
	case v.RDMA == "" && !v.Verbs:
		return "it has no RDMA device: see `dmesg | grep " + v.PCI + "`"
	}
	return ""
}
