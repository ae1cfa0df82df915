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
		fmt.Fprintf(os.Stderr, "cannot make a user namespace (%v): the tests against the kernel will be skipped; run them as root\n", err)
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
func cable(t *testing.T, h *host.Host, a host.NS, aName, aAddr string, b host.NS, bName, bAddr string) (host.Link, host.Link) {
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

// TestKernel has a node whose own fabric interface is on the pod's network, a pod on that fabric, a Service's address
// on the node, and a client behind the node that the pod's routes have elsewhere.
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
	check(t, h.AddNeighbor(host.NodeNS, host.Neighbor{Index: fabric.Index, IP: netip.MustParseAddr("172.91.0.100"), HardwareAddr: nowhere}))
	check(t, h.AddNeighbor(podNS, host.Neighbor{Index: eth0.Index, IP: netip.MustParseAddr("172.91.0.10"), HardwareAddr: nowhere}))
	client, err := h.LinkByName(clientNS, "eth0")
	check(t, err)
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	check(t, h.AddRoute(clientNS, host.Route{Dst: everywhere, Gateway: netip.MustParseAddr("10.30.0.1"), Index: client.Index}))
	check(t, h.AddRoute(podNS, host.Route{Dst: everywhere, Gateway: netip.MustParseAddr("172.91.0.1"), Index: eth0.Index}))
	serve(t, podNS, "172.91.0.100:8080")
	serve(t, podNS, "[fd91::100]:8080")
	serve(t, nodeNS, "10.96.0.10:80")
	serve(t, nodeNS, "172.91.0.10:80")

	p := &Plugin{Kernel: h, Cluster: cluster{status: v2beta1.CoordinatorStatus{ServiceCIDR: []string{"10.96.0.0/16"}}}}
	prev := &types100.Result{IPs: []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(172, 91, 0, 100), Mask: net.CIDRMask(16, 32)}, Gateway: net.IPv4(172, 91, 0, 1)}}}
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
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("172.99.0.1"), Src: netip.MustParseAddr("172.91.0.100")},
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
	down := false
	check(t, p.whileDown(podNS, eth0.Index, tables, func() error {
		l, err := h.LinkByIndex(podNS, eth0.Index)
		down = !l.Up
		return err
	}))
	if !down {
		t.Error("the link was up")
	}
	after, err := p.routesOf(podNS, eth0.Index, tables)
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

// TestKernelRails has three interfaces in a pod, the last of which takes the default route.
func TestKernelRails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
	nodeNS, podNS := newNS(t), newNS(t)
	h, err := host.New(host.Options{NodeNS: nodeNS})
	check(t, err)
	defer h.Close()
	p := &Plugin{Kernel: h, Cluster: cluster{spec: v2beta1.CoordinatorSpec{PodDefaultRouteNIC: new("net2")}, status: v2beta1.CoordinatorStatus{ServiceCIDR: []string{"10.96.0.0/16"}}}}
	service, err := h.LinkByName(host.NodeNS, "lo")
	check(t, err)
	check(t, h.SetLinkUp(host.NodeNS, service.Index))
	far := newNS(t)
	for i, ifname := range []string{"eth0", "net1", "net2"} {
		// Each rail leads to a switch of its own, at .1, which serves 192.0.2.1 as well.
		rail := fmt.Sprintf("172.%d.0.", 91+i)
		sw := newNS(t)
		there, here := cable(t, h, sw, "sw", rail+"1/16", podNS, ifname, rail+"100/16")
		check(t, h.AddAddress(sw, there.Index, netip.MustParsePrefix("192.0.2.1/32")))
		serve(t, sw, fmt.Sprintf("192.0.2.1:%d", 1000+i))
		gateway := netip.MustParseAddr(rail + "1")
		err := h.AddRoute(podNS, host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gateway, Index: here.Index})
		if err != nil && !errors.Is(err, host.ErrExists) {
			t.Fatal(err)
		}
		if i == 0 {
			cable(t, h, host.NodeNS, "up", "10.20.1.10/24", far, "up", "10.20.1.1/24")
		}
		prev := &types100.Result{IPs: []*types100.IPConfig{{Gateway: gateway.AsSlice()}}}
		r := request(ifname, prev, `{}`)
		r.NetNS = podNS
		_, err = p.Add(t.Context(), r)
		check(t, err)
		check(t, p.Check(t.Context(), r))
	}
	for i := range 3 {
		from := fmt.Sprintf("172.%d.0.100", 91+i)
		got, err := askFrom(podNS, from, fmt.Sprintf("192.0.2.1:%d", 1000+i))
		if err != nil || got != from {
			t.Errorf("from %s: answer %q, %v", from, got, err)
		}
		if got, err := ask(nodeNS, from+":1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("node to %s: %q, %v; want a refusal, which is an answer", from, got, err)
		}
	}
	wantAnswer(t, "default route", podNS, "192.0.2.1:1002", "172.93.0.100")
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
