package host_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// pair is a veth between two namespaces with addresses.
func pair(t *testing.T, h hosttest.API, a host.NS, nameA, addrA string, b host.NS, addrB string) (host.Link, host.Link) {
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

// A pod with two links answers through the one that the connection came in by, though its default route points
// elsewhere: that is what marks, a rule and a table are for.
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
		h.AddRoute(pod.path(), host.Route{Dst: all, Gateway: netip.MustParseAddr("172.92.0.1"), Index: l1.Index, Table: 101}),
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

// The neighbour learns an announced address: its entry changes without a word of its own.
func TestAnnouncedAddressIsHeard(t *testing.T) {
	h, env := machine(t)
	a, b := env.NewNS(t), newNS(t)
	la, lb := pair(t, h, a, "net0", "172.91.0.2/24", b.path(), "172.91.0.1/24")
	var fd int
	inNS(t, b, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0x0608) // ETH_P_ARP in network order
		return err
	})
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	if err := h.Announce(a, la.Index, netip.MustParseAddr("172.91.0.2")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		t.Fatalf("the other end of the link heard nothing: %v", err)
	}
	ll := from.(*unix.SockaddrLinklayer)
	if ll.Ifindex != lb.Index || ll.Pkttype != unix.PACKET_BROADCAST || net.HardwareAddr(ll.Addr[:6]).String() != la.HardwareAddr.String() {
		t.Errorf("the announcement came as %+v, want a broadcast of %s on link %d", ll, la.HardwareAddr, lb.Index)
	}
	if n < 28 || netip.AddrFrom4([4]byte(buf[14:18])) != netip.MustParseAddr("172.91.0.2") {
		t.Errorf("the announcement is % x", buf[:n])
	}
}
