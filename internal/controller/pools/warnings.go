// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// mostWarnings bounds the warnings of one kind: the API server cuts off what is too long.
const mostWarnings = 4

// poolWarnings are what the author of an admitted pool should know. What cannot be read for them
// never stands in the way.
func poolWarnings(ctx context.Context, c client.Reader, p *v2beta1.SpiderIPPool) []string {
	a, errs := v2beta1.ParseIPPoolSpec(&p.Spec)
	if len(errs) > 0 {
		return nil
	}
	warnings := placeWarnings(a)
	if len(a.IPs.Ranges()) == 0 {
		return append(warnings, givesNothing(a, &p.Spec))
	}
	var nodes corev1.NodeList
	var reserved v2beta1.SpiderReservedIPList
	for _, list := range []client.ObjectList{&nodes, &reserved} {
		if err := c.List(ctx, list); err != nil {
			return append(warnings, fmt.Sprintf("spec.ips was not compared with the addresses of nodes: %v", err))
		}
	}
	return append(warnings, nodeWarnings(without(a, union(reserved.Items)), nodes.Items)...)
}

// placeWarnings tell of addresses that no pod is given, and of a subnet that every interface has its own of.
func placeWarnings(a v2beta1.IPPoolAddresses) (all []string) {
	if none := v2beta1.FormatRanges(a.NoHost); len(none) > 0 {
		all = append(all, fmt.Sprintf("spec.ips has %s, which no host in %s can have: no pod is given it",
			strings.Join(none, " and "), a.Subnet))
	}
	if a.Subnet.Addr().IsLinkLocalUnicast() {
		all = append(all, fmt.Sprintf("spec.subnet %s is link-local: no router forwards it, and every interface may "+
			"choose addresses of it by itself", a.Subnet))
	}
	return all
}

func givesNothing(a v2beta1.IPPoolAddresses, spec *v2beta1.IPPoolSpec) string {
	switch {
	case len(a.NoHost.Ranges()) > 0:
		return "spec.ips has nothing else: the pool gives out no address; add ranges of its subnet"
	case len(spec.IPs) == 0:
		return "spec.ips is empty: the pool gives out no address; add ranges of its subnet"
	}
	return "spec.excludeIPs takes out all of spec.ips: the pool gives out no address"
}

// nodeWarnings tell of addresses that belong to nodes and yet would be given to pods.
func nodeWarnings(free *netipx.IPSet, nodes []corev1.Node) []string {
	slices.SortFunc(nodes, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	var all []string
	for _, node := range nodes {
		for _, address := range node.Status.Addresses {
			ip, err := netip.ParseAddr(address.Address)
			if err != nil || !free.Contains(ip.Unmap().WithZone("")) { // a host name, or an address elsewhere
				continue
			}
			text := fmt.Sprintf(
				"spec.ips has %s, which is the address of node %s: a pod that is given it takes the node's traffic; "+
					"add it to spec.excludeIPs", ip, node.Name)
			if !slices.Contains(all, text) {
				all = append(all, text)
			}
		}
	}
	if more := len(all) - mostWarnings; more > 0 {
		all = append(all[:mostWarnings], fmt.Sprintf("spec.ips has %d more addresses of nodes", more))
	}
	return all
}

// union is all addresses that no pool gives out.
func union(reserved []v2beta1.SpiderReservedIP) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for i := range reserved {
		if reserved[i].DeletionTimestamp.IsZero() {
			set, _ := v2beta1.ParseReservedIPSpec(&reserved[i].Spec) // what can be read of it counts
			b.AddSet(set)
		}
	}
	set, err := b.IPSet()
	if err != nil { // only for invalid input, and these are parsed sets
		return &netipx.IPSet{}
	}
	return set
}
