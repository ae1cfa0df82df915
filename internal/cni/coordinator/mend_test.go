// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// takeFromNode removes all rules and routes to pods from the node, as a network manager does that
// knows only its own.
func takeFromNode(t *testing.T, f *hosttest.Fake, rules, routes bool) {
	t.Helper()
	if rules {
		all, err := f.Rules(host.NodeNS)
		check(t, err)
		for _, r := range all {
			check(t, f.DeleteRule(host.NodeNS, r))
		}
	}
	if routes {
		all, err := f.Routes(host.NodeNS, 500)
		check(t, err)
		for _, r := range all {
			check(t, f.DeleteRoute(host.NodeNS, r))
		}
	}
}

// What the node has lost is found by Check and made again by Mend, and nothing else is changed.
func TestMend(t *testing.T) {
	first := func(t *testing.T, f *hosttest.Fake) *cni.Request {
		return request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16", "fd00:91::64/64"), `{}`)
	}
	overlay := func(t *testing.T, f *hosttest.Fake) *cni.Request {
		bridge(t, f)
		return request("net1", attachBoth(t, f), `{}`)
	}
	for name, lost := range map[string]struct {
		rules, routes bool
		attach        func(*testing.T, *hosttest.Fake) *cni.Request
		want          string
	}{
		"rules":              {true, false, first, "no rule that leads to table 500"},
		"routes":             {false, true, first, "table 500 has no route to "},
		"both":               {true, true, first, "no rule"},
		"both of an overlay": {true, true, overlay, "no rule"},
		"its routes":         {false, true, overlay, "via 10.244.0.7"},
	} {
		t.Run(name, func(t *testing.T) {
			f := node(t)
			p := &Plugin{Kernel: f, Cluster: labCluster}
			r := lost.attach(t, f)
			_, err := p.Add(t.Context(), r)
			check(t, err)
			check(t, p.Check(t.Context(), r))
			whole := f.Snapshot()
			takeFromNode(t, f, lost.rules, lost.routes)
			if err := p.Check(t.Context(), r); err == nil || !strings.Contains(err.Error(), lost.want) {
				t.Errorf("check: %v, want %q", err, lost.want)
			}
			for range 2 {
				check(t, p.Mend(t.Context(), r))
				check(t, p.Check(t.Context(), r))
			}
			if diff := cmp.Diff(whole, f.Snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The node's address, which its ways to an overlay pod's interface have as source, changes: Check
// finds it, Mend takes another that the node has, and Del finds what there is, whether or not it
// was mended, and whether or not an older record has the source.
func TestSourceGone(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		mend, inRecord, lost bool
		want                 string
	}{
		{"mended", true, false, false,
			"a route to 172.91.0.100 from 10.20.1.10, which is no address of the node any more"},
		{"a manager took them away", true, false, true, "no route to 172.91.0.100 via 10.244.0.7"},
		{"not mended", false, false, false, "from 10.20.1.10"},
		{"not mended, an older record", false, true, false, "from 10.20.1.10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := node(t)
			bridge(t, f)
			eno, err := f.LinkByName(host.NodeNS, hosttest.GuideEthName)
			check(t, err)
			check(t, f.AddAddress(host.NodeNS, eno.Index, netip.MustParsePrefix("fd20::10/64")))
			p := &Plugin{Kernel: f, Cluster: labCluster}
			r := request("net1", attachBoth(t, f), `{}`)
			_, err = p.Add(t.Context(), r)
			check(t, err)
			if tt.inRecord {
				routes, err := f.Routes(host.NodeNS, 500)
				check(t, err)
				check(t, r.State.Save(state{Mode: modeOverlay, HostTable: 500, Routes: routes}))
			}
			for was, is := range map[string]string{"10.20.1.10/24": "10.20.1.11/24", "fd20::10/64": "fd20::11/64"} {
				check(t, f.RemoveAddress(host.NodeNS, eno.Index, netip.MustParsePrefix(was)))
				check(t, f.AddAddress(host.NodeNS, eno.Index, netip.MustParsePrefix(is)))
			}
			takeFromNode(t, f, false, tt.lost)
			if err := p.Check(t.Context(), r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("check: %v, want %q", err, tt.want)
			}
			if tt.mend {
				for range 2 {
					check(t, p.Mend(t.Context(), r))
					check(t, p.Check(t.Context(), r))
				}
				wantSources(t, f, "10.20.1.11", "fd20::11")
			}
			check(t, p.Del(t.Context(), r))
			wantSources(t, f)
		})
	}
}

// An IPv6 route alone stays, without its source.
func TestSourceOfIPv6Gone(t *testing.T) {
	f := node(t)
	bridge(t, f)
	eno, err := f.LinkByName(host.NodeNS, hosttest.GuideEthName)
	check(t, err)
	was := netip.MustParsePrefix("fd20::10/64")
	check(t, f.AddAddress(host.NodeNS, eno.Index, was))
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("net1", attachBoth(t, f), `{}`)
	_, err = p.Add(t.Context(), r)
	check(t, err)
	check(t, f.RemoveAddress(host.NodeNS, eno.Index, was))
	check(t, p.Check(t.Context(), r)) // there is no other to take
	check(t, f.AddAddress(host.NodeNS, eno.Index, netip.MustParsePrefix("fd20::11/64")))
	if err := p.Check(t.Context(), r); err == nil || !strings.Contains(err.Error(),
		"a route to fd91::100 from no particular address of the node") {
		t.Errorf("check: %v", err)
	}
	check(t, p.Mend(t.Context(), r))
	wantSources(t, f, "10.20.1.10", "fd20::11")
}

// wantSources wants table 500 of the node to have routes with these sources.
func wantSources(t *testing.T, f *hosttest.Fake, want ...string) {
	t.Helper()
	routes, err := f.Routes(host.NodeNS, 500)
	check(t, err)
	var got []string
	for _, r := range routes {
		got = append(got, r.Src.String())
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the node's routes have the sources %q, want %q", got, want)
	}
}

// A pair that has gone is not made again: the pod's routes went with it.
func TestMendWithoutThePair(t *testing.T) {
	f := node(t)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`)
	_, err := p.Add(t.Context(), r)
	check(t, err)
	l, err := f.LinkByName(pod, podVeth)
	check(t, err)
	check(t, f.DeleteLink(pod, l.Index))
	if err := p.Mend(t.Context(), r); err == nil || !strings.Contains(err.Error(), "end of the pair") {
		t.Errorf("mend: %v", err)
	}
	var _ cni.Mender = p
}

// TestMendTrust has a pair from before it was kept from believing the pod's router advertisements,
// and one whose keys something else has set.
func TestMendTrust(t *testing.T) {
	for _, key := range []string{"accept_ra", "autoconf", "accept_redirects"} {
		f := node(t)
		p := &Plugin{Kernel: f, Cluster: labCluster}
		r := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`)
		_, err := p.Add(t.Context(), r)
		check(t, err)
		whole := f.Snapshot()
		check(t, f.SetSysctl(host.NodeNS, "net/ipv6/conf/"+hostVeth(container)+"/"+key, "1"))
		err = p.Check(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), key+" of veth0123456789a is 1") {
			t.Errorf("%s: check: %v", key, err)
		}
		for range 2 {
			check(t, p.Mend(t.Context(), r))
			check(t, p.Check(t.Context(), r))
		}
		if diff := cmp.Diff(whole, f.Snapshot()); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
}

// TestPairDistrustsPod: neither end of a pair takes router advertisements, and a kernel without IPv6
// makes pairs all the same.
func TestPairDistrustsPod(t *testing.T) {
	for _, noIPv6 := range []bool{false, true} {
		f := hosttest.GuideNodeWith(hosttest.Options{Naming: hosttest.GuideNaming, NoIPv6: noIPv6})
		f.AddNS(pod)
		p := &Plugin{Kernel: f, Cluster: labCluster}
		r := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`)
		_, err := p.Add(t.Context(), r)
		check(t, err)
		check(t, p.Check(t.Context(), r))
		check(t, p.Mend(t.Context(), r))
		for ns, name := range map[host.NS]string{host.NodeNS: hostVeth(container), pod: podVeth} {
			for _, key := range []string{"accept_ra", "autoconf", "accept_redirects"} {
				v, err := f.Sysctl(ns, "net/ipv6/conf/"+name+"/"+key)
				if noIPv6 != errors.Is(err, host.ErrNotFound) || !noIPv6 && v != "0" {
					t.Errorf("%s of %s is %q, %v; want 0", key, name, v, err)
				}
			}
		}
		check(t, p.Del(t.Context(), r))
	}
}
