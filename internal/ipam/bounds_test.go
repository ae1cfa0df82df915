// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"strings"
	"testing"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

func listOf(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }

// What a pod's annotations may ask for is bounded, and a refusal is short whatever they hold.
func TestBounds(t *testing.T) {
	numbered := make([]string, 6500)
	for i := range numbered {
		numbered[i] = fmt.Sprintf(`"p%d"`, i)
	}
	long := strings.Repeat("x", 50_000)
	for name, c := range map[string]struct{ annotation, value, want string }{
		"pool names": {AnnotationPool, `{"ipv4":[` + strings.Join(numbered, ",") + `]}`,
			"annotation ipam.spidernet.io/ippool: 6500 IPv4 pools are named: must be at most 100"},
		"IPv6 pool names": {AnnotationPool, `{"ipv6":[` + listOf(`"a"`, 101) + `]}`, "101 IPv6 pools are named"},
		"patterns":        {AnnotationPool, `{"ipv4":[` + listOf(`"*"`, 10_000) + `]}`, "10000 IPv4 pools are named"},
		"octets": {AnnotationPool, `{"ipv4":[` + listOf(`"*"`, 45_000) + `]}`,
			"annotation ipam.spidernet.io/ippool: has 180010 octets: must have at most 65536"},
		"names of another interface": {AnnotationPools, `[{"interface":"eth0","ipv4":["v4-a"]},{"interface":"net1",` +
			`"ipv4":[` + strings.Join(numbered, ",") + `]}]`, "6500 IPv4 pools are named"},
		"entries": {AnnotationPools, `[` + listOf(`{"ipv4":["v4-a"]}`, 1000) + `]`,
			"has 1000 entries: must have at most 100"},
		"routes": {AnnotationRoutes, `[` + listOf(`{"dst":"10.0.0.0/8","gw":"192.0.2.1"}`, 1000) + `]`,
			"has 1000 routes: must have at most 500"},
		"one name":     {AnnotationPool, `{"ipv4":["` + long + `"]}`, "a pool's name has 50000 octets: must have at most 253"},
		"one pattern":  {AnnotationPool, `{"ipv4":["[` + long + `"]}`, "a pool's name has 50001 octets"},
		"broken JSON":  {AnnotationPool, `{"ipv4":["` + long, "annotation ipam.spidernet.io/ippool: does not parse: it ends too early"},
		"unknown key":  {AnnotationPool, `{"` + long + `":1}`, "does not parse: unknown key"},
		"wrong kind":   {AnnotationPool, `{"ipv4":` + strings.Repeat("1", 50_000) + `}`, "does not parse: ipv4 has a number"},
		"no pool":      {AnnotationPool, `{"ipv4":[` + strings.Repeat(" ", 50_000) + `]}`, "names no pool"},
		"an interface": {AnnotationPools, `[{"interface":"` + long + `","ipv4":["a"]}]`, "interface eth0 is not listed"},
		"a route":      {AnnotationRoutes, `[{"dst":"` + long + `","gw":"192.0.2.1"}]`, "entry 0: dst"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Choose(request(c.annotation, c.value), facts(pool("v4-a", byDefault)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %.300v, want %q", err, c.want)
			}
			if len(err.Error()) > 1024 {
				t.Errorf("%d octets: %.300s", len(err.Error()), err)
			}
		})
	}
}

// A pattern that is repeated stands for its pools once, and a refusal lists some of very many.
func TestManyPools(t *testing.T) {
	pools := make([]*v2beta1.SpiderIPPool, 5000)
	for i := range pools {
		pools[i] = pool(fmt.Sprintf("v4-%04d", i), disabled)
	}
	choice, err := Choose(request(AnnotationPool, `{"ipv4":[`+listOf(`"*"`, 100)+`]}`), facts(pools...))
	if err != nil || len(choice.Families) != 1 || len(choice.Families[0].Dropped) != len(pools) {
		t.Fatalf("%+v, %v", choice, err)
	}
	refusal := Refuse(choice.Families).Error()
	if !strings.Contains(refusal, "pool v4-0019 ") || !strings.HasSuffix(refusal, "; and 4980 more pools") ||
		len(refusal) > 4096 {
		t.Errorf("%d octets: %.500s", len(refusal), refusal)
	}
}
