// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LabelLeasePool is on every lease: the pool's name, so that a pool's leases can be listed.
const LabelLeasePool = "spiderpool.spidernet.io/pool"

// LabelLeaseNode is on every lease: the node's name, so that a node's leases can be listed.
const LabelLeaseNode = "spiderpool.spidernet.io/node"

// AnnotationLeaseStock is on a lease without a pod: the ledger of the node that knows whether the
// address was given to a pod (its identity), a dot, and a number that changes whenever the node
// writes the lease.
const AnnotationLeaseStock = "spiderpool.spidernet.io/stock"

// Kinds of LeaseOwner.
const (
	OwnerStatefulSet            = "StatefulSet"
	OwnerVirtualMachineInstance = "VirtualMachineInstance"
)

// MaxPoolNameLength keeps LeaseName within the 253 characters of an object
// name: 39 for an IPv6 address written in full and one for the dot.
const MaxPoolNameLength = 253 - 40

// IPLeaseSpec says who holds an address. A lease without a pod is stock of its node.
type IPLeaseSpec struct {
	// Pool is the SpiderIPPool the address belongs to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the pool of a lease cannot change"
	Pool string `json:"pool"`

	// IP is the address, without a prefix length.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the address of a lease cannot change"
	IP string `json:"ip"`

	// Node is the node that holds the lease.
	// +kubebuilder:validation:MinLength=1
	Node string `json:"node"`

	// Pod is the user of the address; absent while the lease is stock.
	// +optional
	Pod *LeasePod `json:"pod,omitempty"`
}

// LeasePod is the pod interface that uses an address.
type LeasePod struct {
	// Namespace and Name are for people; UID decides.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID of the pod.
	UID string `json:"uid"`
	// Interface is the name of the network interface in the pod.
	Interface string `json:"interface"`
	// Sandbox is the container ID that the runtime gave the pod's sandbox.
	// +optional
	Sandbox string `json:"sandbox,omitempty"`
	// Owner is set when the address belongs to something that outlives the pod, such as a
	// StatefulSet's ordinal.
	// +optional
	Owner *LeaseOwner `json:"owner,omitempty"`
}

// LeaseOwner is what keeps an address when its pod goes.
type LeaseOwner struct {
	// APIVersion, Kind and Name of the owner; the namespace is the pod's.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
}

// SpiderIPLease is one taken address: the address is taken exactly when this object exists. Its name is
// LeaseName(pool, address), so that the API server lets only one holder win.
//
// +kubebuilder:object:root=true
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:scope=Cluster,path=spideripleases,singular=spideriplease,shortName=sil,categories=spiderpool
// +kubebuilder:selectablefield:JSONPath=".spec.pool"
// +kubebuilder:selectablefield:JSONPath=".spec.node"
// +kubebuilder:printcolumn:name="POOL",type=string,JSONPath=".spec.pool"
// +kubebuilder:printcolumn:name="IP",type=string,JSONPath=".spec.ip"
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=".spec.node"
// +kubebuilder:printcolumn:name="NAMESPACE",type=string,JSONPath=".spec.pod.namespace"
// +kubebuilder:printcolumn:name="POD",type=string,JSONPath=".spec.pod.name"
// +kubebuilder:printcolumn:name="INTERFACE",type=string,JSONPath=".spec.pod.interface"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=".metadata.creationTimestamp"
type SpiderIPLease struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPLeaseSpec `json:"spec,omitempty"`
}

// SpiderIPLeaseList is a list of leases.
//
// +kubebuilder:object:root=true
type SpiderIPLeaseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderIPLease `json:"items"`
}

// LeaseName is the name of the lease of one address of a pool: the pool's
// name, a dot, and the address in full with '-' for '.' and ':'. The last
// label of the name is always the address, so two pools never share a name.
func LeaseName(pool string, ip netip.Addr) string {
	return fmt.Sprintf("%s.%s", pool, strings.NewReplacer(".", "-", ":",
		"-").Replace(ip.Unmap().WithZone("").StringExpanded()))
}
