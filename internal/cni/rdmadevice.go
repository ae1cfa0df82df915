// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"spidernet.io/spiderpool/internal/host"
)

// RDMAFinder finds the RDMA device of a PCI function in a namespace.
type RDMAFinder interface {
	RDMAByPCI(ns host.NS, pci string) (host.RDMADevice, error)
}

// RDMARenamer gives RDMA devices names.
type RDMARenamer interface {
	RDMAFinder
	RenameRDMA(ns host.NS, index int, name string) error
}

// FindRDMA finds the RDMA device of a PCI function in a namespace; false when it is not there.
// Names change, the PCI address does not.
func FindRDMA(kernel RDMAFinder, ns host.NS, pci string) (host.RDMADevice, bool, error) {
	d, err := kernel.RDMAByPCI(ns, pci)
	if errors.Is(err, host.ErrNotFound) {
		return host.RDMADevice{}, false, nil
	}
	return d, err == nil, err
}

// maxNames bounds the search for a free name: a pod can occupy as many as it has devices.
const maxNames = 64

// RestoreRDMAName gives the RDMA device of a PCI function, on the node, the name that was recorded
// before a pod had it; found is false when the device is not there. A pod with CAP_NET_ADMIN can
// give its device any name.
//
// Where another device has the recorded name, that one keeps it: it may be in a pod whose processes
// know it by this name. The device gets a name that is made of its PCI address, even when its
// present one would do: that may be the recorded one of a third device, as with two that have
// changed names, and must be free when that one comes home. Both names are plain labels to us: all
// lookups begin at the PCI address. want may be "", which leaves a usable name. now is the name that
// the device has in the end.
func RestoreRDMAName(kernel RDMARenamer, pci, want string) (now string, found bool, err error) {
	d, found, err := FindRDMA(kernel, host.NodeNS, pci)
	if err != nil || !found {
		return "", false, err
	}
	if d.Name == want || want == "" && host.UsableRDMAName(d.Name) {
		return d.Name, true, nil
	}
	own := strings.NewReplacer(":", "_", ".", "_").Replace("pci_" + pci)
	names := []string{own}
	if host.UsableRDMAName(want) {
		names = []string{want, own}
	}
	for i := range maxNames {
		names = append(names, fmt.Sprintf("%s_%d", own, i))
	}
	for _, name := range names {
		err = kernel.RenameRDMA(host.NodeNS, d.Index, name)
		if err == nil {
			return name, true, nil
		}
		if errors.Is(err, host.ErrNotFound) {
			return "", false, nil // it left since the look, with its driver or its card
		}
		if !errors.Is(err, host.ErrExists) {
			break
		}
	}
	// A kernel that refuses will refuse again. The VF is not offered while its device has no usable name.
	if errors.Is(err, host.ErrExists) || errors.Is(err, host.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return d.Name, true, nil
	}
	return d.Name, true, fmt.Errorf("give RDMA device %q of %s its name %s back: %w", d.Name, pci, want, err)
}
