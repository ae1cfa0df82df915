// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Announce tells the neighbours of an address: an ARP announcement (RFC 5227
// section 3) or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6), once.
// The link must be up. Hardware addresses of 20 octets are those of RFC 4391.
func (h *Host) Announce(ns NS, index int, ip netip.Addr) error {
	l, answer, err := h.askLink(ns, index, "")
	switch {
	case err != nil:
	case ip.Is4():
		err = h.announceARP(l.Link, answer, ip)
	default:
		err = h.announceND(l.Link, ip)
	}
	if err != nil {
		return fmt.Errorf("announcing %s on link %d in %s: %w", ip, index, ns.where(), kernelError(err))
	}
	return nil
}

func (h *Host) announceARP(l Link, answer []byte, ip netip.Addr) error {
	broadcast, err := broadcastAddress(l, answer)
	if err != nil {
		return err
	}
	fd, err := h.socket(l.NS, unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	// The kernel waits for an RCU grace period when a packet socket is closed (packet_release),
	// which is tens of milliseconds on some machines. No pod need wait with it.
	defer func() { go unix.Close(fd) }()
	return sendLinkLayer(fd, l.Index, unix.ETH_P_ARP, broadcast, arpAnnouncement(l, ip))
}

// broadcastAddress is the link-layer address of all on a link, by the kernel's answer about it;
// that of an IPoIB link holds its P_Key.
func broadcastAddress(l Link, answer []byte) (net.HardwareAddr, error) {
	broadcast, err := linkAttribute(answer, unix.IFLA_BROADCAST)
	if err == nil && (len(broadcast) != len(l.HardwareAddr) || len(broadcast) == 0) {
		err = fmt.Errorf("link %s has no broadcast address: %w", l.Name, ErrUnsupported)
	}
	return broadcast, err
}

// socket opens a socket in a namespace, where it stays whatever thread uses it. The caller closes it.
func (h *Host) socket(ns NS, family, kind, protocol int) (fd int, err error) {
	err = h.in(ns, func() error {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	return fd, err
}

// again makes a system call until no signal interrupts it.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Hardware types of ARP (IANA) and operations.
const (
	arpEthernet    = 1
	arpIEEE802     = 6 // some equipment says so on Ethernet, and Linux takes it (arp_process)
	arpInfiniBand  = 32
	arpRequestCode = 1
	arpReplyCode   = 2
)

// Lengths of hardware addresses.
const (
	ethernetAddrLen = 6
	ipoibAddrLen    = 20
)

// arpAnnouncement is an ARP request whose sender and target protocol address are both ip.
func arpAnnouncement(l Link, ip netip.Addr) []byte { return arpRequest(l, ip, ip) }

// arpRequest is the link's question who has the address target (RFC 826, RFC 4391 section 9.1).
func arpRequest(l Link, sender, target netip.Addr) []byte {
	kind := uint16(arpEthernet)
	if l.LinkLayer == InfiniBand {
		kind = arpInfiniBand
	}
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, byte(len(l.HardwareAddr)), 4, 0, arpRequestCode) // lengths; operation
	b = append(b, l.HardwareAddr...)
	b = append(b, sender.AsSlice()...)
	b = append(b, make([]byte, len(l.HardwareAddr))...)
	return append(b, target.AsSlice()...)
}

// sendLinkLayer sends a packet to a link-layer address of any length. The
// kernel takes a sockaddr_ll longer than the structure (packet_snd); unix.Sendto does not.
func sendLinkLayer(fd, index int, protocol uint16, to net.HardwareAddr, packet []byte) error {
	addr := linkLayerAddress(index, protocol, to)
	err := again(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&packet[0])),
			uintptr(len(packet)), 0,
			uintptr(unsafe.Pointer(&addr[0])), uintptr(len(addr)))
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sendto: %w", err)
	}
	return nil
}

