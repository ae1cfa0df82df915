// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"net/netip"
	"slices"
	"strings"
)

// DefaultIPPool completes a pool as written by a user: finalizer, IP version,
// the label of its subnet, and merged ranges when a list has several entries.
// What cannot be read stays as it is, for validation to refuse. An object
// that is being deleted is left alone.
func DefaultIPPool(p *SpiderIPPool) {
	if !p.DeletionTimestamp.IsZero() {
		return
	}
	if !slices.Contains(p.Finalizers, Finalizer) {
		p.Finalizers = append(p.Finalizers, Finalizer)
	}
	p.Spec.IPs = defaultRanges(p.Spec.IPs)
	p.Spec.ExcludeIPs = defaultRanges(p.Spec.ExcludeIPs)
	subnet, err := netip.ParsePrefix(p.Spec.Subnet)
	if err != nil {
		return
	}
	if p.Spec.IPVersion == nil {
		p.Spec.IPVersion = new(versionOf(subnet.Addr()))
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[LabelIPPoolCIDR] = strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(p.Spec.Subnet)
}

// DefaultReservedIP takes the IP version from the first entry and merges the entries.
func DefaultReservedIP(r *SpiderReservedIP) {
	if !r.DeletionTimestamp.IsZero() {
		return
	}
	if r.Spec.IPVersion == nil && len(r.Spec.IPs) > 0 {
		if first, err := ParseRange(r.Spec.IPs[0]); err == nil {
			r.Spec.IPVersion = new(versionOf(first.From()))
		}
	}
	r.Spec.IPs = defaultRanges(r.Spec.IPs)
}

// defaultRanges leaves a single entry and an unreadable list as written.
func defaultRanges(texts []string) []string {
	if len(texts) < 2 {
		return texts
	}
	merged, err := MergeRanges(texts)
	if err != nil {
		return texts
	}
	return merged
}

func versionOf(ip netip.Addr) int64 {
	if ip.Is4() {
		return 4
	}
	return 6
}
