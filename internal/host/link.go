// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rawLink is a Link with what only this package needs of it.
type rawLink struct {
	Link
	master int
}

// rawLinks lists the links of a namespace, in order of index.
func (h *Host) rawLinks(ns NS) ([]rawLink, error) {
	var answers [][]byte
	err := h.in(ns, func() (err error) {
		answers, err = listLinks()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the links of %s: %w", ns.where(), kernelError(err))
	}
	links, err := h.readLinks(ns, answers)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(links, func(a, b rawLink) int { return a.Index - b.Index })
	return links, nil
}

// linkRequest asks for links as the library does, but not for their VFs (RTEXT_FILTER_VF): the
// driver of a PF asks its firmware about each (ndo_get_vf_config), and a node may have a hundred.
func linkRequest(flags, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, flags)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	return req
}

// oneLink asks for a single link, by its index or else by its name, which may be an alternative
// one; ErrNotFound. With hundreds of links on a node, a list of all for each question would be most
// of the work of an attachment.
func (h *Host) oneLink(ns NS, index int, name string) (Link, error) {
	l, _, err := h.askLink(ns, index, name)
	return l.Link, err
}

// askLink is oneLink with the kernel's answer.
func (h *Host) askLink(ns NS, index int, name string) (rawLink, []byte, error) {
	what := name
	if name == "" {
		what = fmt.Sprintf("with index %d", index)
	}
	missing := fmt.Errorf("link %s in %s: %w", what, ns.where(), ErrNotFound)
	if index <= 0 && name == "" {
		return rawLink{}, nil, missing
	}
	req := linkRequest(unix.NLM_F_ACK, index)
	switch {
	case name == "":
	case len(name) < unix.IFNAMSIZ:
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	default:
		req.AddData(nl.NewRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated(name)))
	}
	var answers [][]byte
	err := h.in(ns, func() (err error) {
		answers, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		return err
	})
	if noSuchLink(err, name) || err == nil && len(answers) == 0 {
		return rawLink{}, nil, missing
	}
	if err != nil {
		return rawLink{}, nil, fmt.Errorf("looking for link %s in %s: %w", what, ns.where(), kernelError(err))
	}
	links, err := h.readLinks(ns, answers)
	if err != nil {
		return rawLink{}, nil, err
	}
	return links[0], answers[0], nil
}

// noSuchLink: a kernel without alternative names (they came with Linux 5.5) finds nothing asked
// for, and none is longer than ALTIFNAMSIZ.
func noSuchLink(err error, name string) bool {
	return errors.Is(err, unix.ENODEV) || len(name) >= unix.IFNAMSIZ && (errors.Is(err, unix.EINVAL) ||
		errors.Is(err, unix.ERANGE))
}

// readLinks reads the kernel's answers.
func (h *Host) readLinks(ns NS, answers [][]byte) ([]rawLink, error) {
	links := make([]rawLink, 0, len(answers))
	for _, m := range answers {
		l, err := deserializeLink(m)
		if err != nil {
			return nil, fmt.Errorf("reading what the kernel says of a link of %s: %w", ns.where(), err)
		}
		links = append(links, readLink(ns, l))
	}
	h.addBusInfo(ns, links)
	return links, nil
}

// deserializeLink is the library's, which takes every attribute to be as long as the kernels have
// it that it knows, and faults on others. Such a message must not end the agent.
func deserializeLink(m []byte) (l netlink.Link, err error) {
	defer func() {
		if r := recover(); r != nil {
			l, err = nil, fmt.Errorf("message of %d octets: %v", len(m), r)
		}
	}()
	return netlink.LinkDeserialize(nil, m)
}

// readLink translates what rtnetlink says.
func readLink(ns NS, l netlink.Link) rawLink {
	a := l.Attrs()
	r := rawLink{master: a.MasterIndex, Link: Link{
		NS: ns, Index: a.Index, Name: a.Name, AltNames: a.AltNames, Alias: a.Alias, Kind: l.Type(), LinkLayer: Ethernet,
		HardwareAddr: a.HardwareAddr, MTU: a.MTU, TxQueueLen: a.TxQLen, Up: a.RawFlags&unix.IFF_UP != 0,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
		Parent:  a.ParentIndex,
	}}
	if a.EncapType == "infiniband" {
		r.LinkLayer = InfiniBand
	}
	if p, ok := l.(*netlink.IPoIB); ok {
		r.PKey, r.Mode = p.Pkey, p.Mode.String()
	}
	// Children of IPoIB links have the parent's device above them on some kernels; they are not the
	// function's netdev.
	if a.ParentDevBus == "pci" && (r.Kind != "ipoib" || r.Parent == 0) {
		r.PCI = a.ParentDev
	}
	return r
}

