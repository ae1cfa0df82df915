// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// says fails for an error that tells nothing.
func says(t *testing.T, err error) {
	t.Helper()
	if strings.TrimSpace(err.Error()) == "" {
		t.Fatal("an empty refusal")
	}
}

// again wants that what was read, written anew, is read as the same.
func again[T any](t *testing.T, read func(string) (T, error), value T) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	back, err := read(string(text))
	if err != nil {
		t.Fatalf("%s was accepted in another spelling, and now: %v", text, err)
	}
	if diff := cmp.Diff(value, back); diff != "" {
		t.Fatalf("%s is read as another (-first +now):\n%s", text, diff)
	}
}

func FuzzPoolAnnotation(f *testing.F) {
	for _, seed := range []string{`{"ipv4":["v4-a"]}`, `{"ipv4":["v4-*"],"ipv6":["v6-[ab]"]}`, `{"IPV4":["a"]}`,
		`{"ipv4":[""]}`, `{}`, `null`, ``, `[]`, `{"ipv4":"a"}`, `{"ipv4":["a"]} x`, `{"ip":1}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names, err := parsePoolAnnotation(text)
		if err != nil {
			says(t, err)
			return
		}
		if names.empty() {
			t.Fatal("no pool is named and it is accepted")
		}
		again(t, parsePoolAnnotation, names)
	})
}

func FuzzPoolsAnnotation(f *testing.F) {
	for _, seed := range []string{
		`[{"interface":"eth0","ipv4":["v4-a"]},{"interface":"net1","ipv6":["v6-a"],"cleangateway":true}]`,
		`[{"ipv4":["v4-a"]},{"ipv4":["v4-b"]}]`,
		`[{"interface":"eth0","ipv4":["a"]},{"ipv4":["a"]}]`,
		`[{"interface":"eth0","ipv4":["a"]},{"interface":"eth0","ipv4":["a"]}]`, `[{}]`, `[]`, `null`, `{`, `[null]`,
	} {
		f.Add(seed, "net1")
	}
	f.Fuzz(func(t *testing.T, text, ifname string) {
		entries, err := parsePoolsAnnotation(text)
		if err != nil {
			says(t, err)
			return
		}
		interfaces := map[string]bool{}
		for _, e := range entries {
			if len(e.IPv4)+len(e.IPv6) == 0 {
				t.Fatalf("an entry names no pool: %+v", e)
			}
			interfaces[e.Interface] = true
		}
		if entries[0].Interface != "" && len(interfaces) != len(entries) || entries[0].Interface == "" &&
			len(interfaces) != 1 {
			t.Fatalf("entries are for the interfaces %v", interfaces)
		}
		place, err := entryFor(entries, Request{Interface: ifname})
		if err != nil {
			says(t, err)
		} else if got := entries[place].Interface; got != "" && got != ifname {
			t.Fatalf("%q gets the entry of %q", ifname, got)
		}
		again(t, parsePoolsAnnotation, entries)
	})
}

func FuzzNamespaceAnnotation(f *testing.F) {
	for _, seed := range []string{`["v4-a","v4-*"]`, `[]`, `[""]`, `null`, `"v4-a"`, `v4-a`, `[1]`, `["a"]]`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names, err := parseNamespaceAnnotation(text)
		if err != nil {
			says(t, err)
			return
		}
		if len(names) == 0 {
			t.Fatal("no pool is named and it is accepted")
		}
		again(t, parseNamespaceAnnotation, names)
	})
}

func FuzzRoutesAnnotation(f *testing.F) {
	for _, seed := range []string{
		`[{"dst":"10.0.0.0/8","gw":"192.0.2.1"},{"dst":"fd00::/64","gw":"2001:db8::1"}]`,
		`[{"dst":"0.0.0.0/0","gw":"192.0.2.1"}]`, `[{"dst":"10.0.0.1/8","gw":"192.0.2.1"}]`,
		`[{"dst":"fd00::/64","gw":"192.0.2.1"}]`, `[{"dst":"::ffff:10.0.0.0/104","gw":"::ffff:192.0.2.1"}]`,
		`[{"gw":"fe80::1%eth0"}]`, `[]`, `null`, `{}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		routes, err := parseRoutesAnnotation(text)
		if err != nil {
			says(t, err)
			return
		}
		var written []v2beta1.Route
		for _, r := range routes {
			if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || !r.Gateway.IsValid() ||
				r.Dst.Addr().Is4() != r.Gateway.Is4() {
				t.Fatalf("route %+v", r)
			}
			written = append(written, v2beta1.Route{Dst: r.Dst.String(), Gw: r.Gateway.String()})
		}
		text2, err := json.Marshal(written)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseRoutesAnnotation(string(text2)); err != nil || !slices.Equal(back, routes) {
			t.Fatalf("%s is read as %v, %v; first %v", text2, back, err, routes)
		}
	})
}

