// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var (
	ethernetLink = Link{LinkLayer: Ethernet, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	ipoibLink    = Link{LinkLayer: InfiniBand, HardwareAddr: append(make(net.HardwareAddr, 19), 9)}
	ethernetPeer = net.HardwareAddr{2, 0, 0, 0, 0, 8}
	ipoibPeer    = append(make(net.HardwareAddr, 19), 8)
	askedV4      = netip.MustParseAddr("172.91.0.100")
	askedV6      = netip.MustParseAddr("2001:db8::ff12:3456")
)

// request is an ARP request of a link, as the other side hears it.
func request(l Link, hw net.HardwareAddr, sender, target netip.Addr) []byte {
	l.HardwareAddr = hw
	return arpRequest(l, sender, target)
}

// with is b with other octets from offset on.
func with(b []byte, offset int, octets ...byte) []byte {
	b = slices.Clone(b)
	copy(b[offset:], octets)
	return b
}

func TestARPProbe(t *testing.T) {
	want := []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 172, 91, 0, 100}
	if diff := cmp.Diff(want, arpRequest(ethernetLink, netip.IPv4Unspecified(), askedV4)); diff != "" {
		t.Error(diff)
	}
}

func TestARPAnswer(t *testing.T) {
	other := netip.MustParseAddr("172.91.0.101")
	ethernet, ipoib := request(ethernetLink, ethernetPeer, askedV4, other), request(ipoibLink, ipoibPeer, askedV4,
		other)
	for name, c := range map[string]struct {
		link   Link
		packet []byte
		want   net.HardwareAddr // nil: no answer
	}{
		"request":                   {ethernetLink, ethernet, ethernetPeer},
		"reply":                     {ethernetLink, with(ethernet, 7, 2), ethernetPeer},
		"padded to a frame's least": {ethernetLink, append(slices.Clone(ethernet), make([]byte, 18)...), ethernetPeer},
		"IEEE 802":                  {ethernetLink, with(ethernet, 1, 6), ethernetPeer},
		"IPoIB":                     {ipoibLink, with(ipoib, 7, 2), ipoibPeer},
		"announcement":              {ipoibLink, request(ipoibLink, ipoibPeer, askedV4, askedV4), ipoibPeer},
		"our own": {ethernetLink, request(ethernetLink, ethernetLink.HardwareAddr, askedV4, other),
			nil},
		"our own, with flags": {ipoibLink, with(request(ipoibLink, ipoibLink.HardwareAddr, askedV4, other), 8,
			0x80), nil},
		"of another address":      {ethernetLink, request(ethernetLink, ethernetPeer, other, askedV4), nil},
		"of another link layer":   {ethernetLink, ipoib, nil},
		"reverse ARP":             {ethernetLink, with(ethernet, 7, 3), nil},
		"not IPv4":                {ethernetLink, with(ethernet, 2, 0x86, 0xdd), nil},
		"long protocol addresses": {ethernetLink, with(ethernet, 5, 16), nil},
		"no hardware addresses":   {ethernetLink, with(ethernet, 4, 0), nil},
		"unknown hardware":        {ethernetLink, with(ethernet, 1, 24), nil},
		"unknown, of no length":   {ethernetLink, with(with(ethernet, 1, 24), 4, 0), nil},
		"cut off":                 {ethernetLink, ethernet[:len(ethernet)-1], nil},
		"header":                  {ethernetLink, ethernet[:8], nil},
		"empty":                   {ethernetLink, nil, nil},
	} {
		if hw, ok := arpAnswer(c.link, askedV4, c.packet); ok != (c.want != nil) || !bytes.Equal(hw, c.want) {
			t.Errorf("%s: %s, %v; want %s", name, hw, ok, c.want)
		}
	}
}

func TestSolicitation(t *testing.T) {
	for _, c := range []struct {
		link   Link
		option []byte
	}{
		{ethernetLink, []byte{1, 1, 2, 0, 0, 0, 0, 9}},
		{ipoibLink, append([]byte{1, 3, 0, 0}, ipoibLink.HardwareAddr...)},
	} {
		want := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, askedV6.AsSlice()...)
		got := neighbourMessage(ndSolicitation, 0, askedV6, ndSourceOption, c.link.HardwareAddr)
		if diff := cmp.Diff(append(want, c.option...), got); diff != "" {
			t.Error(diff)
		}
	}
	if got := solicitedNode(askedV6); got != netip.MustParseAddr("ff02::1:ff12:3456") {
		t.Errorf("solicited-node address %s", got)
	}
}

