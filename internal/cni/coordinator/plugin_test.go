// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

var update = flag.Bool("update", false, "write the golden files")

// pod is the network namespace of the pod under test.
const pod = host.NS("/run/netns/cni-1")

const container = "0123456789abcdef0123"

// memory is a State that survives its plugin.
type memory struct {
	raw []byte
	err error
}

func (m *memory) Load(into any) (bool, error) {
	if m.err != nil || m.raw == nil {
		return false, m.err
	}
	return true, json.Unmarshal(m.raw, into)
}

func (m *memory) Save(v any) (err error) {
	m.raw, err = json.Marshal(v)
	return err
}

// Note implements cni.State.
func (m *memory) Note(v any) error { return m.Save(v) }

// cluster is a SpiderCoordinator.
type cluster struct {
	spec   v2beta1.CoordinatorSpec
	status v2beta1.CoordinatorStatus
	err    error
}

func (c cluster) Coordinator(context.Context) (v2beta1.CoordinatorSpec, v2beta1.CoordinatorStatus, error) {
	return c.spec, c.status, c.err
}

var labCluster = cluster{status: v2beta1.CoordinatorStatus{ServiceCIDR: []string{"10.96.0.0/16", "fd96::/112"},
	OverlayPodCIDR: []string{"10.244.0.0/24", "10.244.1.0/24"}}}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is the guide's node with an empty pod namespace.
func node(t *testing.T) *hosttest.Fake {
	t.Helper()
	f := hosttest.GuideNode()
	f.AddNS(pod)
	return f
}

// attach puts an IPoIB child into the pod, as the plugin before the coordinator does.
func attach(t *testing.T, f *hosttest.Fake, ifname, gateway string, addresses ...string) *types100.Result {
	t.Helper()
	master, err := f.LinkByName(host.NodeNS, "ibs5f0")
	check(t, err)
	l, err := f.AddIPoIBChild(master.Index, "tmp", 0)
	check(t, err)
	l, err = f.MoveLink(host.NodeNS, l.Index, pod, ifname)
	check(t, err)
	check(t, f.SetLinkUp(pod, l.Index))
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: ifname, Sandbox: string(pod)}}}
	for _, a := range addresses {
		p := netip.MustParsePrefix(a)
		check(t, f.AddAddress(pod, l.Index, p))
		ip := &types100.IPConfig{Address: net.IPNet{IP: p.Addr().AsSlice(),
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Interface: types100.Int(0)}
		if gateway != "" && p.Addr().Is4() {
			gw := netip.MustParseAddr(gateway)
			ip.Gateway = gw.AsSlice()
			err := f.AddRoute(pod, host.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gw, Index: l.Index})
			if err != nil && !errors.Is(err, host.ErrExists) {
				t.Fatal(err)
			}
		}
		res.IPs = append(res.IPs, ip)
	}
	f.Revive()
	return res
}

func request(ifname string, prev *types100.Result, conf string) *cni.Request {
	return &cni.Request{ContainerID: container, NetNS: pod, IfName: ifname, Conf: []byte(conf),
		Network: "kube-system/ib-sriov", Prev: prev, State: &memory{}}
}

// golden compares what is in the namespaces with testdata/name, or writes it with -update.
func golden(t *testing.T, f *hosttest.Fake, name string) {
	t.Helper()
	s := f.Snapshot()
	text, err := json.MarshalIndent(map[string]hosttest.NamespaceState{"node": s.Namespaces[host.NodeNS],
		"pod": s.Namespaces[pod]}, "", "  ")
	check(t, err)
	text = append(text, '\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		check(t, os.MkdirAll("testdata", 0o755))
		check(t, os.WriteFile(path, text, 0o644))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", path, diff)
	}
}

func TestFirstInterface(t *testing.T) {
	f := node(t)
	prev := attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16")
	before := f.Snapshot()
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("eth0", prev, `{"type":"coordinator"}`)
	got, err := p.Add(t.Context(), r)
	check(t, err)
	if got != prev {
		t.Error("the result is not the one of the plugin before")
	}
	golden(t, f, "first")
	check(t, p.Check(t.Context(), r))

	// Once more, as after a crash: the same again.
	_, err = p.Add(t.Context(), r)
	check(t, err)
	check(t, p.Check(t.Context(), r))

	check(t, p.Del(t.Context(), r))
	if err := p.Check(t.Context(), r); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("check after delete: %v, want ErrNotFound", err)
	}
	check(t, p.Del(t.Context(), r))
	sameNode(t, before, f)
}

