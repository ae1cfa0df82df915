// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// nobody is the source of a probe.
var nobody netip.Addr

func testSolicit(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	for _, p := range []string{"172.91.0.2/24", "2001:db8::2/64"} {
		ok(t, h.AddAddress(b.NS, b.Index, prefix(p)))
	}
	ask := func(target string, source netip.Addr) (net.HardwareAddr, error) {
		return h.Solicit(t.Context(), a.NS, a.Index, addr(target), source)
	}
	for round := range 2 { // first without addresses of our own
		for _, c := range []struct {
			target string
			source netip.Addr
		}{{"172.91.0.2", nobody}, {"172.91.0.2", addr("172.91.0.1")}, {"2001:db8::2", nobody},
			{"2001:db8::2", addr("2001:db8::1")}} {
			if hw, err := ask(c.target, c.source); err != nil || !bytes.Equal(hw, b.HardwareAddr) {
				t.Errorf("round %d: %s, asked for from %s, is at %s, %v; want %s", round, c.target, c.source, hw, err,
					b.HardwareAddr)
			}
		}
		for _, p := range []string{"172.91.0.1/24", "2001:db8::1/64"} {
			ok(t, h.AddAddress(a.NS, a.Index, prefix(p)))
		}
	}
	for _, target := range []string{"172.91.0.9", "2001:db8::9"} {
		_, err := ask(target, nobody)
		is(t, "an address that nobody has", err, host.ErrNotFound)
	}
	for _, target := range []string{"172.91.0.1", "2001:db8::1"} {
		hw, err := ask(target, nobody)
		is(t, fmt.Sprintf("our own address, at %s", hw), err, host.ErrNotFound)
	}
}

// What keeps the question from being asked does not look like silence.
func testSolicitUnanswerable(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	for _, target := range []string{"172.91.0.9", "2001:db8::9"} {
		ask := func(ctx context.Context, index int) error {
			_, err := h.Solicit(ctx, a.NS, index, addr(target), nobody)
			if err == nil || errors.Is(err, host.ErrNotFound) {
				t.Errorf("a question that nobody can have heard: %v", err)
			}
			return err
		}
		_ = ask(t.Context(), 4711)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		is(t, "a context that has ended", ask(ctx, a.Index), context.Canceled)
		ok(t, h.SetLinkDown(b.NS, b.Index))
		is(t, "a link without carrier", ask(t.Context(), a.Index), host.ErrNoCarrier)
		ok(t, h.SetLinkDown(a.NS, a.Index))
		_ = ask(t.Context(), a.Index)
		ok(t, h.SetLinkUp(a.NS, a.Index))
		ok(t, h.SetLinkUp(b.NS, b.Index))
	}
}

// childInPod makes an IPoIB child of the port, in a namespace of its own, up. It has a link-local
// address of its own: the one that the kernel would give it is that of all children of the port.
func childInPod(t *testing.T, h API, env Env, pf host.PF, number int) host.Link {
	t.Helper()
	ns := env.NewNS(t)
	l, err := h.AddIPoIBChild(pf.Link.Index, fmt.Sprintf("vask%d", number), 0)
	ok(t, err)
	l, err = h.MoveLink(host.NodeNS, l.Index, ns, "eth0")
	ok(t, err)
	t.Cleanup(func() {
		if err := h.DeleteLink(l.NS, l.Index); err != nil {
			t.Error(err)
		}
	})
	ok(t, h.SetIPv6LinkLocalGUID(ns, l.Index, ib.VFGUID(pf.RDMA.PortGUID, 300+number)))
	ok(t, h.SetLinkUp(ns, l.Index))
	return l
}

func testSolicitOverChildren(t *testing.T, h API, env Env) {
	pf, err := FindPF(h, env.IBPF)
	ok(t, err)
	ok(t, h.SetLinkUp(host.NodeNS, pf.Link.Index))
	solicitEachOther(t, h, childInPod(t, h, env, pf, 1), childInPod(t, h, env, pf, 2))
}

func testSolicitOverVFs(t *testing.T, h API, env Env) {
	pf := freshVFs(t, h, env, 2)
	var links []host.Link
	for _, vf := range pf.VFs {
		l := intoPod(t, h, vf, env.NewNS(t))
		ok(t, h.SetLinkUp(l.NS, l.Index))
		links = append(links, l)
	}
	solicitEachOther(t, h, links[0], links[1])
}

// solicitEachOther checks Solicit between two links on one InfiniBand network, which are up.
func solicitEachOther(t *testing.T, h API, a, b host.Link) {
	t.Helper()
	for i, at := range []*host.Link{&a, &b} {
		l := *at
		ok(t, h.AddAddress(l.NS, l.Index, prefix(fmt.Sprintf("172.91.200.%d/16", i+1))))
		ok(t, h.AddAddress(l.NS, l.Index, prefix(fmt.Sprintf("2001:db8:200::%d/64", i+1))))
		var err error
		eventually(t, "carrier in the pod", func() bool {
			*at, err = h.LinkByIndex(l.NS, l.Index) // the subnet manager may have changed its hardware address
			ok(t, err)
			return at.Carrier
		})
	}
	for _, c := range []struct {
		from, to       host.Link
		target, source netip.Addr
	}{
		{a, b, addr("172.91.200.2"), nobody},
		{b, a, addr("172.91.200.1"), addr("172.91.200.2")},
		{a, b, addr("2001:db8:200::2"), nobody},
		{b, a, addr("2001:db8:200::1"), nobody},
	} {
		// The one who has it may hear us some time after its carrier only: its port joins the
		// multicast groups meanwhile.
		eventually(t, fmt.Sprintf("%s answers", c.target), func() bool {
			hw, err := h.Solicit(t.Context(), c.from.NS, c.from.Index, c.target, c.source)
			if errors.Is(err, host.ErrNotFound) {
				return false
			}
			ok(t, err)
			if !bytes.Equal(hw, c.to.HardwareAddr) {
				t.Errorf("%s is at %s, want %s", c.target, hw, c.to.HardwareAddr)
			}
			return true
		})
	}
	for _, target := range []string{"172.91.200.9", "2001:db8:200::9", "172.91.200.1", "2001:db8:200::1"} {
		hw, err := h.Solicit(t.Context(), a.NS, a.Index, addr(target), nobody)
		is(t, fmt.Sprintf("%s, which nobody or only the asking link has, at %s", target, hw), err, host.ErrNotFound)
	}
}
