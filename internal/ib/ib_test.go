// SPDX-License-Identifier: Apache-2.0

package ib

import (
	"net"
	"testing"

	"pgregory.net/rapid"
)

func TestParseGUID(t *testing.T) {
	want := GUID{0xe8, 0xeb, 0xd3, 0x03, 0x00, 0x93, 0xae, 0x10}
	for _, s := range []string{
		"e8:eb:d3:03:00:93:ae:10", "E8:EB:D3:03:00:93:AE:10", "e8-eb-d3-03-00-93-ae-10",
		"e8ebd3030093ae10", "0xe8ebd3030093ae10", "e8eb:d303:0093:ae10",
	} {
		if got, err := ParseGUID(s); err != nil || got != want {
			t.Errorf("ParseGUID(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "e8:eb:d3:03:00:93", "e8:eb:d3:03:00:93:ae:1g", "e8:eb:d3:03:00:93:ae:10:11",
		"172.91.0.1", "e:8eb:d3:03:00:93:ae:10"} {
		if got, err := ParseGUID(s); err == nil {
			t.Errorf("ParseGUID(%q) = %v, want an error", s, got)
		}
	}
}

func FuzzParseGUID(f *testing.F) {
	f.Add("e8:eb:d3:03:00:93:ae:10")
	f.Add("0xe8ebd3030093ae10")
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseGUID(s)
		if err != nil {
			return
		}
		if again, err := ParseGUID(g.String()); err != nil || again != g {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, g, again, err)
		}
	})
}

func FuzzParsePKey(f *testing.F) {
	f.Add("0x8001")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePKey(s)
		if err != nil {
			return
		}
		if again, err := ParsePKey(p.String()); err != nil || again != p {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, p, again, err)
		}
	})
}

// The guide shows a PF with this GUID and this link-local address.
func TestLinkLocal(t *testing.T) {
	g, _ := ParseGUID("e8:eb:d3:03:00:93:ae:10")
	if got := g.LinkLocal().String(); got != "fe80::eaeb:d303:93:ae10" {
		t.Errorf("link-local address %s, want fe80::eaeb:d303:93:ae10", got)
	}
}

func TestLinkAddrGUID(t *testing.T) {
	a, _ := net.ParseMAC("00:00:10:49:fe:80:00:00:00:00:00:00:e8:eb:d3:03:00:93:ae:10")
	if g, err := LinkAddrGUID(a); err != nil || g.String() != "e8:eb:d3:03:00:93:ae:10" {
		t.Errorf("LinkAddrGUID(%s) = %v, %v", a, g, err)
	}
	if _, err := LinkAddrGUID(a[:6]); err == nil {
		t.Error("an Ethernet address was taken for an InfiniBand one")
	}
}

// VFs of one PF, and of PFs that a manufacturer tells apart in the serial part, never share a GUID.
func TestVFGUIDsDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		oui := rapid.SliceOfN(rapid.Byte(), 5, 5).Draw(t, "oui")
		serials := rapid.SliceOfNDistinct(rapid.Uint32Range(0, 1<<24-1), 1, 8, rapid.ID).Draw(t, "serials")
		n := rapid.IntRange(1, 128).Draw(t, "vfs")
		seen := map[GUID]bool{}
		for _, s := range serials {
			var pf GUID
			copy(pf[:], oui)
			pf[0] &^= 0x02
			pf[5], pf[6], pf[7] = byte(s>>16), byte(s>>8), byte(s)
			seen[pf] = true
			for i := range n {
				g := VFGUID(pf, i)
				if seen[g] || !g.Valid() || g[0]&2 == 0 {
					t.Fatalf("PF %v, VF %d: GUID %v is bad or seen before", pf, i, g)
				}
				seen[g] = true
			}
		}
	})
}
