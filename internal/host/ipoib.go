// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"spidernet.io/spiderpool/internal/ib"
)

// AddIPoIBChild makes a child of an IPoIB link in the node's namespace with the parent's mode and
// the P_Key (0: the parent's). It is made on the node and moved by the caller: not every kernel
// makes one well straight in another namespace, though 6.1 does. ErrExists when the name is taken.
func (h *Host) AddIPoIBChild(parent int, name string, pkey uint16) (Link, error) {
	p, err := h.LinkByIndex(NodeNS, parent)
	if err != nil {
		return Link{}, fmt.Errorf("the parent of IPoIB child %s: %w", name, err)
	}
	if p.Kind != "ipoib" || p.Parent != 0 {
		return Link{},
			fmt.Errorf("%s is of kind %s and cannot have IPoIB children: want the IPoIB link of an InfiniBand port: %w",
				p.Name, p.Kind, ErrUnsupported)
	}
	if pkey == 0 {
		pkey = p.PKey
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, parent
	// Umcast stays 0. With it a child ignores every multicast group that anything else on its port
	// has joined (ipoib_mcast_restart_task takes it for user space's), such as the group of all
	// IPv6 nodes, in which its parent is.
	child := &netlink.IPoIB{LinkAttrs: attrs, Pkey: pkey, Mode: netlink.StringToIPoIBMode[p.Mode]}
	if err := h.in(NodeNS, func() error { return netlink.LinkAdd(child) }); err != nil {
		return Link{}, fmt.Errorf("making IPoIB child %s of %s with P_Key 0x%04x in %s mode: %w", name, p.Name, pkey,
			p.Mode, kernelError(err))
	}
	return h.LinkByName(NodeNS, name)
}

// Values of addr_gen_mode (linux/if_link.h, IN6_ADDR_GEN_MODE_NONE).
const addrGenNone = "1"

// SetIPv6LinkLocalGUID gives an IPoIB link a link-local address of its own in place of the one that
// the kernel would derive from the port's GUID, which all children of a port share. Call it after a
// move and before the link goes up. Without IPv6 there is nothing to do.
//
// The hardware address stays as it is: its GUID is what the subnet manager resolves paths by.
func (h *Host) SetIPv6LinkLocalGUID(ns NS, index int, guid ib.GUID) error {
	l, err := h.LinkByIndex(ns, index)
	if err != nil {
		return err
	}
	if l.LinkLayer != InfiniBand {
		return fmt.Errorf("link %s is not IPoIB: %w", l.Name, ErrUnsupported)
	}
	off, err := h.Sysctl(ns, "net/ipv6/conf/"+l.Name+"/disable_ipv6")
	if errors.Is(err, ErrNotFound) || err == nil && off == "1" {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.SetSysctl(ns, "net/ipv6/conf/"+l.Name+"/addr_gen_mode", addrGenNone); err != nil {
		return err
	}
	return h.AddAddress(ns, index, netip.PrefixFrom(guid.LinkLocal(), 64))
}
