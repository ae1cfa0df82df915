// SPDX-License-Identifier: Apache-2.0

package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DefaultCoordinatorName is the name of the one SpiderCoordinator that counts.
const DefaultCoordinatorName = "default"

// Values of CoordinatorSpec.Mode.
const (
	CoordinatorAuto     = "auto"
	CoordinatorUnderlay = "underlay"
	CoordinatorOverlay  = "overlay"
	CoordinatorDisabled = "disabled"
)

// Values of CoordinatorStatus.Phase.
const (
	CoordinatorSynced   = "Synced"
	CoordinatorNotReady = "NotReady"
)

// CoordinatorSpec says how a pod's interfaces reach the node, services and other pods.
type CoordinatorSpec struct {
	// +kubebuilder:validation:Enum=auto;underlay;overlay;disabled
	// +optional
	Mode *string `json:"mode,omitempty"`
	// PodCIDRType says where the cluster's pod networks are learnt from.
	// +kubebuilder:validation:Enum=auto;cluster;calico;cilium;none
	// +optional
	PodCIDRType *string `json:"podCIDRType,omitempty"`
	// HijackCIDR are destinations that a pod reaches through its node.
	// +optional
	HijackCIDR []string `json:"hijackCIDR,omitempty"`
	// PolicyRoutes go into the interface's own routing table.
	// +optional
	PolicyRoutes []Route `json:"policyRoutes,omitempty"`
	// PodMACPrefix is two octets, "aa:bb", unicast; not used on InfiniBand.
	// +optional
	PodMACPrefix *string `json:"podMACPrefix,omitempty"`
	// TunePodRoutes turns on policy routing for pods with several interfaces.
	// +optional
	TunePodRoutes *bool `json:"tunePodRoutes,omitempty"`
	// PodDefaultRouteNIC keeps the default route; empty is the first interface.
	// +optional
	PodDefaultRouteNIC *string `json:"podDefaultRouteNIC,omitempty"`
	// HostRuleTable is the node's routing table for pod addresses.
	// +optional
	HostRuleTable *int `json:"hostRuleTable,omitempty"`
	// PodRPFilter is rp_filter in the pod; negative leaves it.
	// +optional
	PodRPFilter *int `json:"podRPFilter,omitempty"`
	// TxQueueLen of the interface; 0 leaves it.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TxQueueLen *int `json:"txQueueLen,omitempty"`
	// VethLinkAddress is an IPv4 link-local address for the pod's veth0.
	// +optional
	VethLinkAddress *string `json:"vethLinkAddress,omitempty"`
	// +kubebuilder:validation:Minimum=1
	// +optional
	VethMTU *int `json:"vethMTU,omitempty"`
}

// CoordinatorStatus is what was learnt of the cluster.
type CoordinatorStatus struct {
	// Phase is Synced or NotReady.
	// +optional
	Phase string `json:"phase,omitempty"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	OverlayPodCIDR []string `json:"overlayPodCIDR,omitempty"`
	// +optional
	ServiceCIDR []string `json:"serviceCIDR,omitempty"`
}

// SpiderCoordinator holds the cluster-wide coordinator settings.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:scope=Cluster,path=spidercoordinators,singular=spidercoordinator,shortName=scc,categories=spiderpool
// +kubebuilder:printcolumn:name="MODE",type=string,JSONPath=".spec.mode"
// +kubebuilder:printcolumn:name="PHASE",type=string,JSONPath=".status.phase"
// +kubebuilder:printcolumn:name="POD-CIDR",type=string,JSONPath=".status.overlayPodCIDR"
// +kubebuilder:printcolumn:name="SERVICE-CIDR",type=string,JSONPath=".status.serviceCIDR"
type SpiderCoordinator struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CoordinatorSpec   `json:"spec,omitempty"`
	Status CoordinatorStatus `json:"status,omitempty"`
}

// SpiderCoordinatorList is a list of coordinators.
//
// +kubebuilder:object:root=true
type SpiderCoordinatorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderCoordinator `json:"items"`
}