// sameNode wants the node as it was, but for the rule, which is the node's.
func sameNode(t *testing.T, before hosttest.Snapshot, f *hosttest.Fake) {
	t.Helper()
	was, is := before.Namespaces[host.NodeNS], f.Snapshot().Namespaces[host.NodeNS]
	is.Rules = was.Rules
	if diff := cmp.Diff(was, is); diff != "" {
		t.Errorf("the node is not as before (-before +after):\n%s", diff)
	}
}

func TestBothFamilies(t *testing.T) {
	f := node(t)
	eno, err := f.LinkByName(host.NodeNS, hosttest.GuideEthName)
	check(t, err)
	check(t, f.AddAddress(host.NodeNS, eno.Index, netip.MustParsePrefix("fd20::10/64")))
	check(t, f.AddAddress(host.NodeNS, eno.Index, netip.MustParsePrefix("fe80::1/64")))
	prev := attach(t, f, "eth0", "", "172.91.0.100/16", "fd00:91::100/64", "fe80::2/64")
	p := &Plugin{Kernel: f, Cluster: labCluster}
	_, err = p.Add(t.Context(),
		request("eth0", prev,
			`{"vethMTU":1400,"vethLinkAddress":"169.254.9.9","podRPFilter":2,"hostRuleTable":600,"hijackCIDR":["172.91.0.0/16","10.0.0.0/8"],"policyRoutes":[{"dst":"192.0.2.0/24","gw":"172.91.0.9"}]}`))
	check(t, err)
	golden(t, f, "both-families")
}

