// SPDX-License-Identifier: Apache-2.0

package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Values of SriovNetworkNodePolicySpec.DeviceType.
const (
	DeviceTypeNetDevice = "netdevice"
	DeviceTypeVfioPci   = "vfio-pci"
)

// Link types as status and linkType write them.
const (
	LinkTypeETH = "ETH"
	LinkTypeIB  = "IB"
)

// SriovNetworkNodePolicySpec selects cards on nodes and says which VFs they shall have.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.isRdma) && self.isRdma && has(self.deviceType) && self.deviceType == 'vfio-pci')",fieldPath=".isRdma",message="a VF bound to vfio-pci has no RDMA device: set deviceType: netdevice, or isRdma: false"
type SriovNetworkNodePolicySpec struct {
	// ResourceName is advertised as "<prefix>/<resourceName>".
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$')",message="want 1 to 63 letters, digits, '-' and '_', beginning and ending with a letter or digit, such as mellanoxibsriov; the prefix is added by the agent"
	ResourceName string `json:"resourceName"`

	// NodeSelector are labels that a node must have.
	NodeSelector map[string]string `json:"nodeSelector"`

	// Priority orders policies for one card: the smaller number wins.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=99
	// +kubebuilder:default=99
	// +optional
	Priority *int `json:"priority,omitempty"`

	// NumVfs is how many VFs each selected card shall have.
	// +kubebuilder:validation:Minimum=1
	NumVfs int `json:"numVfs"`

	// Mtu of the card and its VFs; absent leaves it.
	// +kubebuilder:validation:Minimum=1
	// +optional
	Mtu int `json:"mtu,omitempty"`

	// NicSelector selects cards; all given fields must match.
	NicSelector SriovNetworkNicSelector `json:"nicSelector"`

	// DeviceType is the driver that a VF is bound to: netdevice (the kernel's own) or vfio-pci.
	// +kubebuilder:validation:Enum=netdevice;vfio-pci
	// +kubebuilder:default=netdevice
	// +optional
	DeviceType string `json:"deviceType,omitempty"`

	// IsRdma asks for VFs with an RDMA device.
	// +optional
	IsRdma bool `json:"isRdma,omitempty"`

	// LinkType demands a link layer; absent takes the card as it is.
	// +kubebuilder:validation:Enum=eth;ETH;ib;IB
	// +optional
	LinkType string `json:"linkType,omitempty"`

	// ESwitchMode of Ethernet cards.
	// +kubebuilder:validation:Enum=legacy;switchdev
	// +optional
	ESwitchMode string `json:"eSwitchMode,omitempty"`

	// +kubebuilder:validation:Enum=virtio;vhost
	// +optional
	VdpaType string `json:"vdpaType,omitempty"`

	// +optional
	NeedVhostNet bool `json:"needVhostNet,omitempty"`

	// ExcludeTopology leaves out NUMA hints.
	// +optional
	ExcludeTopology bool `json:"excludeTopology,omitempty"`

	// ExternallyManaged: somebody else makes the VFs; they are only configured and advertised.
	// +optional
	ExternallyManaged bool `json:"externallyManaged,omitempty"`

	// Bridge is for Ethernet cards in switchdev mode. Objects that sriov-network-operator has stored have an empty one.
	// +optional
	Bridge *Bridge `json:"bridge,omitempty"`
}

// Bridge has nothing that InfiniBand cards could do.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ovs)",message="Open vSwitch takes Ethernet cards: remove spec.bridge.ovs"
type Bridge struct {
	// OVS is refused.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	OVS *runtime.RawExtension `json:"ovs,omitempty"`
}

// SriovNetworkNicSelector selects physical functions. Given fields must all match.
//
// +kubebuilder:validation:XValidation:rule="has(self.vendor) || has(self.deviceID) || has(self.rootDevices) || has(self.pfNames) || has(self.netFilter)",message="found no field: want one or more of vendor, deviceID, rootDevices, pfNames; the first two are in lspci -nn as [vendor:deviceID]"
type SriovNetworkNicSelector struct {
	// Vendor is the PCI vendor ID, four hexadecimal digits: "15b3".
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9a-fA-F]{4})?$')",message="want four hexadecimal digits as in lspci -nn, such as 15b3"
	// +optional
	Vendor string `json:"vendor,omitempty"`
	// DeviceID is the PCI device ID of the physical function: "1017".
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9a-fA-F]{4})?$')",message="want the four hexadecimal digits of the physical function as in lspci -nn, such as 1017"
	// +optional
	DeviceID string `json:"deviceID,omitempty"`
	// RootDevices are PCI addresses of physical functions: "0000:86:00.0". The rule is ib.ParsePCIAddress.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^([0-9a-fA-F]{4}|[1-9a-fA-F][0-9a-fA-F]{4,7}):[0-9a-fA-F]{2}:[01][0-9a-fA-F][.][0-7]$')",messageExpression="self.matches('^[0-9a-fA-F]{2}:[01][0-9a-fA-F][.][0-7]$') ? 'the PCI domain is missing: want 0000:' + self + ' (`lspci -D` prints it)' : 'want a PCI address with its domain, such as 0000:86:00.0 (`lspci -D` prints it)'"
	// +optional
	RootDevices []string `json:"rootDevices,omitempty"`
	// PfNames are netdev names (alternative names count), each with an optional range of VFs: "ibs5f0#0-7".
	// +optional
	PfNames []string `json:"pfNames,omitempty"`
	// NetFilter is for virtual cards of clouds; exclusive with the other fields.
	// +optional
	NetFilter string `json:"netFilter,omitempty"`
}

// SriovNetworkNodePolicyStatus tells what the policy does.
type SriovNetworkNodePolicyStatus struct {
	// Conditions has type Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SriovNetworkNodePolicy makes virtual functions on the cards it selects.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=sriovnetworknodepolicies,singular=sriovnetworknodepolicy
// +kubebuilder:printcolumn:name="RESOURCE",type=string,JSONPath=".spec.resourceName"
// +kubebuilder:printcolumn:name="VFS",type=integer,JSONPath=".spec.numVfs"
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=".status.conditions[?(@.type=='Ready')].status"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=".metadata.creationTimestamp"
type SriovNetworkNodePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SriovNetworkNodePolicySpec   `json:"spec,omitempty"`
	Status SriovNetworkNodePolicyStatus `json:"status,omitempty"`
}

// SriovNetworkNodePolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type SriovNetworkNodePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SriovNetworkNodePolicy `json:"items"`
}
