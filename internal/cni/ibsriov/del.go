// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// Del implements cni.Plugin. Each part looks at what is, so it finishes any half-done Add or Del,
// also when the pod's namespace is gone and the kernel has returned everything under other names.
// Parts that fail do not keep others from being done.
func (p *Plugin) Del(ctx context.Context, r *cni.Request) error {
	errs := []error{r.ReleaseAddresses(ctx)}
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, p.giveBack(ctx, r, st))...)
}

func (p *Plugin) giveBack(ctx context.Context, r *cni.Request, st state) error {
	var errs []error
	if st.RDMA != "" {
		errs = append(errs, p.rdmaHome(r, st))
	}
	defer r.Phases.Start(cni.PhaseLink)()
	errs = append(errs, p.linkHome(ctx, r, st), p.renameRDMA(ctx, r, st))
	if st.VFState != "" {
		if err := p.Kernel.SetVFState(st.PF, st.Index, st.VFState); err != nil && !errors.Is(err, host.ErrNotFound) {
			errs = append(errs, fmt.Errorf("set the link state of VF %s back to %s: %w", st.PCI, st.VFState, err))
		}
	}
	return errors.Join(errs...)
}

// rdmaHome returns the RDMA device, first, because that makes its netdev anew. The move keeps the
// name that it has in the pod.
func (p *Plugin) rdmaHome(r *cni.Request, st state) error {
	defer r.Phases.Start(cni.PhaseDeviceMove)()
	d, ok, err := cni.FindRDMA(p.Kernel, st.NetNS, st.PCI)
	if errors.Is(err, host.ErrNSGone) {
		return nil // the kernel returns it by itself
	}
	if err != nil || !ok {
		return err
	}
	err = p.Kernel.MoveRDMA(st.NetNS, d.Name, host.NodeNS)
	if err != nil && !errors.Is(err, host.ErrNSGone) {
		return fmt.Errorf("move RDMA device %s of VF %s back to the node: %w", d.Name, st.PCI, err)
	}
	return nil
}

// renameRDMA gives the RDMA device its old name. The netdev is home by now, and the device came
// before it, also when the kernel returned both. In shared mode a pod can rename the device, too.
func (p *Plugin) renameRDMA(ctx context.Context, r *cni.Request, st state) error {
	was := cmp.Or(st.Device, st.RDMA) // earlier agents recorded the second alone
	now, found, err := cni.RestoreRDMAName(p.Kernel, st.PCI, was)
	if err != nil {
		return err
	}
	if found && was != "" && now != was {
		slog.WarnContext(ctx, "ib-sriov: the pod renamed its RDMA device, and the old name could not be restored",
			"pci", st.PCI, "old", was, "now", now, "sandbox", r.ContainerID)
	}
	return nil
}

// linkHome returns the netdev and gives it its old name, administrative state and settings.
func (p *Plugin) linkHome(ctx context.Context, r *cni.Request, st state) error {
	link, err := p.Kernel.LinkByPCI(st.NetNS, st.PCI)
	if err == nil && st.NetNS != host.NodeNS {
		if err = p.undress(ctx, r, st, link); err == nil {
			_, err = p.Kernel.MoveLink(st.NetNS, link.Index, host.NodeNS, p.freeName(st, link))
		}
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) && !errors.Is(err, host.ErrNSGone) {
		return fmt.Errorf("move the network interface of VF %s back to the node: %w", st.PCI, err)
	}
	link, err = p.waitHome(ctx, st)
	if err != nil || link.Index == 0 {
		return err
	}
	if name := p.freeName(st, link); link.Name != name {
		if err := p.Kernel.RenameLink(host.NodeNS, link.Index, name); err != nil {
			return fmt.Errorf("rename %s of VF %s back to %s: %w", link.Name, st.PCI, name, err)
		}
	}
	if err := p.restore(ctx, r, st, link); err != nil {
		return fmt.Errorf("restore the settings of VF %s: %w", st.PCI, err)
	}
	set := p.Kernel.SetLinkDown
	if st.HostUp {
		set = p.Kernel.SetLinkUp
	}
	if err := set(host.NodeNS, link.Index); err != nil {
		return fmt.Errorf("restore the administrative state of VF %s: %w", st.PCI, err)
	}
	return nil
}

// waitHome finds the netdev on the node; the kernel may still be returning it. The zero Link
// without an error means that there is none to come: the VF was removed or has no driver any more.
func (p *Plugin) waitHome(ctx context.Context, st state) (host.Link, error) {
	for deadline := time.Now().Add(comeHome); ; {
		link, err := p.Kernel.LinkByPCI(host.NodeNS, st.PCI)
		if err == nil || !errors.Is(err, host.ErrNotFound) {
			return link, err
		}
		vf, err := p.Kernel.VFDevices(st.PCI)
		if errors.Is(err, host.ErrNotFound) || err == nil && vf.Driver == "" {
			return host.Link{}, nil
		}
		if time.Now().After(deadline) {
			return host.Link{}, fmt.Errorf("the network interface of VF %s did not come back to the node within %s",
				st.PCI, comeHome)
		}
		if err := pause(ctx); err != nil {
			return host.Link{}, err
		}
	}
}

// freeName is the name to have on the node: the old one; when something else has that, the present
// one unless it is the pod's; else one made from the index.
func (p *Plugin) freeName(st state, link host.Link) string {
	if p.free(st.HostName, link) {
		return st.HostName
	}
	if link.NS == host.NodeNS && link.Name != st.IfName {
		return link.Name
	}
	return p.nodeName(link)
}

// free reports whether a link may have a name on the node.
func (p *Plugin) free(name string, link host.Link) bool {
	other, err := p.Kernel.LinkByName(host.NodeNS, name)
	return errors.Is(err, host.ErrNotFound) || err == nil && link.NS == host.NodeNS && other.Index == link.Index
}