func TestNDAnswer(t *testing.T) {
	other := netip.MustParseAddr("2001:db8::2")
	ethernet, ipoib := advertisement(ethernetPeer, askedV6), advertisement(ipoibPeer, askedV6)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6} // RFC 3971
	for name, c := range map[string]struct {
		link     Link
		packet   []byte
		answered bool
		want     net.HardwareAddr
	}{
		"Ethernet":              {ethernetLink, ethernet, true, ethernetPeer},
		"IPoIB":                 {ipoibLink, ipoib, true, ipoibPeer},
		"behind another option": {ethernetLink, slices.Concat(ethernet[:24], nonce, ethernet[24:]), true, ethernetPeer},
		"before another option": {ethernetLink, slices.Concat(ethernet, nonce), true, ethernetPeer},
		"does not say who":      {ethernetLink, ethernet[:24], true, nil},
		"our own":               {ethernetLink, advertisement(ethernetLink.HardwareAddr, askedV6), false, nil},
		"our own, with flags": {ipoibLink, with(advertisement(ipoibLink.HardwareAddr, askedV6), 28, 0x80), false,
			nil},
		"of another address":    {ethernetLink, advertisement(ethernetPeer, other), false, nil},
		"of another link layer": {ethernetLink, ipoib, false, nil},
		"a solicitation": {ethernetLink, neighbourMessage(ndSolicitation, 0, askedV6, ndSourceOption,
			ethernetPeer), false, nil},
		"a code":              {ethernetLink, with(ethernet, 1, 1), false, nil},
		"option of no length": {ethernetLink, with(ethernet, 25, 0), false, nil},
		"option too long":     {ethernetLink, with(ethernet, 25, 2), false, nil},
		"option of 16 octets": {ethernetLink, append(with(ethernet, 25, 2), make([]byte, 8)...), false, nil},
		"option cut off":      {ethernetLink, ethernet[:len(ethernet)-1], false, nil},
		"cut off":             {ethernetLink, ethernet[:23], false, nil},
		"empty":               {ethernetLink, nil, false, nil},
	} {
		if hw, ok := ndAnswer(c.link, askedV6, c.packet); ok != c.answered || !bytes.Equal(hw, c.want) {
			t.Errorf("%s: %s, %v; want %s, %v", name, hw, ok, c.want, c.answered)
		}
	}
	multicast := netip.MustParseAddr("ff02::1")
	if _, ok := ndAnswer(ethernetLink, multicast, advertisement(ethernetPeer, multicast)); ok {
		t.Error("an advertisement of a multicast address is an answer")
	}
}

// hopLimitMessage is a control message as recvmsg(2) gives it.
func hopLimitMessage(limit uint32) []byte {
	b := make([]byte, unix.CmsgSpace(4))
	nl.NativeEndian().PutUint64(b, uint64(unix.CmsgLen(4))) // on a machine of 64 bits
	nl.NativeEndian().PutUint32(b[8:], unix.IPPROTO_IPV6)
	nl.NativeEndian().PutUint32(b[12:], unix.IPV6_HOPLIMIT)
	nl.NativeEndian().PutUint32(b[unix.CmsgLen(0):], limit)
	return b
}

func TestHopLimit(t *testing.T) {
	info := unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: 255}) // some other message
	if got := hopLimit(info); got != -1 {
		t.Errorf("hop limit %d of a message that has none", got)
	}
	limit := append(slices.Clone(info), hopLimitMessage(ndHopLimit)...)
	if got := hopLimit(limit); got != ndHopLimit {
		t.Errorf("hop limit %d, want %d", got, ndHopLimit)
	}
	for n := range limit {
		_ = hopLimit(limit[:n]) // does not panic
	}
}

func FuzzParseARP(f *testing.F) {
	f.Add(request(ethernetLink, ethernetPeer, askedV4, askedV4))
	f.Add(request(ipoibLink, ipoibPeer, askedV4, askedV4))
	f.Add([]byte{0, 1, 8, 0, 255, 255, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		hw, ip, err := parseARP(b)
		switch {
		case err != nil && (hw != nil || ip.IsValid()):
			t.Errorf("an error and %s at %s", ip, hw)
		case err == nil && (!ip.Is4() || len(hw) != ethernetAddrLen && len(hw) != ipoibAddrLen):
			t.Errorf("%s at %s", ip, hw)
		case err == nil && (!bytes.Contains(b, hw) || !bytes.Contains(b, ip.AsSlice())):
			t.Errorf("%s at %s is not in the packet", ip, hw)
		}
	})
}

func FuzzParseAdvertisement(f *testing.F) {
	f.Add(advertisement(ethernetPeer, askedV6))
	f.Add(advertisement(ipoibPeer, askedV6))
	f.Add(advertisement(nil, askedV6)[:24])
	f.Add(with(advertisement(ethernetPeer, askedV6), 25, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, hw, err := parseAdvertisement(b)
		switch {
		case err != nil && (hw != nil || ip.IsValid()):
			t.Errorf("an error and %s at %s", ip, hw)
		case err == nil && (!ip.Is6() || ip.IsMulticast() || hw != nil && len(hw) != ethernetAddrLen &&
			len(hw) != ipoibAddrLen):
			t.Errorf("%s at %s", ip, hw)
		case err == nil && (!bytes.Contains(b, hw) || !bytes.Contains(b, ip.AsSlice())):
			t.Errorf("%s at %s is not in the packet", ip, hw)
		}
	})
}
