// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// says fails for refusals that name no field, or nothing that is wrong with it.
func says(t *testing.T, errs field.ErrorList) {
	t.Helper()
	for _, err := range errs {
		if err.Field == "" || err.Detail == "" && err.Type != field.ErrorTypeDuplicate {
			t.Fatalf("the refusal %v does not say of which field, or why", err)
		}
	}
}

// FuzzParseRange: what is read is a range of one family, and is read the same when it is written anew.
func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"10.0.0.1", "10.0.0.1-10.0.0.9", "fd00::1-fd00::ff", "10.0.0.9-10.0.0.1",
		"10.0.0.0/8", "::ffff:1.2.3.4%x-", "-", "1-2-3", "10.0.0.1-fd00::1", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRange(text)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an empty refusal")
			}
			return
		}
		if !r.IsValid() || r.From().Is4() != r.To().Is4() || r.From().Is4In6() || r.From().Zone() != "" ||
			r.To().Zone() != "" {
			t.Fatalf("ParseRange(%q) = %v, which is no range", text, r)
		}
		again, err := ParseRange(FormatRange(r))
		if err != nil || again != r {
			t.Fatalf("ParseRange(FormatRange(%v)) = %v, %v", r, again, err)
		}
	})
}

// FuzzMergeRanges: merging changes no address, and merging again changes nothing.
func FuzzMergeRanges(f *testing.F) {
	f.Add("10.0.0.1-10.0.0.4,10.0.0.5,10.0.0.3-10.0.0.9")
	f.Add("fd00::1,10.0.0.1")
	f.Add("255.255.255.255,0.0.0.0-255.255.255.254,::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	f.Add("10.0.0.1,x,")
	f.Fuzz(func(t *testing.T, text string) {
		texts := strings.Split(text, ",")
		merged, err := MergeRanges(texts)
		if err != nil {
			if !strings.Contains(err.Error(), "ips[") {
				t.Fatalf("the refusal %q names no entry", err)
			}
			return
		}
		before, _ := parseRanges(texts, nil)
		after, errs := parseRanges(merged, nil)
		if len(errs) > 0 || !after.Equal(before) {
			t.Fatalf("%q is merged to %q", texts, merged)
		}
		if again, err := MergeRanges(merged); err != nil || !slices.Equal(again, merged) {
			t.Fatalf("%q is merged to %q, %v", merged, again, err)
		}
	})
}

// FuzzParseIPPoolSpec: a pool without errors never has an address, gateway or next hop outside its
// subnet, or a default route; refusals name the field; and defaulting changes nothing of what a
// pool means.
func FuzzParseIPPoolSpec(f *testing.F) {
	f.Add("172.91.0.0/16", "172.91.0.100-172.91.0.120", "172.91.0.105", "172.91.0.1", "10.0.0.0/8", int64(4))
	f.Add("fd00::/64", "fd00::1-fd00::ffff,fd00::1:0", "", "fd00::1", "fd01::/64", int64(6))
	f.Add("172.91.0.1/16", "x", "172.91.0.9-172.91.0.1", "fd00::1", "0.0.0.0/0", int64(5))
	f.Add("::ffff:10.0.0.0/104", "10.0.0.1", "10.0.0.0/8", "fe80::1%x", "::/0", int64(0))
	f.Fuzz(func(t *testing.T, subnet, ips, exclude, gateway, dst string, version int64) {
		p := guidePool(func(p *SpiderIPPool) {
			p.Spec = IPPoolSpec{Subnet: subnet, IPs: strings.Split(ips, ","), ExcludeIPs: strings.Split(exclude, ","),
				Gateway: &gateway, Routes: []Route{{Dst: dst, Gw: gateway}}}
			if version != 0 {
				p.Spec.IPVersion = &version
			}
		})
		written, writtenErrs := ParseIPPoolSpec(&p.Spec)
		DefaultIPPool(p)
		a, errs := ParseIPPoolSpec(&p.Spec)
		says(t, errs)
		if len(errs) != len(writtenErrs) {
			t.Fatalf("errors %v, before defaulting %v", errs, writtenErrs)
		}
		says(t, ValidateIPPool(p, both, []SpiderIPPool{*guidePool()}))
		if len(errs) > 0 {
			return
		}
		if !a.IPs.Equal(written.IPs) || *p.Spec.IPVersion != a.Version() {
			t.Fatalf("addresses %v of version %d, before defaulting %v", a.IPs.Ranges(), *p.Spec.IPVersion,
				written.IPs.Ranges())
		}
		for _, r := range a.IPs.Ranges() {
			if !a.Subnet.Contains(r.From()) || !a.Subnet.Contains(r.To()) {
				t.Fatalf("range %v of %q lies outside %v", r, ips, a.Subnet)
			}
		}
		if !a.Subnet.Contains(a.Gateway) || !a.Subnet.Contains(a.Routes[0].Gw) || a.Routes[0].Dst.Bits() == 0 {
			t.Fatalf("gateway %v or route %v of %v", a.Gateway, a.Routes[0], a.Subnet)
		}
	})
}

// FuzzReservedIP: what is accepted is of one family, and refusals name the field.
func FuzzReservedIP(f *testing.F) {
	f.Add("10.0.0.1,10.0.0.5-10.0.0.9", int64(0))
	f.Add("fd00::1,10.0.0.1", int64(6))
	f.Add("", int64(5))
	f.Add("x,10.0.0.0/8", int64(4))
	f.Fuzz(func(t *testing.T, ips string, version int64) {
		r := reserved(nil, strings.Split(ips, ",")...)
		if version != 0 {
			r.Spec.IPVersion = &version
		}
		says(t, ValidateReservedIP(r, both))
		DefaultReservedIP(r)
		errs := ValidateReservedIP(r, both)
		says(t, errs)
		if len(errs) > 0 {
			return
		}
		set, _ := ParseReservedIPSpec(&r.Spec)
		for _, x := range set.Ranges() {
			if versionOf(x.From()) != *r.Spec.IPVersion || versionOf(x.To()) != *r.Spec.IPVersion {
				t.Fatalf("%v is not of version %d", x, *r.Spec.IPVersion)
			}
		}
	})
}
