// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/host"
)

// AddressKernel is what Configure needs of the kernel.
type AddressKernel interface {
	AddAddress(ns host.NS, index int, p netip.Prefix) error
	AddRoute(ns host.NS, r host.Route) error
	SetLinkUp(ns host.NS, index int) error
	Announce(ns host.NS, index int, ip netip.Addr) error
}

// Configure puts the addresses of an IPAM result on a link, sets it up and adds the routes. A route
// without a gateway takes the one of the first address of its family, as the specification has it.
func Configure(ctx context.Context, k AddressKernel, ns host.NS, index int, res *types100.Result) error {
	for _, ip := range res.IPs {
		p, err := prefix(ip.Address)
		if err != nil {
			return err
		}
		if err := k.AddAddress(ns, index, p); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	if err := k.SetLinkUp(ns, index); err != nil {
		return fmt.Errorf("set the link up: %w", err)
	}
	for _, r := range res.Routes {
		route, err := hostRoute(r, index, res.IPs)
		if err != nil {
			return err
		}
		// A route that is there already is an earlier interface's, such as the default route: the
		// first keeps it.
		if err := k.AddRoute(ns, route); err != nil && !errors.Is(err, host.ErrExists) {
			return fmt.Errorf("add route to %s via %s: %w", route.Dst, route.Gateway, err)
		}
	}
	for _, ip := range res.IPs {
		p, _ := prefix(ip.Address) // parsed above
		if err := k.Announce(ns, index, p.Addr()); err != nil {
			slog.DebugContext(ctx, "could not announce an address", "ip", p.Addr(), "error", err)
		}
	}
	return nil
}

func hostRoute(r *types.Route, index int, ips []*types100.IPConfig) (host.Route, error) {
	dst, err := prefix(r.Dst)
	if err != nil {
		return host.Route{}, err
	}
	out := host.Route{Dst: dst.Masked(), Index: index}
	if r.Table != nil {
		out.Table = *r.Table
	}
	if r.GW != nil {
		gw, ok := netip.AddrFromSlice(r.GW)
		if !ok {
			return host.Route{}, fmt.Errorf("route to %s: gateway %q is not an address", dst, r.GW)
		}
		out.Gateway = gw.Unmap()
		return out, nil
	}
	for _, ip := range ips {
		gw, ok := netip.AddrFromSlice(ip.Gateway)
		if ok && gw.Unmap().Is4() == dst.Addr().Is4() {
			out.Gateway = gw.Unmap()
			break
		}
	}
	return out, nil
}

func prefix(n net.IPNet) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, fmt.Errorf("address %s/%s is not valid", n.IP, n.Mask)
	}
	addr = addr.Unmap()
	if addr.Is4() && bits == 128 {
		ones -= 96
	}
	return netip.PrefixFrom(addr, ones), nil
}

// Addresses runs a call's address management: the result must hold an address. The addresses in it
// are tied to the interface with that index in the plugin's result.
func Addresses(ctx context.Context, r *Request, iface int) (*types100.Result, error) {
	if r.IPAM == nil {
		return &types100.Result{}, nil
	}
	defer r.Phases.Start(PhaseAddress)()
	res, err := r.IPAM.Add(ctx)
	if err != nil {
		return nil, err
	}
	if len(res.IPs) == 0 {
		return nil, Errorf(CodeInvalidConfig,
			"give the ipam section a pool, or remove the section for an interface without address",
			"the address management returned no address")
	}
	for _, ip := range res.IPs {
		ip.Interface = types100.Int(iface)
	}
	return res, nil
}
