// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// ipam gives one address.
type ipam struct{}

func (ipam) Add(context.Context) (*types100.Result, error) {
	return &types100.Result{IPs: []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(172, 91, 0, 100),
		Mask: net.CIDRMask(16, 32)}}}}, nil
}
func (ipam) Del(context.Context) error   { return nil }
func (ipam) Check(context.Context) error { return nil }

// TestRouterAdvertisements: an interface with our addresses takes nothing from what others on the
// fabric say of routers, unless its network wants a router. It is so before the link is up.
func TestRouterAdvertisements(t *testing.T) {
	for name, test := range map[string]struct {
		conf   string
		ipam   cni.IPAM
		noIPv6 bool
		want   string // of accept_ra and autoconf
	}{
		"our addresses":        {conf: `{"deviceID":"0000:86:00.1"}`, ipam: ipam{}, want: "0"},
		"said to ignore":       {conf: `{"deviceID":"0000:86:00.1","acceptRA":false}`, ipam: ipam{}, want: "0"},
		"a wanted router":      {conf: `{"deviceID":"0000:86:00.1","acceptRA":true}`, ipam: ipam{}, want: "1"},
		"no addresses of ours": {conf: `{"deviceID":"0000:86:00.1"}`, want: "1"},
		"no IPv6":              {conf: `{"deviceID":"0000:86:00.1"}`, ipam: ipam{}, noIPv6: true},
	} {
		f := guideNodeWith(t, hosttest.Options{Naming: hosttest.GuideNaming, NoIPv6: test.noIPv6, FollowRDMA: true})
		r := call(test.conf)
		r.IPAM = test.ipam
		_, err := (&Plugin{Kernel: f}).Add(t.Context(), r)
		must(t, err)
		for _, key := range []string{"accept_ra", "autoconf"} {
			v, err := f.Sysctl(r.NetNS, "net/ipv6/conf/eth0/"+key)
			if v != test.want || test.noIPv6 != errors.Is(err, host.ErrNotFound) {
				t.Errorf("%s: %s is %q, %v; want %q", name, key, v, err, test.want)
			}
			call := func(begin string) int {
				return slices.IndexFunc(f.Calls(), func(c string) bool { return strings.HasPrefix(c, begin) })
			}
			set, up := call("SetSysctl net/ipv6/conf/eth0/"+key+"=0 in "+string(r.NetNS)), call("SetLinkUp ")
			if test.want == "0" && (set < 0 || up < set) {
				t.Errorf("%s: %s is set in call %d, the link in call %d of %q", name, key, set, up, f.Calls())
			}
		}
	}
	for _, value := range []string{`"yes"`, `2`} {
		conf := `{"deviceID":"0000:86:00.1","acceptRA":` + value + `}`
		if _, err := parse(call(conf)); err == nil {
			t.Errorf("%s is taken", conf)
		}
	}
}
