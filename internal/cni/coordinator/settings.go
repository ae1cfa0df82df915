// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// AnnotationDefaultRouteNIC on a pod names the interface that keeps the pod's default route.
const AnnotationDefaultRouteNIC = "ipam.spidernet.io/default-route-nic"

// Cluster is the cluster's SpiderCoordinator.
type Cluster interface {
	// Coordinator returns its settings and what was learnt of the cluster; both empty when there is none.
	// An error means that it is not known yet, and fails the attachment so that the runtime tries again.
	Coordinator(ctx context.Context) (v2beta1.CoordinatorSpec, v2beta1.CoordinatorStatus, error)
}

// settings are read once into trusted values.
type settings struct {
	mode          string
	tunePodRoutes bool
	defaultNIC    string // "" leaves the default route where it is
	nicOfPod      bool   // the pod itself names defaultNIC
	hostTable     int
	ownTable      bool // hostTable is the network's own and not the cluster's
	rpFilter      int  // negative leaves it
	vethMTU       int
	vethAddress   netip.Addr // invalid: none
	macPrefix     []byte     // nil: none
	txQueueLen    int        // packets; 0 leaves it
	// viaNode are the networks that the pod reaches through its node.
	viaNode      []netip.Prefix
	policyRoutes []host.Route // Dst and Gateway
}

// readSettings lays the network's own settings over the cluster's.
func (p *Plugin) readSettings(ctx context.Context, r *cni.Request) (settings, error) {
	var own v2beta1.CoordinatorSpec
	// The keys of the plugin and of the object are the same but for the case of podDefaultRouteNic,
	// which decoding overlooks.
	if err := r.ParseConf(&own); err != nil {
		return settings{}, err
	}
	if errs := v2beta1.ValidateCoordinatorSpec(&own, field.NewPath("coordinator")); len(errs) > 0 {
		return settings{}, cni.Errorf(cni.CodeInvalidConfig,
			"mend spec.coordinator of the network's SpiderMultusConfig", "%w", errs.ToAggregate())
	}
	spec, status, err := p.Cluster.Coordinator(ctx)
	if err != nil {
		return settings{}, cni.Errorf(cni.CodeTryAgainLater, "", "read the SpiderCoordinator: %w", err)
	}
	table := clusterTable(spec)
	overlay(&spec, &own)
	nic := r.Pod.Annotations[AnnotationDefaultRouteNIC]
	if nic != "" {
		spec.PodDefaultRouteNIC = &nic
	}
	set, err := parse(spec, status)
	set.nicOfPod, set.ownTable = nic != "", set.hostTable != table
	return set, err
}

// clusterTable is the node's table for pods' addresses where a network does not name its own.
func clusterTable(spec v2beta1.CoordinatorSpec) int {
	if spec.HostRuleTable == nil {
		return v2beta1.DefaultHostRuleTable
	}
	return *spec.HostRuleTable
}

func overlay(spec, own *v2beta1.CoordinatorSpec) {
	set(&spec.Mode, own.Mode)
	set(&spec.PodMACPrefix, own.PodMACPrefix)
	set(&spec.TunePodRoutes, own.TunePodRoutes)
	set(&spec.PodDefaultRouteNIC, own.PodDefaultRouteNIC)
	set(&spec.HostRuleTable, own.HostRuleTable)
	set(&spec.PodRPFilter, own.PodRPFilter)
	set(&spec.TxQueueLen, own.TxQueueLen)
	set(&spec.VethLinkAddress, own.VethLinkAddress)
	set(&spec.VethMTU, own.VethMTU)
	if own.HijackCIDR != nil {
		spec.HijackCIDR = own.HijackCIDR
	}
	if own.PolicyRoutes != nil {
		spec.PolicyRoutes = own.PolicyRoutes
	}
}

func set[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

func parse(spec v2beta1.CoordinatorSpec, status v2beta1.CoordinatorStatus) (settings, error) {
	c := v2beta1.SpiderCoordinator{Spec: *spec.DeepCopy()}
	v2beta1.DefaultCoordinator(&c)
	s := settings{
		mode: *c.Spec.Mode, tunePodRoutes: *c.Spec.TunePodRoutes, defaultNIC: *c.Spec.PodDefaultRouteNIC,
		hostTable: *c.Spec.HostRuleTable,
		rpFilter:  *c.Spec.PodRPFilter, vethMTU: *c.Spec.VethMTU, txQueueLen: *c.Spec.TxQueueLen,
	}
	var err error
	if s.macPrefix, err = parseMACPrefix(*c.Spec.PodMACPrefix); err != nil {
		return settings{}, fmt.Errorf("podMACPrefix of the SpiderCoordinator: %w", err)
	}
	if text := *c.Spec.VethLinkAddress; text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return settings{}, fmt.Errorf("vethLinkAddress of the SpiderCoordinator: %w", err)
		}
		s.vethAddress = a
	}
	for _, cidr := range slices.Concat(status.ServiceCIDR, status.OverlayPodCIDR, c.Spec.HijackCIDR) {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return settings{}, fmt.Errorf("networks of the SpiderCoordinator: %w", err)
		}
		if p = p.Masked(); !slices.Contains(s.viaNode, p) {
			s.viaNode = append(s.viaNode, p)
		}
	}
	for _, r := range c.Spec.PolicyRoutes {
		dst, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			return settings{}, fmt.Errorf("policyRoutes of the SpiderCoordinator: %w", err)
		}
		gw, err := netip.ParseAddr(r.Gw)
		if err != nil {
			return settings{}, fmt.Errorf("policyRoutes of the SpiderCoordinator: %w", err)
		}
		s.policyRoutes = append(s.policyRoutes, host.Route{Dst: dst.Masked(), Gateway: gw})
	}
	return s, nil
}

// The modes that a call can end in.
const (
	modeDisabled = "disabled"
	modeFirst    = "underlay, first interface"
	modeUnderlay = "underlay"
	modeOverlay  = "overlay"
)

// firstNIC is the name that container runtimes give to a pod's first interface.
const firstNIC = "eth0"

// resolveMode says what to do for an interface. hasVeth tells whether the pod already has veth0,
// which means that its first interface is an underlay's.
func resolveMode(mode, ifname string, hasVeth bool) (string, error) {
	first := ifname == firstNIC
	switch mode {
	case v2beta1.CoordinatorDisabled, "disable": // the second is what older configurations say
		return modeDisabled, nil
	case v2beta1.CoordinatorAuto:
		switch {
		case first:
			return modeFirst, nil
		case hasVeth:
			return modeUnderlay, nil
		}
		return modeOverlay, nil
	case v2beta1.CoordinatorUnderlay:
		switch {
		case first:
			return modeFirst, nil
		case hasVeth:
			return modeUnderlay, nil
		}
		return "", cni.Errorf(cni.CodeInvalidConfig, "set the coordinator's mode to auto or overlay",
			"coordinator mode is underlay, but the pod's first interface is another plugin's: %s is not there "+
				"beside %s", podVeth, ifname)
	case v2beta1.CoordinatorOverlay:
		if first || hasVeth {
			return "", cni.Errorf(cni.CodeInvalidConfig, "set the coordinator's mode to auto or underlay",
				"coordinator mode is overlay, but %s belongs to an underlay pod: want a first interface of "+
					"another plugin", ifname)
		}
		return modeOverlay, nil
	}
	return "", cni.Errorf(cni.CodeInvalidConfig, "", "coordinator mode %q: want auto, underlay, overlay or disabled",
		mode)
}
