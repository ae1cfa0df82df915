// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// inUserNamespace marks the second run of a test binary that began without privilege.
const inUserNamespace = "COORDINATOR_IN_USER_NAMESPACE"

// TestMain runs the tests as root of a user namespace where they are not run as root.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 || os.Getenv(inUserNamespace) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inUserNamespace+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintf(os.Stderr,
			"cannot make a user namespace (%v): the tests against the kernel will be skipped; run them as root\n", err)
		os.Exit(m.Run())
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// newNS makes a network namespace that lives as long as the test, and returns a path of it.
func newNS(t *testing.T) host.NS {
	t.Helper()
	files := make(chan *os.File, 1)
	go func() {
		// The thread is never unlocked and ends with the goroutine.
		runtime.LockOSThread()
		defer close(files)
		if unix.Unshare(unix.CLONE_NEWNET) != nil {
			return
		}
		if f, err := os.Open("/proc/thread-self/ns/net"); err == nil {
			files <- f
		}
	}()
	f := <-files
	if f == nil {
		t.Fatal("cannot make a network namespace")
	}
	t.Cleanup(func() { f.Close() })
	return host.NS(filepath.Join("/proc", fmt.Sprint(os.Getpid()), "fd", fmt.Sprint(f.Fd())))
}

// cable joins two namespaces by a link with an address at each end.
func cable(t *testing.T, h *host.Host, a host.NS, aName, aAddr string, b host.NS, bName, bAddr string) (host.Link,
	host.Link) {
	t.Helper()
	la, lb, err := h.AddVeth(a, aName, b, bName, 1500)
	check(t, err)
	check(t, h.AddAddress(a, la.Index, netip.MustParsePrefix(aAddr)))
	check(t, h.AddAddress(b, lb.Index, netip.MustParsePrefix(bAddr)))
	return la, lb
}