// FuzzParsePool: a pool is either invalid, and says which field, or it gives out addresses of its
// subnet only, none of which is excluded, reserved or the gateway.
func FuzzParsePool(f *testing.F) {
	f.Add("172.91.0.0/16", "172.91.0.100-172.91.0.120", "172.91.0.105", "172.91.0.1", "10.0.0.0/8", "172.91.0.110",
		"app", "In")
	f.Add("fd00::/64", "fd00::1-fd00::ffff", "fd00::1", "fd00::1", "fd01::/64", "fd00::", "", "Exists")
	f.Add("0.0.0.0/0", "0.0.0.0-255.255.255.255", "", "0.0.0.0", "128.0.0.0/1", "255.255.255.255", "a b", "Like")
	f.Add("172.91.0.1/16", "x", "172.91.0.9-172.91.0.1", "fd00::1", "0.0.0.0/0", "", "", "")
	f.Fuzz(func(t *testing.T, subnet, ips, exclude, gateway, dst, reserve, label, operator string) {
		spec := v2beta1.IPPoolSpec{Subnet: subnet, IPs: []string{ips}, Routes: []v2beta1.Route{{Dst: dst, Gw: gateway}}}
		if exclude != "" {
			spec.ExcludeIPs = []string{exclude}
		}
		if gateway != "" {
			spec.Gateway = &gateway
		}
		if operator != "" {
			spec.PodAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: label,
				Operator: metav1.LabelSelectorOperator(operator)}}}
		}
		reserved, _ := v2beta1.ParseReservedIPSpec(&v2beta1.ReservedIPSpec{IPs: []string{reserve}})
		p := ParsePool(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, reserved)
		if p.Invalid != nil {
			if !strings.Contains(p.Invalid.Error(), "spec.") {
				t.Fatalf("the refusal %q names no field", p.Invalid)
			}
			return
		}
		checkFree(t, p, exclude, reserved)
		var size uint64
		for _, r := range p.Free {
			if s := rangeSize(r); size+s >= size {
				size += s
			}
		}
		if first, last := p.At(0), p.At(p.Size()-1); size > 0 && (first != p.Free[0].From() || p.Size() < 1<<32 &&
			last != p.Free[len(p.Free)-1].To()) {
			t.Fatalf("of %v the first is %v and the last %v", p.Free, first, last)
		}
	})
}

func checkFree(t *testing.T, p *Pool, exclude string, reserved *netipx.IPSet) {
	t.Helper()
	excluded, excludeErr := v2beta1.ParseRange(exclude)
	for _, r := range p.Free {
		if !p.Subnet.Contains(r.From()) || !p.Subnet.Contains(r.To()) {
			t.Fatalf("%v is outside %v", r, p.Subnet)
		}
		if p.Gateway.IsValid() && r.Contains(p.Gateway) {
			t.Fatalf("%v has the gateway %v", r, p.Gateway)
		}
		if excludeErr == nil && r.Overlaps(excluded) {
			t.Fatalf("%v has excluded addresses (%s)", r, exclude)
		}
		if reserved.OverlapsPrefix(netip.PrefixFrom(r.From(), r.From().BitLen())) ||
			reserved.OverlapsPrefix(netip.PrefixFrom(r.To(), r.To().BitLen())) {
			t.Fatalf("%v has reserved addresses", r)
		}
	}
}