// addBusInfo fills PCI in where rtnetlink did not say it (IFLA_PARENT_DEV_NAME came with Linux
// 5.14): ethtool's bus information of a network device of a PCI function is its address.
func (h *Host) addBusInfo(ns NS, links []rawLink) {
	if saysParentDevice() || !slices.ContainsFunc(links, rawLink.mayBePCI) {
		return
	}
	h.askBusInfo(ns, links)
}

// saysParentDevice tells whether this kernel's rtnetlink names the device above a link.
var saysParentDevice = sync.OnceValue(func() bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	return atLeast(unix.ByteSliceToString(u.Release[:]), 5, 14)
})

// atLeast compares a kernel release such as 6.1.0-56-amd64.
func atLeast(release string, major, minor int) bool {
	var haveMajor, haveMinor int
	if _, err := fmt.Sscanf(release, "%d.%d", &haveMajor, &haveMinor); err != nil {
		return false
	}
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}

func (h *Host) askBusInfo(ns NS, links []rawLink) {
	_ = h.in(ns, func() error { // best effort: many links have no ethtool at all
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range links {
			if !links[i].mayBePCI() {
				continue
			}
			if info, err := unix.IoctlGetEthtoolDrvinfo(fd, links[i].Name); err == nil {
				if bus := unix.ByteSliceToString(info.Bus_info[:]); checkPCI(bus) == nil {
					links[i].PCI = bus
				}
			}
		}
		return nil
	})
}

func (l rawLink) mayBePCI() bool {
	return l.Name != "lo" && l.Parent == 0 && (l.Kind == "device" || l.Kind == "ipoib")
}

// Links lists the links of a namespace, in order of index.
func (h *Host) Links(ns NS) ([]Link, error) {
	raw, err := h.rawLinks(ns)
	if err != nil {
		return nil, err
	}
	links := make([]Link, 0, len(raw))
	for _, l := range raw {
		links = append(links, l.Link)
	}
	return links, nil
}

// LinkByName finds by name or alternative name; ErrNotFound.
func (h *Host) LinkByName(ns NS, name string) (Link, error) {
	return h.oneLink(ns, 0, name)
}

// LinkByIndex finds by index; ErrNotFound.
func (h *Host) LinkByIndex(ns NS, index int) (Link, error) {
	return h.oneLink(ns, index, "")
}

// LinkByPCI finds the netdev of a PCI function in a namespace (never a child of it); ErrNotFound.
func (h *Host) LinkByPCI(ns NS, pci string) (Link, error) {
	missing := fmt.Errorf("link of PCI function %s in %s: %w", pci, ns.where(), ErrNotFound)
	if ns == NodeNS && checkPCI(pci) == nil {
		links, err := h.linksBelow(pci)
		if err == nil && len(links) == 0 {
			return Link{}, missing
		}
		if l, ok := h.sys().byPCI(links, pci); ok && err == nil {
			return l.Link, nil
		}
		// One was renamed between two looks, or left: the list of all is one look.
	}
	links, err := h.rawLinks(ns)
	if err != nil {
		return Link{}, err
	}
	if l, ok := h.sys().byPCI(links, pci); ok {
		return l.Link, nil
	}
	return Link{}, missing
}

// linksBelow are the links below a PCI function in the node's namespace, in order of index, of
// which sysfs knows the names. A node may have hundreds of others.
func (h *Host) linksBelow(pci string) ([]rawLink, error) {
	names, err := entries(h.sys().device(pci), "net")
	if err != nil {
		return nil, fmt.Errorf("listing the links of PCI function %s: %w", pci, err)
	}
	var links []rawLink
	for _, name := range names {
		l, _, err := h.askLink(NodeNS, 0, name)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b rawLink) int { return a.Index - b.Index })
	return links, nil
}

// representor matches phys_port_name of a VF's or sub-function's representor, whose parent device
// is the PF (switchdev mode).
var representor = regexp.MustCompile(`^(c[0-9]+)?pf[0-9]+(vf|sf)[0-9]+$`)

// byPCI picks the netdev of a function: of several with one parent device the first that is not a
// representor.
func (s sysfs) byPCI(links []rawLink, pci string) (rawLink, bool) {
	var found []rawLink
	for _, l := range links {
		if l.PCI == pci && pci != "" {
			found = append(found, l)
		}
	}
	for _, l := range found {
		port := ""
		if len(found) > 1 && l.NS == NodeNS {
			port, _ = read(string(s), "class/net", l.Name, "phys_port_name")
		}
		if !representor.MatchString(port) {
			return l, true
		}
	}
	return rawLink{}, false
}