// linkLayerAddress is a sockaddr_ll (linux/if_packet.h): the protocol is in network order, all
// other numbers in the machine's. It has the same layout on every architecture, since none of its
// members is wider than four octets.
func linkLayerAddress(index int, protocol uint16, to net.HardwareAddr) []byte {
	const header = unix.SizeofSockaddrLinklayer - 8
	addr := make([]byte, header, header+len(to))
	binary.NativeEndian.PutUint16(addr[0:], unix.AF_PACKET)
	binary.BigEndian.PutUint16(addr[2:], protocol)
	binary.NativeEndian.PutUint32(addr[4:], uint32(index))
	addr[11] = byte(len(to)) // sll_halen
	addr = append(addr, to...)
	for len(addr) < unix.SizeofSockaddrLinklayer {
		addr = append(addr, 0)
	}
	return addr
}

func (h *Host) announceND(l Link, ip netip.Addr) error {
	fd, err := h.icmpv6Socket(l, ip, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return sendICMPv6(fd, l.Index, netip.IPv6LinkLocalAllNodes(), advertisement(l.HardwareAddr, ip))
}

// icmpv6Socket opens a raw socket that sends from an address of the link, with the hop limit that
// neighbours insist on (RFC 4861 section 7.1). flags are those of socket(2). The caller closes it.
func (h *Host) icmpv6Socket(l Link, from netip.Addr, flags int) (int, error) {
	fd, err := h.socket(l.NS, unix.AF_INET6, unix.SOCK_RAW|flags, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, fmt.Errorf("ICMPv6 socket: %w", err)
	}
	err = setIPv6Options(fd, map[int]int{unix.IPV6_MULTICAST_HOPS: ndHopLimit, unix.IPV6_MULTICAST_IF: l.Index})
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrInet6{Addr: from.As16(), ZoneId: uint32(l.Index)}); err != nil {
			err = fmt.Errorf("binding to the address %s: %w", from, err)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setIPv6Options(fd int, options map[int]int) error {
	for option, value := range options {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option, value); err != nil {
			return fmt.Errorf("option %d of the ICMPv6 socket: %w", option, err)
		}
	}
	return nil
}

// sendICMPv6 sends to a link-local or multicast address on the link.
func sendICMPv6(fd, index int, to netip.Addr, packet []byte) error {
	addr := &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(index)}
	if err := again(func() error { return unix.Sendto(fd, packet, 0, addr) }); err != nil {
		return fmt.Errorf("sendto: %w", err)
	}
	return nil
}

// Numbers of neighbour discovery (RFC 4861 sections 4.3, 4.4, 4.6.1 and 7.1).
const (
	ndSolicitation  = 135
	ndAdvertisement = 136
	ndSourceOption  = 1
	ndTargetOption  = 2
	ndOverride      = 0x20
	ndHopLimit      = 255 // a router would have taken one off: whoever sends it is on the link
)

// advertisement is an unsolicited neighbour advertisement with override flag and target link-layer
// address option.
func advertisement(hw net.HardwareAddr, ip netip.Addr) []byte {
	return neighbourMessage(ndAdvertisement, ndOverride, ip, ndTargetOption, hw)
}

// neighbourMessage is a message of neighbour discovery about an address, with one link-layer
// address option; on InfiniBand that option has two octets of padding first (RFC 4391 section 9.3).
// The kernel fills the checksum in.
func neighbourMessage(kind, flags byte, ip netip.Addr, optionKind byte, hw net.HardwareAddr) []byte {
	b := []byte{kind, 0, 0, 0, flags, 0, 0, 0}
	b = append(b, ip.AsSlice()...)
	option := []byte{optionKind, 0}
	if len(hw) == ipoibAddrLen {
		option = append(option, 0, 0)
	}
	option = append(option, hw...)
	for len(option)%8 != 0 {
		option = append(option, 0)
	}
	option[1] = byte(len(option) / 8)
	return append(b, option...)
}
