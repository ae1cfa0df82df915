// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"testing"

	"spidernet.io/spiderpool/internal/host"
)

func testRenameLink(t *testing.T, h API, env Env) {
	a, _ := veth(t, h, env)
	other, _, err := h.AddVeth(a.NS, "other0", env.NewNS(t), "x0", 0)
	ok(t, err)
	env.AddAltName(t, a.NS, a.Index, "alias0")
	env.AddAltName(t, a.NS, other.Index, "alias1")
	const long = "an-alternative-name-longer-than-names"
	env.AddAltName(t, a.NS, other.Index, long)
	if l, err := h.LinkByName(a.NS, long); err != nil || l.Index != other.Index {
		t.Errorf("by an alternative name that is no name: %+v, %v", l, err)
	}
	if l, err := h.LinkByName(a.NS, "alias0"); err != nil || l.Index != a.Index {
		t.Errorf("by alternative name: %+v, %v", l, err)
	}
	is(t, "a name that another link has", h.RenameLink(a.NS, a.Index, "other0"), host.ErrExists)
	is(t, "a name that is another link's alternative", h.RenameLink(a.NS, a.Index, "alias1"), host.ErrExists)
	ok(t, h.RenameLink(a.NS, a.Index, "alias0"))
	l, err := h.LinkByIndex(a.NS, a.Index)
	ok(t, err)
	if l.Name != "alias0" || len(l.AltNames) != 0 || l.Up {
		t.Errorf("renamed to its alternative name: %+v", l)
	}
	ok(t, h.SetLinkUp(a.NS, a.Index))
	ok(t, h.RenameLink(a.NS, a.Index, "alias0"))
	if l, _ := h.LinkByIndex(a.NS, a.Index); !l.Up {
		t.Error("a rename to the present name took the link down")
	}
	ok(t, h.RenameLink(a.NS, a.Index, "net0"))
	is(t, "renaming a link that is not there", h.RenameLink(a.NS, 4711, "y0"), host.ErrNotFound)
}

func testAltNames(t *testing.T, h API, env Env) {
	a, b := veth(t, h, env)
	for range 2 {
		ok(t, h.AddAltName(a.NS, a.Index, "alias0"))
		ok(t, h.AddAltName(a.NS, a.Index, "net0")) // its own name
	}
	other, _, err := h.AddVeth(a.NS, "other0", b.NS, "x0", 0)
	ok(t, err)
	is(t, "a name that another link has", h.AddAltName(a.NS, a.Index, "other0"), host.ErrExists)
	is(t, "another link's alternative name", h.AddAltName(a.NS, other.Index, "alias0"), host.ErrExists)
	is(t, "a name for no link", h.AddAltName(a.NS, 4711, "alias1"), host.ErrNotFound)
	is(t, "no link's name", h.DeleteAltName(a.NS, 4711, "alias0"), host.ErrNotFound)
	for range 2 {
		ok(t, h.DeleteAltName(a.NS, a.Index, "alias0"))
		ok(t, h.DeleteAltName(a.NS, a.Index, "net0")) // which it keeps
	}
	l, err := h.LinkByIndex(a.NS, a.Index)
	if err != nil || l.Name != "net0" || len(l.AltNames) != 0 || !l.Up {
		t.Errorf("%+v, %v; want net0 up, without alternative names", l, err)
	}
	ok(t, h.AddAltName(a.NS, other.Index, "alias0"))
	ok(t, h.SetLinkAlias(a.NS, a.Index, "whose it is"))
	ok(t, h.SetLinkAlias(a.NS, a.Index, ""))
	if l, err = h.LinkByIndex(a.NS, a.Index); err != nil || l.Alias != "" {
		t.Errorf("%+v, %v; want no alias", l, err)
	}
}
