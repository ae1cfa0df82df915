// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Defaults of a SpiderCoordinator.
const (
	DefaultHostRuleTable = 500
	DefaultVethMTU       = 1500
	// DefaultHijackCIDR covers node-local services such as a DNS cache, which listen on link-local addresses.
	DefaultHijackCIDR = "169.254.0.0/16"
)

// Values of CoordinatorSpec.PodCIDRType.
const (
	PodCIDRAuto    = "auto"
	PodCIDRCluster = "cluster"
	PodCIDRCalico  = "calico"
	PodCIDRCilium  = "cilium"
	PodCIDRNone    = "none"
)

// coordinatorDisable is what the coordinator plugin of older releases called CoordinatorDisabled.
const coordinatorDisable = "disable"

// Tables of the kernel that hold the node's own routes (linux/rtnetlink.h: RT_TABLE_DEFAULT, MAIN, LOCAL).
const firstKernelTable, lastKernelTable = 253, 255

var (
	coordinatorModes = []string{CoordinatorAuto, CoordinatorUnderlay, CoordinatorOverlay, CoordinatorDisabled}
	podCIDRTypes     = []string{PodCIDRAuto, PodCIDRCluster, PodCIDRCalico, PodCIDRCilium, PodCIDRNone}
	linkLocalIPv4    = netip.MustParsePrefix("169.254.0.0/16")
)

// DefaultCoordinator fills what a SpiderCoordinator leaves open. It is idempotent.
func DefaultCoordinator(c *SpiderCoordinator) {
	s := &c.Spec
	setDefault(&s.Mode, CoordinatorAuto)
	setDefault(&s.PodCIDRType, PodCIDRAuto)
	setDefault(&s.PodMACPrefix, "")
	setDefault(&s.TunePodRoutes, true)
	setDefault(&s.PodDefaultRouteNIC, "")
	setDefault(&s.HostRuleTable, DefaultHostRuleTable)
	setDefault(&s.PodRPFilter, 0)
	setDefault(&s.TxQueueLen, 0)
	setDefault(&s.VethLinkAddress, "")
	setDefault(&s.VethMTU, DefaultVethMTU)
	if s.HijackCIDR == nil {
		s.HijackCIDR = []string{DefaultHijackCIDR}
	}
}

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

// ValidateCoordinator checks a SpiderCoordinator. A second one is allowed and has no effect, which
// the warning says.
func ValidateCoordinator(c *SpiderCoordinator) (errs field.ErrorList, warnings []string) {
	if c.Name != DefaultCoordinatorName {
		warnings = append(warnings, fmt.Sprintf("SpiderCoordinator %q has no effect: only the one named %q is read",
			c.Name, DefaultCoordinatorName))
	}
	return ValidateCoordinatorSpec(&c.Spec, specPath()), warnings
}

// ValidateCoordinatorSpec checks coordinator settings, of a SpiderCoordinator or of one network.
func ValidateCoordinatorSpec(s *CoordinatorSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Mode != nil && *s.Mode != coordinatorDisable && !slices.Contains(coordinatorModes, *s.Mode) {
		errs = append(errs, field.NotSupported(path.Child("mode"), *s.Mode, coordinatorModes))
	}
	if s.PodCIDRType != nil && !slices.Contains(podCIDRTypes, *s.PodCIDRType) {
		errs = append(errs, field.NotSupported(path.Child("podCIDRType"), *s.PodCIDRType, podCIDRTypes))
	}
	for i, cidr := range s.HijackCIDR {
		if p, err := netip.ParsePrefix(cidr); err != nil || p.Addr().Is4In6() {
			errs = append(errs, field.Invalid(path.Child("hijackCIDR").Index(i), cidr,
				"want a network such as 169.254.0.0/16"))
		}
	}
	for i, r := range s.PolicyRoutes {
		errs = append(errs, validatePolicyRoute(path.Child("policyRoutes").Index(i), r)...)
	}
	if s.PodMACPrefix != nil && *s.PodMACPrefix != "" {
		if err := checkMACPrefix(*s.PodMACPrefix); err != nil {
			errs = append(errs, field.Invalid(path.Child("podMACPrefix"), *s.PodMACPrefix, err.Error()))
		}
	}
	if s.VethLinkAddress != nil && *s.VethLinkAddress != "" {
		if a, err := netip.ParseAddr(*s.VethLinkAddress); err != nil || !linkLocalIPv4.Contains(a) {
			errs = append(errs, field.Invalid(path.Child("vethLinkAddress"), *s.VethLinkAddress,
				"want an IPv4 link-local address, in 169.254.0.0/16"))
		}
	}
	return append(errs, validateCoordinatorNumbers(s, path)...)
}

func validateCoordinatorNumbers(s *CoordinatorSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t := s.HostRuleTable; t != nil && (*t < 1 || *t > 1<<31-1 || *t >= firstKernelTable && *t <= lastKernelTable) {
		errs = append(errs, field.Invalid(path.Child("hostRuleTable"), *t,
			fmt.Sprintf("want a routing table of its own, from 1 on and not %d to %d, which the kernel uses",
				firstKernelTable, lastKernelTable)))
	}
	if f := s.PodRPFilter; f != nil && *f > 2 {
		errs = append(errs, field.Invalid(path.Child("podRPFilter"), *f,
			"want 0 (off), 1 (strict), 2 (loose), or a negative number to leave it as it is"))
	}
	if q := s.TxQueueLen; q != nil && *q < 0 {
		errs = append(errs, field.Invalid(path.Child("txQueueLen"), *q, "want 0, to leave it as it is, or more"))
	}
	if m := s.VethMTU; m != nil && (*m < 68 || *m > 65535) {
		errs = append(errs, field.Invalid(path.Child("vethMTU"), *m,
			"want 68, the least that IPv4 works with, to 65535"))
	}
	return errs
}

func validatePolicyRoute(path *field.Path, r Route) field.ErrorList {
	var errs field.ErrorList
	dst, dstErr := netip.ParsePrefix(r.Dst)
	if dstErr != nil || dst.Addr().Is4In6() {
		errs = append(errs, field.Invalid(path.Child("dst"), r.Dst, "want a network such as 10.0.0.0/8"))
	}
	gw, gwErr := ParseAddress(r.Gw)
	if gwErr != nil {
		errs = append(errs, field.Invalid(path.Child("gw"), r.Gw, "want the address of a gateway: it "+gwErr.Error()))
	}
	if dstErr == nil && gwErr == nil && dst.Addr().Is4() != gw.Is4() {
		errs = append(errs, field.Invalid(path.Child("gw"), r.Gw, "is not of the same family as dst, which is "+r.Dst))
	}
	return errs
}

// checkMACPrefix wants two octets, the first with its group bit (the lowest) clear, so that the
// address is unicast.
func checkMACPrefix(prefix string) error {
	octets, err := hex.DecodeString(strings.ReplaceAll(prefix, ":", ""))
	if err != nil || len(octets) != 2 || len(prefix) != 5 || prefix[2] != ':' {
		return fmt.Errorf("want two hexadecimal octets, such as 0a:1b")
	}
	if octets[0]&1 != 0 {
		return fmt.Errorf(
			"the lowest bit of the first octet is set, which makes a group address: want a unicast prefix such " +
				"as 0a:1b")
	}
	return nil
}
