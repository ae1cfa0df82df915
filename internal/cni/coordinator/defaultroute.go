// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// SetDefaultRoutes implements cni.DefaultRouter, for a pod whose networks are all attached.
// Interfaces that had a default route keep it in a table of their own for what is sent from their
// addresses, as with default-route-nic.
func (p *Plugin) SetDefaultRoutes(ctx context.Context, pod host.NS, ifname string, gateways []netip.Addr) error {
	f := facts{set: settings{tunePodRoutes: true}, pod: pod, ifname: ifname}
	var err error
	if f.nics, f.podEnd, err = p.inPod(pod); err != nil {
		return err
	}
	if f.podRoutes, err = p.Kernel.Routes(pod, 0); err != nil {
		return fmt.Errorf("list the pod's routes: %w", err)
	}
	this, ok := named(f.nics, ifname)
	if !ok {
		return fmt.Errorf("interface %s in the pod: %w", ifname, host.ErrNotFound)
	}
	own, err := p.Kernel.Routes(pod, tableOf(this))
	if err != nil {
		return fmt.Errorf("list the pod's routes of table %d: %w", tableOf(this), err)
	}
	var all plan
	for _, gateway := range gateways {
		all.carryDefault(f, this, gateway)
		all.replaceOwnDefault(own, gateway)
	}
	if err := p.applyPod(ctx, f, all); err != nil {
		return p.explain(err, this, gateways)
	}
	return nil
}

// carryDefault moves the default route of a family to an interface, from whichever have it.
func (p *plan) carryDefault(f facts, this nic, gateway netip.Addr) {
	v6 := gateway.Is6()
	if old, ok := f.defaultOn(this.Index, v6); ok {
		p.podDrop = append(p.podDrop, old)
	}
	for _, n := range f.nics {
		if _, ok := f.defaultOn(n.Index, v6); ok && n.Index != this.Index {
			p.giveWay(f, n, v6)
		}
	}
	p.podReplace = append(p.podReplace, host.Route{Dst: everything(v6), Gateway: gateway, Index: this.Index})
}

// replaceOwnDefault is for a later interface's own table, given as its routes: its default route
// goes by the pool's gateway.
func (p *plan) replaceOwnDefault(own []host.Route, gateway netip.Addr) {
	for _, r := range own {
		if r.Dst == everything(gateway.Is6()) && r.Gateway != gateway {
			p.podDrop = append(p.podDrop, r)
			r.Gateway = gateway
			p.podReplace = append(p.podReplace, r)
		}
	}
}

// explain adds what people get wrong most to the kernel's "network is unreachable".
func (p *Plugin) explain(err error, this nic, gateways []netip.Addr) error {
	if errors.Is(err, host.ErrExists) {
		return err
	}
	return cni.Errorf(cni.CodeInvalidConfig,
		fmt.Sprintf("a gateway has to be in a network of %s, whose addresses are %v", this.Name, this.addrs),
		"default-route %v on %s: %w", gateways, this.Name, err)
}
