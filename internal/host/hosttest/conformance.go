// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/host"
)

// Env is what the conformance suite needs beside the API.
type Env struct {
	// NewNS makes an empty network namespace that ends with the test at the latest.
	NewNS func(t *testing.T) host.NS
	// DeleteNS ends one.
	DeleteNS func(t *testing.T, ns host.NS)
	// AddAltName gives a link an alternative name, as udev does.
	AddAltName func(t *testing.T, ns host.NS, index int, name string)
	// NameRDMA gives an RDMA device any name that the kernel takes, as a pod may.
	NameRDMA func(t *testing.T, ns host.NS, index int, name string)
	// AppendRoute adds a route beside those that the destination has, of a gateway and a link alone.
	AppendRoute func(t *testing.T, ns host.NS, r host.Route)
	// IBPF is the PCI address of an InfiniBand PF, with at least 3 VFs possible and a cable in,
	// that the tests may use as they like. Without one the tests that need it are left out: their
	// names are in the report.
	IBPF string
	// SetCable plugs or pulls that PF's cable; nil where no test can.
	SetCable func(t *testing.T, plugged bool)
}

// Run checks that a kernel's door keeps what API promises. newHost is called
// once for each test; the node may be the same each time.
func Run(t *testing.T, newHost func(t *testing.T) (API, Env)) {
	for _, c := range []struct {
		name string
		ib   bool
		test func(*testing.T, API, Env)
	}{
		{"Veth", false, testVeth},
		{"MoveLink", false, testMoveLink},
		{"RenameLink", false, testRenameLink},
		{"AltNames", false, testAltNames},
		{"TxQueueLen", false, testTxQueueLen},
		{"HardwareAddr", false, testHardwareAddr},
		{"Addresses", false, testAddresses},
		{"Routes", false, testRoutes},
		{"RoutesOverLinks", false, testRoutesOverLinks},
		{"Rules", false, testRules},
		{"Neighbors", false, testNeighbors},
		{"Sysctl", false, testSysctl},
		{"Announce", false, testAnnounce},
		{"Solicit", false, testSolicit},
		{"SolicitUnanswerable", false, testSolicitUnanswerable},
		{"MarkReplies", false, testMarkReplies},
		{"LinkChangesOfPods", false, testLinkChangesOfPods},
		{"NotFound", false, testNotFound},
		{"NamespaceGone", false, testNamespaceGone},
		{"PF", true, testPF},
		{"NumVFs", true, testNumVFs},
		{"VFGUID", true, testVFGUID},
		{"VFState", true, testVFState},
		{"LinkChanges", true, testLinkChanges},
		{"MoveVF", true, testMoveVF},
		{"MoveRDMARefused", true, testMoveRDMARefused},
		{"RenameRDMA", true, testRenameRDMA},
		{"VFOfDeadNamespace", true, testVFOfDeadNamespace},
		{"IPoIBChild", true, testIPoIBChild},
		{"SolicitOverChildren", true, testSolicitOverChildren},
		{"SolicitOverVFs", true, testSolicitOverVFs},
		{"RDMAMode", true, testRDMAMode},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, env := newHost(t)
			if c.ib && env.IBPF == "" {
				t.Skip("needs an InfiniBand card that makes virtual functions: run it in the lab's virtual machine")
			}
			c.test(t, h, env)
		})
	}
}

// ok stops the test at an error.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is reports an error that is not the wanted one.
func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want an error that is %q", what, err, want)
	}
}

// eventually waits, bounded, for what the kernel does by itself and in its own time.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// veth makes two namespaces and a pair between them, net0 in the first and peer0 in the second.
func veth(t *testing.T, h API, env Env) (a, b host.Link) {
	t.Helper()
	nsA, nsB := env.NewNS(t), env.NewNS(t)
	a, b, err := h.AddVeth(nsA, "net0", nsB, "peer0", 1400)
	ok(t, err)
	return a, b
}