func TestLaterInterfaces(t *testing.T) {
	for _, tt := range []struct{ name, conf string }{
		{"later", `{}`},
		{"later-default", `{"podDefaultRouteNic":"net1"}`},
		{"later-untuned", `{"tunePodRoutes":false}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := node(t)
			p := &Plugin{Kernel: f, Cluster: labCluster}
			first := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), tt.conf)
			_, err := p.Add(t.Context(), first)
			check(t, err)
			before := f.Snapshot()
			second := request("net1", attach(t, f, "net1", "172.92.0.1", "172.92.0.100/16"), tt.conf)
			_, err = p.Add(t.Context(), second)
			check(t, err)
			golden(t, f, tt.name)
			check(t, p.Check(t.Context(), second))
			once := f.Snapshot()
			_, err = p.Add(t.Context(), second)
			check(t, err)
			if diff := cmp.Diff(once, f.Snapshot()); diff != "" {
				t.Errorf("a second ADD changes things:\n%s", diff)
			}
			check(t, p.Del(t.Context(), second))
			after := f.Snapshot()
			if diff := cmp.Diff(before.Namespaces[host.NodeNS].Routes,
				after.Namespaces[host.NodeNS].Routes); diff != "" {
				t.Errorf("routes of the node:\n%s", diff)
			}
		})
	}
}

// route adds one from its text.
func route(t *testing.T, f *hosttest.Fake, ns host.NS, index int, dst, gateway string) {
	t.Helper()
	r := host.Route{Dst: netip.MustParsePrefix(dst), Index: index}
	if gateway != "" {
		r.Gateway = netip.MustParseAddr(gateway)
	}
	check(t, f.AddRoute(ns, r))
}

// calico gives the pod a first interface as that plugin does: a gateway that is nobody's address,
// and on the node a route of the pod's own.
func calico(t *testing.T, f *hosttest.Fake) {
	t.Helper()
	there, eth0, err := f.AddVeth(host.NodeNS, "cali0123", pod, "eth0", 1480)
	check(t, err)
	check(t, f.AddAddress(pod, eth0.Index, netip.MustParsePrefix("10.244.0.7/32")))
	route(t, f, pod, eth0.Index, "169.254.1.1/32", "")
	route(t, f, pod, eth0.Index, "0.0.0.0/0", "169.254.1.1")
	route(t, f, host.NodeNS, there.Index, "10.244.0.7/32", "")
	f.Revive()
}

// bridge gives it one in a network that the node is in, of both families, with a route of its own
// for the cluster's pods.
func bridge(t *testing.T, f *hosttest.Fake) {
	t.Helper()
	there, eth0, err := f.AddVeth(host.NodeNS, "cni0", pod, "eth0", 1450)
	check(t, err)
	check(t, f.AddAddress(host.NodeNS, there.Index, netip.MustParsePrefix("10.244.0.1/24")))
	check(t, f.AddAddress(host.NodeNS, there.Index, netip.MustParsePrefix("fd10::1/64")))
	check(t, f.AddAddress(pod, eth0.Index, netip.MustParsePrefix("10.244.0.7/24")))
	check(t, f.AddAddress(pod, eth0.Index, netip.MustParsePrefix("fd10::7/64")))
	route(t, f, pod, eth0.Index, "10.244.0.0/16", "10.244.0.1")
	route(t, f, pod, eth0.Index, "0.0.0.0/0", "10.244.0.1")
	route(t, f, pod, eth0.Index, "::/0", "fd10::1")
	f.Revive()
}

// attachBoth puts an interface with gateways of both families into the pod.
func attachBoth(t *testing.T, f *hosttest.Fake) *types100.Result {
	t.Helper()
	prev := attach(t, f, "net1", "172.91.0.1", "172.91.0.100/16", "fd91::100/64")
	prev.IPs[1].Gateway = net.ParseIP("fd91::1")
	return prev
}

// TestOverlay has a first interface of another plugin, without a coordinator.
func TestOverlay(t *testing.T) {
	for _, tt := range []struct {
		name, conf string
		first      func(*testing.T, *hosttest.Fake)
	}{
		{"overlay", `{}`, calico},
		{"overlay-default", `{"podDefaultRouteNic":"net1"}`, calico},
		{"overlay-both-families",
			`{"podDefaultRouteNic":"net1","policyRoutes":[{"dst":"10.96.0.0/16","gw":"172.91.0.9"}]}`, bridge},
		{"overlay-untuned", `{"tunePodRoutes":false}`, calico},
		{"overlay-no-veth", `{}`, func(t *testing.T, f *hosttest.Fake) {
			attach(t, f, "eth0", "10.244.0.1",
				"10.244.0.7/24")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := node(t)
			eno, err := f.LinkByName(host.NodeNS, hosttest.GuideEthName)
			check(t, err)
			check(t, f.AddAddress(host.NodeNS, eno.Index, netip.MustParsePrefix("fd20::10/64")))
			tt.first(t, f)
			before := f.Snapshot()
			p := &Plugin{Kernel: f, Cluster: labCluster}
			r := request("net1", attachBoth(t, f), tt.conf)
			_, err = p.Add(t.Context(), r)
			check(t, err)
			golden(t, f, tt.name)
			check(t, p.Check(t.Context(), r))

			once := f.Snapshot()
			_, err = p.Add(t.Context(), r)
			check(t, err)
			if diff := cmp.Diff(once, f.Snapshot()); diff != "" {
				t.Errorf("a second ADD changes things:\n%s", diff)
			}
			check(t, p.Del(t.Context(), r))
			check(t, p.Del(t.Context(), r))
			sameNode(t, before, f)
		})
	}
}

// A route of an address's earlier pod goes when this one comes, and a later pod's stays when this one goes.
func TestOverlayStaleRoute(t *testing.T) {
	f := node(t)
	calico(t, f)
	eno, err := f.LinkByName(host.NodeNS, hosttest.GuideEthName)
	check(t, err)
	other := host.Route{Dst: netip.MustParsePrefix("172.91.0.100/32"), Index: eno.Index, Table: 500}
	check(t, f.AddRoute(host.NodeNS, other))
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("net1", attach(t, f, "net1", "172.91.0.1", "172.91.0.100/16"), `{}`)
	_, err = p.Add(t.Context(), r)
	check(t, err)
	routes, err := f.Routes(host.NodeNS, 500)
	check(t, err)
	if len(routes) != 1 || routes[0].Index == eno.Index {
		t.Fatalf("routes of table 500: %+v, want the new pod's alone", routes)
	}
	check(t, f.DeleteRoute(host.NodeNS, routes[0]))
	if err := p.Check(t.Context(), r); err == nil || !strings.Contains(err.Error(),
		"the node's table 500 has no route to 172.91.0.100 via 10.244.0.7") {
		t.Errorf("check without the node's route: %v", err)
	}
	check(t, f.AddRoute(host.NodeNS, other))
	check(t, p.Del(t.Context(), r))
	if routes, err = f.Routes(host.NodeNS, 500); err != nil || len(routes) != 1 {
		t.Errorf("routes of table 500: %+v, %v; want the other pod's", routes, err)
	}
}

func TestLongest(t *testing.T) {
	var routes []host.Route
	for i, dst := range []string{"0.0.0.0/0", "10.244.0.0/16", "10.244.0.0/24", "::/0", "10.244.0.0/16"} {
		routes = append(routes, host.Route{Dst: netip.MustParsePrefix(dst), Index: i})
	}
	for dst, want := range map[string]int{"10.244.0.7/32": 2, "10.244.1.0/24": 1, "10.244.0.0/16": 1, "10.0.0.0/8": 0,
		"fd10::7/128": 3} {
		if r, ok := longest(routes, netip.MustParsePrefix(dst)); !ok || r.Index != want {
			t.Errorf("%s takes route %d, %t; want %d", dst, r.Index, ok, want)
		}
	}
	if r, ok := longest(routes[1:3], netip.MustParsePrefix("10.0.0.0/8")); ok {
		t.Errorf("a network takes the route %+v, which does not hold all of it", r)
	}
}

// The node has a way back to an overlay pod's interface where it has the first interface at the end
// of a link.
func TestWaysBack(t *testing.T) {
	peer := host.Link{Index: 4, Name: "cali0123", Kind: "veth", Parent: 2}
	bridge := host.Link{Index: 4, Name: "cni0", Kind: "bridge"}
	for _, tt := range []struct {
		name, kind, first, dst, gateway string
		link                            host.Link
		want                            bool
	}{
		{"a route of the pod's own", "veth", "10.244.0.7", "10.244.0.7/32", "", peer, true},
		{"a bridge", "veth", "10.244.0.7", "10.244.0.0/24", "", bridge, true},
		{"a gateway in between", "veth", "10.244.0.7", "10.244.0.0/24", "10.244.0.1", bridge, false},
		{"the default route", "veth", "10.244.0.7", "0.0.0.0/0", "", bridge, false},
		{"macvlan beside the node", "macvlan", "10.20.1.7", "10.20.1.0/24", "", bridge, false},
		{"the other family", "veth", "fd10::7", "10.244.0.0/24", "", bridge, false},
		{"Cilium's end", "veth", "10.244.0.7", "10.244.0.7/32", "", host.Link{Index: 4, Name: "lxc0123", Kind: "veth",
			Parent: 2}, false},
		{"another veth", "veth", "10.244.0.7", "10.244.0.0/24", "", host.Link{Index: 4, Name: "cilium_host",
			Kind: "veth", Parent: 3}, false},
		{"a veth whose peer is in a third namespace", "veth", "10.244.0.7", "10.244.0.0/24", "",
			host.Link{Index: 9, Kind: "veth", Parent: 2}, false},
		{"a switch's port", "veth", "10.244.0.7", "10.244.0.0/24", "", host.Link{Index: 4, Name: "antrea-gw0",
			Kind: "openvswitch"}, false},
		{"a tunnel", "veth", "10.244.0.7", "10.244.0.0/24", "", host.Link{Index: 4, Name: "flannel.1", Kind: "vxlan"},
			false},
		{"a card", "veth", "10.244.0.7", "10.244.0.0/24", "", host.Link{Index: 4, Name: "ens2", Kind: "device"}, false},
		{"a link that has gone", "veth", "10.244.0.7", "10.244.0.0/24", "", host.Link{Index: 5, Kind: "bridge"}, false},
	} {
		this := nic{host.Link{Name: "net1"}, []netip.Addr{netip.MustParseAddr("172.91.0.100")}}
		way := host.Route{Dst: netip.MustParsePrefix(tt.dst), Index: 4}
		if tt.link.Kind == "veth" {
			way.Index = tt.link.Index
		}
		if tt.gateway != "" {
			way.Gateway = netip.MustParseAddr(tt.gateway)
		}
		f := facts{set: settings{hostTable: 500}, nodeMain: []host.Route{way},
			nodeAddrs: []netip.Addr{netip.MustParseAddr("10.20.1.10")}, nodeLinks: []host.Link{{Index: 1, Name: "lo"},
				tt.link},
			nics: []nic{{host.Link{Index: 2, Name: firstNIC, Kind: tt.kind, Parent: 4},
				[]netip.Addr{netip.MustParseAddr(tt.first)}}, this}}
		var want []host.Route
		if tt.want {
			want = []host.Route{{Dst: single(this.addrs[0]), Gateway: netip.MustParseAddr(tt.first),
				Src: f.nodeAddrs[0], Index: 4, Table: 500}}
		}
		if got := f.waysBack(this, false); !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, want)
		}
	}
}

// A way back from before the node's address changed does not stop the next attempt.
func TestOverlayStaleSource(t *testing.T) {
	f := node(t)
	calico(t, f)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("net1", attach(t, f, "net1", "172.91.0.1", "172.91.0.100/16"), `{}`)
	_, err := p.Add(t.Context(), r)
	check(t, err)
	want, err := f.Routes(host.NodeNS, 500)
	check(t, err)
	stale := want[0]
	stale.Src = netip.MustParseAddr("10.20.1.77")
	check(t, f.DeleteRoute(host.NodeNS, want[0]))
	check(t, f.AddRoute(host.NodeNS, stale))
	_, err = p.Add(t.Context(), r)
	check(t, err)
	if got, err := f.Routes(host.NodeNS, 500); err != nil || !slices.Equal(got, want) {
		t.Errorf("routes of table 500: %+v, %v; want %+v", got, err, want)
	}
}

// A pod whose first interface has another name than the usual one, or none, has no filter of that
// name to set.
func TestFiltersWithoutFirst(t *testing.T) {
	f := node(t)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	_, err := p.Add(t.Context(), request("net1", attach(t, f, "net1", "172.91.0.1", "172.91.0.100/16"),
		`{"podRPFilter":2}`))
	check(t, err)
	if v, err := f.Sysctl(pod, "net/ipv4/conf/net1/rp_filter"); err != nil || v != "2" {
		t.Errorf("the filter of net1 is %q, %v; want 2", v, err)
	}
}

// TestOverlayLater has a third interface, which comes when the second has taken the default route.
func TestOverlayLater(t *testing.T) {
	f := node(t)
	calico(t, f)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	const conf = `{"podDefaultRouteNic":"net1"}`
	_, err := p.Add(t.Context(), request("net1", attach(t, f, "net1", "172.91.0.1", "172.91.0.100/16"), conf))
	check(t, err)
	_, err = p.Add(t.Context(), request("net2", attach(t, f, "net2", "172.92.0.1", "172.92.0.100/16"), conf))
	check(t, err)
	golden(t, f, "overlay-three")
}

// TestOverlayFaults fails at every step and wants the next attempt to succeed, and Del to bring the
// node back.
func TestOverlayFaults(t *testing.T) {
	steps := 1000
	for k := 1; k < steps; k++ {
		f := node(t)
		bridge(t, f)
		prev := attachBoth(t, f)
		before := f.Snapshot()
		p := &Plugin{Kernel: f, Cluster: labCluster}
		r := request("net1", prev, `{"podDefaultRouteNic":"net1"}`)
		f.FailAfter(k, errors.New("injected"))
		_, err := p.Add(t.Context(), r)
		if err == nil {
			steps = k // there are no more steps
		}
		f.Revive()
		if err != nil && k%2 == 0 {
			_, err = p.Add(t.Context(), r)
			check(t, err)
		}
		check(t, p.Del(t.Context(), r))
		sameNode(t, before, f)
	}
	if steps < 10 {
		t.Errorf("%d steps were tried", steps)
	}
}

// TestDefaultRouteAnnotation wants the pod's own word before all others'.
func TestDefaultRouteAnnotation(t *testing.T) {
	f := node(t)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	_, err := p.Add(t.Context(), request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`))
	check(t, err)
	r := request("net1", attach(t, f, "net1", "172.92.0.1", "172.92.0.100/16"), `{"podDefaultRouteNic":"eth0"}`)
	r.Pod.Annotations = map[string]string{AnnotationDefaultRouteNIC: "net1"}
	_, err = p.Add(t.Context(), r)
	check(t, err)
	net1, err := f.LinkByName(pod, "net1")
	check(t, err)
	routes, err := f.Routes(pod, 0)
	check(t, err)
	for _, route := range routes {
		if route.Dst.Bits() == 0 && route.Index != net1.Index {
			t.Errorf("default route on link %d, want net1", route.Index)
		}
	}
}

