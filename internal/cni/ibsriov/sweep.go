// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// podName matches the names that an InfiniBand netdev has only from a pod: those that pods'
// interfaces have unless they ask for others, and the one that the kernel gives when that is taken
// on the node (default_device_exit_net). The kernel itself begins with "ib", and so does udev.
var podName = regexp.MustCompile(`^(eth|net|dev)[0-9]+$`)

// Sweep implements cni.Sweeper: a VF that came home under a pod's name gets a name of the node's,
// lest it stand in the way of another interface. One that is of some attachment is that
// attachment's to return, and one that is up is in somebody's use: the kernel brings them home
// down.
//
// An RDMA device that came home under a name with which nothing can use it gets another, too.
func (p *Plugin) Sweep(recorded func() []cni.Recorded) (renamed []string, err error) {
	links, err := p.sweepLinks(recorded)
	devices, errRDMA := p.sweepRDMA(recorded)
	return append(links, devices...), errors.Join(err, errRDMA)
}

func (p *Plugin) sweepRDMA(recorded func() []cni.Recorded) (renamed []string, err error) {
	devices, err := p.Kernel.RDMADevices(host.NodeNS)
	if err != nil {
		return nil, fmt.Errorf("look for RDMA devices with an unusable name: %w", err)
	}
	devices = slices.DeleteFunc(devices, func(d host.RDMADevice) bool {
		return d.PCI == "" || host.UsableRDMAName(d.Name)
	})
	if len(devices) == 0 {
		return nil, nil
	}
	all := recorded()
	var errs []error
	for _, d := range devices {
		if has(all, d.PCI) {
			continue // its DEL knows the name that it had
		}
		if _, _, err := cni.RestoreRDMAName(p.Kernel, d.PCI, ""); err != nil {
			errs = append(errs, err)
			continue
		}
		renamed = append(renamed, d.Name)
	}
	return renamed, errors.Join(errs...)
}

// has reports whether a device is some attachment's.
func has(all []cni.Recorded, pci string) bool {
	return slices.ContainsFunc(all, func(r cni.Recorded) bool { return strings.EqualFold(r.DeviceID, pci) })
}

func (p *Plugin) sweepLinks(recorded func() []cni.Recorded) (renamed []string, err error) {
	links, err := p.Kernel.Links(host.NodeNS)
	if err != nil {
		return nil, fmt.Errorf("look for VFs with a pod's name: %w", err)
	}
	links = slices.DeleteFunc(links, func(l host.Link) bool {
		return l.LinkLayer != host.InfiniBand || l.PCI == "" || l.Parent != 0 || l.Up || !podName.MatchString(l.Name)
	})
	if len(links) == 0 {
		return nil, nil
	}
	all := recorded()
	var errs []error
	for _, l := range links {
		if has(all, l.PCI) {
			continue
		}
		if _, err := p.Kernel.VFDevices(l.PCI); err != nil {
			if !errors.Is(err, host.ErrNotFound) { // that is a PF, whose name is its owner's business
				errs = append(errs, fmt.Errorf("look at %s: %w", l.PCI, err))
			}
			continue
		}
		now, err := p.Kernel.LinkByPCI(host.NodeNS, l.PCI)
		if err == nil && now.Index == l.Index && now.Name == l.Name { // else a DEL that ended meanwhile has seen to it
			err = p.Kernel.RenameLink(host.NodeNS, l.Index, p.nodeName(l))
			renamed = append(renamed, l.Name)
		}
		if err != nil && !errors.Is(err, host.ErrNotFound) {
			errs = append(errs, fmt.Errorf("rename %s of VF %s: %w", l.Name, l.PCI, err))
		}
	}
	return renamed, errors.Join(errs...)
}

// nodeName is a name that nothing else on the node has.
func (p *Plugin) nodeName(l host.Link) string {
	first := fmt.Sprintf("ibvf%d", l.Index)
	for i, name := 1, first; i < 100; i, name = i+1, fmt.Sprintf("%s_%d", first, i) {
		if p.free(name, l) {
			return name
		}
	}
	return first
}
