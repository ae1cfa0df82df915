// SPDX-License-Identifier: Apache-2.0

package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// WorkloadEndpointStatus lists the addresses of a pod.
type WorkloadEndpointStatus struct {
	// Current is what the pod has now.
	Current PodIPAllocation `json:"current"`
	// OwnerControllerType is the kind of the pod's top owner, such as DaemonSet.
	OwnerControllerType string `json:"ownerControllerType"`
	// OwnerControllerName is its name.
	OwnerControllerName string `json:"ownerControllerName"`
}

// PodIPAllocation is one pod's allocation.
type PodIPAllocation struct {
	// UID of the pod.
	UID string `json:"uid"`
	// Node the pod runs on.
	Node string `json:"node"`
	// IPs has one entry for each interface.
	IPs []IPAllocationDetail `json:"ips"`
}

// IPAllocationDetail is what one interface has.
type IPAllocationDetail struct {
	// NIC is the interface's name in the pod.
	NIC string `json:"interface"`
	// IPv4 is an address with its prefix length.
	// +optional
	IPv4 *string `json:"ipv4,omitempty"`
	// IPv6 is an address with its prefix length.
	// +optional
	IPv6 *string `json:"ipv6,omitempty"`
	// +optional
	IPv4Pool *string `json:"ipv4Pool,omitempty"`
	// +optional
	IPv6Pool *string `json:"ipv6Pool,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +kubebuilder:default=0
	// +optional
	Vlan *int64 `json:"vlan,omitempty"`
	// +optional
	IPv4Gateway *string `json:"ipv4Gateway,omitempty"`
	// +optional
	IPv6Gateway *string `json:"ipv6Gateway,omitempty"`
	// +optional
	CleanGateway *bool `json:"cleanGateway,omitempty"`
	// +optional
	Routes []Route `json:"routes,omitempty"`
	// MAC is the hardware address; 20 octets on InfiniBand.
	// +optional
	MAC *string `json:"mac,omitempty"`
}

// SpiderEndpoint shows the addresses of the pod of the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=spiderendpoints,singular=spiderendpoint,shortName=se,categories=spiderpool
// +kubebuilder:printcolumn:name="INTERFACE",type=string,JSONPath=".status.current.ips[0].interface"
// +kubebuilder:printcolumn:name="IPV4POOL",type=string,JSONPath=".status.current.ips[0].ipv4Pool"
// +kubebuilder:printcolumn:name="IPV4",type=string,JSONPath=".status.current.ips[0].ipv4"
// +kubebuilder:printcolumn:name="IPV6POOL",type=string,JSONPath=".status.current.ips[0].ipv6Pool"
// +kubebuilder:printcolumn:name="IPV6",type=string,JSONPath=".status.current.ips[0].ipv6"
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=".status.current.node"
type SpiderEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status WorkloadEndpointStatus `json:"status,omitempty"`
}

// SpiderEndpointList is a list of endpoints.
//
// +kubebuilder:object:root=true
type SpiderEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderEndpoint `json:"items"`
}
