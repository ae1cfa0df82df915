// SPDX-License-Identifier: Apache-2.0

package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LabelIPPoolCIDR is set on every pool: its subnet with '.', ':' and '/' turned into '-'.
const LabelIPPoolCIDR = "ipam.spidernet.io/ippool-cidr"

// IPPoolSpec says which addresses a pool has and who may use them.
type IPPoolSpec struct {
	// IPVersion is 4 or 6; taken from the subnet when absent. Immutable.
	// +kubebuilder:validation:Enum=4;6
	// +optional
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network of the pool as a CIDR with zero host bits. Immutable.
	// +kubebuilder:validation:MinLength=1
	Subnet string `json:"subnet"`

	// IPs are the addresses of the pool: single addresses or "first-last" ranges.
	// +optional
	IPs []string `json:"ips,omitempty"`

	// ExcludeIPs are taken out of IPs; same syntax.
	// +optional
	ExcludeIPs []string `json:"excludeIPs,omitempty"`

	// Gateway is the default gateway given to pods. It lies in the subnet and not among the
	// addresses of the pool.
	// +optional
	Gateway *string `json:"gateway,omitempty"`

	// Routes are further routes given to pods.
	// +optional
	Routes []Route `json:"routes,omitempty"`

	// PodAffinity restricts the pool to pods with these labels.
	// +optional
	PodAffinity *metav1.LabelSelector `json:"podAffinity,omitempty"`

	// NamespaceAffinity restricts the pool to namespaces with these labels.
	// +optional
	NamespaceAffinity *metav1.LabelSelector `json:"namespaceAffinity,omitempty"`

	// NamespaceName restricts the pool to these namespaces; overrides NamespaceAffinity.
	// +optional
	NamespaceName []string `json:"namespaceName,omitempty"`

	// NodeAffinity restricts the pool to nodes with these labels.
	// +optional
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`

	// NodeName restricts the pool to these nodes; overrides NodeAffinity.
	// +optional
	NodeName []string `json:"nodeName,omitempty"`

	// MultusName restricts the pool to these networks: "namespace/name", or "name" in the product's
	// own namespace.
	// +optional
	MultusName []string `json:"multusName,omitempty"`

	// Default makes the pool a member of the cluster's default set.
	// +kubebuilder:default=false
	// +optional
	Default *bool `json:"default,omitempty"`

	// Disable stops new allocations; addresses in use stay.
	// +kubebuilder:default=false
	// +optional
	Disable *bool `json:"disable,omitempty"`
}

// Route is one route: destination CIDR and the gateway's address.
type Route struct {
	// Dst is a CIDR, never a default route.
	Dst string `json:"dst"`
	// Gw is the address of the gateway.
	Gw string `json:"gw"`
}

// IPPoolStatus shows what is taken. The truth is the set of SpiderIPLease objects; this is written behind.
type IPPoolStatus struct {
	// AllocatedIPs is JSON text: address -> {"pod": "namespace/name", "podUid": "uid"}. Absent when
	// nothing is allocated.
	// +optional
	AllocatedIPs *string `json:"allocatedIPs,omitempty"`

	// TotalIPCount counts IPs without ExcludeIPs.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount counts the addresses that pods use. AllocatedIPs lists at most the 5000
	// lowest of them.
	// +kubebuilder:validation:Minimum=0
	// +optional
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// Conditions tell whether the pool can serve (type Ready).
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AllocatedIP is one value of the JSON text in IPPoolStatus.AllocatedIPs.
type AllocatedIP struct {
	// Pod is "namespace/name".
	Pod string `json:"pod"`
	// PodUID is the UID of that pod.
	PodUID string `json:"podUid"`
}

// SpiderIPPool is a set of addresses of one subnet.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:scope=Cluster,path=spiderippools,singular=spiderippool,shortName=sp,categories=spiderpool
// +kubebuilder:printcolumn:name="VERSION",type=string,JSONPath=".spec.ipVersion"
// +kubebuilder:printcolumn:name="SUBNET",type=string,JSONPath=".spec.subnet"
// +kubebuilder:printcolumn:name="ALLOCATED-IP-COUNT",type=integer,JSONPath=".status.allocatedIPCount"
// +kubebuilder:printcolumn:name="TOTAL-IP-COUNT",type=integer,JSONPath=".status.totalIPCount"
// +kubebuilder:printcolumn:name="DEFAULT",type=boolean,JSONPath=".spec.default"
// +kubebuilder:printcolumn:name="DISABLE",type=boolean,priority=10,JSONPath=".spec.disable"
// +kubebuilder:printcolumn:name="NodeName",type=string,priority=10,JSONPath=".spec.nodeName"
// +kubebuilder:printcolumn:name="MultusName",type=string,priority=10,JSONPath=".spec.multusName"
// +kubebuilder:printcolumn:name="APP-NAMESPACE",type=string,priority=10,JSONPath=".spec.podAffinity.matchLabels['ipam\\.spidernet\\.io/app-namespace']"
type SpiderIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPPoolSpec   `json:"spec,omitempty"`
	Status IPPoolStatus `json:"status,omitempty"`
}

// SpiderIPPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type SpiderIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderIPPool `json:"items"`
}

// ReservedIPSpec names addresses that no pool may give out.
type ReservedIPSpec struct {
	// IPVersion is 4 or 6; taken from the first entry when absent. Immutable.
	// +kubebuilder:validation:Enum=4;6
	// +optional
	IPVersion *int64 `json:"ipVersion,omitempty"`
	// IPs are single addresses or "first-last" ranges.
	// +optional
	IPs []string `json:"ips,omitempty"`
}

// SpiderReservedIP takes addresses out of every pool.
//
// +kubebuilder:object:root=true
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:scope=Cluster,path=spiderreservedips,singular=spiderreservedip,shortName=sr,categories=spiderpool
// +kubebuilder:printcolumn:name="VERSION",type=string,JSONPath=".spec.ipVersion"
type SpiderReservedIP struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ReservedIPSpec `json:"spec,omitempty"`
}

// SpiderReservedIPList is a list of reserved addresses.
//
// +kubebuilder:object:root=true
type SpiderReservedIPList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderReservedIP `json:"items"`
}
