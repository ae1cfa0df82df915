// SPDX-License-Identifier: Apache-2.0

package spiderpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ipam"
)

// Solicitor asks an interface's network who has an address.
type Solicitor interface {
	LinkByName(ns host.NS, name string) (host.Link, error)
	SetLinkUp(ns host.NS, index int) error
	Solicit(ctx context.Context, ns host.NS, index int, target, source netip.Addr) (net.HardwareAddr, error)
}

// Detection says what the network is asked before an address is used. The zero value asks nothing.
type Detection struct {
	// Conflict: whether somebody has the address. Gateway: whether its gateway is there.
	Conflict, Gateway bool
	Kernel            Solicitor
	// Tell, when it is not nil, says at the pod that an address was left alone.
	Tell func(pod cni.Pod, message string)
}

// mostConflicts is how many addresses in use are passed over for one interface.
const mostConflicts = 3

// allocate asks for addresses until it has some that nobody else uses.
func (p *Plugin) allocate(ctx context.Context, r *cni.Request, request ipam.Request) (ipam.Allocation, error) {
	var conflict error
	tried := map[netip.Addr]bool{}
	for range mostConflicts {
		got, err := p.Addresses.Allocate(ctx, request)
		if err != nil || !p.Detect.Conflict && !p.Detect.Gateway {
			return got, errors.Join(err, conflict)
		}
		used, err := p.detect(ctx, r, got)
		if err != nil || !used.IsValid() {
			return got, err
		}
		conflict = used.conflict()
		if tried[used.ip] {
			break // it is the pod's own for good, such as a StatefulSet's
		}
		tried[used.ip] = true
		if err := p.passOver(ctx, r, used); err != nil {
			return got, errors.Join(conflict, err)
		}
	}
	return ipam.Allocation{}, conflict
}

// use is an address that somebody has.
type use struct {
	ip   netip.Addr
	by   string
	pool string
}

func (u use) IsValid() bool { return u.ip.IsValid() }

func (u use) conflict() error {
	return cni.Errorf(cni.CodeFailed,
		"free it there, or take it out of the pool (spec.excludeIPs, or a SpiderReservedIP)",
		"address %s of pool %s is in use in its network, by %s", u.ip, u.pool, u.by)
}

// passOver gives an address back that somebody uses, and has it left alone.
func (p *Plugin) passOver(ctx context.Context, r *cni.Request, u use) error {
	message := u.conflict().Error()
	slog.WarnContext(ctx, "passing over an address", "namespace", r.Pod.Namespace, "pod", r.Pod.Name, "ifname",
		r.IfName, "ip", u.ip, "pool", u.pool, "used_by", u.by)
	if p.Detect.Tell != nil {
		p.Detect.Tell(r.Pod, message)
	}
	p.Addresses.Avoid(u.ip)
	if err := p.Addresses.Release(ctx, r.Pod.UID, r.ContainerID, r.IfName); err != nil {
		return fmt.Errorf("give back address %s, which is in use: %w", u.ip, err)
	}
	return nil
}

// detect asks the network about an allocation: which address somebody has, and an error when a
// gateway is missing.
func (p *Plugin) detect(ctx context.Context, r *cni.Request, got ipam.Allocation) (use, error) {
	if len(got.Addresses) == 0 {
		return use{}, nil
	}
	link, err := p.Detect.Kernel.LinkByName(r.NetNS, r.IfName)
	if errors.Is(err, host.ErrNotFound) {
		slog.InfoContext(ctx, "no detection: the plugin asks for addresses before it makes the interface", "ifname",
			r.IfName, "network", r.Network)
		return use{}, nil
	}
	if err == nil {
		err = p.Detect.Kernel.SetLinkUp(r.NetNS, link.Index)
	}
	if err != nil {
		return use{}, fmt.Errorf("set %s up to ask about its addresses: %w", r.IfName, err)
	}
	for _, a := range got.Addresses {
		if p.Detect.Conflict {
			by, err := p.ask(ctx, r, link, a.IP.Addr(), netip.Addr{})
			if err != nil {
				return use{}, err
			}
			if by != "" {
				return use{a.IP.Addr(), by, a.Pool}, nil
			}
		}
		if p.Detect.Gateway && a.Gateway.IsValid() {
			by, err := p.ask(ctx, r, link, a.Gateway, a.IP.Addr())
			if err == nil && by == "" {
				err = cni.Errorf(cni.CodeFailed, "correct spec.gateway of the pool, or see why it is silent",
					"gateway %s of pool %s does not answer on %s", a.Gateway, a.Pool, r.IfName)
			}
			if err != nil {
				return use{}, err
			}
		}
	}
	return use{}, nil
}

// ask is who has an address, "" when nobody answers.
func (p *Plugin) ask(ctx context.Context, r *cni.Request, link host.Link, target, source netip.Addr) (string, error) {
	by, err := p.Detect.Kernel.Solicit(ctx, r.NetNS, link.Index, target, source)
	switch {
	case errors.Is(err, host.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("ask who has %s on %s: %w", target, r.IfName, err)
	case by == nil:
		return "somebody who does not say who", nil
	}
	return by.String(), nil
}