// An interface that the pod names and does not have is refused before anything is changed, for
// whichever interface comes first.
func TestDefaultRouteAnnotationOfNoInterface(t *testing.T) {
	for _, tt := range []struct {
		ifname, wanted string
		interfaces     []string
		want           string
	}{
		{"eth0", "net2", []string{"eth0", "net1"},
			`annotation ipam.spidernet.io/default-route-nic is "net2", and the pod's interfaces are eth0, net1; name one of them, or remove the annotation`},
		{"net1", "net 1", []string{"eth0", "net1"},
			`annotation ipam.spidernet.io/default-route-nic is "net 1", and the pod's interfaces are eth0, net1; name one of them, or remove the annotation`},
		{"eth0", "veth0", []string{"eth0"},
			`annotation ipam.spidernet.io/default-route-nic is "veth0", and the pod's interfaces are eth0; name one of them, or remove the annotation`},
		{"eth0", "net1", []string{"eth0", "net1"}, ""}, // it is to come
		{"eth0", "eth0", []string{"eth0", "net1"}, ""},
		{"eth0", "net2", nil, ""}, // something else attaches, and it may come
	} {
		f := node(t)
		prev := attach(t, f, tt.ifname, "172.91.0.1", "172.91.0.100/16")
		before := f.Snapshot()
		r := request(tt.ifname, prev, `{"podDefaultRouteNic":"eth0"}`)
		r.Interfaces, r.Pod.Annotations = tt.interfaces, map[string]string{AnnotationDefaultRouteNIC: tt.wanted}
		_, err := (&Plugin{Kernel: f, Cluster: labCluster}).Add(t.Context(), r)
		if tt.want == "" {
			check(t, err)
			continue
		}
		if err == nil || err.Error() != tt.want || cni.Wire(err).Code != cni.CodeInvalidConfig {
			t.Errorf("\n got %v\nwant %s", err, tt.want)
		}
		if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
			t.Errorf("something was changed:\n%s", diff)
		}
	}
}

