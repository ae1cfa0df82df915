// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"fmt"
	"slices"
	"strings"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// exhausted says of every pool why it gave nothing.
func (a *Allocator) exhausted(f ipam.Family) error {
	all := ipam.Family{Version: f.Version, Source: f.Source, Dropped: slices.Clone(f.Dropped)}
	for _, pool := range f.Pools {
		all.Dropped = append(all.Dropped, ipam.Drop{Pool: pool.Name, Reason: a.exhaustedReason(pool)})
	}
	return ipam.Refuse([]ipam.Family{all})
}

func (a *Allocator) exhaustedReason(p *ipam.Pool) string {
	if p.Wanted.IsValid() {
		return a.wantedReason(p)
	}
	kept := a.keptBack(p.Name)
	if p.Size() == 0 {
		if kept != "" {
			return "has no addresses" + kept + "; add addresses to spec.ips, or shorten the reservation"
		}
		return "has no addresses: spec.ips is empty, or all of it is excluded"
	}
	nodes, idle := a.index.idleNodes(p.Name)
	if idle == 0 {
		return fmt.Sprintf("has no free address: all %d are in use%s; add addresses to spec.ips, or delete pods",
			p.Size(), kept)
	}
	return fmt.Sprintf(
		"has no free address: of its %d, %d are held ready by %s, which gives them back unless it is silent, and "+
			"the others are in use%s; "+
			"add addresses to spec.ips, or delete pods", p.Size(), idle, strings.Join(nodes, ", "), kept)
}

// keptBack says which reservations keep addresses of a pool, "" when none do: whoever looks at the
// pool sees those addresses and wonders.
func (a *Allocator) keptBack(pool string) string {
	const most = 3
	names, n := a.catalogue.reservations(pool)
	if len(names) == 0 {
		return ""
	}
	if more := len(names) - most; more > 0 {
		names = append(names[:most:most], fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf(" (SpiderReservedIP %s keeps %d of spec.ips)", strings.Join(names, ", "), n)
}

// wantedReason says who has the one address that a pod asks for.
func (a *Allocator) wantedReason(p *ipam.Pool) string {
	e, _ := a.index.get(v2beta1.LeaseName(p.Name, p.Wanted))
	pod := e.pod()
	switch {
	case pod != nil:
		return fmt.Sprintf("has given %s, which the pod asks for, to pod %s/%s; ask for another, or delete that pod",
			p.Wanted, pod.Namespace, pod.Name)
	case e.lease != nil:
		return fmt.Sprintf(
			"has %s, which the pod asks for, held ready by node %s for pods that ask for none; keep addresses that "+
				"are asked for in a pool of their own", p.Wanted, e.lease.Spec.Node)
	}
	return fmt.Sprintf(
		"cannot give %s, which the pod asks for, just now: it was found in use, or is being taken or given back; "+
			"the kubelet tries again", p.Wanted)
}
