// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"fmt"
	"net/netip"
)

// Address reads the address of a lease and checks that the lease's name is the
// one that guards this address: under any other name the object would not
// keep a second holder out.
func (l *SpiderIPLease) Address() (netip.Addr, error) {
	ip, err := ParseAddress(l.Spec.IP)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("lease %s: spec.ip: %q %w", l.Name, l.Spec.IP, err)
	}
	if want := LeaseName(l.Spec.Pool, ip); l.Name != want {
		return netip.Addr{},
			fmt.Errorf("lease %s: its pool %s and address %s belong to the name %s; delete this object", l.Name,
				l.Spec.Pool, ip, want)
	}
	return ip, nil
}

// Holder names who has the address, for messages.
func (l *SpiderIPLease) Holder() string {
	if l.Spec.Pod == nil {
		return "stock of node " + l.Spec.Node
	}
	return fmt.Sprintf("pod %s/%s", l.Spec.Pod.Namespace, l.Spec.Pod.Name)
}