// What a network or the cluster wishes is for pods of all kinds: where it cannot be, the log says so.
func TestDefaultRouteRemarks(t *testing.T) {
	both := []nic{{Link: host.Link{Name: "eth0"}}, {Link: host.Link{Name: "net1"}}}
	for _, tt := range []struct {
		name string
		f    facts
		want string
	}{
		{"nobody wishes anything", facts{nics: both}, ""},
		{"it is there", facts{nics: both, set: settings{defaultNIC: "eth0", tunePodRoutes: true}}, ""},
		{"it is to come", facts{nics: both, set: settings{defaultNIC: "net2"}, interfaces: []string{"eth0", "net1",
			"net2"}}, ""},
		{"it may come", facts{nics: both, set: settings{defaultNIC: "net2"}},
			"net2 is to keep the default route and is not in the pod yet"},
		{"it does not exist", facts{nics: both, set: settings{defaultNIC: "net2"},
			interfaces: []string{"eth0", "net1"}},
			"net2 is to keep the default route, and the pod's interfaces are eth0, net1: the default route stays " +
				"where it is"},
		{"routes are left alone", facts{nics: both, set: settings{defaultNIC: "net1"}, ifname: "net1",
			mode: modeUnderlay},
			"net1 is to keep the default route, and tunePodRoutes is false: the default route stays where it is"},
	} {
		var p plan
		p.checkDefaultNIC(tt.f)
		if got := strings.Join(p.remarks, "; "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// An interface for RDMA alone has no address, and nothing is to be done for it, whatever the settings.
func TestInterfaceWithoutAddress(t *testing.T) {
	f := node(t)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	_, err := p.Add(t.Context(), request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`))
	check(t, err)
	for _, conf := range []string{`{}`, `{"mode":"overlay"}`, `{"podDefaultRouteNic":"net1"}`} {
		prev := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
		if conf == `{}` {
			prev = attach(t, f, "net1", "", "fe80::7/64")
			prev.IPs = nil
		}
		before := f.Snapshot()
		r := request("net1", prev, conf)
		got, err := p.Add(t.Context(), r)
		check(t, err)
		if got != prev {
			t.Error("the result is not the one of the plugin before")
		}
		check(t, p.Check(t.Context(), r))
		check(t, p.Del(t.Context(), r))
		if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
			t.Errorf("something was changed:\n%s", diff)
		}
	}
}

func TestFirstInterfaceWithoutAddress(t *testing.T) {
	f := node(t)
	_, err := (&Plugin{Kernel: f, Cluster: labCluster}).Add(t.Context(), request("eth0", attach(t, f, "eth0", ""),
		`{}`))
	const want = "eth0 has no address, and a pod's node reaches it by the address of its first interface; " +
		"give the network pools, or attach it in the annotation k8s.v1.cni.cncf.io/networks, beside a first " +
		"interface that has an address"
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

func TestStaleRoute(t *testing.T) {
	f := node(t)
	eno, err := f.LinkByName(host.NodeNS, hosttest.GuideEthName)
	check(t, err)
	stale := host.Route{Dst: netip.MustParsePrefix("172.91.0.100/32"), Index: eno.Index, Table: 500}
	check(t, f.AddRoute(host.NodeNS, stale))
	p := &Plugin{Kernel: f, Cluster: labCluster}
	_, err = p.Add(t.Context(), request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`))
	check(t, err)
	routes, err := f.Routes(host.NodeNS, 500)
	check(t, err)
	if len(routes) != 1 || routes[0].Index == eno.Index {
		t.Errorf("routes of table 500: %+v, want the new pod's alone", routes)
	}
}

// TestFaults fails at every step and wants Del to bring the node back.
func TestFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		steps := 1000
		for k := 1; k <= steps; k++ {
			f := node(t)
			prev := attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16")
			before := f.Snapshot()
			p := &Plugin{Kernel: f, Cluster: labCluster}
			r := request("eth0", prev, `{}`)
			if after {
				f.FailAfter(k, errors.New("injected"))
			} else {
				f.FailAt(k, errors.New("injected"))
			}
			_, err := p.Add(t.Context(), r)
			if err == nil {
				steps = k // there are no more steps
				continue
			}
			f.Revive()
			if err := p.Del(t.Context(), r); err != nil {
				t.Errorf("step %d: delete: %v", k, err)
			}
			sameNode(t, before, f)
		}
		if steps < 10 || steps == 1000 {
			t.Errorf("%d steps were tried", steps)
		}
	}
}

