// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"go4.org/netipx"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// The set behaves as a plain map of addresses, at the edges of both families too.
func TestTakenIsASet(t *testing.T) {
	bases := []string{"10.0.0.250", "255.255.255.240", "0.0.0.0", "fd00::fff0",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0", "::"}
	rapid.Check(t, func(t *rapid.T) {
		base := netip.MustParseAddr(rapid.SampledFrom(bases).Draw(t, "base"))
		all := netipx.IPRangeFrom(base, advance(base, 15))
		set, model := NewTaken(), map[netip.Addr]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				ip := advance(base, rapid.Uint64Range(0, 15).Draw(t, "n"))
				set.Add(ip)
				model[ip] = true
			},
			"remove": func(t *rapid.T) {
				ip := advance(base, rapid.Uint64Range(0, 15).Draw(t, "n"))
				set.Remove(ip)
				delete(model, ip)
			},
			"next": func(t *rapid.T) {
				start := advance(base, rapid.Uint64Range(0, 15).Draw(t, "start"))
				got, ok := set.NextFree([]netipx.IPRange{all}, start)
				want, wantOK := lowestFree(model, start, all.To())
				if got != want || ok != wantOK {
					t.Fatalf("NextFree from %s = %v %t, want %v %t (taken: %v)", start, got, ok, want, wantOK, model)
				}
			},
			"": func(t *rapid.T) {
				for i := range uint64(16) {
					if ip := advance(base, i); set.Contains(ip) != model[ip] {
						t.Fatalf("Contains(%s) = %t", ip, set.Contains(ip))
					}
				}
			},
		})
	})
}

func lowestFree(taken map[netip.Addr]bool, from, to netip.Addr) (netip.Addr, bool) {
	for ip := from; ip.IsValid() && !to.Less(ip); ip = ip.Next() {
		if !taken[ip] {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func TestNextFreeOverSeveralRanges(t *testing.T) {
	p := ParsePool(pool("v4", func(p *v2beta1.SpiderIPPool) {
		p.Spec.IPs = []string{"192.0.2.1-192.0.2.3", "192.0.2.7", "192.0.2.9-192.0.2.10"}
		p.Spec.ExcludeIPs = []string{"192.0.2.2"}
	}), nil)
	taken := NewTaken()
	var got []string
	for {
		ip, ok := taken.NextFree(p.Free, netip.Addr{})
		if !ok {
			break
		}
		taken.Add(ip)
		got = append(got, ip.String())
	}
	// .1 is the gateway, .2 is excluded.
	if want := "[192.0.2.3 192.0.2.7 192.0.2.9 192.0.2.10]"; fmt.Sprint(got) != want {
		t.Errorf("addresses in order: %v, want %s", got, want)
	}
}

func TestPoolWithoutReservedAndGateway(t *testing.T) {
	var b netipx.IPSetBuilder
	b.AddRange(netipx.MustParseIPRange("192.0.2.10-192.0.2.18"))
	reserved, err := b.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	p := ParsePool(pool("v4", func(p *v2beta1.SpiderIPPool) { p.Spec.Gateway = new("192.0.2.20") }), reserved)
	if p.Invalid != nil || p.Size() != 1 || p.At(7) != netip.MustParseAddr("192.0.2.19") {
		t.Errorf("free %v, invalid %v; want 192.0.2.19 alone", p.Free, p.Invalid)
	}
}

func TestPoolPlaces(t *testing.T) {
	p := ParsePool(pool("v6",
		func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"2001:db8::-2001:db8::ffff:ffff:ffff:ffff"} }), nil)
	if p.Size() != math.MaxUint64-1 { // 2^64 without the gateway and the address of all routers
		t.Errorf("Size() = %d", p.Size())
	}
	for n, want := range map[uint64]string{0: "2001:db8::2", 1: "2001:db8::3", 0xffff: "2001:db8::1:1"} {
		if got := p.At(n); got != netip.MustParseAddr(want) {
			t.Errorf("At(%d) = %s, want %s", n, got, want)
		}
	}
}

// Half-full pools of growing size: the time of one choice stays the same.
func BenchmarkNextFree(b *testing.B) {
	for _, size := range []uint64{1 << 10, 1 << 14, 1 << 16} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			base := netip.MustParseAddr("10.0.0.0")
			ranges := []netipx.IPRange{netipx.IPRangeFrom(base, advance(base, size-1))}
			taken := NewTaken()
			for i := range size / 2 {
				taken.Add(advance(base, i*7%size))
			}
			for b.Loop() {
				ip, _ := taken.NextFree(ranges, netip.Addr{})
				taken.Add(ip)
				taken.Remove(ip)
			}
		})
	}
}
