// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// solicitTries is how often Solicit asks: on a busy network one packet may get lost, three hardly do.
	solicitTries = 3
	// ethernetPause and ipoibPause are how long it listens after each. On InfiniBand the one who
	// answers has to resolve the path to us first, and a port's multicast join with the subnet
	// manager takes its time.
	ethernetPause = 100 * time.Millisecond
	ipoibPause    = 400 * time.Millisecond

	// carrierWait bounds the wait for the carrier of a link that has just come up.
	carrierWait = 2 * time.Second
	// linkLocalWait bounds the wait for a link-local address: duplicate address detection takes a
	// second, after a random delay of up to one (RFC 4862 section 5.4).
	linkLocalWait = 4 * time.Second
	solicitPoll   = 50 * time.Millisecond
)

// Solicit asks who has an address on a link: an ARP request (RFC 826; with an invalid source it is
// a probe, RFC 5227 section 1.1), or a neighbour solicitation (RFC 4861 section 4.3) for IPv6. It
// returns the hardware address of the first that answers and is not the link itself; ErrNotFound
// when nobody did in time. Nothing else is ErrNotFound, so that no failure looks like a free
// address: a link that is not there, which elsewhere is, gives ENODEV, one that is down ENETDOWN,
// and one that is without carrier for two seconds, or after the last question, ErrNoCarrier.
//
// An ARP packet of any kind that has target as its sender's address is an answer, and so is any
// neighbour advertisement of it. One that does not say its sender's hardware address, which RFC
// 4861 section 7.2.4 forbids here, still shows that somebody has the address: the result is nil
// then, without an error.
//
// source need not be an address of the link. Neighbours may remember it as one, and Linux answers
// only when its rp_filter lets source pass; a probe leaves no trace. For IPv6 source does not
// count: the question comes from the link's link-local address, for which Solicit waits, bounded.
// Another link of the same namespace on the same network is somebody else, and Linux answers
// through any link for all addresses of a namespace: ask before the address is added.
func (h *Host) Solicit(ctx context.Context, ns NS, index int, target, source netip.Addr) (net.HardwareAddr, error) {
	hw, answered, err := h.solicit(ctx, ns, index, target.Unmap().WithZone(""), source.Unmap())
	switch {
	case errors.Is(err, ErrNotFound): // the link
		err = fmt.Errorf("%w: %s", unix.ENODEV, err.Error())
	case err == nil && !answered:
		err = fmt.Errorf("nobody answered: %w", ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("asking who has %s on link %d in %s: %w", target, index, ns.where(), err)
	}
	return hw, nil
}

func (h *Host) solicit(ctx context.Context, ns NS, index int, target, source netip.Addr) (hw net.HardwareAddr,
	answered bool, err error) {
	if err := checkQuestion(target, source); err != nil {
		return nil, false, err
	}
	l, err := h.awaitCarrier(ctx, ns, index)
	if err != nil {
		return nil, false, err
	}
	var q *question
	if target.Is4() {
		q, err = h.questionARP(l, target, source)
	} else {
		q, err = h.questionND(ctx, l, target)
	}
	if err != nil {
		return nil, false, err
	}
	defer q.socket.Close()
	hw, answered, err = q.ask(ctx)
	if err == nil && !answered {
		_, err = h.awaitCarrier(ctx, ns, index) // silence means something only if we could have heard
	}
	return hw, answered, err
}

func checkQuestion(target, source netip.Addr) error {
	if !target.IsValid() || target.IsUnspecified() || target.IsMulticast() {
		return fmt.Errorf("%s is not an address that one link can have: %w", target, unix.EINVAL)
	}
	if target.Is4() && source.IsValid() && !source.Is4() {
		return fmt.Errorf("%s cannot be asked for from %s: %w", target, source, unix.EINVAL)
	}
	return nil
}

// awaitCarrier waits, bounded, until a link that is up has carrier.
func (h *Host) awaitCarrier(ctx context.Context, ns NS, index int) (l Link, err error) {
	found, err := within(ctx, carrierWait, func() (bool, error) {
		if l, err = h.LinkByIndex(ns, index); err == nil && !l.Up {
			err = fmt.Errorf("link %s is down: %w", l.Name, unix.ENETDOWN)
		}
		return l.Carrier, err
	})
	if err == nil && !found {
		err = fmt.Errorf("link %s %w", l.Name, ErrNoCarrier)
	}
	return l, err
}

// within calls done until it says so or fails, or the time is over.
func within(ctx context.Context, bound time.Duration, done func() (bool, error)) (bool, error) {
	for deadline := time.Now().Add(bound); ; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if ok, err := done(); ok || err != nil || time.Now().After(deadline) {
			return ok, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(solicitPoll):
		}
	}
}

