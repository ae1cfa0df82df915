// SPDX-License-Identifier: Apache-2.0

package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Values of MultusCNIConfigSpec.CniType.
const (
	MacvlanCNI = "macvlan"
	IPVlanCNI  = "ipvlan"
	VlanCNI    = "vlan"
	SriovCNI   = "sriov"
	OvsCNI     = "ovs"
	IBSriovCNI = "ib-sriov"
	IPoIBCNI   = "ipoib"
	CustomCNI  = "custom"
)

// Annotations understood on a SpiderMultusConfig.
const (
	// AnnotationMultusConfigNADName names the generated NetworkAttachmentDefinition; the object's
	// own name when absent.
	AnnotationMultusConfigNADName = "multus.spidernet.io/cr-name"
	// AnnotationMultusConfigCNIVersion is the cniVersion of the generated configuration; "0.3.1" when absent.
	AnnotationMultusConfigCNIVersion = "multus.spidernet.io/cni-version"
	// AnnotationCNIConfigName is the name inside the generated configuration; the
	// NetworkAttachmentDefinition's when absent.
	AnnotationCNIConfigName = "cni.spidernet.io/cniconfig-name"
)

// InjectAnnotations name, on a SpiderMultusConfig, a pod or a namespace, a group of networks that
// Spiderpool's webhook puts into pods. There is no such webhook here.
var InjectAnnotations = []string{"cni.spidernet.io/rdma-resource-inject", "cni.spidernet.io/network-resource-inject"}

// MultusCNIConfigSpec describes one network. Exactly one stanza is given, the one named by CniType.
type MultusCNIConfigSpec struct {
	// +kubebuilder:validation:Enum=macvlan;ipvlan;vlan;sriov;ovs;ib-sriov;ipoib;custom
	// +kubebuilder:default=custom
	// +optional
	CniType *string `json:"cniType,omitempty"`

	// +optional
	MacvlanConfig *SpiderMacvlanCniConfig `json:"macvlan,omitempty"`
	// +optional
	IPVlanConfig *SpiderIPvlanCniConfig `json:"ipvlan,omitempty"`
	// +optional
	VlanConfig *SpiderVlanCniConfig `json:"vlan,omitempty"`
	// +optional
	SriovConfig *SpiderSRIOVCniConfig `json:"sriov,omitempty"`
	// +optional
	OvsConfig *SpiderOvsCniConfig `json:"ovs,omitempty"`
	// +optional
	IbSriovConfig *SpiderIBSRIOVCniConfig `json:"ibsriov,omitempty"`
	// +optional
	IpoibConfig *SpiderIPoIBCniConfig `json:"ipoib,omitempty"`

	// EnableCoordinator appends the coordinator plugin.
	// +kubebuilder:default=true
	// +optional
	EnableCoordinator *bool `json:"enableCoordinator,omitempty"`

	// DisableIPAM leaves the interface without an address of ours.
	// +kubebuilder:default=false
	// +optional
	DisableIPAM *bool `json:"disableIPAM,omitempty"`

	// CoordinatorConfig overrides the SpiderCoordinator for this network.
	// +optional
	CoordinatorConfig *CoordinatorSpec `json:"coordinator,omitempty"`

	// ChainCNIJsonData are further plugins of the chain, each a JSON object with a "type".
	// +optional
	ChainCNIJsonData []string `json:"chainCNIJsonData,omitempty"`

	// CustomCNIConfig is a whole CNI configuration, for cniType custom.
	// +optional
	CustomCNIConfig *string `json:"customCNI,omitempty"`
}

// SpiderpoolPools names the pools of a network.
type SpiderpoolPools struct {
	// +optional
	IPv4IPPool []string `json:"ipv4,omitempty"`
	// +optional
	IPv6IPPool []string `json:"ipv6,omitempty"`
	// MatchMasterSubnet keeps only pools whose subnet has an address of the physical interface.
	// +kubebuilder:default=false
	// +optional
	MatchMasterSubnet *bool `json:"matchMasterSubnet,omitempty"`
}

