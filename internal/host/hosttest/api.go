// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"net"
	"net/netip"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// API is the whole method set of *host.Host, which the fake and the
// conformance suite share. Consumers declare the few methods they need.
//
// Every method that takes a namespace returns host.ErrNSGone when it is gone.
// "Set" and "Add" methods succeed when things are already so, unless said otherwise.
// "Delete" methods succeed when the thing is not there.
type API interface {
	// PCI and SR-IOV

	// PFs lists physical network functions (PCI class 02xx, not a VF), in order of PCI address,
	// with their VFs.
	PFs() ([]host.PF, error)
	// VFDevices returns where the devices of a VF are, which costs little; ErrNotFound when it is
	// not a virtual function.
	VFDevices(pci string) (host.VFDevices, error)
	// VFState tells the link state of a VF as PFs has it, "" when the driver does not report it.
	VFState(pf string, index int) (host.VFState, error)
	// SetNumVFs makes n VFs with driver autoprobe off, so that none is bound. A change between two non-zero
	// numbers goes through 0 and destroys all VFs; callers decide whether that is allowed.
	SetNumVFs(pf string, n int) error
	// SetVFGUID sets node and port GUID of a VF through the PF's netdev.
	SetVFGUID(pf string, index int, guid ib.GUID) error
	// SetVFState sets the link state of a VF through the PF's netdev.
	SetVFState(pf string, index int, state host.VFState) error
	// BindVF binds the VF to the kernel's default driver (drivers_probe) and waits, bounded, until its
	// RDMA device and netdev are there when the driver makes them.
	BindVF(pci string) error
	// UnbindVF takes the driver off.
	UnbindVF(pci string) error

	// RDMA

	// VerbsNumbers are the N of every /dev/infiniband/uverbsN of the machine, in order, wherever
	// its RDMA device is. A move of an RDMA device or a bind by the same Host does not show
	// half-done.
	VerbsNumbers() ([]int, error)
	// RDMAMode returns ErrUnsupported when the node has no RDMA subsystem.
	RDMAMode() (host.RDMAMode, error)
	// SetRDMAMode returns ErrBusy when other network namespaces exist.
	SetRDMAMode(m host.RDMAMode) error
	// RDMADevices lists the devices visible in a namespace.
	RDMADevices(ns host.NS) ([]host.RDMADevice, error)
	// RDMAByPCI finds the device of a PCI function in a namespace; ErrNotFound.
	RDMAByPCI(ns host.NS, pci string) (host.RDMADevice, error)
	// MoveRDMA moves a device by name. The kernel tears down all its clients: its IPoIB netdev is
	// re-created in the first namespace by kernels before 6.16 or so, and follows the device by
	// later ones; callers look.
	MoveRDMA(from host.NS, name string, to host.NS) error

	// RenameRDMA gives a device, which is known by its index, another name. ErrExists when a device
	// of any namespace has that. Refused are names with which nothing can use a device
	// (host.UsableRDMAName); a pod may give its own such a one all the same, and then the list of
	// devices and RDMAByPCI have the device, and VFDevices and PFs have none.
	RenameRDMA(ns host.NS, index int, name string) error

	// Links

	// LinkChanges tells when the netdev of a PCI function in the node's namespace came, went, or
	// changed its administrative state or its carrier. One signal may stand for many changes, and
	// now and then for none. The channel closes when ctx ends.
	LinkChanges(ctx context.Context) (<-chan struct{}, error)
	Links(ns host.NS) ([]host.Link, error)
	// LinkByName finds by name or alternative name; ErrNotFound.
	LinkByName(ns host.NS, name string) (host.Link, error)
	LinkByIndex(ns host.NS, index int) (host.Link, error)
	// LinkByPCI finds the netdev of a PCI function in a namespace (never a child of it); ErrNotFound.
	LinkByPCI(ns host.NS, pci string) (host.Link, error)
	// MoveLink moves a link, giving it the new name on the way (same name when ""), and returns
	// what it is there. ErrExists when the name, or an alternative name that the link takes along, is
	// taken there (kernels before 6.6 overlook the second). The link arrives down.
	MoveLink(from host.NS, index int, to host.NS, name string) (host.Link, error)
	// RenameLink takes the link down, drops an alternative name equal to either name, and renames.
	RenameLink(ns host.NS, index int, name string) error
	SetLinkUp(ns host.NS, index int) error
	SetLinkDown(ns host.NS, index int) error
	SetLinkMTU(ns host.NS, index int, mtu int) error
	// SetLinkTxQueueLen sets the length of a link's queue, in packets.
	SetLinkTxQueueLen(ns host.NS, index, n int) error
	// SetLinkHardwareAddr sets the address of an Ethernet link, 6 octets of a single station.
	// ErrBusy when the driver wants the link down for that; ErrUnsupported on InfiniBand.
	SetLinkHardwareAddr(ns host.NS, index int, a net.HardwareAddr) error
	// AddAltName gives a link an alternative name. ErrExists when another link of the namespace has
	// it as its name or among its alternative ones.
	AddAltName(ns host.NS, index int, name string) error
	DeleteAltName(ns host.NS, index int, name string) error
	// SetLinkAlias gives a link a text, which it keeps over moves, renames and the end of a namespace.
	SetLinkAlias(ns host.NS, index int, alias string) error
	// AddIPoIBChild makes a child of an IPoIB link in the node's namespace with the parent's mode
	// and the P_Key (0: the parent's). ErrExists when the name is taken.
	AddIPoIBChild(parent int, name string, pkey uint16) (host.Link, error)
	// SetIPv6LinkLocalGUID gives an IPoIB link a link-local address of its own, so that two
	// children of one port do not share one. Call it after the link's last move, which forgets it,
	// and before the link goes up.
	SetIPv6LinkLocalGUID(ns host.NS, index int, guid ib.GUID) error
	// AddVeth makes a pair with one end in each namespace, both up, which take no IPv6 router
	// advertisements and redirects (accept_ra, autoconf and accept_redirects are 0 before they are
	// up). ErrExists when either name is taken.
	AddVeth(ns host.NS, name string, peerNS host.NS, peerName string, mtu int) (host.Link, host.Link, error)
	// DeleteLink deletes a virtual link; ErrUnsupported for the netdev of a device.
	DeleteLink(ns host.NS, index int) error
	// NSExists tells whether the path still is a network namespace.
	NSExists(ns host.NS) bool

	// Addresses, routes, rules, neighbours, sysctls

	Addresses(ns host.NS, index int) ([]netip.Prefix, error)
	// AllAddresses lists those of every link, by the links' indexes; a link without one is not in it.
	AllAddresses(ns host.NS) (map[int][]netip.Prefix, error)
	AddAddress(ns host.NS, index int, p netip.Prefix) error
	// Routes lists unicast routes of both families, those that the kernel makes for addresses too.
	// Table 0 is the main table.
	Routes(ns host.NS, table int) ([]host.Route, error)
	// AddRoute wants the link up and the gateway on one of its networks. ErrExists when another
	// route of the table has the destination, but for the IPv6 ones that the kernel makes for
	// addresses: they have a metric of their own.
	AddRoute(ns host.NS, r host.Route) error
	// DeleteRoute deletes the routes to a destination; a zero Index, Gateway or Src matches any.
	DeleteRoute(ns host.NS, r host.Route) error
	// Rules lists what was added to the kernel's own three rules, but for rules that host.Rule
	// cannot say all of. Table 0 is the main table.
	Rules(ns host.NS) ([]host.Rule, error)
	AddRule(ns host.NS, r host.Rule) error
	// DeleteRule deletes the rule, of any priority when r has none.
	DeleteRule(ns host.NS, r host.Rule) error
	AddNeighbor(ns host.NS, n host.Neighbor) error
	// Sysctl reads and SetSysctl writes below /proc/sys; key is a path such as
	// "net/ipv4/conf/eth0/rp_filter".
	Sysctl(ns host.NS, key string) (string, error)
	SetSysctl(ns host.NS, key, value string) error
	// MarkReplies makes connections that enter through a link be marked, and their replies carry
	// the mark (nftables: ct mark set on prerouting, restored for replies), so that a rule can send
	// them back the same way.
	MarkReplies(ns host.NS, link string, mark uint32) error
	// Announce tells the neighbours of an address (gratuitous ARP, unsolicited neighbour
	// advertisement); it knows 20-octet hardware addresses. Failure is for the caller to log, not
	// to fail on.
	Announce(ns host.NS, index int, ip netip.Addr) error
	// Solicit asks who has an address on a link: an ARP request (with an invalid source it is a
	// probe), or a neighbour solicitation for IPv6, where source does not count. It returns the
	// hardware address of the first that answers and is not the link itself, nil when the answer
	// does not say it; ErrNotFound when nobody did in time, and for nothing else: not when the link
	// is not there, is down or has no carrier (ErrNoCarrier), nor when ctx ends. source need not be
	// an address of the link.
	Solicit(ctx context.Context, ns host.NS, index int, target, source netip.Addr) (net.HardwareAddr, error)
}
