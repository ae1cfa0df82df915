// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Families says which IP versions the cluster's configuration enables.
//
// +kubebuilder:object:generate=false
type Families struct{ IPv4, IPv6 bool }

// Enabled tells whether version 4 or 6 is enabled.
func (f Families) Enabled(version int64) bool {
	return version == 4 && f.IPv4 || version == 6 && f.IPv6
}

// IPPoolAddresses is the spec of a pool with its text read.
//
// +kubebuilder:object:generate=false
type IPPoolAddresses struct {
	// Subnet has zero host bits.
	Subnet netip.Prefix
	// IPs are ips without excludeIPs and without those that no host can have.
	IPs *netipx.IPSet
	// NoHost are those of ips and not of excludeIPs that no host can have.
	NoHost *netipx.IPSet
	// Gateway is invalid when the pool has none.
	Gateway netip.Addr
	Routes  []IPPoolRoute
}

// IPPoolRoute is a Route with its text read.
//
// +kubebuilder:object:generate=false
type IPPoolRoute struct {
	Dst netip.Prefix
	Gw  netip.Addr
}

// Version is 4 or 6.
func (a IPPoolAddresses) Version() int64 { return versionOf(a.Subnet.Addr()) }

// ParseIPPoolSpec reads the addresses of a pool and reports everything that is
// wrong with them on their own: syntax, families, and places inside the
// subnet. The result is meaningful only when there are no errors.
func ParseIPPoolSpec(spec *IPPoolSpec) (IPPoolAddresses, field.ErrorList) {
	path := field.NewPath("spec")
	subnet, err := ParseCIDR(spec.Subnet)
	if err != nil {
		return IPPoolAddresses{}, field.ErrorList{field.Invalid(path.Child("subnet"), spec.Subnet, err.Error())}
	}
	a := IPPoolAddresses{Subnet: subnet}
	errs := a.checkVersion(spec.IPVersion, path.Child("ipVersion"))
	ips, ipErrs := a.parseInside(spec.IPs, path.Child("ips"))
	excluded, excludedErrs := a.parseInside(spec.ExcludeIPs, path.Child("excludeIPs"))
	wanted := subtract(ips, excluded)
	a.NoHost = intersect(wanted, noHost(subnet))
	a.IPs = subtract(wanted, a.NoHost)
	errs = append(append(errs, ipErrs...), excludedErrs...)
	errs = append(errs, a.parseGateway(spec.Gateway, path.Child("gateway"))...)
	errs = append(errs, a.parseRoutes(spec.Routes, path.Child("routes"))...)
	return a, errs
}

// noHost are addresses of a subnet that no host can have: of IPv4 the first, the subnet itself, and the
// last, its broadcast address, unless the subnet has two addresses or one (RFC 3021); of IPv6 the
// first, which is that of all routers (RFC 4291, 2.6.1), unless it has two or one (RFC 6164).
func noHost(subnet netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	if subnet.Bits() < subnet.Addr().BitLen()-1 {
		all := netipx.RangeOfPrefix(subnet)
		b.Add(all.From())
		if subnet.Addr().Is4() {
			b.Add(all.To())
		}
	}
	return buildSet(&b)
}

