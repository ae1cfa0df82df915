// SPDX-License-Identifier: Apache-2.0

// Package host is the only door to the kernel: PCI and SR-IOV, network links
// and routes, IPoIB, RDMA devices and network namespaces. Nothing else in the
// product imports netlink or names /sys and /proc.
//
// It observes and changes one thing at a time and decides nothing: what ought
// to be is the business of its callers. It knows no Kubernetes.
package host

import (
	"errors"
	"net"
	"net/netip"

	"spidernet.io/spiderpool/internal/ib"
)

// NS names a network namespace: "" is the node's own, anything else is a path such as
// /var/run/netns/cni-0b1c.
type NS string

// NodeNS is the node's own network namespace.
const NodeNS NS = ""

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound: the link, device, PCI function or address does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNSGone: the network namespace does not exist any more.
	ErrNSGone = errors.New("network namespace is gone")
	// ErrExists: an object of that name is there already.
	ErrExists = errors.New("already exists")
	// ErrBusy: the kernel refuses while something uses the object.
	ErrBusy = errors.New("busy")
	// ErrUnsupported: the kernel, the driver or the mode does not allow it.
	ErrUnsupported = errors.New("not supported")
	// ErrNoCarrier: the link is up, but nothing can be sent or heard through it.
	ErrNoCarrier = errors.New("has no carrier")
)

// RDMAMode is the mode of the node's RDMA subsystem.
type RDMAMode string

// The two modes.
const (
	RDMAShared    RDMAMode = "shared"
	RDMAExclusive RDMAMode = "exclusive"
)

// LinkLayer is "infiniband" or "ethernet".
type LinkLayer string

// The two link layers.
const (
	InfiniBand LinkLayer = "infiniband"
	Ethernet   LinkLayer = "ethernet"
)

// VFState is the link state that a PF imposes on a VF.
type VFState string

// The states of IFLA_VF_LINK_STATE.
const (
	VFAuto    VFState = "auto"
	VFEnable  VFState = "enable"
	VFDisable VFState = "disable"
)

// PF is a physical function of a network card with what the node's own namespace shows of it.
type PF struct {
	PCI              string // "0000:86:00.0"
	Vendor, Device   string // "15b3", "1017"
	Driver           string // "" when unbound
	TotalVFs, NumVFs int
	NUMANode         int // -1 when unknown
	LinkLayer        LinkLayer
	Link             *Link       // nil when it has no netdev in the node's namespace
	RDMA             *RDMADevice // nil when it has no RDMA device in the node's namespace
	DefaultRoute     bool        // carries a default route of the node
	VFs              []VF        // in order of index
}

// VF is a virtual function.
type VF struct {
	PCI            string // "0000:86:00.1"
	PF             string // PCI address of its PF
	Index          int    // 0-based, as in virtfnN
	Vendor, Device string // "15b3", "1018"
	Driver         string // "" when unbound
	// NodeGUID, PortGUID and State are what the PF's driver reports of the VF (IFLA_VFINFO_LIST).
	NodeGUID, PortGUID ib.GUID
	State              VFState
	Link               *Link // nil when its netdev is not in the node's namespace
	// RDMA is nil when its RDMA device is not in the node's namespace, or has a name under which it
	// cannot be used (UsableRDMAName).
	RDMA *RDMADevice
	// Uverbs and Umad are names under /dev/infiniband, such as "uverbs3" ("" when none), wherever
	// the RDMA device is.
	Uverbs, Umad string
}

// VFDevices is what the kernel has made of a virtual function, by what the node's own namespace
// shows, without a question to its card.
type VFDevices struct {
	PF     string // PCI address
	Index  int    // 0-based, as in virtfnN
	Driver string // "" when unbound
	Link   *Link  // nil when its netdev is not in the node's namespace
	// RDMA is the name of its RDMA device; "" when that is not in the node's namespace, or has a name
	// under which it cannot be used (UsableRDMAName).
	RDMA string
	// Uverbs and Umad are names under /dev/infiniband, such as "uverbs3" ("" when none), wherever
	// the RDMA device is.
	Uverbs, Umad string
}

// Link is a network interface.
type Link struct {
	NS           NS
	Index        int
	Name         string
	AltNames     []string
	Alias        string // free text that stays with the link wherever it goes; "" when none
	Kind         string // rtnetlink's: "ipoib", "veth", …; "device" for a plain device
	LinkLayer    LinkLayer
	HardwareAddr net.HardwareAddr // 6 octets, or 20 on InfiniBand
	MTU          int
	TxQueueLen   int    // packets
	Up           bool   // administratively
	Carrier      bool   // operationally
	PCI          string // PCI address of its function, "" for a virtual link
	Parent       int    // index of the parent link, 0 when none
	PKey         uint16 // IPoIB
	Mode         string // IPoIB: "datagram" or "connected"
}

// RDMADevice is an RDMA device and its first port.
type RDMADevice struct {
	NS       NS
	Index    int
	Name     string // "mlx5_0"
	PCI      string // "" when it has none
	NodeGUID ib.GUID
	PortGUID ib.GUID
	// LinkLayer, State ("ACTIVE", "DOWN", "INIT", …), PhysState ("LINK_UP", …), LID and SMLID are of port 1.
	LinkLayer        LinkLayer
	State, PhysState string
	LID, SMLID       int
}

// Route is a route; Table 0 is the main table. A zero Gateway makes it a link-scope route.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
	Src     netip.Addr
	Index   int // interface
	Table   int
}

// Rule is a routing rule; invalid or zero fields do not select.
type Rule struct {
	Priority int // 0 leaves the choice to the kernel
	From, To netip.Prefix
	Mark     uint32
	Table    int
	IPv6     bool // family, for a rule without From and To
}

// Neighbor is a permanent neighbour entry.
type Neighbor struct {
	Index        int
	IP           netip.Addr
	HardwareAddr net.HardwareAddr
}