// serve answers every connection with the address that it came from.
func serve(t *testing.T, in host.NS, address string) {
	t.Helper()
	var l net.Listener
	check(t, ns.WithNetNSPath(string(in), func(ns.NetNS) (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	}()
}

// ask connects and returns what the server saw as sender.
func ask(in host.NS, address string) (string, error) {
	var answer []byte
	err := ns.WithNetNSPath(string(in), func(ns.NetNS) error {
		c, err := net.DialTimeout("tcp", address, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		answer, err = io.ReadAll(c)
		return err
	})
	return string(answer), err
}

func wantAnswer(t *testing.T, what string, in host.NS, address, from string) {
	t.Helper()
	got, err := ask(in, address)
	if err != nil || from != "" && got != from {
		t.Errorf("%s: %s answers %q, %v; want the sender %q", what, address, got, err, from)
	}
}

// TestKernel has a node whose own fabric interface is on the pod's network, a pod on that fabric, a
// Service's address on the node, and a client behind the node that the pod's routes have elsewhere.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
	nodeNS, podNS, clientNS := newNS(t), newNS(t), newNS(t)
	h, err := host.New(host.Options{NodeNS: nodeNS})
	check(t, err)
	defer h.Close()
	uplink, _ := cable(t, h, host.NodeNS, "client", "10.30.0.1/24", clientNS, "eth0", "10.30.0.2/24")
	fabric, eth0 := cable(t, h, host.NodeNS, "fabric", "172.91.0.10/16", podNS, "eth0", "172.91.0.100/16")
	check(t, h.AddAddress(host.NodeNS, uplink.Index, netip.MustParsePrefix("10.96.0.10/32")))
	check(t, h.AddAddress(host.NodeNS, uplink.Index, netip.MustParsePrefix("fd30::1/64")))
	check(t, h.AddAddress(podNS, eth0.Index, netip.MustParsePrefix("fd91::100/64")))
	check(t, h.SetSysctl(host.NodeNS, "net/ipv4/ip_forward", "1"))
	for _, ns := range []host.NS{host.NodeNS, podNS} { // the strictest filter there is
		check(t, h.SetSysctl(ns, "net/ipv4/conf/all/rp_filter", "1"))
	}
	// What takes the fabric between node and pod is lost.
	nowhere := net.HardwareAddr{2, 0, 0x5e, 0, 0, 1}
	check(t, h.AddNeighbor(host.NodeNS, host.Neighbor{Index: fabric.Index, IP: netip.MustParseAddr("172.91.0.100"),
		HardwareAddr: nowhere}))
	check(t, h.AddNeighbor(podNS, host.Neighbor{Index: eth0.Index, IP: netip.MustParseAddr("172.91.0.10"),
		HardwareAddr: nowhere}))
	client, err := h.LinkByName(clientNS, "eth0")
	check(t, err)
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	check(t, h.AddRoute(clientNS, host.Route{Dst: everywhere, Gateway: netip.MustParseAddr("10.30.0.1"),
		Index: client.Index}))
	check(t, h.AddRoute(podNS, host.Route{Dst: everywhere, Gateway: netip.MustParseAddr("172.91.0.1"),
		Index: eth0.Index}))
	serve(t, podNS, "172.91.0.100:8080")
	serve(t, podNS, "[fd91::100]:8080")
	serve(t, nodeNS, "10.96.0.10:80")
	serve(t, nodeNS, "172.91.0.10:80")

	p := &Plugin{Kernel: h, Cluster: cluster{status: v2beta1.CoordinatorStatus{ServiceCIDR: []string{"10.96.0.0/16"}}}}
	prev := &types100.Result{IPs: []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(172, 91, 0, 100),
		Mask: net.CIDRMask(16, 32)}, Gateway: net.IPv4(172, 91, 0, 1)}}}
	r := request("eth0", prev, `{"vethLinkAddress":"169.254.77.1"}`)
	r.NetNS = podNS
	_, err = p.Add(t.Context(), r)
	check(t, err)
	check(t, p.Check(t.Context(), r))
	wantAnswer(t, "node to pod", nodeNS, "172.91.0.100:8080", "")
	wantAnswer(t, "node to pod, IPv6", nodeNS, "[fd91::100]:8080", "fd30::1")
	wantAnswer(t, "pod to Service", podNS, "10.96.0.10:80", "172.91.0.100")
	wantAnswer(t, "pod to the node's fabric address", podNS, "172.91.0.10:80", "172.91.0.100")
	wantAnswer(t, "client behind the node to pod", clientNS, "172.91.0.100:8080", "10.30.0.2")

	_, err = p.Add(t.Context(), r)
	check(t, err)
	wantAnswer(t, "node to pod after a second ADD", nodeNS, "172.91.0.100:8080", "")

	check(t, p.Del(t.Context(), r))
	check(t, p.Del(t.Context(), r))
	routes, err := h.Routes(host.NodeNS, 500)
	check(t, err)
	if len(routes) > 0 {
		t.Errorf("table 500 still has %+v", routes)
	}
	if _, err := h.LinkByName(podNS, podVeth); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("veth0 in the pod: %v, want ErrNotFound", err)
	}
}

// TestKernelWhileDown wants an interface's ways and addresses of both families back.
func TestKernelWhileDown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
	podNS := newNS(t)
	h, err := host.New(host.Options{NodeNS: newNS(t)})
	check(t, err)
	defer h.Close()
	_, eth0 := cable(t, h, newNS(t), "sw", "172.91.0.1/16", podNS, "eth0", "172.91.0.100/16")
	check(t, h.AddAddress(podNS, eth0.Index, netip.MustParsePrefix("fd91::100/64")))
	for _, r := range []host.Route{
		{Dst: netip.MustParsePrefix("172.99.0.1/32")},
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("172.99.0.1"),
			Src: netip.MustParseAddr("172.91.0.100")},
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("172.91.0.1")},
		{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd91::1")},
		{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("172.91.0.1"), Table: 7},
	} {
		r.Index = eth0.Index
		check(t, h.AddRoute(podNS, r))
	}
	p, tables := &Plugin{Kernel: h}, []int{0, 7}
	before, err := p.routesOf(podNS, eth0.Index, tables)
	check(t, err)
	for _, want := range []error{nil, errors.New("injected")} { // a failure brings them back too
		down := false
		err := p.whileDown(podNS, eth0.Index, tables, func() error {
			l, err := h.LinkByIndex(podNS, eth0.Index)
			down = !l.Up
			return errors.Join(err, want)
		})
		if !down || !errors.Is(err, want) {
			t.Errorf("the link was down: %t; %v, want %v", down, err, want)
		}
		wantBack(t, p, podNS, eth0.Index, tables, before)
	}
}

