// SPDX-License-Identifier: Apache-2.0

package cell

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// makeNetwork brings up the loopback interface, bridges, taps and routes, and forwarding between them.
func makeNetwork(spec Spec) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bringing up the cell's loopback interface: %w", err)
	}
	for _, b := range spec.Bridges {
		if err := makeBridge(b); err != nil {
			return fmt.Errorf("making bridge %s: %w", b.Name, err)
		}
	}
	for _, t := range spec.Taps {
		if err := makeTap(t); err != nil {
			return fmt.Errorf("making tap %s on bridge %s: %w", t.Name, t.Bridge, err)
		}
	}
	for _, r := range spec.Routes {
		if err := addRoute(r); err != nil {
			return fmt.Errorf("adding a route to %s by %s: %w", r.Network, r.Via, err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("switching on forwarding in the cell: %w", err)
	}
	return nil
}

func makeBridge(b Bridge) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.Name
	snooping := false // it would only delay the first multicast packets
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(br); err != nil {
		return err
	}
	if b.MTU != 0 {
		if err := netlink.LinkSetMTU(br, b.MTU); err != nil {
			return err
		}
	}
	if b.Address != "" {
		addr, err := netlink.ParseAddr(b.Address)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(br, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(br)
}

func makeTap(t Tap) error {
	bridge, err := netlink.LinkByName(t.Bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = t.Name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	if err := netlink.LinkAdd(tap); err != nil {
		return err
	}
	if t.MTU != 0 {
		if err := netlink.LinkSetMTU(tap, t.MTU); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetMaster(tap, bridge); err != nil {
		return err
	}
	return netlink.LinkSetUp(tap)
}

func addRoute(r Route) error {
	_, network, err := net.ParseCIDR(r.Network)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(r.Via)})
}
