// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// link is a network interface of the fake, in exactly one namespace.
type link struct {
	host.Link
	fn        *function // of a PCI function, and of IPoIB children the parent's; nil for a virtual link
	parent    *link     // IPoIB child
	peer      *link     // veth
	addresses []netip.Prefix
	neighbors []host.Neighbor
}

func (n *namespace) taken(name string) bool {
	return slices.ContainsFunc(n.links, func(l *link) bool {
		return l.Name == name || slices.Contains(l.AltNames,
			name)
	})
}

func (n *namespace) lowestFree(prefix string) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("%s%d", prefix, i); !n.taken(name) {
			return name
		}
	}
}

// linkAt finds a link of a namespace by its index, with the lock held.
func (f *Fake) linkAt(ns host.NS, index int) (*namespace, *link, error) {
	n, err := f.namespace(ns)
	if err != nil {
		return nil, nil, err
	}
	l, err := n.byIndex(index)
	return n, l, err
}

func (n *namespace) byIndex(index int) (*link, error) {
	for _, l := range n.links {
		if l.Index == index {
			return l, nil
		}
	}
	return nil, fmt.Errorf("link %d in %s: %w", index, where(n.name), host.ErrNotFound)
}

// adopt takes a link in, down and bare, keeping its index when that is free.
func (n *namespace) adopt(l *link) {
	if _, err := n.byIndex(l.Index); err == nil || l.Index == 0 {
		n.lastIndex++
		l.Index = n.lastIndex
	}
	n.lastIndex = max(n.lastIndex, l.Index)
	l.NS, l.Up, l.Carrier, l.addresses, l.neighbors = n.name, false, false, nil, nil
	n.links = append(n.links, l)
	slices.SortFunc(n.links, func(a, b *link) int { return a.Index - b.Index })
}

// drop lets a link go with its routes and sysctls.
func (n *namespace) drop(l *link) {
	n.links = slices.DeleteFunc(n.links, func(x *link) bool { return x == l })
	n.routes = slices.DeleteFunc(n.routes, func(r host.Route) bool { return r.Index == l.Index })
	for key := range n.sysctls {
		if linkOfSysctl(key) == l.Name {
			delete(n.sysctls, key)
		}
	}
}

// destroy removes a link, with its IPoIB children in whatever namespace and its veth peer.
func (f *Fake) destroy(l *link) {
	for _, n := range f.ns {
		for _, child := range slices.Clone(n.links) {
			if child.parent == l {
				f.destroy(child)
			}
		}
	}
	if n, ok := f.ns[l.NS]; ok {
		n.drop(l)
	}
	if p := l.peer; p != nil {
		l.peer, p.peer = nil, nil
		f.destroy(p)
	}
}

// view is what a caller sees of a link.
func (l *link) view() host.Link {
	v := l.Link
	v.AltNames = slices.Clone(l.AltNames)
	v.HardwareAddr = slices.Clone(l.HardwareAddr)
	switch {
	case l.parent != nil:
		v.Parent, v.PCI = l.parent.Index, ""
		v.Carrier = l.Up && l.parent.fn.active()
	case l.peer != nil:
		v.Parent, v.Carrier = l.peer.Index, l.Up && l.peer.Up
	case l.fn != nil:
		v.Carrier = l.Up && l.fn.active()
	default:
		v.Carrier = l.Up
	}
	return v
}

// Links implements API.
func (f *Fake) Links(ns host.NS) ([]host.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.namespace(ns)
	if err != nil {
		return nil, err
	}
	var all []host.Link
	for _, l := range n.links {
		all = append(all, l.view())
	}
	return all, nil
}

func (f *Fake) find(ns host.NS, what string, is func(host.Link) bool) (host.Link, error) {
	all, err := f.Links(ns)
	if err != nil {
		return host.Link{}, err
	}
	for _, l := range all {
		if is(l) {
			return l, nil
		}
	}
	return host.Link{}, fmt.Errorf("link %s in %s: %w", what, where(ns), host.ErrNotFound)
}

