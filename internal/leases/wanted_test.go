// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"fmt"
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

// The pod gets the address that it asks for, from stock or not, and nobody else does; a second pod
// is told who has it.
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
		if want := "to pod " + r.Pod.Namespace + "/fixed"; err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), third.String()) {
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

// A pod whose wish has changed by the time of its next sandbox gets what it asks for now, and the
// old address goes back.
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

// An address in the node's stock is given to the pod that asks for it, without a request.
func TestWantedAddressFromStock(t *testing.T) {
	cl := newCluster(t)
	pool := cl.pool("v4", 200)
	n := cl.stocked("n1", 4, cl.file("l"))
	n.warm(pool, 4)
	ready := cl.idle(pool, n.name)
	before := n.requests.Load()
	last := ready[len(ready)-1]
	if got := only(t, n.Allocator, wanting(t, cl.request("fixed", pool), last)); got != last {
		t.Errorf("got %s, want %s of the stock %v", got, last, ready)
	}
	if made := n.requests.Load() - before; made != 0 {
		t.Errorf("it made %d requests", made)
	}
}

// A pool whose addresses are asked for one by one has no stock, whichever agent looks at it: there
// an address must be free for whoever names it.
func TestNoStockOfWantedAddresses(t *testing.T) {
	cl := newCluster(t)
	fixed, file := cl.pool("fixed", 200), cl.file("l")
	lowest := netip.MustParseAddr(fmt.Sprintf("10.%d.0.10", cl.net))
	for i, agent := range []string{"first", "second"} {
		usual := cl.pool6(agent, fmt.Sprintf("fd00:%d::%d:10-fd00:%d::%d:ff", cl.net, i+1, cl.net, i+1))
		n := cl.stocked("n1", 4, file)
		if got := only(t, n.Allocator, wanting(t, cl.request(agent, fixed), lowest)); got != lowest {
			t.Fatalf("got %s, want %s", got, lowest)
		}
		lowest = lowest.Next()
		allocate(t, n.Allocator, cl.request(agent+"-usual", "6:"+usual))
		cl.eventually("the keeper has looked at all pools", func() bool { return cl.stockOf(usual, "") == 4 })
		if got := cl.stockOf(fixed, ""); got != 0 {
			t.Errorf("the %s agent holds %d addresses ready", agent, got)
		}
		n.stop()
	}
}
