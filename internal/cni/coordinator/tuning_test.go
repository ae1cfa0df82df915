// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// cardPCI is an Ethernet card whose netdev a pod gets, as it gets a VF's.
const cardPCI = "0000:02:00.0"

// cardMAC is its address.
var cardMAC = net.HardwareAddr{0x02, 0, 0x5e, 0x10, 0, 0x77}

// attachCard puts the card's netdev into the pod.
func attachCard(t *testing.T, f *hosttest.Fake, ifname, gateway string, addresses ...string) *types100.Result {
	t.Helper()
	f.AddPF(host.PF{PCI: cardPCI, LinkLayer: host.Ethernet, Driver: "mlx5_core", Link: &host.Link{Name: "ens2",
		HardwareAddr: cardMAC}}, hosttest.GuidePFGUID)
	l, err := f.LinkByPCI(host.NodeNS, cardPCI)
	check(t, err)
	return configure(t, f, l, ifname, gateway, addresses...)
}

// configure moves a link into the pod and gives it what the plugin before the coordinator does.
func configure(t *testing.T, f *hosttest.Fake, l host.Link, ifname, gateway string,
	addresses ...string) *types100.Result {
	t.Helper()
	l, err := f.MoveLink(l.NS, l.Index, pod, ifname)
	check(t, err)
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{
		{Name: "on-the-node", Mac: "02:00:00:00:00:01"}, {Name: ifname, Mac: l.HardwareAddr.String(),
			Sandbox: string(pod)}}}
	for _, a := range addresses {
		p := netip.MustParsePrefix(a)
		check(t, f.AddAddress(pod, l.Index, p))
		res.IPs = append(res.IPs, &types100.IPConfig{Address: net.IPNet{IP: p.Addr().AsSlice(),
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Interface: types100.Int(1)})
	}
	check(t, f.SetLinkUp(pod, l.Index))
	if gateway != "" {
		gw := netip.MustParseAddr(gateway)
		res.IPs[0].Gateway = gw.AsSlice()
		err := f.AddRoute(pod, host.Route{Dst: everything(gw.Is6()), Gateway: gw, Index: l.Index})
		if err != nil && !errors.Is(err, host.ErrExists) {
			t.Fatal(err)
		}
	}
	f.Revive()
	return res
}

// capture has the log written to a buffer as long as the test runs.
func capture(t *testing.T) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, nil)))
	t.Cleanup(func() { slog.SetDefault(was) })
	return &b
}

func TestHardwareAddr(t *testing.T) {
	card := nic{Link: host.Link{Name: "net1", LinkLayer: host.Ethernet, HardwareAddr: cardMAC}}
	with := func(n nic, addrs ...string) nic {
		for _, a := range addrs {
			n.addrs = append(n.addrs, netip.MustParseAddr(a))
		}
		return n
	}
	ib := with(nic{Link: host.Link{Name: "ib0", LinkLayer: host.InfiniBand}}, "172.91.0.100")
	for _, tt := range []struct {
		name, prefix string
		n            nic
		want, remark string
	}{
		{"not wanted", "", with(card, "172.92.0.100"), "", ""},
		{"the first IPv4 address counts", "0a:1b", with(card, "fd92::100", "172.92.0.100", "10.0.0.1"),
			"0a:1b:ac:5c:00:64", ""},
		{"InfiniBand", "0a:1b", ib, "",
			"podMACPrefix is not for ib0, whose link layer is infiniband: the fabric's address stays"},
		{"IPv6 alone", "0a:1b", with(card, "fd92::100"), "",
			"podMACPrefix makes hardware addresses of IPv4 addresses, and net1 has none: it keeps 02:00:5e:10:00:77"},
	} {
		prefix, err := parseMACPrefix(tt.prefix)
		check(t, err)
		a, remark := settings{macPrefix: prefix}.hardwareAddr(tt.n)
		if a.String() != tt.want || remark != tt.remark {
			t.Errorf("%s: %q, %q; want %q, %q", tt.name, a, remark, tt.want, tt.remark)
		}
	}
	for _, bad := range []string{"0a", "0a:1b:2c", "xx:yy", "0b:1b"} {
		if octets, err := parseMACPrefix(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, octets)
		}
	}
}