// linkAttribute is one attribute of the kernel's answer about a link, nil when it is not there.
func linkAttribute(answer []byte, want uint16) (value []byte, err error) {
	err = eachAttribute(answer[min(len(answer), unix.SizeofIfInfomsg):], func(kind uint16, v []byte) error {
		if kind == want {
			value = v
		}
		return nil
	})
	return value, err
}

// eachAttribute visits a sequence of netlink attributes, without the flags of their types. The
// library's own reader panics when the last one lacks its padding.
func eachAttribute(b []byte, visit func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		length := int(nl.NativeEndian().Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return fmt.Errorf("netlink attribute of %d octets where %d are left", length, len(b))
		}
		if err := visit(nl.NativeEndian().Uint16(b[2:])&nl.NLA_TYPE_MASK, b[unix.SizeofRtAttr:length]); err != nil {
			return err
		}
		b = b[min(len(b), (length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	return nil
}

// onLink runs an effect on a link that is known by its index, and wraps its errors.
func (h *Host) onLink(ns NS, index int, what string, do func(netlink.Link) error) error {
	err := h.in(ns, func() error {
		return do(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}})
	})
	if err != nil {
		return fmt.Errorf("%s of link %d in %s: %w", what, index, ns.where(), kernelError(err))
	}
	return nil
}

// MoveLink moves a link, giving it the new name on the way (same name when ""), and returns what it
// is there. ErrExists when the name is taken there. The link arrives down.
func (h *Host) MoveLink(from NS, index int, to NS, name string) (Link, error) {
	l, err := h.LinkByIndex(from, index)
	if err != nil {
		return Link{}, err
	}
	if name == "" {
		name = l.Name
	}
	if from == to {
		if err := h.RenameLink(from, index, name); err != nil {
			return Link{}, err
		}
		return h.LinkByIndex(to, index)
	}
	if _, err := h.LinkByName(to, name); !errors.Is(err, ErrNotFound) {
		if err == nil {
			err = fmt.Errorf("name %s in %s: %w", name, to.where(), ErrExists)
		}
		return Link{}, fmt.Errorf("moving link %s: %w", l.Name, err)
	}
	if err := h.move(l, to, name); err != nil {
		return Link{}, fmt.Errorf("moving link %s from %s to %s as %s: %w", l.Name, from.where(), to.where(), name,
			kernelError(err))
	}
	return h.LinkByName(to, name)
}

// move sends one RTM_SETLINK that names both namespace and new name, so that
// the link never is in the target under its old name.
func (h *Host) move(l Link, to NS, name string) error {
	target, err := h.open(to)
	if err != nil {
		return err
	}
	defer target.Close()
	return h.in(l.NS, func() error {
		link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: l.Index}}
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("taking it down: %w", err)
		}
		if err := dropAltNames(l, name); err != nil {
			return err
		}
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Index)
		req.AddData(msg)
		req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(target.Fd()))))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// RenameLink takes the link down, drops an alternative name equal to either name, and renames.
func (h *Host) RenameLink(ns NS, index int, name string) error {
	l, err := h.LinkByIndex(ns, index)
	if err != nil || l.Name == name {
		return err
	}
	return h.onLink(ns, index, fmt.Sprintf("renaming %s to %s", l.Name, name), func(link netlink.Link) error {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("taking it down: %w", err)
		}
		if err := dropAltNames(l, name, l.Name); err != nil {
			return err
		}
		return netlink.LinkSetName(link, name)
	})
}

// SetLinkUp brings a link up.
func (h *Host) SetLinkUp(ns NS, index int) error {
	return h.onLink(ns, index, "bringing up", netlink.LinkSetUp)
}

// SetLinkDown takes a link down, and with it its routes.
func (h *Host) SetLinkDown(ns NS, index int) error {
	return h.onLink(ns, index, "taking down", netlink.LinkSetDown)
}

// SetLinkMTU sets the MTU in octets.
func (h *Host) SetLinkMTU(ns NS, index int, mtu int) error {
	return h.onLink(ns, index, fmt.Sprintf("setting MTU %d", mtu),
		func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
}

// SetLinkTxQueueLen sets how many packets a link's queue holds (IFLA_TXQLEN). The kernel gives a
// new queue discipline the length; those that keep a limit of their own, such as fq_codel, are not
// changed by it (dev_qdisc_change_tx_queue_len).
func (h *Host) SetLinkTxQueueLen(ns NS, index, n int) error {
	what := fmt.Sprintf("setting the queue length %d", n)
	if n < 0 {
		return fmt.Errorf("%s of link %d in %s: %w", what, index, ns.where(), unix.EINVAL)
	}
	return h.onLink(ns, index, what, func(l netlink.Link) error { return netlink.LinkSetTxQLen(l, n) })
}

// SetLinkHardwareAddr sets the address of an Ethernet link. ErrBusy when its driver wants the link
// down for that: it lacks IFF_LIVE_ADDR_CHANGE (eth_prepare_mac_addr_change). ErrUnsupported for a
// link of another kind, and for one whose address is fixed.
func (h *Host) SetLinkHardwareAddr(ns NS, index int, a net.HardwareAddr) error {
	l, err := h.LinkByIndex(ns, index)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("setting the hardware address %s", a)
	if err := checkHardwareAddr(l, a); err != nil {
		return fmt.Errorf("%s of %s in %s: %w", what, l.Name, ns.where(), err)
	}
	return h.onLink(ns, index, what, func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, a) })
}