// FuzzChoose: whatever sources say, there is an error or a choice; each family has pools or
// reasons; pools that are named one by one keep their order; and no pool is both tried and dropped.
func FuzzChoose(f *testing.F) {
	f.Add(`{"ipv4":["v4-a"]}`, `[{"ipv4":["v4-a"]}]`, `[{"dst":"10.0.0.0/8","gw":"192.0.2.1"}]`, `["v4-*"]`, "v4-?",
		uint8(15))
	f.Add(`{"ipv4":[""]}`, `[{"interface":"eth0","ipv6":["["]}]`, `null`, `[]`, "v4-x", uint8(9))
	f.Add("", "", "", "", "v4-b,v4-off,v4-a", uint8(0))
	f.Add(`{"ipv4":["v4-b","v4-*","v4-a"],"ipv6":["v6-x"]}`,
		`[{"interface":"eth0","ipv4":["v4-a"]},{"interface":"net1","ipv4":["v4-x"]}]`, `[]`, `["v4-b"]`, "", uint8(1))
	f.Fuzz(func(t *testing.T, one, several, routes, namespace, config string, set uint8) {
		r, fs := request(),
			facts(pool("v4-b"), pool("v4-a", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n1"} }),
				pool("v4-off", disabled), pool("v6-a", byDefault))
		fs.NamespaceAnnotations = map[string]string{}
		for i, a := range []struct {
			key, text string
			to        map[string]string
		}{
			{AnnotationPool, one, r.Pod.Annotations}, {AnnotationPools, several, r.Pod.Annotations},
			{AnnotationRoutes, routes, r.Pod.Annotations}, {AnnotationNamespaceIPv4, namespace,
				fs.NamespaceAnnotations},
		} {
			if set&(1<<i) != 0 {
				a.to[a.key] = a.text
			}
		}
		if config != "" {
			r.DefaultIPv4 = strings.Split(config, ",")
		}
		choice, err := Choose(r, fs)
		if err != nil {
			says(t, err)
			var refusal *Refusal
			if errors.As(err, &refusal) {
				checkFamilies(t, refusal.Families)
			}
			return
		}
		if len(choice.Families) == 0 {
			t.Fatal("neither a family nor an error")
		}
		checkFamilies(t, choice.Families)
		if set&15 == 0 && config != "" && !strings.ContainsAny(config, "*?[") {
			checkOrder(t, choice.Families[0], r.DefaultIPv4)
		}
	})
}

// checkOrder wants the pools in the order in which they were written; some may be left out.
func checkOrder(t *testing.T, family Family, written []string) {
	t.Helper()
	for _, p := range family.Pools {
		i := slices.Index(written, p.Name)
		if i < 0 {
			t.Fatalf("pool %s is not behind the one before it in %q", p.Name, written)
		}
		written = written[i+1:]
	}
}

func checkFamilies(t *testing.T, families []Family) {
	t.Helper()
	for _, family := range families {
		if len(family.Pools)+len(family.Dropped) == 0 || family.Source == "" {
			t.Fatalf("family %+v has neither pools nor reasons, or no source", family)
		}
		seen := map[string]bool{}
		for _, p := range family.Pools {
			if p.Version() != family.Version || seen[p.Name] {
				t.Fatalf("pool %s of %+v is of another family, or twice there", p.Name, family)
			}
			seen[p.Name] = true
		}
		for _, d := range family.Dropped {
			if d.Pool == "" || d.Reason == "" || seen[d.Pool] {
				t.Fatalf("drop %+v of %+v says nothing, or the pool is twice there", d, family)
			}
			seen[d.Pool] = true
		}
	}
}