// LinkByName implements API.
func (f *Fake) LinkByName(ns host.NS, name string) (host.Link, error) {
	return f.find(ns, name, func(l host.Link) bool { return l.Name == name || slices.Contains(l.AltNames, name) })
}

// LinkByIndex implements API.
func (f *Fake) LinkByIndex(ns host.NS, index int) (host.Link, error) {
	return f.find(ns, fmt.Sprint(index), func(l host.Link) bool { return l.Index == index })
}

// LinkByPCI implements API.
func (f *Fake) LinkByPCI(ns host.NS, pci string) (host.Link, error) {
	return f.find(ns, "of "+pci, func(l host.Link) bool { return l.PCI == pci && pci != "" })
}

// change runs an effectful call on one link.
func (f *Fake) change(ns host.NS, index int, call string, do func(*namespace, *link) error) error {
	return f.effect(fmt.Sprintf("%s of link %d in %s", call, index, where(ns)), func() error {
		n, l, err := f.linkAt(ns, index)
		if err != nil {
			return err
		}
		return do(n, l)
	})
}

// MoveLink implements API.
func (f *Fake) MoveLink(from host.NS, index int, to host.NS, name string) (host.Link, error) {
	var moved host.Link
	err := f.change(from, index, fmt.Sprintf("MoveLink to %s as %q", where(to), name),
		func(src *namespace, l *link) error {
			dst, err := f.namespace(to)
			if err != nil {
				return err
			}
			if name == "" {
				name = l.Name
			}
			if dst != src {
				if slices.ContainsFunc(append([]string{name}, l.AltNames...), dst.taken) {
					return fmt.Errorf("name %s: %w", name, host.ErrExists)
				}
				src.drop(l)
				l.Name = name
				l.AltNames = slices.DeleteFunc(l.AltNames, func(a string) bool { return a == name })
				dst.adopt(l)
			} else if err := dst.rename(l, name); err != nil {
				return err
			}
			moved = l.view()
			return nil
		})
	return moved, err
}

func (n *namespace) rename(l *link, name string) error {
	if l.Name == name {
		return nil
	}
	l.AltNames = slices.DeleteFunc(l.AltNames, func(a string) bool { return a == name || a == l.Name })
	if n.taken(name) {
		return fmt.Errorf("name %s: %w", name, host.ErrExists)
	}
	n.setUp(l, false)
	for key, value := range n.sysctls {
		if linkOfSysctl(key) == l.Name {
			delete(n.sysctls, key)
			n.sysctls[strings.Replace(key, "/"+l.Name+"/", "/"+name+"/", 1)] = value
		}
	}
	l.Name = name
	return nil
}

// setUp changes the administrative state; going down takes the routes with it.
func (n *namespace) setUp(l *link, up bool) {
	l.Up = up
	if !up {
		n.routes = slices.DeleteFunc(n.routes, func(r host.Route) bool { return r.Index == l.Index })
	}
}

// RenameLink implements API.
func (f *Fake) RenameLink(ns host.NS, index int, name string) error {
	return f.change(ns, index, "RenameLink to "+name, func(n *namespace, l *link) error { return n.rename(l, name) })
}

// SetLinkUp implements API.
func (f *Fake) SetLinkUp(ns host.NS, index int) error {
	return f.change(ns, index, "SetLinkUp", func(n *namespace, l *link) error { n.setUp(l, true); return nil })
}

// SetLinkDown implements API.
func (f *Fake) SetLinkDown(ns host.NS, index int) error {
	return f.change(ns, index, "SetLinkDown", func(n *namespace, l *link) error { n.setUp(l, false); return nil })
}

// SetLinkAlias implements API.
func (f *Fake) SetLinkAlias(ns host.NS, index int, alias string) error {
	return f.change(ns, index, fmt.Sprintf("SetLinkAlias %q", alias), func(_ *namespace, l *link) error {
		l.Alias = alias
		return nil
	})
}

