// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"spidernet.io/spiderpool/internal/host"
)

// masters finds the addresses of the physical function to which a virtual one belongs. Its network
// interface is the node's, wherever the virtual function's is by now.
func (s *Service) masters(deviceID string) ([]netip.Addr, error) {
	vf, err := s.Kernel.VFDevices(strings.ToLower(deviceID))
	if errors.Is(err, host.ErrNotFound) {
		return nil, fmt.Errorf("deviceID %s is not a virtual function of this node", deviceID)
	}
	if err != nil {
		return nil, fmt.Errorf("read virtual function %s: %w", deviceID, err)
	}
	link, err := s.Kernel.LinkByPCI(host.NodeNS, vf.PF)
	if errors.Is(err, host.ErrNotFound) {
		return nil, fmt.Errorf("physical function %s of %s has no network interface on the node", vf.PF, deviceID)
	}
	if err != nil {
		return nil, fmt.Errorf("look for the network interface of physical function %s: %w", vf.PF, err)
	}
	prefixes, err := s.Kernel.Addresses(host.NodeNS, link.Index)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", link.Name, err)
	}
	var out []netip.Addr
	for _, p := range prefixes {
		if a := p.Addr(); !a.IsLinkLocalUnicast() { // every interface has one, and no pool does
			out = append(out, a)
		}
	}
	return out, nil
}
