package leases_test

import (
	"net/netip"
	"strings"
	"testing"

	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/leases"
)

// wanting is a request for one certain address.
func wanting(t *testing.T, r ipam.Request, ip netip.Addr) ipam.Request {
	t.Helper()
	r.Wanted = []netip.Prefix{netip.PrefixFrom(ip, ip.BitLen())}
	return r
}

// only is the one address that a request gets.
func only(t *testing.T, a *leases.Allocator, r ipam.Request) netip.Addr {
	t.Helper()
	got := allocate(t, a, r)
	if len(got) != 1 {
		t.Fatalf("got %v, want one address", got)
	}
	return netip.MustParsePrefix(got[0]).Addr()
}

// The pod gets the address that it asks for, from stock or not, and nobody else does; a second pod is told who has it.
func TestWantedAddress(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 5)
	a, other := cl.allocator("n1"), cl.allocator("n2")
	lowest := only(t, a, cl.request("any", pool))
	third := lowest.Next().Next()
	r := wanting(t, cl.request("fixed", pool), third)
	for range 2 {
		if got := only(t, a, r); got != third {
			t.Fatalf("got %s, want %s", got, third)
		}
	}
	for name, from := range map[string]*leases.Allocator{"the same node": a, "another node": other} {
		_, err := from.Allocate(t.Context(), wanting(t, cl.request("late", pool), third))
		if want := "to pod " + r.Pod.Namespace + "/fixed"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), third.String()) {
			t.Errorf("from %s: %v; want %q in it", name, err, want)
		}
	}
	if err := a.Release(t.Context(), r.Pod.UID, r.Sandbox, ""); err != nil {
		t.Fatal(err)
	}
	if got := only(t, other, wanting(t, cl.request("late", pool), third)); got != third {
		t.Errorf("after its release got %s, want %s", got, third)
	}
}

// A pod whose wish has changed by the time of its next sandbox gets what it asks for now, and the old address goes back.
func TestWantedAddressChanges(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 5)
	a := cl.allocator("n1")
	r := cl.request("p", pool)
	had := only(t, a, r)
	r = wanting(t, r, had.Next())
	r.Sandbox = "sandbox-2"
	if got := only(t, a, r); got != had.Next() {
		t.Errorf("got %s, want %s", got, had.Next())
	}
	if held := cl.leases(pool); len(held) != 1 {
		t.Errorf("%d leases: %v; want one", len(held), held)
	}
}
