// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/host"
)

// lookup is a pod's namespace as CheckConfigured sees it.
type lookup struct {
	addresses []netip.Prefix
	rules     []host.Rule
	routes    map[int][]host.Route // by table
}

func (l lookup) Addresses(host.NS, int) ([]netip.Prefix, error)    { return l.addresses, nil }
func (l lookup) Rules(host.NS) ([]host.Rule, error)                { return l.rules, nil }
func (l lookup) Routes(_ host.NS, table int) ([]host.Route, error) { return l.routes[table], nil }
func to(text string) host.Route {
	return host.Route{Dst: netip.MustParsePrefix(text)}
}
func network(t *testing.T, text string) net.IPNet {
	t.Helper()
	ip, n, err := net.ParseCIDR(text)
	if err != nil {
		t.Fatal(err)
	}
	return net.IPNet{IP: ip, Mask: n.Mask}
}

func TestCheckConfigured(t *testing.T) {
	full := lookup{
		addresses: []netip.Prefix{netip.MustParsePrefix("172.91.0.100/16"), netip.MustParsePrefix("fd00::64/64")},
		rules:     []host.Rule{{Table: 1003}},
		routes: map[int][]host.Route{0: {to("172.91.0.0/16"), to("10.0.0.0/8")}, 1003: {to("0.0.0.0/0")},
			77: {to("192.0.2.0/24")}},
	}
	table := 77
	res := &types100.Result{
		Interfaces: []*types100.Interface{{Name: "net1"}, {Name: "other"}},
		IPs: []*types100.IPConfig{{Interface: types100.Int(0), Address: network(t, "172.91.0.100/16")},
			{Address: network(t, "fd00::64/64")},
			{Interface: types100.Int(1), Address: network(t, "198.51.100.1/24")}},
		Routes: []*types.Route{{Dst: network(t, "0.0.0.0/0")}, {Dst: network(t, "10.1.2.3/8")},
			{Dst: network(t, "192.0.2.0/24"), Table: &table}},
	}
	for name, c := range map[string]struct {
		change func(*lookup)
		want   string
	}{
		"all there": {func(*lookup) {}, ""},
		"address gone": {func(l *lookup) { l.addresses = l.addresses[1:] },
			"net1 does not have its address 172.91.0.100/16"},
		"other length": {func(l *lookup) {
			l.addresses = []netip.Prefix{netip.MustParsePrefix("172.91.0.100/32"), l.addresses[1]}
		}, "172.91.0.100/16"},
		"rule gone": {func(l *lookup) { l.rules = nil }, "no route to 0.0.0.0/0"},
		"route gone": {func(l *lookup) {
			l.routes = map[int][]host.Route{1003: l.routes[1003],
				77: l.routes[77]}
		}, "no route to 10.0.0.0/8"},
		"named table gone": {func(l *lookup) { l.routes = map[int][]host.Route{0: l.routes[0], 1003: l.routes[1003]} },
			"no route to 192.0.2.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			l := full
			c.change(&l)
			err := CheckConfigured(l, host.Link{Name: "net1"}, res)
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if err := CheckConfigured(lookup{}, host.Link{Name: "net1"}, nil); err != nil {
		t.Errorf("no result: %v", err)
	}
}
