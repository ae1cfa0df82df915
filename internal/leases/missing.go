// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Attached is an address that a pod's interface has by the node's own records.
type Attached struct {
	Namespace, Name, UID string
	Interface, Sandbox   string
	IP                   netip.Addr
}

// missLeases finds addresses in use that have no lease, and has the leases made again. Without one
// the address is free for everybody, and the pod that has it would not know.
func (a *Allocator) missLeases() {
	if a.Attached == nil {
		return
	}
	all, err := a.Attached()
	if err != nil {
		a.Log.Error("compare the leases with the addresses in use", "error", err)
		return
	}
	for _, at := range all {
		if err := a.missLease(at); err != nil {
			a.Log.Warn("an address in use has no lease", "pod", at.Namespace+"/"+at.Name, "ip", at.IP.String(),
				"reason", err)
		}
	}
}

func (a *Allocator) missLease(at Attached) error {
	pool, ok := a.poolOf(at.IP)
	if !ok {
		return fmt.Errorf("no pool has it any more")
	}
	user := &v2beta1.LeasePod{Namespace: at.Namespace, Name: at.Name, UID: at.UID, Interface: at.Interface,
		Sandbox: at.Sandbox}
	name := v2beta1.LeaseName(pool, at.IP)
	e, known := a.index.get(name)
	switch {
	case !known:
		a.index.recall(name, entry{ip: at.IP, pool: pool, user: user, since: time.Now()})
		a.writer.ask(name) // which asks whether the pod is alive
	case e.pod() == nil || e.pod().UID != at.UID:
		if e.lease != nil {
			return fmt.Errorf("%s has it", e.lease.Holder())
		}
	}
	return nil
}

// poolOf finds the pool that has an address, also one that it does not give out any more.
func (a *Allocator) poolOf(ip netip.Addr) (string, bool) {
	pools := a.catalogue.snapshot()
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if pools[name].Has(ip) {
			return name, true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if pools[name].Subnet.IsValid() && pools[name].Subnet.Contains(ip) {
			return name, true
		}
	}
	return "", false
}
