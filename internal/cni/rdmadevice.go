package cni

import (
	"fmt"

	"spidernet.io/spiderpool/internal/host"
)

// RDMALister lists the RDMA devices of a namespace.
type RDMALister interface {
	RDMADevices(ns host.NS) ([]host.RDMADevice, error)
}

// FindRDMA finds the RDMA device of a PCI function in a namespace; false when it is not there. Names change, the PCI address does not.
func FindRDMA(kernel RDMALister, ns host.NS, pci string) (host.RDMADevice, bool, error) {
	devices, err := kernel.RDMADevices(ns)
	if err != nil {
		return host.RDMADevice{}, false, fmt.Errorf("list RDMA devices: %w", err)
	}
	for _, d := range devices {
		if d.PCI == pci {
			return d, true, nil
		}
	}
	return host.RDMADevice{}, false, nil
}