// special are networks of which no pod can have an address.
var special = []struct {
	network netip.Prefix
	what    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "means this host and network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "is every host's own loopback"},
	{netip.MustParsePrefix("224.0.0.0/4"), "is for multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "is the limited broadcast"},
	{netip.MustParsePrefix("::/127"), "is every host's own loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "stands for IPv4 addresses"},
	{netip.MustParsePrefix("ff00::/8"), "is for multicast"},
}

// validatePlace refuses addresses that no host, and no router, can have.
func validatePlace(a IPPoolAddresses) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	for _, s := range special {
		if len(errs) == 0 && s.network.Overlaps(a.Subnet) {
			errs = append(errs, field.Invalid(path.Child("subnet"), a.Subnet.String(),
				fmt.Sprintf("%s %s: no pod can have an address of it; use the fabric's own network", s.network,
					s.what)))
		}
	}
	none := noHost(a.Subnet)
	if a.Gateway.Is4() && none.Contains(a.Gateway) {
		errs = append(errs, field.Invalid(path.Child("gateway"), a.Gateway.String(), a.noRouter()))
	}
	for i, route := range a.Routes {
		if route.Gw.Is4() && none.Contains(route.Gw) {
			at := path.Child("routes").Index(i).Child("gw")
			errs = append(errs, field.Invalid(at, route.Gw.String(), a.noRouter()))
		}
	}
	return errs
}

func (a *IPPoolAddresses) noRouter() string {
	all := netipx.RangeOfPrefix(a.Subnet)
	return fmt.Sprintf("is the first or last address of the subnet %s, which no router can have; use addresses "+
		"from %s to %s", a.Subnet, all.From().Next(), all.To().Prev())
}

func (a *IPPoolAddresses) checkVersion(version *int64, path *field.Path) field.ErrorList {
	if version == nil || *version == a.Version() {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *version,
		fmt.Sprintf("the subnet %s is IPv%d; write %d or leave the field out", a.Subnet, a.Version(), a.Version()))}
}

// parseInside reads ranges that must lie in the subnet.
func (a *IPPoolAddresses) parseInside(texts []string, path *field.Path) (*netipx.IPSet, field.ErrorList) {
	set, errs := parseRanges(texts, path)
	for i, text := range texts {
		if r, err := ParseRange(text); err == nil && !(a.Subnet.Contains(r.From()) && a.Subnet.Contains(r.To())) {
			errs = append(errs, field.Invalid(path.Index(i), text, a.outside()))
		}
	}
	return set, errs
}

func (a *IPPoolAddresses) outside() string {
	all := netipx.RangeOfPrefix(a.Subnet)
	return fmt.Sprintf("lies outside the subnet %s; use addresses from %s to %s", a.Subnet, all.From(), all.To())
}

func (a *IPPoolAddresses) parseGateway(text *string, path *field.Path) field.ErrorList {
	if text == nil {
		return nil
	}
	gateway, err := ParseAddress(*text)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(path, *text, err.Error())}
	case !a.Subnet.Contains(gateway):
		return field.ErrorList{field.Invalid(path, *text, a.outside())}
	}
	a.Gateway = gateway
	return nil
}

func (a *IPPoolAddresses) parseRoutes(routes []Route, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[netip.Prefix]bool{}
	for i, route := range routes {
		at := path.Index(i)
		dst, err := ParseCIDR(route.Dst)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(at.Child("dst"), route.Dst, err.Error()))
		case dst.Addr().Is4() != a.Subnet.Addr().Is4():
			errs = append(errs, field.Invalid(at.Child("dst"), route.Dst,
				fmt.Sprintf("is not of the family of the subnet %s", a.Subnet)))
		case dst.Bits() == 0:
			errs = append(errs, field.Invalid(at.Child("dst"), route.Dst,
				"is a default route; use spec.gateway for it"))
		case seen[dst]:
			errs = append(errs, field.Duplicate(at.Child("dst"), route.Dst))
		}
		seen[dst] = true
		gw, err := ParseAddress(route.Gw)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(at.Child("gw"), route.Gw, err.Error()))
		case !a.Subnet.Contains(gw):
			errs = append(errs, field.Invalid(at.Child("gw"), route.Gw, a.outside()))
		}
		a.Routes = append(a.Routes, IPPoolRoute{Dst: dst, Gw: gw})
	}
	return errs
}

