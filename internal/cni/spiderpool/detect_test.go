// SPDX-License-Identifier: Apache-2.0

package spiderpool

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ipam"
)

// wire is an interface and what answers on its network.
type wire struct {
	absent  bool
	up      bool
	answers map[string]string // by address
	err     error
	asked   []string
}

func (w *wire) LinkByName(host.NS, string) (host.Link, error) {
	if w.absent {
		return host.Link{}, host.ErrNotFound
	}
	return host.Link{Index: 7}, nil
}

func (w *wire) SetLinkUp(_ host.NS, index int) error {
	w.up = index == 7
	return nil
}

func (w *wire) Solicit(_ context.Context, _ host.NS, _ int, target, source netip.Addr) (net.HardwareAddr, error) {
	if !w.up {
		return nil, errors.New("the link is down")
	}
	question := target.String()
	if source.IsValid() {
		question += " from " + source.String()
	}
	w.asked = append(w.asked, question)
	if by, ok := w.answers[target.String()]; ok {
		return net.ParseMAC(by)
	}
	if w.err != nil {
		return nil, w.err
	}
	return nil, host.ErrNotFound
}

// counting gives the addresses of a /24 one after another, without those to be avoided.
type counting struct {
	last             byte
	sticky           bool
	avoided          []netip.Addr
	allocs, releases int
	full             error
}

func (c *counting) Allocate(context.Context, ipam.Request) (ipam.Allocation, error) {
	c.allocs++
	if c.last >= 103 {
		return ipam.Allocation{}, c.full
	}
	if !c.sticky || c.last == 0 {
		c.last = max(c.last, 99) + 1
	}
	ip := netip.AddrFrom4([4]byte{192, 0, 2, c.last})
	return ipam.Allocation{Addresses: []ipam.Address{{IP: netip.PrefixFrom(ip, 24),
		Gateway: netip.MustParseAddr("192.0.2.1"), Pool: "p"}}}, nil
}

func (c *counting) Release(context.Context, string, string, string) error { c.releases++; return nil }
func (c *counting) Avoid(ip netip.Addr)                                   { c.avoided = append(c.avoided, ip) }

func TestDetection(t *testing.T) {
	const mac, long = "02:00:00:00:00:09", "80:00:10:01:fe:80:00:00:00:00:00:00:e8:eb:d3:03:00:93:ae:10"
	both := Detection{Conflict: true, Gateway: true}
	gatewayThere := map[string]string{"192.0.2.1": mac}
	for name, c := range map[string]struct {
		detect Detection
		wire   wire
		from   counting
		ip     string // that the pod gets
		asked  []string
		told   int
		err    string
	}{
		"off": {Detection{}, wire{answers: map[string]string{"192.0.2.100": mac}}, counting{}, "192.0.2.100", nil, 0,
			""},
		"free": {both, wire{answers: gatewayThere}, counting{}, "192.0.2.100",
			[]string{"192.0.2.100", "192.0.2.1 from 192.0.2.100"}, 0, ""},
		"two are in use": {Detection{Conflict: true},
			wire{answers: map[string]string{"192.0.2.100": mac, "192.0.2.101": long}}, counting{}, "192.0.2.102",
			[]string{"192.0.2.100", "192.0.2.101", "192.0.2.102"}, 2, ""},
		"all are in use": {Detection{Conflict: true},
			wire{answers: map[string]string{"192.0.2.100": mac, "192.0.2.101": mac, "192.0.2.102": long}}, counting{},
			"",
			[]string{"192.0.2.100", "192.0.2.101", "192.0.2.102"}, 3,
			"address 192.0.2.102 of pool p is in use in its network, by " + long},
		"the pool has no other": {Detection{Conflict: true}, wire{answers: map[string]string{"192.0.2.103": mac}},
			counting{last: 102, full: errors.New("no free address")}, "",
			[]string{"192.0.2.103"}, 1, "no free address\naddress 192.0.2.103 of pool p is in use"},
		"always the same": {Detection{Conflict: true}, wire{answers: map[string]string{"192.0.2.100": mac}},
			counting{sticky: true}, "",
			[]string{"192.0.2.100", "192.0.2.100"}, 1, "address 192.0.2.100 of pool p is in use in its network, by " +
				mac},
		"no gateway": {both, wire{}, counting{}, "", []string{"192.0.2.100", "192.0.2.1 from 192.0.2.100"}, 0,
			"gateway 192.0.2.1 of pool p does not answer on net1"},
		"nobody can be asked": {both, wire{answers: gatewayThere, err: errors.New("no carrier")}, counting{}, "",
			[]string{"192.0.2.100"}, 0,
			"ask who has 192.0.2.100 on net1"},
		"no interface yet": {both, wire{absent: true}, counting{}, "192.0.2.100", nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			told := 0
			c.detect.Kernel, c.detect.Tell = &c.wire, func(pod cni.Pod, message string) {
				if pod.UID == "u" && strings.Contains(message, "is in use") {
					told++
				}
			}
			p := &Plugin{Addresses: &c.from, Detect: c.detect}
			res, err := p.Add(context.Background(), &cni.Request{ContainerID: "c", IfName: "net1", Conf: []byte(guide),
				Pod: ipam.Pod{UID: "u"}, State: &memory{}})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && res.IPs[0].Address.IP.String() != c.ip {
				t.Errorf("the pod gets %v, want %s", res.IPs, c.ip)
			}
			if !slices.Equal(c.wire.asked, c.asked) || told != c.told || c.from.releases != c.told ||
				len(c.from.avoided) != c.told {
				t.Errorf("asked %q, want %q; told %d times, released %d, avoided %v, want %d", c.wire.asked, c.asked,
					told, c.from.releases, c.from.avoided, c.told)
			}
		})
	}
}