// SetLinkMTU implements API.
func (f *Fake) SetLinkMTU(ns host.NS, index int, mtu int) error {
	return f.change(ns, index, fmt.Sprintf("SetLinkMTU %d", mtu), func(_ *namespace, l *link) error {
		if l.Kind == "ipoib" && mtu > ipoibMTU {
			return fmt.Errorf("MTU %d of %s: IPoIB in datagram mode carries %d at most", mtu, l.Name, ipoibMTU)
		}
		l.MTU = mtu
		return nil
	})
}

const ipoibMTU = 2044

// Lengths of queues of new links: ether_setup, and twice ipoib_sendq_size.
const (
	ethernetTxQueueLen = 1000
	ipoibTxQueueLen    = 256
)

// SetLinkTxQueueLen implements API.
func (f *Fake) SetLinkTxQueueLen(ns host.NS, index, count int) error {
	return f.change(ns, index, fmt.Sprintf("SetLinkTxQueueLen %d", count), func(_ *namespace, l *link) error {
		if count < 0 {
			return syscall.EINVAL
		}
		l.TxQueueLen = count
		return nil
	})
}

// SetLinkHardwareAddr implements API. Every driver takes the change while the link is up.
func (f *Fake) SetLinkHardwareAddr(ns host.NS, index int, a net.HardwareAddr) error {
	return f.change(ns, index, fmt.Sprintf("SetLinkHardwareAddr %s", a), func(_ *namespace, l *link) error {
		switch {
		case l.LinkLayer != host.Ethernet:
			return fmt.Errorf("the link layer of %s is %s: %w", l.Name, l.LinkLayer, host.ErrUnsupported)
		case len(a) != 6 || a[0]&1 != 0 || slices.Equal(a, make(net.HardwareAddr, 6)):
			return fmt.Errorf("address %s is no single station's: %w", a, syscall.EINVAL)
		}
		l.HardwareAddr = slices.Clone(a)
		return nil
	})
}

// AddIPoIBChild implements API.
func (f *Fake) AddIPoIBChild(parent int, name string, pkey uint16) (host.Link, error) {
	var made host.Link
	err := f.change(host.NodeNS, parent, fmt.Sprintf("AddIPoIBChild %s with P_Key 0x%04x", name, pkey),
		func(n *namespace, p *link) error {
			switch {
			case p.Kind != "ipoib" || p.parent != nil:
				return fmt.Errorf("%s is not an IPoIB parent: %w", p.Name, host.ErrUnsupported)
			case n.taken(name):
				return fmt.Errorf("name %s: %w", name, host.ErrExists)
			case pkey == 0:
				pkey = p.PKey
			}
			c := &link{parent: p, Link: host.Link{Name: name, Kind: "ipoib", LinkLayer: host.InfiniBand, MTU: p.MTU,
				TxQueueLen: ipoibTxQueueLen, Mode: p.Mode, PKey: pkey | 0x8000}}
			c.HardwareAddr = ipoibAddr(f.serial(), p.fn.live)
			n.adopt(c)
			made = c.view()
			return nil
		})
	return made, err
}

// ipoibAddr is flags, QPN and the GID with the default subnet prefix.
func ipoibAddr(qpn int, guid ib.GUID) net.HardwareAddr {
	a := net.HardwareAddr{0, byte(qpn >> 16), byte(qpn >> 8), byte(qpn), 0xfe, 0x80, 0, 0, 0, 0, 0, 0}
	return append(a, guid[:]...)
}

// SetIPv6LinkLocalGUID implements API.
func (f *Fake) SetIPv6LinkLocalGUID(ns host.NS, index int, guid ib.GUID) error {
	return f.change(ns, index, "SetIPv6LinkLocalGUID "+guid.String(), func(_ *namespace, l *link) error {
		if l.Kind != "ipoib" {
			return fmt.Errorf("%s is not IPoIB: %w", l.Name, host.ErrUnsupported)
		}
		l.addresses = slices.DeleteFunc(l.addresses, func(p netip.Prefix) bool {
			return p.Addr().IsLinkLocalUnicast() &&
				p.Addr().Is6()
		})
		l.addresses = append(l.addresses, netip.PrefixFrom(guid.LinkLocal(), 64))
		return nil
	})
}

