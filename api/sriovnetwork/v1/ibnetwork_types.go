// SPDX-License-Identifier: Apache-2.0

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

const (
	// AnnotationOwner on a NetworkAttachmentDefinition names the object that it is made of, as
	// SriovIBNetwork.OwnerKey writes it. An owner reference cannot: the two may be in different
	// namespaces.
	AnnotationOwner = "sriovnetwork.openshift.io/owner-ref"
	// FinalizerNetwork guards a network whose NetworkAttachmentDefinition is in another namespace,
	// and so does not go by itself.
	FinalizerNetwork = "netattdef.finalizers.sriovnetwork.openshift.io"
)

// SriovIBNetworkSpec describes a network of InfiniBand VFs.
type SriovIBNetworkSpec struct {
	// NetworkNamespace is where the NetworkAttachmentDefinition is made; the object's own namespace
	// when absent.
	// +optional
	NetworkNamespace string `json:"networkNamespace,omitempty"`
	// ResourceName is a policy's resourceName, without a prefix.
	ResourceName string `json:"resourceName"`
	// Capabilities is JSON text: an object of names and true or false, such as '{"infinibandGUID": true}'.
	// +optional
	Capabilities string `json:"capabilities,omitempty"`
	// IPAM is JSON text: the configuration of an IPAM plugin, such as '{"type": "spiderpool"}'.
	// Absent gives no addresses.
	// +optional
	IPAM string `json:"ipam,omitempty"`
	// LinkState is what the PF is told of the VF; absent leaves it.
	// +kubebuilder:validation:Enum=auto;enable;disable
	// +optional
	LinkState string `json:"linkState,omitempty"`
	// MetaPlugins is JSON text: the configurations of further plugins, separated by commas.
	// +optional
	MetaPluginsConfig string `json:"metaPlugins,omitempty"`
}

// SriovIBNetworkStatus tells what became of a network.
type SriovIBNetworkStatus struct {
	// NetworkAttachmentDefinition is "namespace/name" of the one that is made of the network.
	// +optional
	NetworkAttachmentDefinition string `json:"networkAttachmentDefinition,omitempty"`
	// Conditions has type Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SriovIBNetwork is a network of InfiniBand VFs. A NetworkAttachmentDefinition of the same name,
// type ib-sriov, is made of it. Only those in the product's namespace count.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=sriovibnetworks,singular=sriovibnetwork
// +kubebuilder:printcolumn:name="RESOURCE",type=string,JSONPath=".spec.resourceName"
// +kubebuilder:printcolumn:name="NETWORK",type=string,JSONPath=".status.networkAttachmentDefinition"
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=".status.conditions[?(@.type=='Ready')].status"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=".metadata.creationTimestamp"
type SriovIBNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SriovIBNetworkSpec   `json:"spec,omitempty"`
	Status SriovIBNetworkStatus `json:"status,omitempty"`
}

// TargetNamespace is where the network's NetworkAttachmentDefinition belongs.
func (n *SriovIBNetwork) TargetNamespace() string {
	if n.Spec.NetworkNamespace != "" {
		return n.Spec.NetworkNamespace
	}
	return n.Namespace
}

// OwnerKey is the value of AnnotationOwner that names this network.
func (n *SriovIBNetwork) OwnerKey() string {
	return "SriovIBNetwork." + GroupVersion.Group + "/" + n.Namespace + "/" + n.Name
}

// SriovIBNetworkList is a list of networks.
//
// +kubebuilder:object:root=true
type SriovIBNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SriovIBNetwork `json:"items"`
}
