// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"pgregory.net/rapid"
)

func TestParseRangeRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "is not an IP address; want for example 192.0.2.10 or 2001:db8::10",
		"172.91.0.256":                  "is not an IP address; want for example 192.0.2.10 or 2001:db8::10",
		"172.91.0.*":                    "is not an IP address; want for example 192.0.2.10 or 2001:db8::10",
		" 172.91.0.1":                   "has spaces; remove them",
		"172.91.0.1 - 172.91.0.9":       `is not a range: "172.91.0.1 " has spaces; remove them`,
		"172.91.0.1-9":                  `is not a range: "9" is not an IP address; want for example 192.0.2.10 or 2001:db8::10`,
		"172.91.0.1-":                   `is not a range: "" is not an IP address; want for example 192.0.2.10 or 2001:db8::10`,
		"172.91.0.120-172.91.0.100":     "runs backwards; write 172.91.0.100-172.91.0.120",
		"172.91.0.1-fd00::1":            "mixes IPv4 and IPv6; write one range for each family",
		"172.91.0.0/24":                 "is a CIDR; write the range 172.91.0.0-172.91.0.255",
		"fd00::1%eth0":                  "has a zone; write fd00::1",
		"::ffff:192.0.2.1":              "is an IPv4 address written as IPv6; write 192.0.2.1",
		"fd00::9-fd00::1":               "runs backwards; write fd00::1-fd00::9",
		"172.91.0.1-172.91.0.2-fd00::1": `is not a range: "172.91.0.2-fd00::1" is not an IP address; want for example 192.0.2.10 or 2001:db8::10`,
	} {
		_, err := ParseRange(text)
		if err == nil {
			t.Errorf("ParseRange(%q) was accepted", text)
		} else if err.Error() != want {
			t.Errorf("ParseRange(%q)\n got %s\nwant %s", text, err, want)
		}
	}
}

func TestMergeRanges(t *testing.T) {
	tests := []struct {
		name     string
		in, want []string
	}{
		{"sorted and joined", []string{"10.0.0.5", "10.0.0.1-10.0.0.4"}, []string{"10.0.0.1-10.0.0.5"}},
		{"overlap", []string{"10.0.0.1-10.0.0.9", "10.0.0.4-10.0.0.12"}, []string{"10.0.0.1-10.0.0.12"}},
		{"twice", []string{"10.0.0.1", "10.0.0.1"}, []string{"10.0.0.1"}},
		{"apart", []string{"10.0.0.9", "10.0.0.1"}, []string{"10.0.0.1", "10.0.0.9"}},
		{"IPv6", []string{"fd00::2", "fd00::1", "fd00::ff-fd00::1:0"},
			[]string{"fd00::1-fd00::2", "fd00::ff-fd00::1:0"}},
		{"none", nil, nil},
	}
	for _, test := range tests {
		got, err := MergeRanges(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestCountAddresses(t *testing.T) {
	for text, want := range map[string]int64{
		"172.91.0.100-172.91.0.120": 21,
		"fd00::-fd00::ffff":         65536,
		"::-ffff::":                 math.MaxInt64,
		"10.0.0.1":                  1,
	} {
		set, errs := parseRanges([]string{text}, nil)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		if got := CountAddresses(set); got != want {
			t.Errorf("CountAddresses(%s) = %d, want %d", text, got, want)
		}
	}
}

// drawRange draws a range within 64 addresses, so that ranges often meet.
func drawRange(t *rapid.T, base netip.Addr) string {
	first := rapid.IntRange(0, 63).Draw(t, "first")
	last := rapid.IntRange(first, 63).Draw(t, "last")
	return FormatRange(netipx.IPRangeFrom(nth(base, first), nth(base, last)))
}

func nth(ip netip.Addr, n int) netip.Addr {
	for range n {
		ip = ip.Next()
	}
	return ip
}

// The set of a merged list is that of the list, and merging twice changes nothing.
func TestMergeRangesKeepsTheAddresses(t *testing.T) {
	bases := []netip.Addr{netip.MustParseAddr("10.0.0.224"), netip.MustParseAddr("fd00::fff0")}
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom(bases).Draw(t, "base")
		texts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawRange(t, base) }), 0, 8).Draw(t,
			"ranges")
		merged, err := MergeRanges(texts)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for i := range 64 {
			ip := nth(base, i)
			if covers(texts, ip) != covers(merged, ip) {
				t.Fatalf("%s: in %v %t, in %v %t", ip, texts, covers(texts, ip), merged, covers(merged, ip))
			}
			if covers(texts, ip) {
				count++
			}
		}
		again, err := MergeRanges(merged)
		if err != nil || !slices.Equal(again, merged) {
			t.Fatalf("merged again: %v (%v), want %v", again, err, merged)
		}
		set, _ := parseRanges(merged, nil)
		if CountAddresses(set) != int64(count) {
			t.Fatalf("counted %d, want %d", CountAddresses(set), count)
		}
	})
}

// covers is the plain meaning of a list of ranges.
func covers(texts []string, ip netip.Addr) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		r, err := ParseRange(text)
		return err == nil && r.From().Compare(ip) <= 0 && ip.Compare(r.To()) <= 0
	})
}
