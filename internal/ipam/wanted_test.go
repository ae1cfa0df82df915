// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

func wanting(addresses ...string) Request {
	r := request(AnnotationPool, `{"ipv4":["a","b"]}`)
	for _, a := range addresses {
		r.Wanted = append(r.Wanted, netip.MustParsePrefix(a))
	}
	return r
}

func TestParseWanted(t *testing.T) {
	for name, c := range map[string]struct {
		texts []string
		want  []netip.Prefix
		err   string
	}{
		"none": {},
		"plain": {texts: []string{"172.91.0.100"},
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.100/32")}},
		"both": {texts: []string{"172.91.0.100/16", "fd00::1"},
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.100/16"), netip.MustParsePrefix("fd00::1/128")}},
		"mapped": {texts: []string{"::ffff:172.91.0.100"},
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.100/32")}},
		"mapped, too wide": {texts: []string{"::ffff:172.91.0.100/16"}, err: "prefix length"},
		"two of a family":  {texts: []string{"172.91.0.100", "172.91.0.101"}, err: "more than one of IPv4"},
		"no address":       {texts: []string{"ib0"}, err: `"ib0"`},
		"zone":             {texts: []string{"fe80::1%eth0"}, err: `"fe80::1%eth0"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseWanted(c.texts)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func FuzzParseWanted(f *testing.F) {
	for _, seed := range []string{"172.91.0.100", "172.91.0.100/16", "fd00::1/64", "::ffff:1.2.3.4/120", "fe80::1%eth0",
		"", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseWanted([]string{text})
		if err == nil && (len(got) != 1 || !got[0].IsValid() || got[0].Addr().Is4In6()) {
			t.Errorf("%q became %v", text, got)
		}
	})
}

// A pool that has the address gives that one and no other; one that has it not is passed over, with
// the reason.
func TestWantedAddress(t *testing.T) {
	elsewhere := func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"192.0.2.100"} }
	choice, err := Choose(wanting("192.0.2.12/32"), facts(pool("a", elsewhere), pool("b")))
	if err != nil {
		t.Fatal(err)
	}
	family := choice.Families[0]
	ip := netip.MustParseAddr("192.0.2.12")
	if len(family.Pools) != 1 || family.Pools[0].Name != "b" || family.Pools[0].Wanted != ip ||
		!slices.Equal(family.Pools[0].Free, []netipx.IPRange{netipx.IPRangeFrom(ip, ip)}) {
		t.Errorf("pools %+v", family.Pools)
	}
	want := []Drop{{Pool: "a",
		Reason: "does not give out 192.0.2.12, which the pod asks for (spec.ips without excludeIPs, reserved " +
			"addresses and the gateway)"}}
	if diff := cmp.Diff(want, family.Dropped); diff != "" {
		t.Error(diff)
	}
}

func TestWantedAddressIsRefused(t *testing.T) {
	all := []*v2beta1.SpiderIPPool{pool("a"), pool("b")}
	for name, c := range map[string]struct{ wanted, reason string }{
		"subnet of another size": {"192.0.2.12/16", "has subnet 192.0.2.0/24, and the pod asks for 192.0.2.12/16"},
		"the gateway":            {"192.0.2.1/24", "does not give out 192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			choice, err := Choose(wanting(c.wanted), facts(all...))
			if err == nil {
				err = Refuse(choice.Families)
			}
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v, want %q", err, c.reason)
			}
		})
	}
	const none = "the pod asks for 2001:db8::12, and annotation ipam.spidernet.io/ippool names no IPv6 pool (IPv4 " +
		"enabled: true, IPv6 enabled: true)"
	if _, err := Choose(wanting("2001:db8::12/128"), facts(all...)); err == nil || err.Error() != none {
		t.Errorf("error %v, want %s", err, none)
	}
}

// A default pool that cannot serve is left out only when nobody asks for an address of its family.
func TestWantedAddressOfAUselessDefault(t *testing.T) {
	r := request()
	r.Wanted = []netip.Prefix{netip.MustParsePrefix("2001:db8::12/128")}
	choice, err := Choose(r, facts(pool("v4", byDefault), pool("v6", byDefault, disabled)))
	if err == nil {
		err = Refuse(choice.Families)
	}
	if err == nil || !strings.Contains(err.Error(), "pool v6 is disabled") {
		t.Errorf("error %v", err)
	}
}

func TestTakes(t *testing.T) {
	r := wanting("192.0.2.12/24")
	for ip, want := range map[string]bool{"192.0.2.12": true, "192.0.2.13": false, "2001:db8::1": true} {
		if got := r.Takes(netip.MustParseAddr(ip)); got != want {
			t.Errorf("takes %s: %t", ip, got)
		}
	}
}
