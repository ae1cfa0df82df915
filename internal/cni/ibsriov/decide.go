// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// observed is what the node shows of the VF before anything is changed.
type observed struct {
	mode host.RDMAMode
	vf   host.VFDevices
	// state is the VF's link state, when that is to be set.
	state host.VFState
	// given is the name of the verbs device that the device plugin put into the container, such as "uverbs3".
	given string
	// givenUmad is the same of the management device; "" when none was given.
	givenUmad string
}

// state is what Del needs; it is recorded before the first change and never changed after.
type state struct {
	PCI   string `json:"pci"`
	PF    string `json:"pf"`
	Index int    `json:"index"`
	// NetNS and IfName are where the netdev goes.
	NetNS  host.NS `json:"netns"`
	IfName string  `json:"ifname"`
	// HostName and HostUp are of the netdev on the node.
	HostName string `json:"hostName"`
	HostUp   bool   `json:"hostUp"`
	// Device is the name of the VF's RDMA device, wherever it is; RDMA is the same when it goes
	// along, "" when it stays.
	Device string `json:"device,omitempty"`
	RDMA   string `json:"rdma,omitempty"`
	// VFState is the link state to restore; "" when it is not touched.
	VFState host.VFState `json:"vfState,omitempty"`
	// Netdev is what else the netdev was; records of earlier agents have none.
	Netdev *netdev `json:"netdev,omitempty"`
}

// netdev is what a pod with NET_ADMIN can change of a netdev and what stays on its way home.
type netdev struct {
	MTU        int      `json:"mtu"`
	TxQueueLen int      `json:"txQueueLen"`
	Alias      string   `json:"alias,omitempty"`
	AltNames   []string `json:"altNames,omitempty"`
	Mode       string   `json:"mode,omitempty"` // of IPoIB
}

// plan is what Add does.
type plan struct {
	state    state
	setState host.VFState // "" leaves the link state
	uverbs   string       // the verbs device that the container was given; "" when there is none
	umad     string       // the same of the management device
}

// decide is pure: what to do, or why not.
func decide(r *cni.Request, req request, o observed) (plan, error) {
	isolate, err := isolation(req, o)
	if err != nil {
		return plan{}, err
	}
	if err := atHome(req.pci, o.vf, isolate); err != nil {
		return plan{}, err
	}
	if err := checkGUID(req, *o.vf.Link); err != nil {
		return plan{}, err
	}
	l := *o.vf.Link
	p := plan{
		state: state{PCI: req.pci, PF: o.vf.PF, Index: o.vf.Index, NetNS: r.NetNS, IfName: r.IfName,
			HostName: l.Name, HostUp: l.Up,
			Netdev: &netdev{MTU: l.MTU, TxQueueLen: l.TxQueueLen, Alias: l.Alias, AltNames: l.AltNames, Mode: l.Mode}},
		uverbs: o.given, umad: o.givenUmad,
	}
	if req.linkState != "" && req.linkState != o.state {
		p.setState, p.state.VFState = req.linkState, o.state
	}
	p.state.Device = o.vf.RDMA
	if isolate {
		p.state.RDMA = o.vf.RDMA
	}
	return p, nil
}

// isolation: asked for, it needs exclusive mode; not said, it follows the mode.
func isolation(req request, o observed) (bool, error) {
	exclusive := o.mode == host.RDMAExclusive
	switch {
	case req.isolate == nil:
		return exclusive, nil
	case *req.isolate && !exclusive:
		return false, cni.Errorf(cni.CodeInvalidConfig,
			"remove rdmaIsolation from the network to attach in shared mode, or switch this node: "+
				"echo 'options ib_core netns_mode=0' > /etc/modprobe.d/ib_core.conf, rebuild the initramfs and reboot",
			"rdmaIsolation is asked for, and this node's RDMA subsystem is in %s mode", o.mode)
	}
	return *req.isolate, nil
}

// atHome: what is to be moved must be in the node's namespace.
func atHome(pci string, vf host.VFDevices, isolate bool) error {
	switch {
	case vf.Driver == "":
		return cni.Errorf(cni.CodeFailed, "see the conditions of this node's SriovNetworkNodeState",
			"VF %s has no driver", pci)
	case vf.Driver == "vfio-pci":
		return cni.Errorf(cni.CodeInvalidConfig, "use a policy with deviceType netdevice",
			"VF %s is bound to vfio-pci and has no network interface", pci)
	case vf.Link == nil:
		return cni.Errorf(cni.CodeTryAgainLater,
			"the agent returns it when that namespace ends; its log says what it waits for",
			"the network interface of VF %s is not in the node's namespace; another pod may still have it", pci)
	case isolate && vf.RDMA == "":
		return cni.Errorf(cni.CodeTryAgainLater,
			"the agent returns it when that namespace ends; its log says what it waits for",
			"the RDMA device of VF %s is not in the node's namespace; another pod may still have it", pci)
	}
	return nil
}

// checkGUID: a VF has its GUID for good, from the agent, before it is bound. Another one would need
// the driver unbound and bound again, in the middle of a pod's start, and is refused.
func checkGUID(req request, link host.Link) error {
	if link.LinkLayer != host.InfiniBand {
		return cni.Errorf(cni.CodeInvalidConfig, "use cniType sriov for Ethernet cards", "VF %s is %s, not InfiniBand",
			req.pci, link.LinkLayer)
	}
	guid, err := ib.LinkAddrGUID(link.HardwareAddr)
	if err != nil {
		return cni.Errorf(cni.CodeFailed, "", "VF %s: %w", req.pci, err)
	}
	if !guid.Valid() {
		return cni.Errorf(cni.CodeFailed,
			"the agent gives every VF its GUID when it makes the VF: see the conditions of this node's "+
				"SriovNetworkNodeState "+
				"(kubectl get sriovnetworknodestates -A) and whether a policy selects its card",
			"VF %s has no GUID (%s)", req.pci, guid)
	}
	if !req.guid.IsZero() && req.guid != guid {
		return cni.Errorf(cni.CodeInvalidConfig,
			"remove the GUID from the pod's annotation; the GUIDs of a node's VFs are in its SriovNetworkNodeState",
			"GUID %s is asked for and VF %s has %s: a VF keeps its GUID for good", req.guid, req.pci, guid)
	}
	return nil
}
