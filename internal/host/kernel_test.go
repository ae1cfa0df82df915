// SPDX-License-Identifier: Apache-2.0

package host_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// The tests against the kernel work in network namespaces of their own. With
// HOSTTEST_IB_PF=0000:86:00.0 in a virtual machine they use that InfiniBand card too,
// and with it the node's own namespace.
const ibPF = "HOSTTEST_IB_PF"

// inUserNamespace marks the second run of a test binary that began without privilege.
const inUserNamespace = "HOSTTEST_IN_USER_NAMESPACE"

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
	switch err := cmd.Run(); {
	case err == nil:
		os.Exit(0)
	case cmd.ProcessState != nil:
		os.Exit(cmd.ProcessState.ExitCode())
	default:
		fmt.Fprintf(os.Stderr,
			"cannot make a user namespace (%v): the tests against the kernel will be skipped; run them as root\n", err)
		os.Exit(m.Run())
	}
}

func needPrivilege(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root or a user namespace")
	}
}

// netns is a network namespace that lives as long as its file is open.
type netns struct{ file *os.File }

// lastFD counts on, so that no path ever names two namespaces.
var lastFD = 255

func (n *netns) path() host.NS {
	return host.NS(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()))
}

// newNS makes a namespace.
func newNS(t *testing.T) *netns {
	t.Helper()
	var n netns
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer f.Close()
		lastFD++
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, lastFD)
		n.file = os.NewFile(uintptr(fd), "netns")
		return err
	})
	t.Cleanup(func() { n.file.Close() })
	return &n
}