// wantBack wants an interface to have its routes again, and no others.
func wantBack(t *testing.T, p *Plugin, podNS host.NS, index int, tables []int, before []host.Route) {
	t.Helper()
	after, err := p.routesOf(podNS, index, tables)
	check(t, err)
	for _, r := range before {
		if !kernelsOwn(r) && !slices.Contains(after, r) {
			t.Errorf("the route %+v is lost", r)
		}
	}
	if len(after) > len(before) {
		t.Errorf("routes %+v, before %+v", after, before)
	}
}

// What the rails' switches have, of both families: an address beyond the pod's networks, and a
// Service's, at which nobody listens there.
var (
	beyond   = []string{"192.0.2.1", "2001:db8::1"}
	services = []string{"10.96.0.10", "fd96::10"}
)

// railAddrs are the pod's addresses on a rail, of both families.
func railAddrs(i int) []string {
	return []string{fmt.Sprintf("172.%d.0.100", 91+i), fmt.Sprintf("fd%d::100", 91+i)}
}

// railPort is where a rail's switch serves the addresses beyond.
func railPort(i int) string { return fmt.Sprint(1000 + i) }

// rail gives the pod an interface that leads to a switch of its own, and a result of the plugin that made it.
func rail(t *testing.T, h *host.Host, podNS host.NS, i int, ifname string) *types100.Result {
	t.Helper()
	v4, v6 := fmt.Sprintf("172.%d.0.", 91+i), fmt.Sprintf("fd%d::", 91+i)
	sw := newNS(t)
	there, here := cable(t, h, sw, "sw", v4+"1/16", podNS, ifname, v4+"100/16")
	check(t, h.AddAddress(sw, there.Index, netip.MustParsePrefix(v6+"1/64")))
	check(t, h.AddAddress(podNS, here.Index, netip.MustParsePrefix(v6+"100/64")))
	for _, a := range slices.Concat(beyond, services) {
		check(t, h.AddAddress(sw, there.Index, single(netip.MustParseAddr(a))))
	}
	for _, a := range beyond {
		serve(t, sw, net.JoinHostPort(a, railPort(i)))
	}
	prev := &types100.Result{}
	for _, text := range []string{v4 + "1", v6 + "1"} {
		gateway := netip.MustParseAddr(text)
		prev.IPs = append(prev.IPs, &types100.IPConfig{Gateway: gateway.AsSlice()})
		err := h.AddRoute(podNS, host.Route{Dst: everything(gateway.Is6()), Gateway: gateway, Index: here.Index})
		if err != nil && !errors.Is(err, host.ErrExists) {
			t.Fatal(err)
		}
	}
	return prev
}

// wantFrom connects from an address of the pod; what answers must have seen that address.
func wantFrom(t *testing.T, what string, in host.NS, source, address string) {
	t.Helper()
	if got, err := askFrom(in, source, address); err != nil || got != source {
		t.Errorf("%s: %s from %s answers %q, %v", what, address, source, got, err)
	}
}

// wantRefusal is for a port at which nobody listens: a refusal is an answer.
func wantRefusal(t *testing.T, what string, in host.NS, address string) {
	t.Helper()
	if got, err := ask(in, address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s: %s answers %q, %v; want a refusal", what, address, got, err)
	}
}

// quickIPv6 lets the kernel use link-local addresses of later links at once, without a look for
// others who have them.
func quickIPv6(t *testing.T, h *host.Host, ns host.NS) {
	t.Helper()
	for _, which := range []string{"all", "default"} {
		check(t, h.SetSysctl(ns, "net/ipv6/conf/"+which+"/accept_dad", "0"))
	}
}

