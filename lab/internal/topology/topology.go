// SPDX-License-Identifier: Apache-2.0

// Package topology says what the lab looks like: names, addresses and card identities. Everything
// else derives from it.
//
// It is pure data; the names and addresses are those of the user's guide.
package topology

import (
	"fmt"
	"net/netip"
)

// Addresses of the cluster as a whole.
const (
	ControlPlane   = "10.20.1.1" // API server, image store; first address of the node network
	NodeNetBits    = 24
	APIPort        = 6443
	FilePort       = 8080 // images for the nodes, served beside the API server
	RegistryPort   = 5000 // container registry, on the control plane's address
	SSHPort        = 22
	ServiceCIDR    = "10.96.0.0/16"
	APIServiceIP   = "10.96.0.1"
	ClusterPodCIDR = "10.244.0.0/16"
)

// FabricMTU is the MTU of the Ethernet segment that carries the InfiniBand packets between the
// machines. vhca needs 4300 and makes longer segments of a message when there is more room.
const FabricMTU = 20000

// Images by the names that manifests use.
const (
	PauseImage   = "localhost/lab/pause:1"
	TestImage    = "docker.io/mellanox/rping-test:latest"
	ProductImage = "ghcr.io/spidernet-io/spiderpool/spiderpool:dev"
)

// Node is one machine.
type Node struct {
	Name    string
	Address netip.Addr   // on the node network
	PodCIDR netip.Prefix // of its primary network
	Index   int          // 0, 1, …; node 0 runs the fabric's subnet manager
}

// Nodes are the machines of the lab, in order.
func Nodes() []Node {
	return []Node{
		{Name: "10-20-1-10", Index: 0, Address: netip.MustParseAddr("10.20.1.10"),
			PodCIDR: netip.MustParsePrefix("10.244.10.0/24")},
		{Name: "10-20-1-20", Index: 1, Address: netip.MustParseAddr("10.20.1.20"),
			PodCIDR: netip.MustParsePrefix("10.244.20.0/24")},
	}
}

// Names are the names of Nodes.
func Names() []string {
	var names []string
	for _, n := range Nodes() {
		names = append(names, n.Name)
	}
	return names
}

// Find returns the node of that name, or an error that lists the names.
func Find(name string) (Node, error) {
	for _, n := range Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("no node %q; the lab has %q", name, Names())
}

// MAC returns the Ethernet address of the node's network interface: 0 on the node network, 1 on the
// fabric's segment.
func (n Node) MAC(nic int) string { return fmt.Sprintf("52:54:00:20:%02x:%02x", nic, n.host()) }

// host is the last byte of the node's address: 10 or 20.
func (n Node) host() byte { a := n.Address.As4(); return a[3] }

// Card is one InfiniBand card as the guide shows it.
type Card struct {
	PCI       string // address of the physical function
	Interface string // the IPoIB interface by its slot
	AltName   string // the same by its place on the bus
	IPv4      netip.Prefix
	IPv6      netip.Prefix
}

// Cards returns the first count (1 or 2) cards of a node. Both are on one fabric, in subnets of their own.
func (n Node) Cards(count int) []Card {
	var cards []Card
	for i := range count {
		subnet := 91 + i
		cards = append(cards, Card{
			PCI:       fmt.Sprintf("0000:%02x:00.0", 0x86+i),
			Interface: fmt.Sprintf("ibs%df0", 5+i),
			AltName:   fmt.Sprintf("ibp%ds0f0", 0x86+i),
			IPv4:      netip.MustParsePrefix(fmt.Sprintf("172.%d.0.%d/16", subnet, n.host())),
			IPv6:      netip.MustParsePrefix(fmt.Sprintf("fd00:%d::172:%d:0:%d/64", subnet, subnet, n.host())),
		})
	}
	return cards
}

// ModuleOptions are the vhca module's parameters on this node. GUIDs of new VFs are zero, as a
// ConnectX's are; LIDs of the nodes lie far apart so that two cards and their VFs fit between.
func (n Node) ModuleOptions(cards int) string {
	manager := 0
	if n.Index == 0 {
		manager = 1
	}
	return fmt.Sprintf("cards=%d link=eth1 sm=%d vf_guid=zero lid_base=%d guid_base=%#x", cards, manager, 2+64*n.Index,
		guidBase+uint64(n.Index)<<12)
}

// guidBase is the GUID of the first card of node 0, as printed in the guide: e8:eb:d3:03:00:93:ae:10.
const guidBase uint64 = 0xe8ebd3030093ae10