// ValidateIPPool checks a new pool against the enabled families and all other pools.
func ValidateIPPool(p *SpiderIPPool, families Families, others []SpiderIPPool) field.ErrorList {
	var errs field.ErrorList
	if len(p.Name) > MaxPoolNameLength {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), p.Name,
			fmt.Sprintf(
				"has %d characters; use at most %d, because the names of leases hold the pool's name and an address",
				len(p.Name), MaxPoolNameLength)))
	}
	errs = append(errs, validateAffinities(&p.Spec, field.NewPath("spec"))...)
	a, parseErrs := ParseIPPoolSpec(&p.Spec)
	if len(parseErrs) > 0 {
		return append(errs, parseErrs...)
	}
	errs = append(errs, validateFamily(a, families)...)
	errs = append(errs, validatePlace(a)...)
	errs = append(errs, validateGatewayFree(a)...)
	return append(errs, validateOthers(p.Name, a, others)...)
}

// ValidateIPPoolUpdate checks a change. leases are those of this pool. An
// update that leaves the spec alone is always admitted, so that a pool that
// was stored before a rule existed can still be labelled and deleted.
func ValidateIPPoolUpdate(old, p *SpiderIPPool, families Families, others []SpiderIPPool,
	leases []SpiderIPLease) field.ErrorList {
	path := field.NewPath("spec")
	if equality.Semantic.DeepEqual(old.Spec, p.Spec) {
		return nil
	}
	if !p.DeletionTimestamp.IsZero() {
		return field.ErrorList{field.Forbidden(path,
			"the pool is being deleted and cannot be changed; wait until its addresses are given back, then create "+
				"it again")}
	}
	var errs field.ErrorList
	if old.Spec.Subnet != p.Spec.Subnet {
		errs = append(errs, field.Invalid(path.Child("subnet"), p.Spec.Subnet,
			fmt.Sprintf("cannot be changed from %s; create another pool", old.Spec.Subnet)))
	}
	if old.Spec.IPVersion != nil && (p.Spec.IPVersion == nil || *old.Spec.IPVersion != *p.Spec.IPVersion) {
		errs = append(errs, field.Invalid(path.Child("ipVersion"), p.Spec.IPVersion,
			fmt.Sprintf("cannot be changed from %d; create another pool", *old.Spec.IPVersion)))
	}
	if len(errs) > 0 {
		return errs
	}
	if errs = ValidateIPPool(p, families, others); len(errs) > 0 {
		return errs
	}
	return validateLeasesStay(old, p, leases)
}

func validateFamily(a IPPoolAddresses, families Families) field.ErrorList {
	if families.Enabled(a.Version()) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec", "ipVersion"),
		fmt.Sprintf("IPv%d is not enabled; set enableIPv%d: true in the product's configuration", a.Version(),
			a.Version()))}
}

// validateGatewayFree refuses a gateway that a pod could be given.
func validateGatewayFree(a IPPoolAddresses) field.ErrorList {
	if !a.Gateway.IsValid() || !a.IPs.Contains(a.Gateway) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "gateway"), a.Gateway.String(),
		fmt.Sprintf("is one of the addresses in spec.ips, so a pod could be given it; add %s to spec.excludeIPs",
			a.Gateway))}
}

// validateOthers refuses a subnet that another pool cuts into, and addresses that another pool has.
func validateOthers(name string, a IPPoolAddresses, others []SpiderIPPool) field.ErrorList {
	var errs field.ErrorList
	for i := range others {
		other := &others[i]
		b, bErrs := ParseIPPoolSpec(&other.Spec)
		if other.Name == name || len(bErrs) > 0 {
			continue
		}
		switch {
		case a.Subnet == b.Subnet && a.IPs.Overlaps(b.IPs):
			errs = append(errs, field.Forbidden(field.NewPath("spec", "ips"),
				fmt.Sprintf("%s belong to pool %s already; take them out of one of the two pools",
					sample(intersect(a.IPs, b.IPs)), other.Name)))
		case a.Subnet != b.Subnet && a.Subnet.Overlaps(b.Subnet):
			errs = append(errs, field.Invalid(field.NewPath("spec", "subnet"), a.Subnet.String(),
				fmt.Sprintf("overlaps the subnet %s of pool %s; use that very subnet or one apart from it", b.Subnet,
					other.Name)))
		}
	}
	return errs
}

