// SPDX-License-Identifier: Apache-2.0

// Package ibsriov is the CNI plugin "ib-sriov": it gives a pod an InfiniBand VF,
// with the VF's own RDMA device when the node's RDMA subsystem is in exclusive
// mode.
//
// It observes, decides (a pure function) and applies. What Del needs is recorded
// before the first change, and Del starts from the PCI address: names change,
// the kernel gives them anew when an RDMA device moves. Moving the RDMA device
// takes its IPoIB netdev away and makes a new one, in the node's namespace with
// older kernels and beside the device with newer ones; so the device goes first
// and the netdev is looked for afterwards, wherever it is.
//
// The plugin never rebinds a driver and never sets a GUID: those are given when
// VFs are made. It knows neither pools nor pods' annotations.
package ibsriov

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// Type is the plugin's name in configurations.
const Type = "ib-sriov"

// Kernel is what the plugin needs of the node.
type Kernel interface {
	VFDevices(pci string) (host.VFDevices, error)
	VFState(pf string, index int) (host.VFState, error)
	SetVFState(pf string, index int, state host.VFState) error
	RDMAMode() (host.RDMAMode, error)
	RDMAByPCI(ns host.NS, pci string) (host.RDMADevice, error)
	MoveRDMA(from host.NS, name string, to host.NS) error
	RDMADevices(ns host.NS) ([]host.RDMADevice, error)
	RenameRDMA(ns host.NS, index int, name string) error
	LinkByPCI(ns host.NS, pci string) (host.Link, error)
	LinkByName(ns host.NS, name string) (host.Link, error)
	MoveLink(from host.NS, index int, to host.NS, name string) (host.Link, error)
	RenameLink(ns host.NS, index int, name string) error
	AddAltName(ns host.NS, index int, name string) error
	DeleteAltName(ns host.NS, index int, name string) error
	SetLinkAlias(ns host.NS, index int, alias string) error
	SetLinkMTU(ns host.NS, index int, mtu int) error
	SetLinkTxQueueLen(ns host.NS, index, n int) error
	DeleteLink(ns host.NS, index int) error
	SetLinkUp(ns host.NS, index int) error
	SetLinkDown(ns host.NS, index int) error
	AddAddress(ns host.NS, index int, p netip.Prefix) error
	AddRoute(ns host.NS, r host.Route) error
	Announce(ns host.NS, index int, ip netip.Addr) error
	Links(ns host.NS) ([]host.Link, error)
	cni.SysctlKernel
	cni.CheckKernel
}

// Plugin is the plugin.
type Plugin struct {
	Kernel Kernel
	// Given tells which verbs device ("uverbs3") and management device ("umad3") the device plugin
	// gave to the pod's container with the VF. Nil, or "" for a verbs device that is not known,
	// takes the one that the VF has when Add begins; "" for a management device is none.
	Given func(pci string) (verbs, umad string, err error)
}

// comeHome bounds the wait for a netdev that the kernel makes anew or returns from a dying namespace.
const (
	comeHome  = 2 * time.Second
	lookAgain = 10 * time.Millisecond
)

// RunsBeside implements cni.Beside.
func (p *Plugin) RunsBeside() {}

// RecordsFirst implements cni.Recorder.
func (p *Plugin) RecordsFirst() {}

// Add implements cni.Plugin.
func (p *Plugin) Add(ctx context.Context, r *cni.Request) (*types100.Result, error) {
	req, err := parse(r)
	if err != nil {
		return nil, err
	}
	plan, err := p.gatherAndDecide(r, req)
	if err != nil {
		return nil, err
	}
	end := r.Phases.Start(cni.PhaseRecord)
	err = r.State.Save(plan.state)
	end()
	if err != nil {
		return nil, fmt.Errorf("record the attachment of VF %s: %w", req.pci, err)
	}
	link, err := p.moveIn(ctx, r, plan)
	if err != nil {
		return nil, err
	}
	if r.IPAM != nil {
		if err := cni.IgnoreRouters(p.Kernel, r.NetNS, r.IfName, req.acceptRA); err != nil {
			return nil, err
		}
	}
	return p.configure(ctx, r, plan.state, link)
}