// question is a socket on a link with what to send and how to know an answer.
type question struct {
	// socket is not blocking, so that Go's poller waits for it: no thread is held, and a deadline
	// ends the wait.
	socket *os.File
	pause  time.Duration
	send   func() error
	// answer tells whether a packet is one, and whose.
	answer func(packet) (net.HardwareAddr, bool)
}

// packet is what came in.
type packet struct {
	data, control []byte
	from          unix.Sockaddr
}

func newQuestion(l Link, fd int) *question {
	q := &question{socket: os.NewFile(uintptr(fd), "question"), pause: ethernetPause}
	if l.LinkLayer == InfiniBand {
		q.pause = ipoibPause
	}
	return q
}

// ask asks until somebody answers, and not too often.
func (q *question) ask(ctx context.Context) (net.HardwareAddr, bool, error) {
	stop := context.AfterFunc(ctx, func() { _ = q.socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for range solicitTries {
		if err := q.socket.SetReadDeadline(time.Now().Add(q.pause)); err != nil {
			return nil, false, fmt.Errorf("deadline of the socket: %w", err)
		}
		if err := ctx.Err(); err != nil { // looked at when the deadline is set: from here on its end moves the deadline
			return nil, false, err
		}
		if err := q.send(); err != nil {
			return nil, false, err
		}
		hw, answered, err := q.listen()
		if answered || !errors.Is(err, os.ErrDeadlineExceeded) {
			return hw, answered, err
		}
	}
	return nil, false, ctx.Err()
}

// listen reads until an answer comes or the socket's deadline.
func (q *question) listen() (net.HardwareAddr, bool, error) {
	for {
		p, err := receive(q.socket)
		if err != nil {
			return nil, false, fmt.Errorf("listening: %w", err)
		}
		if hw, ok := q.answer(p); ok {
			return hw, true, nil
		}
	}
}

// receive waits for one packet.
func receive(socket *os.File) (p packet, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return p, err
	}
	data, control := make([]byte, 2048), make([]byte, 256)
	waitErr := raw.Read(func(fd uintptr) bool {
		err = again(func() error {
			n, m, _, from, err := unix.Recvmsg(int(fd), data, control, 0)
			if err == nil {
				p = packet{data: data[:n], control: control[:m], from: from}
			}
			return err
		})
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return p, waitErr
	}
	return p, err
}

// sameHardware compares hardware addresses. The first octet of an IPoIB address holds flags (RFC
// 4755 section 4), the rest is the address.
func sameHardware(a, b net.HardwareAddr) bool {
	if len(a) == ipoibAddrLen && len(b) == ipoibAddrLen {
		a, b = a[1:], b[1:]
	}
	return slices.Equal(a, b)
}

// somebodyElse tells whether a hardware address is one of the link's kind and not its own.
func (l Link) somebodyElse(hw net.HardwareAddr) bool {
	return len(hw) == len(l.HardwareAddr) && !sameHardware(hw, l.HardwareAddr)
}

func (h *Host) questionARP(l Link, target, source netip.Addr) (*question, error) {
	if !source.IsValid() {
		source = netip.IPv4Unspecified()
	}
	_, answer, err := h.askLink(l.NS, l.Index, "")
	if err != nil {
		return nil, err
	}
	broadcast, err := broadcastAddress(l, answer)
	if err != nil {
		return nil, err
	}
	fd, err := h.socket(l.NS, unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	q := newQuestion(l, fd)
	q.send = func() error {
		return sendLinkLayer(fd, l.Index, unix.ETH_P_ARP, broadcast, arpRequest(l, source, target))
	}
	q.answer = func(p packet) (net.HardwareAddr, bool) { return arpAnswer(l, target, p.data) }
	// Only now does the socket hear anything: it was made for no protocol.
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP),
		Ifindex: l.Index}); err != nil {
		q.socket.Close()
		return nil, fmt.Errorf("binding the packet socket: %w", err)
	}
	return q, nil
}