func testVeth(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	for _, l := range []host.Link{a, b} {
		if l.Kind != "veth" || !l.Up || !l.Carrier || l.MTU != 1400 || l.LinkLayer != host.Ethernet ||
			len(l.HardwareAddr) != 6 || l.PCI != "" {
			t.Errorf("fresh veth: %+v", l)
		}
	}
	if a.Parent != b.Index || b.Parent != a.Index {
		t.Errorf("ends %d and %d name %d and %d as their peers", a.Index, b.Index, a.Parent, b.Parent)
	}
	for _, l := range []host.Link{a, b} {
		for _, key := range []string{"accept_ra", "autoconf", "accept_redirects"} {
			v, err := h.Sysctl(l.NS, "net/ipv6/conf/"+l.Name+"/"+key)
			if v != "0" && !errors.Is(err, host.ErrNotFound) { // there need not be any IPv6
				t.Errorf("%s of %s is %q, %v; want 0", key, l.Name, v, err)
			}
		}
	}
	got, err := h.LinkByIndex(b.NS, b.Index)
	ok(t, err)
	if got.Name != "peer0" || got.NS != b.NS {
		t.Errorf("by index: %+v", got)
	}
	_, _, err = h.AddVeth(a.NS, "net0", b.NS, "other0", 0)
	is(t, "a pair with a name that is taken", err, host.ErrExists)
	_, _, err = h.AddVeth(a.NS, "other0", b.NS, "peer0", 0)
	is(t, "a pair whose peer's name is taken", err, host.ErrExists)
	ok(t, h.SetLinkMTU(a.NS, a.Index, 1300))
	if got, err = h.LinkByName(a.NS, "net0"); err != nil || got.MTU != 1300 {
		t.Errorf("after SetLinkMTU: %+v, %v", got, err)
	}
	ok(t, h.DeleteLink(a.NS, a.Index))
	ok(t, h.DeleteLink(a.NS, a.Index))
	_, err = h.LinkByName(b.NS, "peer0")
	is(t, "the peer of a deleted end", err, host.ErrNotFound)
	lo, err := h.LinkByName(a.NS, "lo")
	ok(t, err)
	is(t, "deleting lo", h.DeleteLink(a.NS, lo.Index), host.ErrUnsupported)
}

func testMoveLink(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	to := env.NewNS(t)
	ok(t, h.AddAddress(a.NS, a.Index, prefix("192.0.2.1/24")))
	ok(t, h.SetLinkAlias(a.NS, a.Index, "whose it is"))
	_, _, err := h.AddVeth(to, "taken0", to, "taken1", 0)
	ok(t, err)
	_, err = h.MoveLink(a.NS, a.Index, to, "taken0")
	is(t, "move to a name that is taken", err, host.ErrExists)
	moved, err := h.MoveLink(a.NS, a.Index, to, "eth0")
	ok(t, err)
	if moved.Name != "eth0" || moved.NS != to || moved.Up || moved.Alias != "whose it is" {
		t.Errorf("arrived as %+v", moved)
	}
	if have, err := h.Addresses(to, moved.Index); err != nil || len(have) != 0 {
		t.Errorf("arrived with addresses %v, %v", have, err)
	}
	_, err = h.LinkByName(a.NS, "net0")
	is(t, "the link where it came from", err, host.ErrNotFound)
	env.AddAltName(t, to, moved.Index, "other0")
	back, err := h.MoveLink(to, moved.Index, host.NodeNS, "other0")
	ok(t, err)
	if back.Name != "other0" || back.NS != host.NodeNS || slices.Contains(back.AltNames, "other0") {
		t.Errorf("came to the node as %+v", back)
	}
	same, err := h.MoveLink(host.NodeNS, back.Index, a.NS, "")
	ok(t, err)
	if same.Name != "other0" {
		t.Errorf("moved without a new name as %+v", same)
	}
	_, err = h.MoveLink(host.NodeNS, same.Index, to, "x0")
	is(t, "moving a link that is elsewhere", err, host.ErrNotFound)
}

