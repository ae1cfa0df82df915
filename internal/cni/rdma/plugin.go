// SPDX-License-Identifier: Apache-2.0

// Package rdma is the chained CNI plugin "rdma": it moves the RDMA device of an
// Ethernet VF after another plugin has moved the VF's network interface. An
// InfiniBand VF is ib-sriov's whole.
package rdma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// Type is the plugin's name in configurations.
const Type = "rdma"

// Kernel is what the plugin needs of the node.
type Kernel interface {
	RDMAMode() (host.RDMAMode, error)
	RDMAByPCI(ns host.NS, pci string) (host.RDMADevice, error)
	MoveRDMA(from host.NS, name string, to host.NS) error
	RenameRDMA(ns host.NS, index int, name string) error
	Links(ns host.NS) ([]host.Link, error)
}

// Plugin is the plugin.
type Plugin struct{ Kernel Kernel }

type conf struct {
	DeviceID string `json:"deviceID"`
}

// state is what Del needs.
type state struct {
	PCI   string  `json:"pci"`
	NetNS host.NS `json:"netns"`
	RDMA  string  `json:"rdma"`
}

// Add implements cni.Plugin. The result is the one of the plugin before.
func (p *Plugin) Add(_ context.Context, r *cni.Request) (*types100.Result, error) {
	if r.Prev == nil {
		return nil, cni.Errorf(cni.CodeInvalidConfig,
			"put rdma after the plugin that gives the interface, such as sriov",
			"rdma is not chained: there is no prevResult")
	}
	end := r.Phases.Start(cni.PhaseGather)
	device, err := p.device(r)
	end()
	if err != nil {
		return nil, err
	}
	end = r.Phases.Start(cni.PhaseRecord)
	err = r.State.Save(state{PCI: device.PCI, NetNS: r.NetNS, RDMA: device.Name})
	end()
	if err != nil {
		return nil, fmt.Errorf("record RDMA device %s: %w", device.Name, err)
	}
	defer r.Phases.Start(cni.PhaseDeviceMove)()
	if err := p.Kernel.MoveRDMA(host.NodeNS, device.Name, r.NetNS); err != nil {
		return nil, fmt.Errorf("move RDMA device %s of %s into the pod: %w", device.Name, device.PCI, err)
	}
	return r.Prev, nil
}

func (p *Plugin) device(r *cni.Request) (host.RDMADevice, error) {
	var c conf
	if err := r.ParseConf(&c); err != nil {
		return host.RDMADevice{}, err
	}
	mode, err := p.Kernel.RDMAMode()
	if err != nil {
		return host.RDMADevice{}, fmt.Errorf("read the mode of the RDMA subsystem: %w", err)
	}
	if mode != host.RDMAExclusive {
		return host.RDMADevice{}, cni.Errorf(cni.CodeInvalidConfig,
			"set rdmaIsolation to false on the network, or switch this node: "+
				"echo 'options ib_core netns_mode=0' > /etc/modprobe.d/ib_core.conf, rebuild the initramfs and reboot",
			"an RDMA device cannot be moved while this node's RDMA subsystem is in %s mode", mode)
	}
	pci, err := p.function(r, c.DeviceID)
	if err != nil {
		return host.RDMADevice{}, err
	}
	d, ok, err := cni.FindRDMA(p.Kernel, host.NodeNS, pci)
	if err != nil {
		return host.RDMADevice{}, err
	}
	if !ok {
		return host.RDMADevice{}, cni.Errorf(cni.CodeFailed, "is the driver's RDMA part loaded, such as mlx5_ib?",
			"%s has no RDMA device in the node's namespace", pci)
	}
	if d.LinkLayer == host.InfiniBand {
		return host.RDMADevice{}, cni.Errorf(cni.CodeInvalidConfig,
			"use type ib-sriov with rdmaIsolation, and take rdma out of the list",
			"%s is InfiniBand: moving its RDMA device would take its network interface away", pci)
	}
	return d, nil
}

// function is the PCI function that the attachment was given, or else that of the interface that
// the plugin before made.
func (p *Plugin) function(r *cni.Request, deviceID string) (string, error) {
	if deviceID == "" {
		return p.pciFromResult(r)
	}
	pci, err := ib.ParsePCIAddress(deviceID)
	if err != nil {
		return "", cni.Errorf(cni.CodeInvalidConfig, "", "deviceID %q: %w", deviceID, err)
	}
	return pci, nil
}

// pciFromResult finds the function of the interface that the plugin before made, by name and
// hardware address.
func (p *Plugin) pciFromResult(r *cni.Request) (string, error) {
	links, err := p.Kernel.Links(r.NetNS)
	if err != nil {
		return "", fmt.Errorf("list the pod's interfaces: %w", err)
	}
	for _, i := range r.Prev.Interfaces {
		if i.Sandbox == "" {
			continue
		}
		for _, l := range links {
			if mac, err := net.ParseMAC(i.Mac); l.Name == i.Name && l.PCI != "" &&
				(err != nil || mac.String() == l.HardwareAddr.String()) {
				return l.PCI, nil
			}
		}
	}
	return "", cni.Errorf(cni.CodeInvalidConfig, "rdma works on interfaces of PCI functions",
		"no deviceID, and no interface in prevResult belongs to a PCI function")
}

// Bounds of the wait for a device that the kernel is returning from a dying namespace.
const (
	comeHome  = 2 * time.Second
	lookAgain = 10 * time.Millisecond
)

// Del implements cni.Plugin. The device goes home under the name that it has, and there it gets the
// one that it had: a pod may have renamed it.
func (p *Plugin) Del(ctx context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return err
	}
	defer r.Phases.Start(cni.PhaseDeviceMove)()
	d, ok, err := cni.FindRDMA(p.Kernel, st.NetNS, st.PCI)
	if err == nil && ok && st.NetNS != host.NodeNS {
		err = p.Kernel.MoveRDMA(st.NetNS, d.Name, host.NodeNS)
	}
	dying := errors.Is(err, host.ErrNSGone)
	if err != nil && !dying {
		return fmt.Errorf("move RDMA device %q of %s back to the node: %w", d.Name, st.PCI, err)
	}
	return p.rename(ctx, r, st, dying)
}

// rename waits, bounded, for a device that the kernel is returning. It is not an error when none
// comes: the card may have been removed, and one that comes later under an unusable name is swept.
func (p *Plugin) rename(ctx context.Context, r *cni.Request, st state, dying bool) error {
	for deadline := time.Now().Add(comeHome); ; {
		now, found, err := cni.RestoreRDMAName(p.Kernel, st.PCI, st.RDMA)
		if err != nil {
			return err
		}
		if found && now != st.RDMA {
			slog.WarnContext(ctx, "rdma: the pod renamed its RDMA device, and the old name could not be restored",
				"pci", st.PCI, "old", st.RDMA, "now", now, "sandbox", r.ContainerID)
		}
		if found || !dying || time.Now().After(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for RDMA device %s of %s to come back to the node: %w", st.RDMA, st.PCI, ctx.Err())
		case <-time.After(lookAgain):
		}
	}
}

// Check implements cni.Plugin.
func (p *Plugin) Check(_ context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return errors.Join(err, cni.Errorf(cni.CodeUnknownContainer, "", "nothing is recorded of interface %s",
			r.IfName))
	}
	if _, ok, err := cni.FindRDMA(p.Kernel, st.NetNS, st.PCI); err != nil || !ok {
		return errors.Join(err, cni.Errorf(cni.CodeFailed, "", "the RDMA device of %s is not in the pod", st.PCI))
	}
	return nil
}