func (p *Plugin) gatherAndDecide(r *cni.Request, req request) (plan, error) {
	defer r.Phases.Start(cni.PhaseGather)()
	o, err := p.observe(r, req)
	if err != nil {
		return plan{}, err
	}
	return decide(r, req, o)
}

func (p *Plugin) observe(r *cni.Request, req request) (observed, error) {
	mode, err := p.Kernel.RDMAMode()
	if err != nil {
		return observed{}, fmt.Errorf("read the mode of the RDMA subsystem: %w", err)
	}
	vf, err := p.Kernel.VFDevices(req.pci)
	if errors.Is(err, host.ErrNotFound) {
		return observed{}, cni.Errorf(cni.CodeInvalidConfig, "see which VFs exist in this node's SriovNetworkNodeState",
			"deviceID %s is not a virtual function of this node", req.pci)
	}
	if err != nil {
		return observed{}, fmt.Errorf("read VF %s: %w", req.pci, err)
	}
	o := observed{mode: mode, vf: vf, given: vf.Uverbs}
	if req.linkState != "" {
		if o.state, err = p.Kernel.VFState(vf.PF, vf.Index); err != nil {
			return observed{}, fmt.Errorf("read the link state of VF %s: %w", req.pci, err)
		}
	}
	if p.Given == nil || r.Pod.UID == "" { // without a pod the kubelet gave nothing
		return o, nil
	}
	verbs, umad, err := p.Given(req.pci)
	if err != nil {
		return observed{}, fmt.Errorf("look up the devices that came with VF %s: %w", req.pci, err)
	}
	if verbs != "" {
		o.given, o.givenUmad = verbs, umad
	}
	return o, nil
}

// moveIn sets the link state, moves the RDMA device, then the netdev from wherever it is.
func (p *Plugin) moveIn(ctx context.Context, r *cni.Request, plan plan) (host.Link, error) {
	st := plan.state
	if plan.setState != "" {
		end := r.Phases.Start(cni.PhaseLink)
		err := p.Kernel.SetVFState(st.PF, st.Index, plan.setState)
		end()
		if err != nil {
			return host.Link{}, fmt.Errorf("set the link state of VF %s to %s: %w", st.PCI, plan.setState, err)
		}
	}
	if err := p.moveRDMA(r, plan); err != nil {
		return host.Link{}, err
	}
	defer r.Phases.Start(cni.PhaseLink)()
	link, err := p.findLink(ctx, st)
	if err != nil {
		return host.Link{}, err
	}
	if link.NS == st.NetNS && st.NetNS != host.NodeNS {
		if err := p.Kernel.RenameLink(st.NetNS, link.Index, st.IfName); err != nil {
			return host.Link{}, fmt.Errorf("rename %s of VF %s to %s in the pod: %w", link.Name, st.PCI, st.IfName, err)
		}
		return link, nil
	}
	link, err = p.Kernel.MoveLink(host.NodeNS, link.Index, st.NetNS, st.IfName)
	if err != nil {
		return host.Link{}, fmt.Errorf("move the network interface of VF %s into the pod as %s: %w", st.PCI, st.IfName,
			err)
	}
	return link, nil
}

// moveRDMA moves the RDMA device if it is to go along, and sees that the container's verbs device
// is the VF's.
func (p *Plugin) moveRDMA(r *cni.Request, plan plan) error {
	defer r.Phases.Start(cni.PhaseDeviceMove)()
	st := plan.state
	if st.RDMA != "" {
		if err := p.Kernel.MoveRDMA(host.NodeNS, st.RDMA, st.NetNS); err != nil {
			return fmt.Errorf("move RDMA device %s of VF %s into the pod: %w", st.RDMA, st.PCI, err)
		}
	}
	now, err := p.Kernel.VFDevices(st.PCI)
	if err != nil {
		return fmt.Errorf("look at the verbs devices of VF %s again: %w", st.PCI, err)
	}
	for _, device := range []struct{ given, has string }{{plan.uverbs, now.Uverbs}, {plan.umad, now.Umad}} {
		if device.given != "" && device.has != device.given {
			return cni.Errorf(cni.CodeFailed, "delete the pod, so that the device plugin gives it the right device",
				"the container was given /dev/infiniband/%s, and VF %s now has %s", device.given, st.PCI, device.has)
		}
	}
	return nil
}