func testTxQueueLen(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	want := a.TxQueueLen + 7
	for range 2 {
		ok(t, h.SetLinkTxQueueLen(a.NS, a.Index, want))
	}
	if l, err := h.LinkByIndex(a.NS, a.Index); err != nil || l.TxQueueLen != want || !l.Up {
		t.Errorf("%+v, %v; want a queue of %d and the link up", l, err, want)
	}
	if l, err := h.LinkByIndex(b.NS, b.Index); err != nil || l.TxQueueLen != b.TxQueueLen {
		t.Errorf("the other end: %+v, %v; want its queue as it was, %d", l, err, b.TxQueueLen)
	}
	if err := h.SetLinkTxQueueLen(a.NS, a.Index, -1); err == nil {
		t.Error("a negative length was taken")
	}
}

func testHardwareAddr(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	ok(t, h.AddAddress(a.NS, a.Index, prefix("172.91.0.100/16")))
	ok(t, h.AddRoute(a.NS, host.Route{Dst: prefix("198.51.100.0/24"), Gateway: addr("172.91.0.1"), Index: a.Index}))
	before, err := h.Routes(a.NS, 0)
	ok(t, err)
	want := net.HardwareAddr{0x0a, 0x1b, 172, 91, 0, 100}
	for range 2 {
		ok(t, h.SetLinkHardwareAddr(a.NS, a.Index, want))
	}
	if l, err := h.LinkByIndex(a.NS, a.Index); err != nil || !bytes.Equal(l.HardwareAddr, want) || !l.Up {
		t.Errorf("%+v, %v; want the address %s and the link up", l, err, want)
	}
	if l, err := h.LinkByIndex(b.NS, b.Index); err != nil || !bytes.Equal(l.HardwareAddr, b.HardwareAddr) {
		t.Errorf("the other end: %+v, %v; want %s as before", l, err, b.HardwareAddr)
	}
	after, err := h.Routes(a.NS, 0)
	ok(t, err)
	if !slices.Equal(before, after) {
		t.Errorf("routes %+v, before %+v", after, before)
	}
	for _, bad := range []net.HardwareAddr{nil, want[:4], make(net.HardwareAddr, 6), {1, 0, 0, 0, 0, 1},
		make(net.HardwareAddr, 20)} {
		if err := h.SetLinkHardwareAddr(a.NS, a.Index, bad); err == nil || errors.Is(err, host.ErrNotFound) {
			t.Errorf("the address %s: %v, want a refusal of it", bad, err)
		}
	}
}

