// SPDX-License-Identifier: Apache-2.0

package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
)

// pair is a veth between two namespaces with addresses.
func pair(t *testing.T, h hosttest.API, a host.NS, nameA, addrA string, b host.NS, addrB string) (host.Link,
	host.Link) {
	t.Helper()
	la, lb, err := h.AddVeth(a, nameA, b, "eth0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	for l, p := range map[*host.Link]string{&la: addrA, &lb: addrB} {
		if err := h.AddAddress(l.NS, l.Index, netip.MustParsePrefix(p)); err != nil {
			t.Fatal(err)
		}
	}
	return la, lb
}

// A pod with two links answers through the one that the connection came in by, though its default
// route points elsewhere: that is what marks, a rule and a table are for.
func TestMarkedRepliesReturnTheSameWay(t *testing.T) {
	h, env := machine(t)
	pod, first, second := newNS(t), env.NewNS(t), newNS(t)
	l0, _ := pair(t, h, pod.path(), "eth0", "172.91.0.2/24", first, "172.91.0.1/24")
	l1, _ := pair(t, h, pod.path(), "net1", "172.92.0.2/24", second.path(), "172.92.0.1/24")
	client, err := h.LinkByName(second.path(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	all := netip.MustParsePrefix("0.0.0.0/0")
	for _, err := range []error{
		// The client's own address is beyond both links' networks.
		h.AddAddress(second.path(), client.Index, netip.MustParsePrefix("198.51.100.1/32")),
		h.AddRoute(pod.path(), host.Route{Dst: all, Gateway: netip.MustParseAddr("172.91.0.1"), Index: l0.Index}),
		h.AddRoute(pod.path(), host.Route{Dst: all, Gateway: netip.MustParseAddr("172.92.0.1"), Index: l1.Index,
			Table: 101}),
		h.AddRule(pod.path(), host.Rule{Priority: 100, Mark: 0x65, Table: 101}),
		h.SetSysctl(pod.path(), "net/ipv4/conf/all/rp_filter", "0"),
		h.SetSysctl(pod.path(), "net/ipv4/conf/net1/rp_filter", "0"),
		h.MarkReplies(pod.path(), "net1", 0x65),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	server := listen(t, pod, "172.92.0.2:7000")
	go func() {
		if c, err := server.Accept(); err == nil {
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	if got := call(t, second, "198.51.100.1", "172.92.0.2:7000"); got != "hello" {
		t.Errorf("the client heard %q", got)
	}
}

func listen(t *testing.T, n *netns, address string) net.Listener {
	t.Helper()
	var l net.Listener
	inNS(t, n, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

func call(t *testing.T, n *netns, from, to string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var heard []byte
	inNS(t, n, func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.DialContext(ctx, "tcp4", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		heard, err = io.ReadAll(c)
		return err
	})
	return string(heard)
}

// A neighbour hears of an announced address.
func TestAnnouncedAddressIsHeard(t *testing.T) {
	h, env := machine(t)
	a, b := env.NewNS(t), newNS(t)
	la, lb := pair(t, h, a, "net0", "172.91.0.2/24", b.path(), "172.91.0.1/24")
	must(t, h.AddAddress(a, la.Index, netip.MustParsePrefix("2001:db8::2/64")))
	announceUntilHeard(t, h, la, b, lb.Index, map[uint16]string{unix.ETH_P_ARP: "172.91.0.2",
		unix.ETH_P_IPV6: "2001:db8::2"})
}

// announceUntilHeard announces addresses until a packet that names address and hardware address
// arrives on the other link; a neighbour's port may join the group of all IPv6 nodes some time
// after its link has carrier.
func announceUntilHeard(t *testing.T, h hosttest.API, from host.Link, hears *netns, link int, ips map[uint16]string) {
	t.Helper()
	for protocol, text := range ips {
		ip := netip.MustParseAddr(text)
		fd := packetSocket(t, hears, protocol)
		heard := false
		for try := 0; try < 40 && !heard; try++ {
			must(t, h.Announce(from.NS, from.Index, ip))
			heard = hearsPacket(t, fd, link, ip.AsSlice(), from.HardwareAddr)
		}
		if !heard {
			t.Errorf("nobody heard %s announced at %s", ip, from.HardwareAddr)
		}
	}
}

// packetSocket receives all packets of a protocol in a namespace; a read waits half a second.
func packetSocket(t *testing.T, n *netns, protocol uint16) int {
	t.Helper()
	var fd int
	inNS(t, n, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol>>8|protocol<<8))
		return err
	})
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000}))
	return fd
}

// The same over InfiniBand, between two children of the card's port: both kinds of announcement
// carry 20 octets.
func TestAnnouncedAddressIsHeardOverInfiniBand(t *testing.T) {
	pci := os.Getenv(ibPF)
	if pci == "" {
		t.Skip("needs an InfiniBand card: run it in the lab's virtual machine with " + ibPF)
	}
	h, _ := machine(t)
	pf, err := hosttest.FindPF(h, pci)
	if err != nil {
		t.Fatal(err)
	}
	must(t, h.SetLinkUp(host.NodeNS, pf.Link.Index))
	says, hears := newNS(t), newNS(t)
	la := child(t, h, pf, says, 1)
	lb := child(t, h, pf, hears, 2)
	must(t, h.AddAddress(la.NS, la.Index, netip.MustParsePrefix("172.91.0.2/16")))
	must(t, h.AddAddress(la.NS, la.Index, netip.MustParsePrefix("2001:db8::2/64")))
	announceUntilHeard(t, h, la, hears, lb.Index, map[uint16]string{unix.ETH_P_ARP: "172.91.0.2",
		unix.ETH_P_IPV6: "2001:db8::2"})
}

// Who has an address may say so with a request of its own: an announcement answers a question that
// the kernel does not.
func TestAnnouncementIsAnAnswer(t *testing.T) {
	h, env := machine(t)
	a, b := env.NewNS(t), env.NewNS(t)
	la, lb := pair(t, h, a, "net0", "172.91.0.2/24", b, "172.91.0.1/24")
	ip := netip.MustParseAddr("172.91.0.9") // on no link
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			_ = h.Announce(b, lb.Index, ip)
		}
	}()
	defer func() { stop(); <-stopped }()
	if hw, err := h.Solicit(ctx, a, la.Index, ip, netip.Addr{}); err != nil || !bytes.Equal(hw, lb.HardwareAddr) {
		t.Errorf("%s is at %s, %v; want %s", ip, hw, err, lb.HardwareAddr)
	}
}

