// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Of two pools that share addresses, which admission could not prevent, only the older serves: the
// leases of two pools do not guard one address.
func TestCatalogueRefusesTheYoungerOfTwoPools(t *testing.T) {
	pool := func(name string, generation int64, ips string) *v2beta1.SpiderIPPool {
		return &v2beta1.SpiderIPPool{
			ObjectMeta: metav1.ObjectMeta{Name: name, Generation: generation},
			Spec:       v2beta1.IPPoolSpec{Subnet: "10.0.0.0/24", IPs: []string{ips}},
		}
	}
	type serving struct{ a, b bool }
	// Both were created in the same second: then the order of the names decides.
	const shared = "10.0.0.5-10.0.0.9 belong to the older pool a too; take them out of one of the two pools"
	tests := map[string]struct {
		do   func(*catalogue)
		want serving
	}{
		"older first": {func(c *catalogue) {
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.9"))
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
		}, serving{true, false}},
		"younger first": {func(c *catalogue) {
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.9"))
		}, serving{true, false}},
		"apart": {func(c *catalogue) {
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.4"))
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
		}, serving{true, true}},
		"older gives way": {func(c *catalogue) {
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.9"))
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
			c.putPool(pool("a", 2, "10.0.0.1-10.0.0.4"))
		}, serving{true, true}},
		"older is deleted": {func(c *catalogue) {
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.9"))
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
			c.removePool(pool("a", 1, "10.0.0.1-10.0.0.9"))
		}, serving{false, true}},
		"older becomes wrong": {func(c *catalogue) {
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.9"))
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
			c.putPool(pool("a", 2, "junk"))
		}, serving{false, true}},
		"after a reservation": {func(c *catalogue) {
			c.putPool(pool("a", 1, "10.0.0.1-10.0.0.9"))
			c.putPool(pool("b", 1, "10.0.0.5-10.0.0.12"))
			c.putReserved(&v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"},
				Spec: v2beta1.ReservedIPSpec{IPs: []string{"10.0.0.1"}}})
		}, serving{true, false}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newCatalogue()
			tt.do(c)
			pools := c.snapshot()
			serves := func(name string) bool { return pools[name] != nil && pools[name].Invalid == nil }
			if got := (serving{serves("a"), serves("b")}); got != tt.want {
				t.Errorf("serving %+v, want %+v", got, tt.want)
			}
			if b := pools["b"]; !tt.want.b && !strings.Contains(b.Invalid.Error(), shared) {
				t.Errorf("the reason is %q, want %q", b.Invalid, shared)
			}
		})
	}
}

// Of reservations those count that have addresses which the pool would give out.
func TestReservations(t *testing.T) {
	c := newCatalogue()
	c.putPool(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v2beta1.IPPoolSpec{
		Subnet: "10.9.0.0/24", IPs: []string{"10.9.0.1-10.9.0.20"}, ExcludeIPs: []string{"10.9.0.20"}}})
	for name, ips := range map[string][]string{
		"a": {"10.9.0.1-10.9.0.5"}, "b": {"10.9.0.5-10.9.0.6", "10.8.0.1"}, "elsewhere": {"10.8.0.1"},
		"excluded": {"10.9.0.20"},
	} {
		c.putReserved(&v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v2beta1.ReservedIPSpec{IPs: ips}})
	}
	if names, n := c.reservations("p"); !slices.Equal(names, []string{"a", "b"}) || n != 6 {
		t.Errorf("%q keep %d addresses, want a and b, 6", names, n)
	}
	if names, n := c.reservations("none"); names != nil || n != 0 {
		t.Errorf("%q keep %d addresses of no pool", names, n)
	}
}