// networkOrder is the number whose octets in memory are those of n in network order.
func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// arpAnswer tells whether an ARP packet comes from somebody else who has the address. A request
// does too: who has just taken the address announces it with one.
func arpAnswer(l Link, target netip.Addr, b []byte) (net.HardwareAddr, bool) {
	hw, ip, err := parseARP(b)
	if err != nil || ip != target || !l.somebodyElse(hw) {
		return nil, false
	}
	return hw, true
}

// parseARP reads who sent an ARP request or reply for IPv4 (RFC 826; RFC 4391 section 9.1). What is
// behind it is padding.
func parseARP(b []byte) (senderHW net.HardwareAddr, senderIP netip.Addr, err error) {
	const header = 8
	if len(b) < header {
		return nil, netip.Addr{}, fmt.Errorf("ARP packet of %d octets", len(b))
	}
	kind, protocol, operation := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]),
		binary.BigEndian.Uint16(b[6:])
	hwLen, ipLen := int(b[4]), int(b[5])
	switch {
	case hwLen == 0 || hwLen != arpAddrLen(kind):
		return nil, netip.Addr{}, fmt.Errorf("ARP packet of hardware type %d with addresses of %d octets", kind, hwLen)
	case protocol != unix.ETH_P_IP || ipLen != net.IPv4len:
		return nil, netip.Addr{}, fmt.Errorf("ARP packet of protocol 0x%04x with addresses of %d octets", protocol,
			ipLen)
	case operation != arpRequestCode && operation != arpReplyCode:
		return nil, netip.Addr{}, fmt.Errorf("ARP packet with operation %d", operation)
	case len(b) < header+2*(hwLen+ipLen):
		return nil, netip.Addr{}, fmt.Errorf("ARP packet of hardware type %d that ends after %d octets", kind, len(b))
	}
	sender := b[header:]
	ip, _ := netip.AddrFromSlice(sender[hwLen : hwLen+ipLen])
	return slices.Clone(sender[:hwLen]), ip, nil
}

// arpAddrLen is the length of the addresses of a hardware type, 0 for one that we do not know.
func arpAddrLen(kind uint16) int {
	switch kind {
	case arpEthernet, arpIEEE802:
		return ethernetAddrLen
	case arpInfiniBand:
		return ipoibAddrLen
	}
	return 0
}

func (h *Host) questionND(ctx context.Context, l Link, target netip.Addr) (*question, error) {
	if n := len(l.HardwareAddr); n != ethernetAddrLen && n != ipoibAddrLen {
		return nil, fmt.Errorf("link %s has a hardware address of %d octets: %w", l.Name, n, ErrUnsupported)
	}
	own, err := h.linkLocal(ctx, l)
	if err != nil {
		return nil, err
	}
	// Bound to a link-local address, the socket hears its link only. Answers come to that address,
	// and unsolicited ones to all nodes, a group that every link with IPv6 is in: there is nothing
	// to join.
	fd, err := h.icmpv6Socket(l, own, unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, err
	}
	q := newQuestion(l, fd)
	message := neighbourMessage(ndSolicitation, 0, target, ndSourceOption, l.HardwareAddr)
	q.send = func() error { return sendICMPv6(fd, l.Index, solicitedNode(target), message) }
	q.answer = func(p packet) (net.HardwareAddr, bool) {
		if hopLimit(p.control) != ndHopLimit || sourceOf(p.from) == own {
			return nil, false
		}
		return ndAnswer(l, target, p.data)
	}
	if err := hearAdvertisements(fd); err != nil {
		q.socket.Close()
		return nil, err
	}
	return q, nil
}

// hearAdvertisements lets only neighbour advertisements in, with their hop limits, and keeps what
// the socket sends from coming back.
func hearAdvertisements(fd int) error {
	var filter unix.ICMPv6Filter // a bit that is set blocks
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[ndAdvertisement/32] &^= 1 << (ndAdvertisement % 32)
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, icmpv6Filter, &filter); err != nil {
		return fmt.Errorf("filter of the ICMPv6 socket: %w", err)
	}
	return setIPv6Options(fd, map[int]int{unix.IPV6_RECVHOPLIMIT: 1, unix.IPV6_MULTICAST_LOOP: 0})
}