// kernelCluster has Services of both families, and wants an interface to keep the default route.
func kernelCluster(defaultNIC string) cluster {
	return cluster{spec: v2beta1.CoordinatorSpec{PodDefaultRouteNIC: &defaultNIC},
		status: v2beta1.CoordinatorStatus{ServiceCIDR: []string{"10.96.0.0/16", "fd96::/112"}}}
}

// uplink gives the node addresses of its own, and a Service at which it listens.
func uplink(t *testing.T, h *host.Host, nodeNS host.NS) {
	t.Helper()
	up, _ := cable(t, h, host.NodeNS, "up", "10.20.1.10/24", newNS(t), "up", "10.20.1.1/24")
	check(t, h.AddAddress(host.NodeNS, up.Index, netip.MustParsePrefix("fd20::10/64")))
	lo, err := h.LinkByName(host.NodeNS, "lo")
	check(t, err)
	check(t, h.SetLinkUp(host.NodeNS, lo.Index))
	for _, a := range services {
		check(t, h.AddAddress(host.NodeNS, lo.Index, single(netip.MustParseAddr(a))))
		serve(t, nodeNS, net.JoinHostPort(a, "80"))
	}
}

// TestKernelRails has three interfaces in a pod, the last of which takes the default route.
func TestKernelRails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
	nodeNS, podNS := newNS(t), newNS(t)
	h, err := host.New(host.Options{NodeNS: nodeNS})
	check(t, err)
	defer h.Close()
	quickIPv6(t, h, podNS)
	uplink(t, h, nodeNS)
	p := &Plugin{Kernel: h, Cluster: kernelCluster("net2")}
	for i, ifname := range []string{"eth0", "net1", "net2"} {
		r := request(ifname, rail(t, h, podNS, i, ifname), `{}`)
		r.NetNS = podNS
		_, err = p.Add(t.Context(), r)
		check(t, err)
		check(t, p.Check(t.Context(), r))
	}
	for family := range 2 {
		for i := range 3 {
			from := railAddrs(i)[family]
			wantFrom(t, "beyond", podNS, from, net.JoinHostPort(beyond[family], railPort(i)))
			wantFrom(t, "pod to Service", podNS, from, net.JoinHostPort(services[family], "80"))
			wantRefusal(t, "node to pod", nodeNS, net.JoinHostPort(from, "1"))
		}
		wantAnswer(t, "default route", podNS, net.JoinHostPort(beyond[family], railPort(2)), railAddrs(2)[family])
		wantAnswer(t, "Service", podNS, net.JoinHostPort(services[family], "80"), railAddrs(0)[family])
	}
}

// TestKernelOverlay has a first interface as Calico makes it, whose gateways are nobody's
// addresses, two more with switches of their own, and a node that drops what comes from where it
// has no route to.
func TestKernelOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
	for _, defaultNIC := range []string{"eth0", "net1", "net2"} {
		t.Run("default route on "+defaultNIC, func(t *testing.T) { testKernelOverlay(t, defaultNIC) })
	}
}

