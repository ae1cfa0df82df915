// SPDX-License-Identifier: Apache-2.0

// Package v1 owns the objects of the API group k8s.cni.cncf.io: the
// NetworkAttachmentDefinition and the two pod annotations that name networks
// and report them. It knows nothing of who reads or writes them.
//
// +kubebuilder:object:generate=true
// +groupName=k8s.cni.cncf.io
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion names the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "k8s.cni.cncf.io", Version: "v1"}

// Annotations of pods and of NetworkAttachmentDefinitions.
const (
	// AnnotationDefaultNetwork replaces the cluster's default network of a pod.
	AnnotationDefaultNetwork = "v1.multus-cni.io/default-network"
	// AnnotationNetworks lists further networks of a pod.
	AnnotationNetworks = "k8s.v1.cni.cncf.io/networks"
	// AnnotationNetworkStatus reports the networks of a pod, as JSON.
	AnnotationNetworkStatus = "k8s.v1.cni.cncf.io/network-status"
	// AnnotationResourceName on a NetworkAttachmentDefinition names the extended resource whose
	// devices serve it.
	AnnotationResourceName = "k8s.v1.cni.cncf.io/resourceName"
)

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &NetworkAttachmentDefinition{}, &NetworkAttachmentDefinitionList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// NetworkAttachmentDefinitionSpec holds a CNI configuration.
type NetworkAttachmentDefinitionSpec struct {
	// Config is a CNI network configuration or configuration list as JSON.
	// Empty: a file of the node's configuration directory with this object's name.
	// +optional
	Config string `json:"config,omitempty"`
}

// NetworkAttachmentDefinition is a network that pods can name.
//
// +kubebuilder:object:root=true
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=network-attachment-definitions,singular=network-attachment-definition,shortName=net-attach-def
type NetworkAttachmentDefinition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec NetworkAttachmentDefinitionSpec `json:"spec,omitempty"`
}

// NetworkAttachmentDefinitionList is a list of networks.
//
// +kubebuilder:object:root=true
type NetworkAttachmentDefinitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkAttachmentDefinition `json:"items"`
}

// NetworkSelectionElement is one network that a pod asks for.
type NetworkSelectionElement struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	// InterfaceRequest is the wanted name of the interface in the pod.
	InterfaceRequest string `json:"interface,omitempty"`
	// DeprecatedInterfaceRequest is its old spelling.
	DeprecatedInterfaceRequest string `json:"interfaceRequest,omitempty"`
	// IPRequest are wanted addresses, with or without a prefix length.
	IPRequest  []string `json:"ips,omitempty"`
	MacRequest string   `json:"mac,omitempty"`
	// InfinibandGUIDRequest is a GUID of eight octets.
	InfinibandGUIDRequest string             `json:"infiniband-guid,omitempty"`
	PortMappingsRequest   []PortMappingEntry `json:"portMappings,omitempty"`
	BandwidthRequest      *BandwidthEntry    `json:"bandwidth,omitempty"`
	// DeviceID names a device, so that none is looked up.
	DeviceID string `json:"deviceID,omitempty"`
	// CNIArgs go to args.cni of every plugin.
	// +kubebuilder:pruning:PreserveUnknownFields
	CNIArgs *runtime.RawExtension `json:"cni-args,omitempty"`
	// GatewayRequest makes this network carry the pod's default route.
	GatewayRequest     []string `json:"default-route,omitempty"`
	IPAMClaimReference string   `json:"ipam-claim-reference,omitempty"`
}

// PortMappingEntry is one port mapping.
type PortMappingEntry struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
	HostIP        string `json:"hostIP,omitempty"`
}

// BandwidthEntry holds rates in bits per second and bursts in bits.
type BandwidthEntry struct {
	IngressRate  int `json:"ingressRate"`
	IngressBurst int `json:"ingressBurst"`
	EgressRate   int `json:"egressRate"`
	EgressBurst  int `json:"egressBurst"`
}

// NetworkStatus is one element of the network-status annotation.
type NetworkStatus struct {
	// Name is "namespace/name" of the NetworkAttachmentDefinition, or the CNI configuration's name.
	Name      string   `json:"name"`
	Interface string   `json:"interface,omitempty"`
	IPs       []string `json:"ips,omitempty"`
	// Mac is the hardware address; 20 octets on InfiniBand.
	Mac     string `json:"mac,omitempty"`
	Mtu     int    `json:"mtu,omitempty"`
	Default bool   `json:"default,omitempty"`
	// DNS always appears, if only as an empty object: readers expect the key.
	DNS        DNS         `json:"dns"`
	DeviceInfo *DeviceInfo `json:"device-info,omitempty"`
	Gateway    []string    `json:"gateway,omitempty"`
}

// DNS is the name service of a network.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// Values of DeviceInfo.
const (
	DeviceInfoTypePCI = "pci"
	DeviceInfoVersion = "1.1.0"
)

// DeviceInfo describes the device of a network; also the content of device-info files.
type DeviceInfo struct {
	Type    string     `json:"type,omitempty"`
	Version string     `json:"version,omitempty"`
	Pci     *PciDevice `json:"pci,omitempty"`
}

// PciDevice is a PCI function.
type PciDevice struct {
	PciAddress        string `json:"pci-address,omitempty"`
	Vhostnet          string `json:"vhost-net,omitempty"`
	RdmaDevice        string `json:"rdma-device,omitempty"`
	PfPciAddress      string `json:"pf-pci-address,omitempty"`
	RepresentorDevice string `json:"representor-device,omitempty"`
}