// TestTuning has a card's netdev whose driver takes a new address while the link is up, and one
// whose driver does not.
func TestTuning(t *testing.T) {
	for _, stiff := range []bool{false, true} {
		t.Run(fmt.Sprintf("stiff=%t", stiff), func(t *testing.T) {
			f := node(t)
			p := &Plugin{Kernel: f, Cluster: labCluster}
			if stiff {
				p.Kernel = stiffDriver{f}
			}
			prev := attachCard(t, f, "eth0", "172.91.0.1", "172.91.0.100/16", "fd91::100/64")
			eth0, err := f.LinkByName(pod, "eth0")
			check(t, err)
			for _, r := range []host.Route{
				{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd91::1"), Index: eth0.Index},
				{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("172.91.0.2"),
					Index: eth0.Index, Table: 7},
			} {
				check(t, f.AddRoute(pod, r))
			}
			table := 7
			prev.Routes = []*types.Route{{Table: &table}}
			before, routes := f.Snapshot(), allRoutes(t, f, eth0.Index)
			r := request("eth0", prev, `{"podMACPrefix":"0a:1b","txQueueLen":4000}`)
			for range 2 { // once more, as after a crash
				res, err := p.Add(t.Context(), r)
				check(t, err)
				if got := []string{res.Interfaces[0].Mac, res.Interfaces[1].Mac}; !slices.Equal(got,
					[]string{"02:00:00:00:00:01", "0a:1b:ac:5b:00:64"}) {
					t.Errorf("the result says %q", got)
				}
				if prev.Interfaces[1].Mac != cardMAC.String() {
					t.Error("the result of the plugin before was changed")
				}
				l, err := f.LinkByName(pod, "eth0")
				check(t, err)
				if l.HardwareAddr.String() != "0a:1b:ac:5b:00:64" || l.TxQueueLen != 4000 || !l.Up {
					t.Errorf("the interface is %+v", l)
				}
				for _, r := range routes {
					if !slices.Contains(allRoutes(t, f, eth0.Index), r) {
						t.Errorf("the route %+v is lost", r)
					}
				}
			}
			if n := len(slices.DeleteFunc(f.Calls(),
				func(c string) bool { return !strings.HasPrefix(c, "Announce 172.91.0.100 ") })); n != 1 {
				t.Errorf("the address was announced %d times, want once", n)
			}
			peer, err := f.LinkByName(host.NodeNS, hostVeth(container))
			check(t, err)
			if peer.TxQueueLen == 4000 {
				t.Error("a link of the node got the queue")
			}
			check(t, p.Del(t.Context(), r))
			wantCard(t, f, pod)
			check(t, p.Del(t.Context(), r))
			sameNode(t, before, f)
		})
	}
}

// allRoutes are an interface's routes of the main table and of table 7.
func allRoutes(t *testing.T, f *hosttest.Fake, index int) []host.Route {
	t.Helper()
	routes, err := (&Plugin{Kernel: f}).routesOf(pod, index, []int{0, 7})
	check(t, err)
	return routes
}

// stiffDriver wants links down for a new address. TestKernelWhileDown has what the kernel takes away then.
type stiffDriver struct{ *hosttest.Fake }

func (s stiffDriver) SetLinkHardwareAddr(ns host.NS, index int, a net.HardwareAddr) error {
	l, err := s.LinkByIndex(ns, index)
	if err == nil && l.Up {
		return fmt.Errorf("link %s: %w", l.Name, host.ErrBusy)
	}
	return s.Fake.SetLinkHardwareAddr(ns, index, a)
}

// A link that was made for the pod ends with it.
func TestFormerIsOfCardsAlone(t *testing.T) {
	mac, queue, both := settings{macPrefix: []byte{0x0a, 0x1b}}, settings{txQueueLen: 4000},
		settings{macPrefix: []byte{0x0a, 0x1b}, txQueueLen: 4000}
	virtual := nic{host.Link{LinkLayer: host.Ethernet, HardwareAddr: cardMAC, TxQueueLen: 1000},
		[]netip.Addr{netip.MustParseAddr("172.91.0.100")}}
	card, fabric := virtual, virtual
	card.PCI, fabric.PCI, fabric.LinkLayer = cardPCI, cardPCI, host.InfiniBand
	old := former{FormerMAC: "02:00:00:00:00:09", FormerTxQueueLen: new(7)}
	for _, tt := range []struct {
		name string
		set  settings
		old  former
		n    nic
		want former
	}{
		{"nothing is set", settings{}, former{}, card, former{}},
		{"virtual", both, former{}, virtual, former{}},
		{"address", mac, former{}, card, former{PCI: cardPCI, FormerMAC: cardMAC.String()}},
		{"queue", queue, former{}, card, former{PCI: cardPCI, FormerTxQueueLen: new(1000)}},
		{"both", both, former{}, card, former{PCI: cardPCI, FormerMAC: cardMAC.String(), FormerTxQueueLen: new(1000)}},
		{"InfiniBand", both, former{}, fabric, former{PCI: cardPCI, FormerTxQueueLen: new(1000)}},
		{"an earlier attempt", both, old, card, former{PCI: cardPCI, FormerMAC: "02:00:00:00:00:09",
			FormerTxQueueLen: new(7)}},
	} {
		if diff := cmp.Diff(tt.want, tt.set.formerOf(tt.old, tt.n)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// When the namespace is gone the kernel has the netdev, under another name where the old one is taken.
func TestFormerWithoutNamespace(t *testing.T) {
	for _, stiff := range []bool{false, true} {
		for _, netns := range []host.NS{pod, host.NodeNS} { // the runtime may know the path still, or not
			f := node(t)
			p := &Plugin{Kernel: f, Cluster: labCluster}
			if stiff {
				p.Kernel = stiffDriver{f}
			}
			r := request("eth0", attachCard(t, f, "eth0", "", "172.91.0.100/16"),
				`{"podMACPrefix":"0a:1b","txQueueLen":4000}`)
			_, err := p.Add(t.Context(), r)
			check(t, err)
			_, _, err = f.AddVeth(host.NodeNS, "eth0", pod, "other0", 1500)
			check(t, err)
			f.DeleteNS(pod)
			r.NetNS = netns
			for range 2 {
				check(t, p.Del(t.Context(), r))
				wantCard(t, f, host.NodeNS)
			}
		}
	}
}

// wantCard wants the card's netdev as it was before the pod.
func wantCard(t *testing.T, f *hosttest.Fake, ns host.NS) {
	t.Helper()
	if l, err := f.LinkByPCI(ns, cardPCI); err != nil || !slices.Equal(l.HardwareAddr, cardMAC) ||
		l.TxQueueLen != 1000 {
		t.Errorf("what goes back to the node is %+v, %v; want %s and a queue of 1000", l, err, cardMAC)
	}
}

// An interface that another card's netdev, or none of a card, has taken the name of is left alone.
func TestFormerOfAnother(t *testing.T) {
	for _, was := range []former{{PCI: "0000:03:00.0", FormerMAC: "02:00:00:00:00:09"},
		{PCI: "0000:03:00.0", FormerTxQueueLen: new(7)}} {
		f := node(t)
		attachCard(t, f, "eth0", "", "172.91.0.100/16")
		r := request("eth0", nil, `{}`)
		check(t, r.State.Save(state{former: was}))
		check(t, (&Plugin{Kernel: f, Cluster: labCluster}).Del(t.Context(), r))
		wantCard(t, f, pod)
	}
}

// A cluster-wide value must not break the pods that it is not for.
func TestTuningSkips(t *testing.T) {
	for _, tt := range []struct {
		name   string
		attach func(t *testing.T, f *hosttest.Fake) *types100.Result
		kernel func(f *hosttest.Fake) Kernel
		want   string
	}{
		{"InfiniBand", func(t *testing.T, f *hosttest.Fake) *types100.Result {
			return attach(t, f, "eth0", "", "172.91.0.100/16")
		}, nil, "link layer is infiniband"},
		{"IPv6 alone", func(t *testing.T, f *hosttest.Fake) *types100.Result {
			return attachCard(t, f, "eth0", "", "fd91::100/64")
		}, nil, "eth0 has none"},
		{"a link of fixed address", func(t *testing.T, f *hosttest.Fake) *types100.Result {
			return attachCard(t, f, "eth0", "", "172.91.0.100/16")
		}, func(f *hosttest.Fake) Kernel { return fixed{f} }, "which keeps 02:00:5e:10:00:77"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := capture(t)
			f := node(t)
			prev := tt.attach(t, f)
			was, err := f.LinkByName(pod, "eth0")
			check(t, err)
			c := labCluster
			c.spec.PodMACPrefix, c.spec.TxQueueLen = new("0a:1b"), new(4000)
			p := &Plugin{Kernel: f, Cluster: c}
			if tt.kernel != nil {
				p.Kernel = tt.kernel(f)
			}
			got, err := p.Add(t.Context(), request("eth0", prev, `{}`))
			check(t, err)
			if got != prev {
				t.Error("the result is not the one of the plugin before")
			}
			is, err := f.LinkByName(pod, "eth0")
			check(t, err)
			was.TxQueueLen = 4000
			if diff := cmp.Diff(was, is); diff != "" {
				t.Errorf("the interface (-want +got):\n%s", diff)
			}
			if !strings.Contains(log.String(), tt.want) {
				t.Errorf("the log does not say %q: %s", tt.want, log)
			}
		})
	}
}

// fixed is a kernel whose links have addresses for life, as ipvlan's do.
type fixed struct{ *hosttest.Fake }

func (fixed) SetLinkHardwareAddr(host.NS, int, net.HardwareAddr) error {
	return fmt.Errorf("ndo_set_mac_address: %w", host.ErrUnsupported)
}

// TestTuningFaults fails at every step and wants the interface to stay as it was but for what was
// set, and the next attempt, or Del, to do all the same.
func TestTuningFaults(t *testing.T) {
	for _, stiff := range []bool{false, true} {
		steps := 1000
		for k := 1; k < steps; k++ {
			f := node(t)
			p := &Plugin{Kernel: f, Cluster: labCluster}
			if stiff {
				p.Kernel = stiffDriver{f}
			}
			r := request("eth0", attachCard(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"),
				`{"podMACPrefix":"0a:1b","txQueueLen":4000}`)
			before := f.Snapshot()
			f.FailAfter(k, errors.New("injected"))
			_, err := p.Add(t.Context(), r)
			if len(f.Calls()) < k {
				steps = k // there are no more steps
			}
			f.Revive()
			wantConnected(t, f, k)
			if err != nil && k%2 == 0 {
				_, err := p.Add(t.Context(), r)
				check(t, err)
			}
			check(t, p.Del(t.Context(), r))
			wantCard(t, f, pod)
			sameNode(t, before, f)
		}
		if steps < 10 {
			t.Errorf("%d steps were tried", steps)
		}
	}
}

// A driver that does not take the address, down or up, leaves the pod its network.
func TestTuningRefused(t *testing.T) {
	f := node(t)
	p := &Plugin{Kernel: refusing{stiffDriver{f}}, Cluster: labCluster}
	r := request("eth0", attachCard(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{"podMACPrefix":"0a:1b"}`)
	if _, err := p.Add(t.Context(), r); !errors.Is(err, errRefused) {
		t.Errorf("the error is %v, want the driver's", err)
	}
	wantConnected(t, f, 0)
}

var errRefused = errors.New("the firmware does not want to")

type refusing struct{ stiffDriver }

func (s refusing) SetLinkHardwareAddr(ns host.NS, index int, a net.HardwareAddr) error {
	if err := s.stiffDriver.SetLinkHardwareAddr(ns, index, a); err != nil {
		return err
	}
	return errRefused
}

// wantConnected wants the pod's interface up, with its address and its default route.
func wantConnected(t *testing.T, f *hosttest.Fake, step int) {
	t.Helper()
	l, err := f.LinkByName(pod, "eth0")
	check(t, err)
	addresses, err := f.Addresses(pod, l.Index)
	check(t, err)
	byDefault := slices.ContainsFunc(allRoutes(t, f, l.Index),
		func(r host.Route) bool { return r.Dst == everything(false) })
	if !l.Up || len(addresses) != 1 || !byDefault {
		t.Errorf("step %d: the interface is %+v, its addresses are %v, it has a default route: %t", step, l, addresses,
			byDefault)
	}
}