// checkHardwareAddr refuses what the kernel would with an error that says something else:
// EADDRNOTAVAIL for a group's address, and on IPoIB it takes 6 octets for the beginning of 20.
func checkHardwareAddr(l Link, a net.HardwareAddr) error {
	switch {
	case l.LinkLayer != Ethernet:
		return fmt.Errorf("the link layer is %s: %w", l.LinkLayer, ErrUnsupported)
	case len(a) != ethernetAddrLen:
		return fmt.Errorf("the address has %d octets, want %d: %w", len(a), ethernetAddrLen, unix.EINVAL)
	case a[0]&1 != 0 || !slices.ContainsFunc(a, func(b byte) bool { return b != 0 }):
		return fmt.Errorf("it is no single station's: %w", unix.EINVAL)
	}
	return nil
}

// SetLinkAlias gives a link a text of at most 255 octets (IFALIASZ), which it keeps over moves,
// renames and the end of a namespace.
func (h *Host) SetLinkAlias(ns NS, index int, alias string) error {
	return h.onLink(ns, index, fmt.Sprintf("setting the alias %q", alias),
		func(l netlink.Link) error { return netlink.LinkSetAlias(l, alias) })
}

// AddVeth makes a pair with one end in each namespace, both up. ErrExists when either name is taken.
// Neither end takes anything from the other's router advertisements or redirects: a pod with
// CAP_NET_RAW could make itself the node's router (CVE-2020-10749).
func (h *Host) AddVeth(ns NS, name string, peerNS NS, peerName string, mtu int) (a, b Link, err error) {
	if err := h.createVeth(ns, name, peerNS, peerName, mtu); err != nil {
		return a, b, fmt.Errorf("making veth pair %s in %s and %s in %s: %w", name, ns.where(), peerName,
			peerNS.where(), kernelError(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.removeVeth(ns, name))
		}
	}()
	if a, err = h.bringUp(ns, name); err != nil {
		return a, b, err
	}
	if b, err = h.bringUp(peerNS, peerName); err != nil {
		return a, b, err
	}
	a, err = h.LinkByIndex(ns, a.Index) // now it has carrier
	return a, b, err
}

func (h *Host) createVeth(ns NS, name string, peerNS NS, peerName string, mtu int) error {
	target, err := h.open(peerNS)
	if err != nil {
		return err
	}
	defer target.Close()
	return h.in(ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		v := netlink.NewVeth(attrs)
		v.PeerName, v.PeerNamespace = peerName, netlink.NsFd(int(target.Fd()))
		if mtu != 0 {
			v.PeerMTU = uint32(mtu)
		}
		return netlink.LinkAdd(v)
	})
}

func (h *Host) bringUp(ns NS, name string) (Link, error) {
	l, err := h.LinkByName(ns, name)
	if err != nil {
		return l, err
	}
	if err := Distrust(h.SetSysctl, ns, name, IPv6Trust); err != nil {
		return l, err
	}
	if err := h.SetLinkUp(ns, l.Index); err != nil {
		return l, err
	}
	return h.LinkByIndex(ns, l.Index)
}

func (h *Host) removeVeth(ns NS, name string) error {
	l, err := h.LinkByName(ns, name)
	if err != nil {
		return nil // it went with its namespace or its peer's
	}
	return h.DeleteLink(ns, l.Index)
}

// DeleteLink deletes a virtual link. ErrUnsupported for the netdev of a device.
func (h *Host) DeleteLink(ns NS, index int) error {
	l, err := h.LinkByIndex(ns, index)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case l.Kind == "device" || l.PCI != "": // the kernel feigns success when told to delete an IPoIB parent
		return fmt.Errorf("link %s in %s belongs to device %s and cannot be deleted: %w", l.Name, ns.where(),
			strings.TrimSpace(l.PCI), ErrUnsupported)
	}
	err = h.onLink(ns, index, "deleting", netlink.LinkDel)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
