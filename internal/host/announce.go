package host

import (
	"encoding/binary"
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
	l, err := h.LinkByIndex(ns, index)
	if err == nil {
		if ip.Is4() {
			err = h.announceARP(l, ip)
		} else {
			err = h.announceND(l, ip)
		}
	}
	if err != nil {
		return fmt.Errorf("announcing %s on link %d in %s: %w", ip, index, ns.where(), kernelError(err))
	}
	return nil
}

func (h *Host) announceARP(l Link, ip netip.Addr) error {
	attrs, err := h.linkAttributes(l.NS, l.Index)
	if err != nil {
		return err
	}
	broadcast := attrs[unix.IFLA_BROADCAST]
	if len(broadcast) != len(l.HardwareAddr) || len(broadcast) == 0 {
		return fmt.Errorf("link %s has no broadcast address: %w", l.Name, ErrUnsupported)
	}
	return h.in(l.NS, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		defer unix.Close(fd)
		return sendLinkLayer(fd, l.Index, unix.ETH_P_ARP, broadcast, arpAnnouncement(l, ip))
	})
}

// Hardware types of ARP (IANA).
const (
	arpEthernet   = 1
	arpInfiniBand = 32
)

// arpAnnouncement is an ARP request whose sender and target protocol address are both ip (RFC 826, RFC 4391 section 9.1).
func arpAnnouncement(l Link, ip netip.Addr) []byte {
	kind := uint16(arpEthernet)
	if l.LinkLayer == InfiniBand {
		kind = arpInfiniBand
	}
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, byte(len(l.HardwareAddr)), 4, 0, 1) // lengths; operation: request
	b = append(b, l.HardwareAddr...)
	b = append(b, ip.AsSlice()...)
	b = append(b, make([]byte, len(l.HardwareAddr))...)
	return append(b, ip.AsSlice()...)
}

// sendLinkLayer sends a packet to a link-layer address of any length. The
// kernel takes a sockaddr_ll longer than the structure (packet_snd); unix.Sendto does not.
func sendLinkLayer(fd, index int, protocol uint16, to net.HardwareAddr, packet []byte) error {
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
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&packet[0])), uintptr(len(packet)), 0,
		uintptr(unsafe.Pointer(&addr[0])), uintptr(len(addr)))
	if errno != 0 {
		return fmt.Errorf("sendto: %w", errno)
	}
	return nil
}

func (h *Host) announceND(l Link, ip netip.Addr) error {
	return h.in(l.NS, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return fmt.Errorf("ICMPv6 socket: %w", err)
		}
		defer unix.Close(fd)
		for option, value := range map[int]int{unix.IPV6_MULTICAST_HOPS: 255, unix.IPV6_MULTICAST_IF: l.Index} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option, value); err != nil {
				return fmt.Errorf("option %d of the ICMPv6 socket: %w", option, err)
			}
		}
		from := &unix.SockaddrInet6{Addr: ip.As16(), ZoneId: uint32(l.Index)}
		if err := unix.Bind(fd, from); err != nil {
			return fmt.Errorf("binding to the address: %w", err)
		}
		all := &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16(), ZoneId: uint32(l.Index)}
		if err := unix.Sendto(fd, advertisement(l.HardwareAddr, ip), 0, all); err != nil {
			return fmt.Errorf("sendto: %w", err)
		}
		return nil
	})
}

// advertisement is an unsolicited neighbour advertisement with override flag and target link-layer address option (RFC
// 4861 section 4.4); on InfiniBand that option has two octets of padding first (RFC 4391 section 9.3). The
// kernel fills the checksum in.
func advertisement(hw net.HardwareAddr, ip netip.Addr) []byte {
	b := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	b = append(b, ip.AsSlice()...)
	option := []byte{2, 0}
	if len(hw) == 20 {
		option = append(option, 0, 0)
	}
	option = append(option, hw...)
	for len(option)%8 != 0 {
		option = append(option, 0)
	}
	option[1] = byte(len(option) / 8)
	return append(b, option...)
}
