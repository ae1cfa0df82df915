// SPDX-License-Identifier: Apache-2.0

// Package ipam owns the decisions about addresses: which pools an interface
// may use and in which order, why a pool may not serve, which address of a pool
// is the next free one, and how many of them a node holds ready. It is pure: it
// reads what its caller gathered and knows no client, no clock and no lease.
package ipam

import (
	"net/netip"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Annotations of pods and namespaces that this package reads.
const (
	// AnnotationPool is a JSON object {"ipv4":["pool"],"ipv6":["pool"]} for every interface of the pod.
	AnnotationPool = "ipam.spidernet.io/ippool"
	// AnnotationPools is a JSON list of such objects, each with "interface" and "cleangateway".
	AnnotationPools = "ipam.spidernet.io/ippools"
	// AnnotationRoutes is a JSON list [{"dst":"10.0.0.0/8","gw":"192.0.2.1"}].
	AnnotationRoutes = "ipam.spidernet.io/routes"
	// AnnotationNamespaceIPv4 and AnnotationNamespaceIPv6 of a namespace are JSON lists of pool names.
	AnnotationNamespaceIPv4 = "ipam.spidernet.io/default-ipv4-ippool"
	AnnotationNamespaceIPv6 = "ipam.spidernet.io/default-ipv6-ippool"
)

// Pod is the pod that an address is for.
type Pod struct {
	Namespace, Name, UID, Node string
	Labels, Annotations        map[string]string
	// Owner keeps the pod's addresses when the pod goes: a StatefulSet, or a virtual machine of
	// KubeVirt. Nil for every other pod.
	Owner *v2beta1.LeaseOwner
	// Controller is who made the pod, for people to see. A bare pod is its own: kind Pod and its name.
	Controller Controller
	// Known: the API server shows every address that the pod has, and must go on doing so. See the
	// function of that name.
	Known bool
}

// Controller is the top owner of a pod, such as the Deployment above its ReplicaSet.
type Controller struct{ Kind, Name string }

// Request asks for the addresses of one interface.
type Request struct {
	Pod Pod
	// Interface is the interface's name in the pod.
	Interface string
	// Interfaces are the names of all interfaces of the pod in the order of attachment. When empty,
	// "eth0" is taken for the first and "net1", "net2" … for the following ones.
	Interfaces []string
	// Sandbox is the container ID that the runtime gave the sandbox.
	Sandbox string
	// Network is "namespace/name" of the NetworkAttachmentDefinition; empty when there is none.
	Network string
	// Wanted are the addresses that the interface is to have and no others, at most one of each
	// family. With a prefix length that is not the address's whole length, the pool's subnet has to
	// have the same.
	Wanted []netip.Prefix
	// DefaultIPv4 and DefaultIPv6 are the pool names in the CNI configuration.
	DefaultIPv4, DefaultIPv6 []string
	// CleanGateway leaves out the default route.
	CleanGateway bool
	// MatchMasterSubnet keeps only pools whose subnet has one of MasterAddresses.
	MatchMasterSubnet bool
	// MasterAddresses are the addresses of the physical interface in the host.
	MasterAddresses []netip.Addr
	// MasterUnknown is why MasterAddresses could not be found out; empty when they were.
	MasterUnknown string
}

// Address is one address of an interface.
type Address struct {
	// IP has the prefix length of the pool's subnet.
	IP netip.Prefix
	// Gateway of the pool; invalid when the pool has none.
	Gateway netip.Addr
	Pool    string
}

// Route is one route of an interface.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// Allocation is what one interface gets: at most one address of each family, IPv4 first.
type Allocation struct {
	Addresses []Address
	Routes    []Route
}

// Facts are what the caller gathered for one request.
type Facts struct {
	// Pools by name.
	Pools    map[string]*Pool
	Families v2beta1.Families
	// NamespaceLabels and NamespaceAnnotations are those of the pod's namespace.
	NamespaceLabels, NamespaceAnnotations map[string]string
	// NodeLabels are those of the pod's node.
	NodeLabels map[string]string
	// NetworkNamespace completes names in a pool's multusName that have no namespace.
	NetworkNamespace string
}
