// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"

	"spidernet.io/spiderpool/internal/host"
)

// RDMAFinder finds the RDMA device of a PCI function in a namespace.
type RDMAFinder interface {
	RDMAByPCI(ns host.NS, pci string) (host.RDMADevice, error)
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