// icmpv6Filter is ICMPV6_FILTER of linux/icmpv6.h.
const icmpv6Filter = 1

// solicitedNode is the multicast address that whoever has an address listens to (RFC 4291 section 2.7.1).
func solicitedNode(ip netip.Addr) netip.Addr {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	a := ip.As16()
	copy(group[13:], a[13:])
	return netip.AddrFrom16(group)
}

// linkLocal waits, bounded, until the link has a link-local address that it may send from.
func (h *Host) linkLocal(ctx context.Context, l Link) (own netip.Addr, err error) {
	found, err := within(ctx, linkLocalWait, func() (bool, error) {
		own, err = h.usableLinkLocal(l)
		return own.IsValid(), err
	})
	if err == nil && !found {
		err = fmt.Errorf("link %s has no usable IPv6 link-local address to ask from", l.Name)
	}
	return own, err
}

// usableLinkLocal is invalid when there is none, or none that duplicate address detection has passed.
func (h *Host) usableLinkLocal(l Link) (netip.Addr, error) {
	var found []netlink.Addr
	err := h.onLink(l.NS, l.Index, "listing the IPv6 addresses", func(nl netlink.Link) (err error) {
		found, err = listAddresses(nl, netlink.FAMILY_V6)
		return err
	})
	for _, a := range found {
		ip := addrOf(a.IP)
		if ip.Is6() && ip.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			return ip, err
		}
	}
	return netip.Addr{}, err
}

// hopLimit reads a packet's hop limit from its control messages; -1 when they do not say it.
func hopLimit(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return -1
}

// sourceOf is the IPv6 address that a packet came from.
func sourceOf(from unix.Sockaddr) netip.Addr {
	if a, ok := from.(*unix.SockaddrInet6); ok {
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// ndAnswer tells whether a neighbour advertisement says that somebody else has the address; nil
// when it does not say who.
func ndAnswer(l Link, target netip.Addr, b []byte) (net.HardwareAddr, bool) {
	ip, hw, err := parseAdvertisement(b)
	if err != nil || ip != target || hw != nil && !l.somebodyElse(hw) {
		return nil, false
	}
	return hw, true
}

// parseAdvertisement reads a neighbour advertisement (RFC 4861 sections 4.4 and 7.1.2) from its
// ICMPv6 header on; the kernel has checked the checksum. hw is nil when there is no target
// link-layer address option.
func parseAdvertisement(b []byte) (target netip.Addr, hw net.HardwareAddr, err error) {
	const header = 24
	if len(b) < header || b[0] != ndAdvertisement || b[1] != 0 {
		return netip.Addr{}, nil, fmt.Errorf("no neighbour advertisement, of %d octets", len(b))
	}
	target = netip.AddrFrom16([16]byte(b[8:header]))
	if target.IsMulticast() {
		return netip.Addr{}, nil, fmt.Errorf("neighbour advertisement of the multicast address %s", target)
	}
	for options := b[header:]; len(options) > 0; {
		if len(options) < 8 || options[1] == 0 || len(options) < 8*int(options[1]) {
			return netip.Addr{}, nil,
				fmt.Errorf("neighbour advertisement whose last option is cut off or has no length, with %d octets left",
					len(options))
		}
		option := options[:8*int(options[1])]
		options = options[len(option):]
		if option[0] != ndTargetOption || hw != nil {
			continue
		}
		if hw, err = optionAddress(option); err != nil {
			return netip.Addr{}, nil, err
		}
	}
	return target, hw, nil
}

// optionAddress is the address of a link-layer address option: 6 octets, or 20 with two of padding
// before them (RFC 4391 section 9.3).
func optionAddress(option []byte) (net.HardwareAddr, error) {
	switch len(option) {
	case 2 + ethernetAddrLen:
		return slices.Clone(option[2:]), nil
	case 4 + ipoibAddrLen:
		return slices.Clone(option[4:]), nil
	}
	return nil, fmt.Errorf("link-layer address option of %d octets", len(option))
}
