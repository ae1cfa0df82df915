// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"spidernet.io/spiderpool/internal/host"
)

// Answer lets somebody outside of the node have an address: whoever asks for it through a link
// whose hardware address is as long gets hw for an answer. A nil hw takes it back.
func (f *Fake) Answer(ip netip.Addr, hw net.HardwareAddr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outside[ip] = slices.Clone(hw)
	if hw == nil {
		delete(f.outside, ip)
	}
}

// Solicit implements API. It changes nothing, but is an effectful call all the same: it can fail
// where it is made. Who answers is a link on the same network that has the address, or who Answer
// named.
func (f *Fake) Solicit(ctx context.Context, ns host.NS, index int, target, source netip.Addr) (hw net.HardwareAddr,
	err error) {
	err = f.effect(fmt.Sprintf("Solicit %s from %s on link %d in %s", target, source, index, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil {
			return err
		}
		l, err := n.byIndex(index)
		switch {
		case err != nil: // an error that is ErrNotFound would say that nobody has the address
			return fmt.Errorf("link %d: %w", index, syscall.ENODEV)
		case ctx.Err() != nil:
			return ctx.Err()
		case !l.Up:
			return fmt.Errorf("link %s is down: %w", l.Name, syscall.ENETDOWN)
		case !l.view().Carrier:
			return fmt.Errorf("link %s %w", l.Name, host.ErrNoCarrier)
		}
		if hw = f.whoHas(l, target.Unmap().WithZone("")); hw == nil {
			return fmt.Errorf("nobody answered: %w", host.ErrNotFound)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return hw, nil
}

// whoHas is the hardware address of somebody but the link itself, nil when nobody has the address.
func (f *Fake) whoHas(l *link, target netip.Addr) net.HardwareAddr {
	for _, ns := range slices.Sorted(maps.Keys(f.ns)) {
		for _, x := range f.ns[ns].links {
			if l.hears(x) && slices.ContainsFunc(x.addresses, func(p netip.Prefix) bool { return p.Addr() == target }) {
				return slices.Clone(x.HardwareAddr)
			}
		}
	}
	if hw := f.outside[target]; len(hw) == len(l.HardwareAddr) {
		return slices.Clone(hw)
	}
	return nil
}

// hears tells whether two links are on one network: the ends of a veth pair, or links of the node's
// InfiniBand ports, which are all on one fabric, with one P_Key.
func (l *link) hears(x *link) bool {
	switch {
	case x == l || !x.view().Carrier:
		return false
	case l.LinkLayer == host.InfiniBand:
		// the first bit is the kind of membership
		return x.LinkLayer == host.InfiniBand && x.PKey&0x7fff == l.PKey&0x7fff
	}
	return x.peer == l
}