func testAddresses(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	want := []netip.Prefix{prefix("172.91.0.100/16"), prefix("2001:db8::100/64")}
	for range 2 {
		for _, p := range want {
			ok(t, h.AddAddress(a.NS, a.Index, p))
		}
	}
	have, err := h.Addresses(a.NS, a.Index)
	ok(t, err)
	all, err := h.AllAddresses(a.NS)
	ok(t, err)
	if !slices.Equal(all[a.Index], have) {
		t.Errorf("of all addresses the link has %v, want %v", all[a.Index], have)
	}
	for index := range all {
		if _, err := h.LinkByIndex(a.NS, index); err != nil {
			t.Errorf("addresses %v of a link that is not there: %v", all[index], err)
		}
	}
	have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	slices.SortFunc(have, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	if !slices.Equal(have, want) {
		t.Errorf("addresses %v, want %v", have, want)
	}
	is(t, "an address on no link", h.AddAddress(a.NS, 4711, want[0]), host.ErrNotFound)
	_, err = h.Addresses(a.NS, 4711)
	is(t, "addresses of no link", err, host.ErrNotFound)
}

func testRoutes(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	ok(t, h.AddAddress(a.NS, a.Index, prefix("172.91.0.100/16")))
	ok(t, h.AddAddress(a.NS, a.Index, prefix("2001:db8::100/64")))
	has := func(r host.Route) bool {
		t.Helper()
		all, err := h.Routes(a.NS, r.Table)
		ok(t, err)
		return slices.Contains(all, r)
	}
	if !has(host.Route{Dst: prefix("172.91.0.0/16"), Src: addr("172.91.0.100"), Index: a.Index}) ||
		!has(host.Route{Dst: prefix("2001:db8::/64"), Index: a.Index}) {
		t.Error("the networks of the addresses are not among the routes")
	}
	routes := []host.Route{
		{Dst: prefix("0.0.0.0/0"), Gateway: addr("172.91.0.1"), Index: a.Index},
		{Dst: prefix("::/0"), Gateway: addr("2001:db8::1"), Index: a.Index},
		{Dst: prefix("198.51.100.7/32"), Index: a.Index},
		{Dst: prefix("203.0.113.0/24"), Gateway: addr("172.91.0.2"), Src: addr("172.91.0.100"), Index: a.Index,
			Table: 500},
		{Dst: prefix("0.0.0.0/0"), Gateway: addr("172.91.0.3"), Index: a.Index, Table: 500},
		{Dst: prefix("2001:db8:1::/48"), Gateway: addr("2001:db8::2"), Index: a.Index, Table: 500},
	}
	for range 2 {
		for _, r := range routes {
			ok(t, h.AddRoute(a.NS, r))
		}
	}
	for _, r := range routes {
		if !has(r) {
			t.Errorf("route %+v is not listed", r)
		}
	}
	other := routes[0]
	other.Gateway = addr("172.91.0.9")
	is(t, "a second default route", h.AddRoute(a.NS, other), host.ErrExists)
	other = host.Route{Dst: prefix("10.0.0.0/8"), Gateway: addr("192.0.2.1"), Index: a.Index}
	if err := h.AddRoute(a.NS, other); err == nil {
		t.Error("a gateway on no network of the link was taken")
	}
	for range 2 {
		ok(t, h.DeleteRoute(a.NS, host.Route{Dst: prefix("203.0.113.0/24"), Table: 500}))
		ok(t, h.DeleteRoute(a.NS, routes[1]))
	}
	if has(routes[3]) || has(routes[1]) || !has(routes[4]) || !has(routes[0]) {
		t.Error("deleting two routes did not delete just them")
	}
	ok(t, h.SetLinkDown(a.NS, a.Index))
	if has(routes[0]) || has(routes[4]) {
		t.Error("routes outlived their link's going down")
	}
	if err := h.AddRoute(a.NS, routes[0]); err == nil {
		t.Error("a route through a link that is down was taken")
	}
}

// testRoutesOverLinks has routes to one destination that the kernel lists as one over several links.
func testRoutesOverLinks(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	b, _, err := h.AddVeth(a.NS, "net1", env.NewNS(t), "peer1", 1400)
	ok(t, err)
	ok(t, h.AddAddress(a.NS, a.Index, prefix("2001:db8:a::100/64")))
	ok(t, h.AddAddress(b.NS, b.Index, prefix("2001:db8:b::100/64")))
	routes := []host.Route{
		{Dst: prefix("::/0"), Gateway: addr("2001:db8:a::1"), Index: a.Index},
		{Dst: prefix("::/0"), Gateway: addr("2001:db8:b::1"), Index: b.Index},
		{Dst: prefix("::/0"), Gateway: addr("2001:db8:b::2"), Index: b.Index},
	}
	left := func() []host.Route {
		t.Helper()
		all, err := h.Routes(a.NS, 0)
		ok(t, err)
		return slices.DeleteFunc(all, func(r host.Route) bool { return r.Dst.Bits() != 0 })
	}
	ok(t, h.AddRoute(a.NS, routes[0]))
	for _, r := range routes[1:] {
		is(t, "a default route beside another", h.AddRoute(a.NS, r), host.ErrExists)
		env.AppendRoute(t, a.NS, r)
		ok(t, h.AddRoute(a.NS, r))
	}
	// beside the kernel's own
	ok(t, h.AddRoute(a.NS, host.Route{Dst: prefix("2001:db8:a::/64"), Gateway: addr("2001:db8:b::1"), Index: b.Index}))
	if have := left(); len(have) != 3 {
		t.Fatalf("default routes %+v, want three", have)
	}
	for range 2 {
		ok(t, h.DeleteRoute(a.NS, routes[0]))
		if have := left(); len(have) != 2 || !slices.Contains(have, routes[1]) || !slices.Contains(have, routes[2]) {
			t.Errorf("deleting the first left %+v", have)
		}
	}
	env.AppendRoute(t, a.NS, routes[0])
	ok(t, h.DeleteRoute(a.NS, host.Route{Dst: prefix("::/0"), Index: b.Index}))
	if have := left(); len(have) != 1 || have[0] != routes[0] {
		t.Errorf("deleting those of the second link left %+v", have)
	}
	ok(t, h.DeleteRoute(a.NS, host.Route{Dst: prefix("::/0")}))
	if have := left(); len(have) != 0 {
		t.Errorf("deleting all left %+v", have)
	}
}

func testRules(t *testing.T, h API, env Env) {
	ns := env.NewNS(t)
	rules := []host.Rule{
		{Priority: 1000, From: prefix("172.91.0.100/32"), Table: 500},
		{Priority: 1000, To: prefix("2001:db8::/64"), Table: 500, IPv6: true},
		{Priority: 1001, Mark: 0x1, Table: 501},
		{Priority: 1001, From: prefix("172.91.0.100/32"), Mark: 0x1, Table: 500},
		{Priority: 1002, Mark: 0x1, Table: 501, IPv6: true},
	}
	if have, err := h.Rules(ns); err != nil || len(have) != 0 {
		t.Errorf("rules of a fresh namespace: %v, %v", have, err)
	}
	list := func() []host.Rule {
		t.Helper()
		all, err := h.Rules(ns)
		ok(t, err)
		return all
	}
	for range 2 {
		for _, r := range rules {
			ok(t, h.AddRule(ns, r))
		}
	}
	for _, r := range rules {
		if !slices.Contains(list(), r) {
			t.Errorf("rule %+v is not listed in %+v", r, list())
		}
	}
	if n := len(list()); n != len(rules) {
		t.Errorf("%d rules, want %d", n, len(rules))
	}
	for range 2 {
		ok(t, h.DeleteRule(ns, host.Rule{From: prefix("172.91.0.100/32"), Table: 500}))
		ok(t, h.DeleteRule(ns, rules[2]))
	}
	if have := list(); len(have) != 3 || !slices.Contains(have, rules[3]) || !slices.Contains(have, rules[4]) {
		t.Errorf("deleting two rules left %+v", have)
	}
	ok(t, h.AddRule(ns, host.Rule{From: prefix("198.51.100.0/24"), Table: 500}))
	ok(t, h.AddRule(ns, host.Rule{From: prefix("198.51.100.0/24"), Table: 500}))
	if have := list(); len(have) != 4 {
		t.Errorf("a rule without priority, added twice: %+v", have)
	}
}

func testNeighbors(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	for range 2 {
		ok(t, h.AddNeighbor(a.NS, host.Neighbor{Index: a.Index, IP: addr("169.254.1.1"), HardwareAddr: b.HardwareAddr}))
		ok(t, h.AddNeighbor(a.NS, host.Neighbor{Index: a.Index, IP: addr("2001:db8::1"), HardwareAddr: b.HardwareAddr}))
	}
	if err := h.AddNeighbor(a.NS, host.Neighbor{Index: a.Index, IP: addr("169.254.1.1"),
		HardwareAddr: b.HardwareAddr[:4]}); err == nil {
		t.Error("a hardware address that is too short was taken")
	}
}

func testSysctl(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	const key = "net/ipv4/conf/net0/proxy_arp"
	ok(t, h.SetSysctl(a.NS, key, "1"))
	if v, err := h.Sysctl(a.NS, key); err != nil || v != "1" {
		t.Errorf("%s reads %q, %v", key, v, err)
	}
	_, err := h.Sysctl(b.NS, key)
	is(t, "a key of a link of another namespace", err, host.ErrNotFound)
	is(t, "writing it", h.SetSysctl(b.NS, key, "1"), host.ErrNotFound)
	ok(t, h.SetSysctl(b.NS, "net/ipv4/ip_forward", "0")) // a new namespace may take the node's
	ok(t, h.SetSysctl(a.NS, "net/ipv4/ip_forward", "1"))
	if v, err := h.Sysctl(b.NS, "net/ipv4/ip_forward"); err != nil || v != "0" {
		t.Errorf("the other namespace's ip_forward reads %q, %v", v, err)
	}
}

func testAnnounce(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	for _, p := range []netip.Prefix{prefix("172.91.0.100/16"), prefix("2001:db8::100/64")} {
		ok(t, h.AddAddress(a.NS, a.Index, p))
		ok(t, h.Announce(a.NS, a.Index, p.Addr()))
	}
	is(t, "announcing on no link", h.Announce(a.NS, 4711, addr("172.91.0.100")), host.ErrNotFound)
	ok(t, h.SetLinkDown(a.NS, a.Index))
	if err := h.Announce(a.NS, a.Index, addr("172.91.0.100")); err == nil {
		t.Error("announcing on a link that is down succeeded")
	}
}

func testMarkReplies(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	ok(t, h.MarkReplies(a.NS, "net0", 0x64))
	ok(t, h.MarkReplies(a.NS, "net0", 0x65))
}

func testNotFound(t *testing.T, h API, env Env) {
	ns := env.NewNS(t)
	for what, call := range map[string]func() error{
		"LinkByName":    func() error { _, err := h.LinkByName(ns, "eth9"); return err },
		"alternative":   func() error { _, err := h.LinkByName(ns, "an-alternative-name-of-no-link"); return err },
		"too long":      func() error { _, err := h.LinkByName(ns, strings.Repeat("x", 200)); return err },
		"no name":       func() error { _, err := h.LinkByName(ns, ""); return err },
		"LinkByIndex":   func() error { _, err := h.LinkByIndex(ns, 4711); return err },
		"LinkByPCI":     func() error { _, err := h.LinkByPCI(ns, "0000:ff:1f.7"); return err },
		"MoveLink":      func() error { _, err := h.MoveLink(ns, 4711, host.NodeNS, "x0"); return err },
		"SetLinkUp":     func() error { return h.SetLinkUp(ns, 4711) },
		"SetLinkMTU":    func() error { return h.SetLinkMTU(ns, 4711, 1500) },
		"SetLinkAlias":  func() error { return h.SetLinkAlias(ns, 4711, "x") },
		"TxQueueLen":    func() error { return h.SetLinkTxQueueLen(ns, 4711, 1) },
		"HardwareAddr":  func() error { return h.SetLinkHardwareAddr(ns, 4711, net.HardwareAddr{2, 0, 0, 0, 0, 1}) },
		"VFDevices":     func() error { _, err := h.VFDevices("0000:ff:1f.7"); return err },
		"VFState":       func() error { _, err := h.VFState("0000:ff:1f.7", 0); return err },
		"SetNumVFs":     func() error { return h.SetNumVFs("0000:ff:1f.7", 1) },
		"BindVF":        func() error { return h.BindVF("0000:ff:1f.7") },
		"UnbindVF":      func() error { return h.UnbindVF("0000:ff:1f.7") },
		"SetVFState":    func() error { return h.SetVFState("0000:ff:1f.7", 0, host.VFAuto) },
		"MoveRDMA":      func() error { return h.MoveRDMA(ns, "mlx5_99", host.NodeNS) },
		"AddIPoIBChild": func() error { _, err := h.AddIPoIBChild(4711, "c0", 0xffff); return err },
	} {
		is(t, what, call(), host.ErrNotFound)
	}
}

func testNamespaceGone(t *testing.T, h API, env Env) {
	ns, live := env.NewNS(t), env.NewNS(t)
	l, _, err := h.AddVeth(live, "net0", live, "net1", 0)
	ok(t, err)
	if !h.NSExists(ns) || !h.NSExists(host.NodeNS) {
		t.Error("a live namespace does not exist")
	}
	env.DeleteNS(t, ns)
	if h.NSExists(ns) {
		t.Error("a dead namespace exists")
	}
	p := prefix("192.0.2.0/24")
	for what, call := range map[string]func() error{
		"Links":             func() error { _, err := h.Links(ns); return err },
		"LinkByName":        func() error { _, err := h.LinkByName(ns, "eth0"); return err },
		"LinkByIndex":       func() error { _, err := h.LinkByIndex(ns, 2); return err },
		"LinkByPCI":         func() error { _, err := h.LinkByPCI(ns, "0000:ff:1f.7"); return err },
		"MoveLink from":     func() error { _, err := h.MoveLink(ns, 2, live, "x0"); return err },
		"MoveLink to":       func() error { _, err := h.MoveLink(live, l.Index, ns, "x0"); return err },
		"MoveRDMA":          func() error { return h.MoveRDMA(ns, "mlx5_99", host.NodeNS) },
		"RDMADevices":       func() error { _, err := h.RDMADevices(ns); return err },
		"RDMAByPCI":         func() error { _, err := h.RDMAByPCI(ns, "0000:ff:1f.7"); return err },
		"RenameLink":        func() error { return h.RenameLink(ns, 2, "x0") },
		"SetLinkUp":         func() error { return h.SetLinkUp(ns, 2) },
		"SetLinkDown":       func() error { return h.SetLinkDown(ns, 2) },
		"SetLinkMTU":        func() error { return h.SetLinkMTU(ns, 2, 1500) },
		"SetLinkAlias":      func() error { return h.SetLinkAlias(ns, 2, "x") },
		"SetLinkTxQueueLen": func() error { return h.SetLinkTxQueueLen(ns, 2, 1) },
		"SetLinkHardwareAddr": func() error {
			return h.SetLinkHardwareAddr(ns, 2, net.HardwareAddr{2, 0, 0, 0, 0,
				1})
		},
		"SetIPv6LinkLocalGUID": func() error { return h.SetIPv6LinkLocalGUID(ns, 2, GuidePFGUID) },
		"AddVeth":              func() error { _, _, err := h.AddVeth(ns, "x0", live, "y0", 0); return err },
		"AddVeth peer":         func() error { _, _, err := h.AddVeth(live, "x0", ns, "y0", 0); return err },
		"DeleteLink":           func() error { return h.DeleteLink(ns, 2) },
		"Addresses":            func() error { _, err := h.Addresses(ns, 2); return err },
		"AllAddresses":         func() error { _, err := h.AllAddresses(ns); return err },
		"AddAddress":           func() error { return h.AddAddress(ns, 2, p) },
		"Routes":               func() error { _, err := h.Routes(ns, 0); return err },
		"AddRoute":             func() error { return h.AddRoute(ns, host.Route{Dst: p, Index: 2}) },
		"DeleteRoute":          func() error { return h.DeleteRoute(ns, host.Route{Dst: p}) },
		"Rules":                func() error { _, err := h.Rules(ns); return err },
		"AddRule":              func() error { return h.AddRule(ns, host.Rule{From: p, Table: 500}) },
		"DeleteRule":           func() error { return h.DeleteRule(ns, host.Rule{From: p, Table: 500}) },
		"AddNeighbor": func() error {
			return h.AddNeighbor(ns, host.Neighbor{Index: 2, IP: p.Addr(), HardwareAddr: l.HardwareAddr})
		},
		"Sysctl":      func() error { _, err := h.Sysctl(ns, "net/ipv4/ip_forward"); return err },
		"SetSysctl":   func() error { return h.SetSysctl(ns, "net/ipv4/ip_forward", "1") },
		"MarkReplies": func() error { return h.MarkReplies(ns, "eth0", 1) },
		"Announce":    func() error { return h.Announce(ns, 2, p.Addr()) },
		"Solicit":     func() error { _, err := h.Solicit(t.Context(), ns, 2, p.Addr(), netip.Addr{}); return err },
	} {
		is(t, what, call(), host.ErrNSGone)
	}
	if got, err := h.LinkByName(live, "net0"); err != nil || got.Index != l.Index {
		t.Errorf("a link that failed to leave is %+v, %v", got, err)
	}
}