// SharesWithOlder refuses a pool that has addresses of an older one, nil when it has none.
// Admission keeps them apart, but not pools that are created at the same moment or while nobody
// admits: the leases of two pools do not guard one address. a and b are the addresses of p and
// other.
func SharesWithOlder(p *SpiderIPPool, a IPPoolAddresses, other *SpiderIPPool, b IPPoolAddresses) *field.Error {
	if p.Name == other.Name || !olderPool(other, p) || !a.IPs.Overlaps(b.IPs) {
		return nil
	}
	return field.Forbidden(field.NewPath("spec", "ips"),
		fmt.Sprintf("%s belong to the older pool %s too; take them out of one of the two pools",
			sample(intersect(a.IPs, b.IPs)), other.Name))
}

func olderPool(a, b *SpiderIPPool) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.Name < b.Name
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

// validateLeasesStay refuses to take away addresses that pods use. A lease that
// lay outside the pool before the change does not stand in its way, nor does
// stock: its node gives it back when it sees the change.
func validateLeasesStay(old, p *SpiderIPPool, leases []SpiderIPLease) field.ErrorList {
	before, beforeErrs := ParseIPPoolSpec(&old.Spec)
	after, _ := ParseIPPoolSpec(&p.Spec) // validated above
	const most = 4
	var lost []string
	for i := range leases {
		if leases[i].Spec.Pod == nil {
			continue
		}
		ip, err := ParseAddress(leases[i].Spec.IP)
		if err != nil || after.IPs.Contains(ip) || len(beforeErrs) == 0 && !before.IPs.Contains(ip) {
			continue
		}
		lost = append(lost, fmt.Sprintf("%s (%s)", ip, leases[i].Holder()))
	}
	if len(lost) == 0 {
		return nil
	}
	text := strings.Join(lost[:min(len(lost), most)], ", ")
	if len(lost) > most {
		text += fmt.Sprintf(" and %d more", len(lost)-most)
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec", "ips"),
		fmt.Sprintf(
			"addresses in use cannot be taken out of the pool: %s; delete their pods first, or leave the addresses "+
				"in the pool and set spec.disable", text))}
}

func validateAffinities(spec *IPPoolSpec, path *field.Path) field.ErrorList {
	errs := validateSelector(spec.PodAffinity, path.Child("podAffinity"))
	errs = append(errs, validateSelector(spec.NamespaceAffinity, path.Child("namespaceAffinity"))...)
	errs = append(errs, validateSelector(spec.NodeAffinity, path.Child("nodeAffinity"))...)
	errs = append(errs, validateNames(spec.NamespaceName, path.Child("namespaceName"), false)...)
	errs = append(errs, validateNames(spec.NodeName, path.Child("nodeName"), false)...)
	return append(errs, validateNames(spec.MultusName, path.Child("multusName"), true)...)
}

func validateSelector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return field.ErrorList{field.Invalid(path, "{}",
			"is empty and would match everything; add matchLabels or matchExpressions, or leave the field out")}
	}
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
}

// validateNames checks names; qualified ones may be "namespace/name".
func validateNames(names []string, path *field.Path, qualified bool) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		namespace, rest, cut := strings.Cut(name, "/")
		bad := name == "" || strings.ContainsAny(name, " \t\n")
		if qualified {
			bad = bad || cut && (namespace == "" || rest == "" || strings.Contains(rest, "/"))
		} else {
			bad = bad || cut
		}
		switch {
		case bad && qualified:
			errs = append(errs, field.Invalid(path.Index(i), name, "want name or namespace/name"))
		case bad:
			errs = append(errs, field.Invalid(path.Index(i), name, "want one name without spaces and slashes"))
		}
	}
	return errs
}