// AddAltName implements API.
func (f *Fake) AddAltName(ns host.NS, index int, name string) error {
	return f.change(ns, index, fmt.Sprintf("AddAltName %q", name), func(n *namespace, l *link) error {
		if l.Name == name || slices.Contains(l.AltNames, name) {
			return nil
		}
		if n.taken(name) {
			return fmt.Errorf("alternative name %q: %w", name, host.ErrExists)
		}
		l.AltNames = append(l.AltNames, name)
		return nil
	})
}

// DeleteAltName implements API.
func (f *Fake) DeleteAltName(ns host.NS, index int, name string) error {
	return f.change(ns, index, fmt.Sprintf("DeleteAltName %q", name), func(_ *namespace, l *link) error {
		l.AltNames = slices.DeleteFunc(l.AltNames, func(a string) bool { return a == name })
		return nil
	})
}

// AddChildInPod makes an IPoIB child of a link in the link's own namespace, as a pod may.
func (f *Fake) AddChildInPod(ns host.NS, parent int, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, p, err := f.linkAt(ns, parent)
	if err != nil {
		return err
	}
	c := &link{parent: p, Link: host.Link{Name: name, Kind: "ipoib", LinkLayer: host.InfiniBand, MTU: p.MTU,
		TxQueueLen: ipoibTxQueueLen, Mode: p.Mode, PKey: p.PKey}}
	c.HardwareAddr = ipoibAddr(f.serial(), p.fn.live)
	n.adopt(c)
	return nil
}

// AddVeth implements API.
func (f *Fake) AddVeth(ns host.NS, name string, peerNS host.NS, peerName string, mtu int) (host.Link, host.Link,
	error) {
	var a, b *link
	err := f.effect(fmt.Sprintf("AddVeth %s in %s and %s in %s", name, where(ns), peerName, where(peerNS)),
		func() error {
			n, err := f.namespace(ns)
			if err != nil {
				return err
			}
			p, err := f.namespace(peerNS)
			if err != nil {
				return err
			}
			if n.taken(name) || p.taken(peerName) || n == p && name == peerName {
				return fmt.Errorf("name %s or %s: %w", name, peerName, host.ErrExists)
			}
			a, b = newVeth(name, mtu, f.serial()), newVeth(peerName, mtu, f.serial())
			a.peer, b.peer = b, a
			n.adopt(a)
			p.adopt(b)
			n.distrust(name)
			p.distrust(peerName)
			a.Up, b.Up = true, true
			return nil
		})
	if a == nil || b == nil {
		return host.Link{}, host.Link{}, err
	}
	return a.view(), b.view(), err
}

// distrust makes a link believe no router.
func (n *namespace) distrust(name string) {
	for _, key := range []string{"accept_ra", "autoconf", "accept_redirects"} {
		key = "net/ipv6/conf/" + name + "/" + key
		if _, err := n.sysctl(key); err == nil {
			n.sysctls[key] = "0"
		}
	}
}

func newVeth(name string, mtu, serial int) *link {
	if mtu == 0 {
		mtu = 1500
	}
	mac := net.HardwareAddr{0x0a, 0x58, 0, byte(serial >> 16), byte(serial >> 8), byte(serial)}
	return &link{Link: host.Link{Name: name, Kind: "veth", LinkLayer: host.Ethernet, MTU: mtu,
		TxQueueLen: ethernetTxQueueLen, HardwareAddr: mac}}
}

// DeleteLink implements API.
func (f *Fake) DeleteLink(ns host.NS, index int) error {
	return f.effect(fmt.Sprintf("DeleteLink %d in %s", index, where(ns)), func() error {
		n, err := f.namespace(ns)
		if err != nil {
			return err
		}
		l, err := n.byIndex(index)
		if err != nil {
			return nil
		}
		if l.Kind == "device" || l.fn != nil {
			return fmt.Errorf("%s belongs to a device and cannot be deleted: %w", l.Name, host.ErrUnsupported)
		}
		f.destroy(l)
		return nil
	})
}

// where names a namespace in messages.
func where(ns host.NS) string {
	if ns == host.NodeNS {
		return "the node's namespace"
	}
	return string(ns)
}
