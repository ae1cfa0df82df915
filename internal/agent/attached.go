// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni/spiderpool"
	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
)

// attachedAddresses lists the addresses that pods have from us, as the node's records say.
func attachedAddresses(book *ledger.Ledger) ([]leases.Attached, error) {
	var all []leases.Attached
	for _, sb := range book.Sandboxes() {
		for _, a := range sb.Attachments {
			if a.Phase != ledger.Done || a.State[spiderpool.Type] == nil || len(a.Result) == 0 || sb.Pod.UID == "" {
				continue
			}
			var result types100.Result
			if err := json.Unmarshal(a.Result, &result); err != nil {
				return nil, fmt.Errorf("read the recorded result of %s in sandbox %s: %w", a.IfName, sb.ContainerID,
					err)
			}
			for _, ip := range result.IPs {
				if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
					all = append(all, leases.Attached{Namespace: sb.Pod.Namespace, Name: sb.Pod.Name, UID: sb.Pod.UID,
						Interface: a.IfName, Sandbox: sb.ContainerID, IP: addr.Unmap()})
				}
			}
		}
	}
	return all, nil
}