// BondConfig makes one interface of several masters.
type BondConfig struct {
	Name string `json:"name"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=6
	Mode int32 `json:"mode"`
	// +optional
	Options *string `json:"options,omitempty"`
}

// SpiderMacvlanCniConfig is the macvlan stanza.
type SpiderMacvlanCniConfig struct {
	Master []string `json:"master"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`
	// +optional
	Bond *BondConfig `json:"bond,omitempty"`
	// RdmaResourceName has no effect: resources are not injected into pods.
	// +optional
	RdmaResourceName *string `json:"rdmaResourceName,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// SpiderIPvlanCniConfig is the ipvlan stanza.
type SpiderIPvlanCniConfig struct {
	Master []string `json:"master"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`
	// +optional
	Bond *BondConfig `json:"bond,omitempty"`
	// RdmaResourceName has no effect: resources are not injected into pods.
	// +optional
	RdmaResourceName *string `json:"rdmaResourceName,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// SpiderVlanCniConfig is the vlan stanza.
type SpiderVlanCniConfig struct {
	Master []string `json:"master"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`
	// +kubebuilder:validation:Enum=manual;auto
	// +kubebuilder:default=manual
	// +optional
	VlanMode *string `json:"vlanMode,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`
	// +optional
	Bond *BondConfig `json:"bond,omitempty"`
	// RdmaResourceName has no effect: resources are not injected into pods.
	// +optional
	RdmaResourceName *string `json:"rdmaResourceName,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// SpiderSRIOVCniConfig is the sriov stanza (Ethernet).
type SpiderSRIOVCniConfig struct {
	// +optional
	ResourceName *string `json:"resourceName,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	MinTxRateMbps *int `json:"minTxRateMbps,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxTxRateMbps *int `json:"maxTxRateMbps,omitempty"`
	// +kubebuilder:default=false
	// +optional
	RdmaIsolation *bool `json:"rdmaIsolation,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// SpiderIBSRIOVCniConfig is the ibsriov stanza: a VF of an InfiniBand card.
type SpiderIBSRIOVCniConfig struct {
	// ResourceName is the extended resource, with its prefix: "spidernet.io/mellanoxibsriov".
	// +optional
	ResourceName *string `json:"resourceName,omitempty"`
	// Pkey is a partition key. Partitions are not implemented: only the empty text is admitted,
	// which means none.
	// +optional
	Pkey *string `json:"pkey,omitempty"`
	// +kubebuilder:validation:Enum=auto;enable;disable
	// +kubebuilder:default=enable
	// +optional
	LinkState *string `json:"linkState,omitempty"`
	// RdmaIsolation moves the RDMA device into the pod. Absent: the node's RDMA mode decides
	// (isolated when exclusive).
	// +optional
	RdmaIsolation *bool `json:"rdmaIsolation,omitempty"`
	// +kubebuilder:default=false
	// +optional
	IbKubernetesEnabled *bool `json:"enableIbKubernetes,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// SpiderIPoIBCniConfig is the ipoib stanza: a child of a host's IPoIB interface.
type SpiderIPoIBCniConfig struct {
	// Master is the IPoIB interface of the host, by name or alternative name.
	// +optional
	Master string `json:"master,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// SpiderOvsCniConfig is the ovs stanza.
type SpiderOvsCniConfig struct {
	BrName string `json:"bridge"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanTag *int32 `json:"vlan,omitempty"`
	// +optional
	Trunk []*Trunk `json:"trunk,omitempty"`
	// +optional
	DeviceID string `json:"deviceID,omitempty"`
	// +optional
	SpiderpoolConfigPools *SpiderpoolPools `json:"ippools,omitempty"`
}

// Trunk is a VLAN or a range of VLANs.
type Trunk struct {
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	MinID *uint `json:"minID,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	MaxID *uint `json:"maxID,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	ID *uint `json:"id,omitempty"`
}

// MultusConfigStatus says what became of the configuration.
type MultusConfigStatus struct {
	// NetworkAttachmentDefinition is "namespace/name" of the generated object.
	// +optional
	NetworkAttachmentDefinition string `json:"networkAttachmentDefinition,omitempty"`
	// ObservedGeneration is the generation that the status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions has type Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderMultusConfig is a network, from which a NetworkAttachmentDefinition is made.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=spidermultusconfigs,singular=spidermultusconfig,shortName=smc,categories=spiderpool
// +kubebuilder:printcolumn:name="TYPE",type=string,JSONPath=".spec.cniType"
// +kubebuilder:printcolumn:name="NAD",type=string,JSONPath=".status.networkAttachmentDefinition"
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=".status.conditions[?(@.type=='Ready')].status"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=".metadata.creationTimestamp"
type SpiderMultusConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MultusCNIConfigSpec `json:"spec,omitempty"`
	Status MultusConfigStatus  `json:"status,omitempty"`
}

// SpiderMultusConfigList is a list of network configurations.
//
// +kubebuilder:object:root=true
type SpiderMultusConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderMultusConfig `json:"items"`
}