func testKernelOverlay(t *testing.T, defaultNIC string) {
	nodeNS, podNS := newNS(t), newNS(t)
	h, err := host.New(host.Options{NodeNS: nodeNS})
	check(t, err)
	defer h.Close()
	quickIPv6(t, h, podNS)
	quickIPv6(t, h, nodeNS)
	for _, ns := range []host.NS{host.NodeNS, podNS} { // the strictest filter there is
		for _, which := range []string{"all", "default"} {
			check(t, h.SetSysctl(ns, "net/ipv4/conf/"+which+"/rp_filter", "1"))
		}
	}
	uplink(t, h, nodeNS)
	first := kernelCalico(t, h, podNS)
	p := &Plugin{Kernel: h, Cluster: kernelCluster(defaultNIC)}
	nics := []string{"net1", "net2"}
	var calls []*cni.Request
	for i, ifname := range nics {
		r := request(ifname, rail(t, h, podNS, i, ifname), `{}`)
		r.NetNS = podNS
		for range 2 { // once more, as after a crash
			_, err = p.Add(t.Context(), r)
			check(t, err)
		}
		check(t, p.Check(t.Context(), r))
		calls = append(calls, r)
	}
	node := []string{"10.20.1.10", "fd20::10"}
	for family := range 2 {
		serve(t, nodeNS, net.JoinHostPort(node[family], "22"))
		service := net.JoinHostPort(services[family], "80")
		for i := range nics {
			from := railAddrs(i)[family]
			wantFrom(t, "pod to Service", podNS, from, service)
			wantFrom(t, "pod to node", podNS, from, net.JoinHostPort(node[family], "22"))
			wantFrom(t, "beyond", podNS, from, net.JoinHostPort(beyond[family], railPort(i)))
			wantRefusal(t, "node to pod", nodeNS, net.JoinHostPort(from, "1"))
		}
		wantFrom(t, "pod to Service", podNS, first[family], service)
		wantAnswer(t, "Service", podNS, service, first[family])
		wantAnswer(t, "node", podNS, net.JoinHostPort(node[family], "22"), first[family])
		wantRefusal(t, "node to pod", nodeNS, net.JoinHostPort(first[family], "1"))
		if i := slices.Index(nics, defaultNIC); i >= 0 {
			wantAnswer(t, "default route", podNS, net.JoinHostPort(beyond[family], railPort(i)), railAddrs(i)[family])
		}
	}
	for _, r := range calls {
		check(t, p.Del(t.Context(), r))
	}
	if routes, err := h.Routes(host.NodeNS, 500); err != nil || len(routes) > 0 {
		t.Errorf("table 500 still has %+v, %v", routes, err)
	}
}

// kernelCalico makes the first interface, and returns its addresses.
func kernelCalico(t *testing.T, h *host.Host, podNS host.NS) []string {
	t.Helper()
	there, eth0, err := h.AddVeth(host.NodeNS, "cali0123", podNS, "eth0", 1480)
	check(t, err)
	check(t, h.SetSysctl(host.NodeNS, "net/ipv4/conf/cali0123/proxy_arp", "1"))
	check(t, h.SetSysctl(host.NodeNS, "net/ipv4/neigh/cali0123/proxy_delay", "0"))
	check(t, h.SetSysctl(host.NodeNS, "net/ipv4/conf/cali0123/forwarding", "1")) // or it would not answer for others
	gateways := []netip.Addr{netip.MustParseAddr("169.254.1.1")}
	of, err := h.Addresses(host.NodeNS, there.Index)
	check(t, err)
	for _, a := range of {
		if a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() {
			gateways = append(gateways, a.Addr())
		}
	}
	if len(gateways) != 2 {
		t.Fatalf("the node's end has no link-local address: %v", of)
	}
	check(t, h.AddRoute(podNS, host.Route{Dst: single(gateways[0]), Index: eth0.Index}))
	// What proxy ARP answers needs a route elsewhere.
	up, err := h.LinkByName(host.NodeNS, "up")
	check(t, err)
	check(t, h.AddRoute(host.NodeNS, host.Route{Dst: everything(false), Gateway: netip.MustParseAddr("10.20.1.1"),
		Index: up.Index}))
	addrs := []string{"10.244.0.7", "fd10::7"}
	for family, text := range addrs {
		a := netip.MustParseAddr(text)
		check(t, h.AddAddress(podNS, eth0.Index, single(a)))
		check(t, h.AddRoute(podNS, host.Route{Dst: everything(a.Is6()), Gateway: gateways[family], Index: eth0.Index}))
		check(t, h.AddRoute(host.NodeNS, host.Route{Dst: single(a), Index: there.Index}))
	}
	return addrs
}

func askFrom(in host.NS, source, address string) (string, error) {
	var answer []byte
	err := ns.WithNetNSPath(string(in), func(ns.NetNS) error {
		d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		answer, err = io.ReadAll(c)
		return err
	})
	return string(answer), err
}