// Asking ends with its context, in the middle of a wait.
func TestSolicitEndsWithItsContext(t *testing.T) {
	h, env := machine(t)
	la, lb := pair(t, h, env.NewNS(t), "net0", "172.91.0.2/24", env.NewNS(t), "172.91.0.1/24")
	ask := func(text string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := h.Solicit(ctx, la.NS, la.Index, netip.MustParseAddr(text), netip.Addr{})
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > time.Second {
			t.Errorf("%s: %v after %s", text, err, took)
		}
	}
	ask("172.91.0.9")
	ask("2001:db8::9") // there is no link-local address yet
	must(t, h.SetLinkDown(lb.NS, lb.Index))
	ask("172.91.0.9") // there is no carrier
}

// child makes an IPoIB child of the port, in a namespace, up, with carrier.
func child(t *testing.T, h hosttest.API, pf host.PF, n *netns, number int) host.Link {
	t.Helper()
	l, err := h.AddIPoIBChild(pf.Link.Index, fmt.Sprintf("child%d", number), 0)
	must(t, err)
	l, err = h.MoveLink(host.NodeNS, l.Index, n.path(), "eth0")
	must(t, err)
	t.Cleanup(func() { _ = h.DeleteLink(l.NS, l.Index) })
	must(t, h.SetIPv6LinkLocalGUID(l.NS, l.Index, ib.VFGUID(pf.RDMA.PortGUID, 100+number)))
	must(t, h.SetLinkUp(l.NS, l.Index))
	for deadline := time.Now().Add(20 * time.Second); !l.Carrier; time.Sleep(20 * time.Millisecond) {
		if l, err = h.LinkByIndex(l.NS, l.Index); err != nil || time.Now().After(deadline) {
			t.Fatalf("no carrier: %+v, %v", l, err)
		}
	}
	return l
}

// hearsPacket tells whether a packet that holds all the parts comes before half a second of silence.
func hearsPacket(t *testing.T, fd, link int, parts ...[]byte) bool {
	t.Helper()
	buf := make([]byte, 2048)
	for range 100 {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return false
		}
		all := from.(*unix.SockaddrLinklayer).Ifindex == link
		for _, p := range parts {
			all = all && bytes.Contains(buf[:n], p)
		}
		if all {
			return true
		}
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
