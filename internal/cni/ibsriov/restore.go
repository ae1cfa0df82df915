// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// undress takes off a netdev in the pod what must not come home with it: IPoIB children, which
// would follow it to the node when the namespace ends, and every alternative name that the pod gave
// it or that something on the node has by now, with which the kernel refuses the move
// (__dev_change_net_namespace).
func (p *Plugin) undress(ctx context.Context, r *cni.Request, st state, link host.Link) error {
	links, err := p.Kernel.Links(st.NetNS)
	if err != nil {
		return fmt.Errorf("look for IPoIB children in the pod: %w", err)
	}
	errs := []error{deleteChildren(p.Kernel, links, link, func(host.Link) bool { return true })}
	for _, name := range link.AltNames {
		recorded := st.Netdev == nil || slices.Contains(st.Netdev.AltNames, name)
		if recorded && p.free(name, link) {
			continue
		}
		if err := p.Kernel.DeleteAltName(st.NetNS, link.Index, name); err != nil {
			errs = append(errs, fmt.Errorf("drop the alternative name %q that the pod gave it: %w", name, err))
		}
	}
	return logRefused(ctx, r, st, errs)
}

// deleteChildren deletes the IPoIB children of a netdev among links, of those that the ipoib plugin
// did not make.
func deleteChildren(k Kernel, links []host.Link, parent host.Link, which func(host.Link) bool) error {
	var errs []error
	for _, l := range links {
		if l.Kind != "ipoib" || l.Parent != parent.Index || !which(l) ||
			strings.HasPrefix(l.Alias, cni.LinkAliasPrefix) {
			continue
		}
		if err := k.DeleteLink(l.NS, l.Index); err != nil && !errors.Is(err, host.ErrNotFound) {
			errs = append(errs, fmt.Errorf("delete IPoIB child %s: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}

// restore gives a netdev that is home what it had before the pod. One that came with its RDMA
// device was made anew, has nothing of the pod's, and has its alternative names from udev.
func (p *Plugin) restore(ctx context.Context, r *cni.Request, st state, link host.Link) error {
	if st.Netdev == nil || st.RDMA != "" {
		return nil
	}
	was := *st.Netdev
	errs := append(restoreAltNames(p.Kernel, link, was.AltNames), deleteStrayChildren(p.Kernel, link))
	if link.MTU != was.MTU {
		errs = append(errs, p.Kernel.SetLinkMTU(host.NodeNS, link.Index, was.MTU))
	}
	if link.TxQueueLen != was.TxQueueLen {
		errs = append(errs, p.Kernel.SetLinkTxQueueLen(host.NodeNS, link.Index, was.TxQueueLen))
	}
	if link.Alias != was.Alias {
		errs = append(errs, p.Kernel.SetLinkAlias(host.NodeNS, link.Index, was.Alias))
	}
	if link.Mode != was.Mode {
		errs = append(errs, fmt.Errorf("it is in %s mode and was in %s mode: ip link set %s type ipoib mode %s: %w",
			link.Mode, was.Mode, link.Name, was.Mode, host.ErrUnsupported))
	}
	return logRefused(ctx, r, st, errs)
}

// logRefused logs those errors that no further attempt would be without, and returns the others: a
// VF that never comes home is worse than one with a long queue. An MTU that its policy sets is
// compared with the policy before the VF is offered.
func logRefused(ctx context.Context, r *cni.Request, st state, errs []error) error {
	var passing []error
	for _, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, host.ErrExists), errors.Is(err, host.ErrUnsupported), errors.Is(err, syscall.EINVAL):
			slog.WarnContext(ctx, "ib-sriov: a VF goes back to the node with something that the pod changed", "pci",
				st.PCI, "sandbox", r.ContainerID, "error", err)
		default:
			passing = append(passing, err)
		}
	}
	return errors.Join(passing...)
}

// deleteStrayChildren deletes IPoIB children that the pod made, and that the kernel took to the node
// with the end of the pod's namespace. They arrive down; one that is up is in use by something else.
func deleteStrayChildren(k Kernel, link host.Link) error {
	links, err := k.Links(host.NodeNS)
	if err != nil {
		return fmt.Errorf("look for IPoIB children on the node: %w", err)
	}
	return deleteChildren(k, links, link, func(l host.Link) bool { return !l.Up })
}

// restoreAltNames drops the alternative names that the pod gave the netdev, which came with it from
// a namespace that ended, and adds those that it took off.
func restoreAltNames(k Kernel, link host.Link, was []string) (errs []error) {
	for _, name := range link.AltNames {
		if !slices.Contains(was, name) {
			errs = append(errs, k.DeleteAltName(host.NodeNS, link.Index, name))
		}
	}
	for _, name := range was {
		if !slices.Contains(link.AltNames, name) {
			errs = append(errs, k.AddAltName(host.NodeNS, link.Index, name))
		}
	}
	return errs
}