// TestDelWithoutRecord has nothing but the container ID, and a namespace that is gone.
func TestDelWithoutRecord(t *testing.T) {
	f := node(t)
	before := f.Snapshot()
	p := &Plugin{Kernel: f, Cluster: labCluster}
	_, _, err := f.AddVeth(host.NodeNS, hostVeth(container), pod, podVeth, 1500)
	check(t, err)
	check(t, p.Del(t.Context(), &cni.Request{ContainerID: container, IfName: "eth0", NetNS: "/run/netns/gone",
		State: &memory{}}))
	sameNode(t, before, f)
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, ifname, conf string
		cluster            cluster
		noPrev, veth       bool
		want               string
		code               uint
	}{
		{name: "first in the chain", ifname: "eth0", conf: `{}`, noPrev: true,
			want: "the coordinator is first in the chain; put it behind", code: cni.CodeInvalidConfig},
		{name: "conf", ifname: "eth0", conf: `{"mode":7}`, want: "the configuration does not parse",
			code: cni.CodeDecode},
		{name: "mode", ifname: "eth0", conf: `{"mode":"bridge"}`, want: `coordinator.mode: Unsupported value: "bridge"`,
			code: cni.CodeInvalidConfig},
		{name: "prefix", ifname: "eth0", conf: `{"podMACPrefix":"01:00"}`, want: "coordinator.podMACPrefix",
			code: cni.CodeInvalidConfig},
		{name: "underlay without veth0", ifname: "net1", conf: `{"mode":"underlay"}`,
			want: "the pod's first interface is another plugin's: veth0 is not there beside net1",
			code: cni.CodeInvalidConfig},
		{name: "overlay on eth0", ifname: "eth0", conf: `{"mode":"overlay"}`, want: "eth0 belongs to an underlay pod",
			code: cni.CodeInvalidConfig},
		{name: "overlay with veth0", ifname: "net1", conf: `{"mode":"overlay"}`, veth: true,
			want: "net1 belongs to an underlay pod", code: cni.CodeInvalidConfig},
		{name: "pair broken", ifname: "net1", conf: `{}`, veth: true,
			want: "the pod has veth0, but its other end veth0123456789a is not on the node", code: cni.CodeFailed},
		{name: "cluster", ifname: "eth0", conf: `{}`, cluster: cluster{err: errors.New("not synced")},
			want: "read the SpiderCoordinator: not synced", code: cni.CodeTryAgainLater},
		{name: "queue", ifname: "eth0", conf: `{"txQueueLen":-5}`, want: "coordinator.txQueueLen",
			code: cni.CodeInvalidConfig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := node(t)
			prev := attach(t, f, tt.ifname, "", "172.91.0.100/16")
			if tt.veth {
				_, _, err := f.AddVeth(host.NodeNS, "other", pod, podVeth, 1500)
				check(t, err)
			}
			before := f.Snapshot()
			r := request(tt.ifname, prev, tt.conf)
			if tt.noPrev {
				r.Prev = nil
			}
			p := &Plugin{Kernel: f, Cluster: tt.cluster}
			_, err := p.Add(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v\nwant  %s", err, tt.want)
			}
			if got := cni.Wire(err).Code; got != tt.code {
				t.Errorf("code %d, want %d", got, tt.code)
			}
			if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
				t.Errorf("something was changed:\n%s", diff)
			}
		})
	}
}