// findLink looks for the VF's netdev on the node and in the pod until it is there.
func (p *Plugin) findLink(ctx context.Context, st state) (host.Link, error) {
	for deadline := time.Now().Add(comeHome); ; {
		for _, ns := range []host.NS{host.NodeNS, st.NetNS} {
			link, err := p.Kernel.LinkByPCI(ns, st.PCI)
			if err == nil {
				return link, nil
			}
			if !errors.Is(err, host.ErrNotFound) {
				return host.Link{}, fmt.Errorf("look for the network interface of VF %s: %w", st.PCI, err)
			}
		}
		if time.Now().After(deadline) {
			return host.Link{}, cni.Errorf(cni.CodeFailed,
				"see the kernel's log on the node: does ib_ipoib know this device?",
				"VF %s has no network interface, %s after its RDMA device was moved", st.PCI, comeHome)
		}
		if err := pause(ctx); err != nil {
			return host.Link{}, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for the network interface: %w", ctx.Err())
	case <-time.After(lookAgain):
		return nil
	}
}

// configure gives the link its addresses and says what the pod has.
func (p *Plugin) configure(ctx context.Context, r *cni.Request, st state, link host.Link) (*types100.Result, error) {
	res, err := cni.Addresses(ctx, r, 0)
	if err == nil {
		err = r.WaitTurn(ctx) // of the routes that two networks have the first one's stays
	}
	if err != nil {
		return nil, err
	}
	defer r.Phases.Start(cni.PhaseAddress)()
	if err := cni.Configure(ctx, p.Kernel, st.NetNS, link.Index, res); err != nil {
		return nil, fmt.Errorf("configure %s: %w", st.IfName, err)
	}
	return &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: st.IfName, Mac: link.HardwareAddr.String(), Mtu: link.MTU,
			Sandbox: string(st.NetNS), PciID: st.PCI}},
		IPs:    res.IPs,
		Routes: res.Routes,
		DNS:    res.DNS,
	}, nil
}

// Check implements cni.Plugin: the VF's netdev is in the pod under its name, and so is its RDMA device.
func (p *Plugin) Check(_ context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return errors.Join(err, cni.Errorf(cni.CodeUnknownContainer, "", "nothing is recorded of interface %s",
			r.IfName))
	}
	link, err := p.Kernel.LinkByPCI(st.NetNS, st.PCI)
	if err != nil {
		return fmt.Errorf("look for the network interface of VF %s in the pod: %w", st.PCI, err)
	}
	if link.Name != st.IfName || !link.Up {
		return cni.Errorf(cni.CodeFailed, "", "the network interface of VF %s is %s (up: %t): want %s, up", st.PCI,
			link.Name, link.Up, st.IfName)
	}
	if err := cni.CheckConfigured(p.Kernel, link, r.Prev); err != nil || st.RDMA == "" {
		return err
	}
	if _, ok, err := cni.FindRDMA(p.Kernel, st.NetNS, st.PCI); err != nil || !ok {
		return errors.Join(err, cni.Errorf(cni.CodeFailed, "", "the RDMA device of VF %s is not in the pod", st.PCI))
	}
	return nil
}

// Device implements cni.DeviceReporter.
func (p *Plugin) Device(s cni.State) (pf, rdma string, err error) {
	var st state
	if _, err := s.Load(&st); err != nil {
		return "", "", err
	}
	return st.PF, st.Device, nil
}
