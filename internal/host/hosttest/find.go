// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"slices"

	"spidernet.io/spiderpool/internal/host"
)

// Lister tells what cards a node has: a *host.Host or the fake.
type Lister interface {
	PFs() ([]host.PF, error)
}

// FindPF looks at all cards and returns one; ErrNotFound when the address is not a physical network function.
func FindPF(l Lister, pci string) (host.PF, error) {
	pfs, err := l.PFs()
	if err != nil {
		return host.PF{}, err
	}
	i := slices.IndexFunc(pfs, func(p host.PF) bool { return p.PCI == pci })
	if i < 0 {
		return host.PF{}, fmt.Errorf("%s is not among the %d physical network functions: %w", pci, len(pfs),
			host.ErrNotFound)
	}
	return pfs[i], nil
}

// FindVF looks at all cards and returns a VF of one; ErrNotFound when the address is not a virtual function.
func FindVF(l Lister, pci string) (host.VF, error) {
	pfs, err := l.PFs()
	if err != nil {
		return host.VF{}, err
	}
	for _, pf := range pfs {
		if i := slices.IndexFunc(pf.VFs, func(v host.VF) bool { return v.PCI == pci }); i >= 0 {
			return pf.VFs[i], nil
		}
	}
	return host.VF{}, fmt.Errorf("%s is not among the virtual functions of %d cards: %w", pci, len(pfs),
		host.ErrNotFound)
}