// inNS runs do on a thread in the namespace.
func inNS(t *testing.T, n *netns, do func() error) {
	t.Helper()
	onThread(t, func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// onThread runs do on a locked thread and brings the thread back to its namespace.
func onThread(t *testing.T, do func() error) {
	t.Helper()
	runtime.LockOSThread()
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	err = do()
	if back := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET); back != nil {
		t.Fatal(back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a Host with the namespaces that a test made. Its node is a namespace of the test's own, but the
// machine's when there is an InfiniBand card to test with.
func machine(t *testing.T) (hosttest.API, hosttest.Env) {
	needPrivilege(t)
	made := map[host.NS]*netns{}
	add := func(t *testing.T) host.NS {
		n := newNS(t)
		made[n.path()] = n
		return n.path()
	}
	o, pf := host.Options{}, os.Getenv(ibPF)
	if pf == "" {
		o.NodeNS = add(t)
		made[host.NodeNS] = made[o.NodeNS]
	}
	h, err := host.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, hosttest.Env{
		IBPF:     pf,
		SetCable: cableOf(pf),
		NewNS:    add,
		DeleteNS: func(t *testing.T, ns host.NS) {
			if err := made[ns].file.Close(); err != nil {
				t.Fatal(err)
			}
		},
		AddAltName: func(t *testing.T, ns host.NS, index int, name string) {
			inNS(t, made[ns], func() error {
				return netlink.LinkAddAltName(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, name)
			})
		},
		NameRDMA: func(t *testing.T, ns host.NS, index int, name string) {
			inNS(t, made[ns], func() error {
				device := netlink.RdmaLink{Attrs: netlink.RdmaLinkAttrs{Index: uint32(index)}}
				return netlink.RdmaLinkSetName(&device, name)
			})
		},
		AppendRoute: func(t *testing.T, ns host.NS, r host.Route) {
			dst := &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())}
			inNS(t, made[ns], func() error {
				return netlink.RouteAppend(&netlink.Route{Dst: dst, Gw: r.Gateway.AsSlice(), LinkIndex: r.Index,
					Table: r.Table})
			})
		},
	}
}

// cableOf plugs and pulls a virtual card's cable; nil for a card whose cable needs a hand.
func cableOf(pf string) func(*testing.T, bool) {
	file := "/sys/bus/pci/devices/" + pf + "/vhca_cable"
	if _, err := os.Stat(file); pf == "" || err != nil {
		return nil
	}
	return func(t *testing.T, plugged bool) {
		t.Helper()
		if err := os.WriteFile(file, []byte(map[bool]string{false: "0", true: "1"}[plugged]), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKernelConformance(t *testing.T) { hosttest.Run(t, machine) }

var _ hosttest.API = (*host.Host)(nil)

// TestDeleteHopOfIPv4 has a route over two links, which IPv4 knows as a single one.
func TestDeleteHopOfIPv4(t *testing.T) {
	h, env := machine(t)
	n := newNS(t)
	var hops []*netlink.NexthopInfo
	for i := range 2 {
		l, _, err := h.AddVeth(n.path(), fmt.Sprint("net", i), env.NewNS(t), "peer0", 1500)
		must(t, err)
		must(t, h.AddAddress(n.path(), l.Index, netip.MustParsePrefix(fmt.Sprintf("172.%d.0.100/16", 91+i))))
		hops = append(hops, &netlink.NexthopInfo{LinkIndex: l.Index, Gw: net.IPv4(172, byte(91+i), 0, 1)})
	}
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	inNS(t, n, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
			MultiPath: hops})
	})
	for left := 1; left >= 0; left-- {
		must(t, h.DeleteRoute(n.path(), host.Route{Dst: everywhere, Index: hops[left].LinkIndex}))
		routes, err := h.Routes(n.path(), 0)
		must(t, err)
		routes = slices.DeleteFunc(routes, func(r host.Route) bool { return r.Dst != everywhere })
		if len(routes) != left || left > 0 && routes[0].Index != hops[0].LinkIndex {
			t.Errorf("default routes %+v, want %d", routes, left)
		}
	}
}

// TestForeignRules has rules that are for less than a host.Rule of the same table. The library
// writes suppressors of tables below 256 alone.
func TestForeignRules(t *testing.T) {
	h, _ := machine(t)
	n := newNS(t)
	mask := uint32(0xff)
	for what, change := range map[string]func(*netlink.Rule){
		"iif":               func(r *netlink.Rule) { r.IifName = "eth7" },
		"oif":               func(r *netlink.Rule) { r.OifName = "eth7" },
		"suppress_prefix":   func(r *netlink.Rule) { r.SuppressPrefixlen = 0 },
		"suppress_ifgroup":  func(r *netlink.Rule) { r.SuppressIfgroup = 1 },
		"not":               func(r *netlink.Rule) { r.Invert, r.Mark = true, 1 },
		"part of the mark":  func(r *netlink.Rule) { r.Mark, r.Mask = 1, &mask },
		"a port":            func(r *netlink.Rule) { r.Dport = netlink.NewRulePortRange(53, 53) },
		"a protocol":        func(r *netlink.Rule) { r.IPProto = 17 },
		"a user":            func(r *netlink.Rule) { r.UIDRange = netlink.NewRuleUIDRange(7, 7) },
		"a type of service": func(r *netlink.Rule) { r.Tos = 0x10 },
	} {
		raw := netlink.NewRule()
		raw.Family, raw.Table, raw.Priority = netlink.FAMILY_V4, 50, 1000
		change(raw)
		inNS(t, n, func() error { return netlink.RuleAdd(raw) })
		if have, err := h.Rules(n.path()); err != nil || len(have) > 0 {
			t.Errorf("%s: rules %+v, %v; want none", what, have, err)
		}
		inNS(t, n, func() error { return netlink.RuleDel(raw) })
	}
	foreign := netlink.NewRule()
	foreign.Family, foreign.Table, foreign.Priority, foreign.IifName = netlink.FAMILY_V4, 50, 1000, "eth7"
	inNS(t, n, func() error { return netlink.RuleAdd(foreign) })
	rule := host.Rule{Priority: 1000, Table: 50}
	must(t, h.AddRule(n.path(), rule))
	if have, err := h.Rules(n.path()); err != nil || !slices.Equal(have, []host.Rule{rule}) {
		t.Errorf("rules %+v, %v; want %+v beside the foreign one", have, err, rule)
	}
}

// TestNothingLeaks counts file descriptors and looks whether threads stayed in another namespace.
func TestNothingLeaks(t *testing.T) {
	h, env := machine(t)
	a, b := env.NewNS(t), env.NewNS(t)
	round := func() {
		l, peer, err := h.AddVeth(a, "net0", b, "peer0", 1500)
		if err != nil {
			t.Fatal(err)
		}
		must(t, h.AddAddress(b, peer.Index, netip.MustParsePrefix("192.0.2.1/24")))
		if _, err := h.Solicit(t.Context(), a, l.Index, netip.MustParseAddr("192.0.2.1"), netip.Addr{}); err != nil {
			t.Error(err)
		}
		if l, err = h.MoveLink(a, l.Index, b, "eth0"); err != nil {
			t.Fatal(err)
		}
		_, _ = h.RDMADevices(b)
		_, _ = h.Rules(b)
		_, _ = h.Sysctl(b, "net/ipv4/ip_forward")
		_ = h.MarkReplies(b, "eth0", 1)
		_, _ = h.Links("/proc/self/fd/4711")
		if err := h.DeleteLink(b, l.Index); err != nil {
			t.Fatal(err)
		}
	}
	round()
	before := openFiles(t)
	for range 20 {
		round()
	}
	if after := openFiles(t); len(after) > len(before) {
		t.Errorf("%d files were open, now %d: %v", len(before), len(after), after)
	}
	self := readlink(t, "/proc/self/ns/net")
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range threads {
		if ns, err := os.Readlink("/proc/self/task/" + th.Name() + "/ns/net"); err == nil && ns != self {
			t.Errorf("thread %s is in %s, the process in %s", th.Name(), ns, self)
		}
	}
}

// openFiles lists what the process has open, but for the runtime's own.
func openFiles(t *testing.T) []string {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, n := range names {
		if target, err := os.Readlink("/proc/self/fd/" + n.Name()); err == nil && !strings.HasPrefix(target,
			"anon_inode:") {
			all = append(all, target)
		}
	}
	return all
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}