func TestDisabled(t *testing.T) {
	for _, mode := range []string{"disabled", "disable"} {
		f := node(t)
		prev := attach(t, f, "eth0", "", "172.91.0.100/16")
		before := f.Snapshot()
		r := request("eth0", prev, fmt.Sprintf(`{"mode":%q}`, mode))
		p := &Plugin{Kernel: f, Cluster: labCluster}
		_, err := p.Add(t.Context(), r)
		check(t, err)
		check(t, p.Check(t.Context(), r))
		check(t, p.Del(t.Context(), r))
		if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
			t.Errorf("%s changes something:\n%s", mode, diff)
		}
	}
}

// TestNoMarks has a kernel without connection tracking in nf_tables.
func TestNoMarks(t *testing.T) {
	f := node(t)
	prev := attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16")
	p := &Plugin{Kernel: noMarks{f}, Cluster: labCluster}
	_, err := p.Add(t.Context(), request("eth0", prev, `{}`))
	check(t, err)
}

type noMarks struct{ *hosttest.Fake }

func (noMarks) MarkReplies(host.NS, string, uint32) error {
	return fmt.Errorf("nft_ct: %w", host.ErrUnsupported)
}

func TestHostVeth(t *testing.T) {
	for id, want := range map[string]string{container: "veth0123456789a", "short": "vethshort"} {
		if got := hostVeth(id); got != want || len(got) > 15 {
			t.Errorf("hostVeth(%q) = %q, want %q", id, got, want)
		}
	}
}

// vanishing is a node whose links lose one between being listed and being looked at.
type vanishing struct {
	*hosttest.Fake
	name string
}

func (v vanishing) Links(ns host.NS) ([]host.Link, error) {
	links, err := v.Fake.Links(ns)
	if ns == host.NodeNS {
		links = append(links, host.Link{NS: ns, Index: 4711, Name: v.name, Kind: "ipoib", Up: true})
	}
	return links, err
}

// While one pod is attached, another one's virtual function leaves the node.
func TestLinkOfAnotherPodVanishes(t *testing.T) {
	f := node(t)
	prev := attach(t, f, "eth0", "172.91.0.1", "172.91.0.10/16")
	p := &Plugin{Kernel: vanishing{f, "ib3"}, Cluster: labCluster}
	if _, err := p.Add(context.Background(), request("eth0", prev, `{}`)); err != nil {
		t.Error(err)
	}
}
