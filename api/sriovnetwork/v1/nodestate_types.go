// SPDX-License-Identifier: Apache-2.0

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Values of SriovNetworkNodeStateStatus.SyncStatus.
const (
	SyncStatusSucceeded  = "Succeeded"
	SyncStatusFailed     = "Failed"
	SyncStatusInProgress = "InProgress"
)

// RDMA modes, as SriovNetworkPoolConfig and SriovNetworkNodeState write them.
const (
	RdmaModeShared    = "shared"
	RdmaModeExclusive = "exclusive"
)

// SriovNetworkNodeStateSpec is what the node's cards shall be, computed from the policies.
type SriovNetworkNodeStateSpec struct {
	// +optional
	Interfaces Interfaces `json:"interfaces,omitempty"`
	// +optional
	System System `json:"system,omitempty"`
}

// System is what a node shall be as a whole.
type System struct {
	// RdmaMode is the desired mode of the node's RDMA subsystem.
	// +kubebuilder:validation:Enum=shared;exclusive
	// +optional
	RdmaMode string `json:"rdmaMode,omitempty"`
}

// Types of SriovNetworkNodeStateStatus.Conditions; those of other kinds have Ready only.
const (
	// ConditionReady: the node is as its spec says; the policy is in force on every node that it
	// selects; the network's NetworkAttachmentDefinition is as the network says.
	ConditionReady = "Ready"
	// ConditionRdmaMode: the mode of the RDMA subsystem is the wanted one.
	ConditionRdmaMode = "RdmaMode"
	// ConditionDrained: no pod is in the way of what the node shall become. Absent on a node that
	// never had to be drained.
	ConditionDrained = "Drained"
	// ConditionGuidsUnique: no InfiniBand function of the node bears a GUID that another one bears too.
	ConditionGuidsUnique = "GuidsUnique"
)

// Annotations of a SriovNetworkNodeState that the operator writes and the printer columns show.
const (
	// AnnotationDesiredState is Drain_Required while pods are in the way of what the node shall
	// become and may be evicted.
	AnnotationDesiredState = "sriovnetwork.openshift.io/desired-state"
	// AnnotationCurrentState is how far that is.
	AnnotationCurrentState = "sriovnetwork.openshift.io/current-state"
)

// Values of these annotations.
const (
	StateIdle          = "Idle"
	StateDrainRequired = "Drain_Required"
	// StateDraining: pods are being evicted. The agent offers no VF of what they have to leave.
	StateDraining = "Draining"
	// StateDrainComplete: the pods are gone, and the agent is at work.
	StateDrainComplete = "DrainComplete"
)

// Draining tells whether VFs that have to become free are to be withheld from pods.
func (s *SriovNetworkNodeState) Draining() bool {
	state := s.Annotations[AnnotationCurrentState]
	return state == StateDraining || state == StateDrainComplete
}

// Interfaces are the desired physical functions of a node.
type Interfaces []Interface

// Interface is what one physical function shall be.
type Interface struct {
	PciAddress string `json:"pciAddress"`
	// +optional
	NumVfs int `json:"numVfs,omitempty"`
	// +optional
	Mtu int `json:"mtu,omitempty"`
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	LinkType string `json:"linkType,omitempty"`
	// +optional
	EswitchMode string `json:"eSwitchMode,omitempty"`
	// +optional
	VfGroups []VfGroup `json:"vfGroups,omitempty"`
	// +optional
	ExternallyManaged bool `json:"externallyManaged,omitempty"`
}

// VfGroup is a range of VFs that serve one resource.
type VfGroup struct {
	// +optional
	ResourceName string `json:"resourceName,omitempty"`
	// +optional
	DeviceType string `json:"deviceType,omitempty"`
	// VfRange is "first-last", both included.
	// +optional
	VfRange string `json:"vfRange,omitempty"`
	// +optional
	PolicyName string `json:"policyName,omitempty"`
	// +optional
	Mtu int `json:"mtu,omitempty"`
	// +optional
	IsRdma bool `json:"isRdma,omitempty"`
	// +optional
	VdpaType string `json:"vdpaType,omitempty"`
	// +optional
	ExcludeTopology bool `json:"excludeTopology,omitempty"`
}

// SriovNetworkNodeStateStatus is what the node's agent observed.
type SriovNetworkNodeStateStatus struct {
	// +optional
	Interfaces InterfaceExts `json:"interfaces,omitempty"`
	// +optional
	System System `json:"system,omitempty"`
	// SyncStatus is Succeeded, Failed or InProgress.
	// +optional
	SyncStatus string `json:"syncStatus,omitempty"`
	// +optional
	LastSyncError string `json:"lastSyncError,omitempty"`
	// Plan lists what will be done and what may not be done yet, and why.
	// +optional
	Plan []PlannedChange `json:"plan,omitempty"`
	// ObservedGeneration is the generation that the status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions has the types Ready and RdmaMode, of the agent, and Drained and GuidsUnique, of
	// the operator.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PlannedChange is one step that the agent wants to take on a physical function.
type PlannedChange struct {
	PciAddress string `json:"pciAddress"`
	// Change says what is to be done, such as "numVfs 4 -> 12".
	Change string `json:"change"`
	// Blocked says why it cannot be done yet, and what would free it; empty when it will be done.
	// +optional
	Blocked string `json:"blocked,omitempty"`
	// InUse: pods alone block it, so it will be done as soon as they are gone.
	// +optional
	InUse bool `json:"inUse,omitempty"`
	// WaitsFor are "namespace/name" of the pods that have to go, when every user is known and is a pod.
	// +optional
	WaitsFor []string `json:"waitsFor,omitempty"`
}

// InterfaceExts are the observed physical functions of a node.
type InterfaceExts []InterfaceExt

// InterfaceExt is one observed physical function.
type InterfaceExt struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	AltNames []string `json:"altNames,omitempty"`
	// +optional
	Mac string `json:"mac,omitempty"`
	// +optional
	Driver     string `json:"driver,omitempty"`
	PciAddress string `json:"pciAddress"`
	// +optional
	Vendor string `json:"vendor,omitempty"`
	// +optional
	DeviceID string `json:"deviceID,omitempty"`
	// +optional
	Mtu int `json:"mtu,omitempty"`
	// +optional
	NumVfs int `json:"numVfs,omitempty"`
	// +optional
	TotalVfs int `json:"totalvfs,omitempty"`
	// +optional
	LinkSpeed string `json:"linkSpeed,omitempty"`
	// LinkType is IB or ETH.
	// +optional
	LinkType string `json:"linkType,omitempty"`
	// +optional
	LinkAdminState string `json:"linkAdminState,omitempty"`
	// PortState is the InfiniBand port's logical state, such as ACTIVE.
	// +optional
	PortState string `json:"portState,omitempty"`
	// +optional
	EswitchMode string `json:"eSwitchMode,omitempty"`
	// +optional
	ExternallyManaged bool `json:"externallyManaged,omitempty"`
	// RdmaDevice is the RDMA device of the function, such as mlx5_0.
	// +optional
	RdmaDevice string `json:"rdmaDevice,omitempty"`
	// Guid is the port GUID.
	// +optional
	Guid string `json:"guid,omitempty"`
	// Managed is true while the function has VFs that the agent made or configured. When no policy
	// selects it any more, the operator asks for numVfs 0, and the agent removes them once no pod
	// uses one. Adopted VFs do not count.
	// +optional
	Managed bool `json:"managed,omitempty"`
	// NumaNode is -1 when the machine does not tell.
	// +optional
	NumaNode *int `json:"numaNode,omitempty"`
	// +optional
	VFs []VirtualFunction `json:"Vfs,omitempty"`
}

// VirtualFunction is one observed virtual function.
type VirtualFunction struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Mac string `json:"mac,omitempty"`
	// +optional
	Assigned string `json:"assigned,omitempty"`
	// +optional
	Driver     string `json:"driver,omitempty"`
	PciAddress string `json:"pciAddress"`
	// +optional
	Vendor string `json:"vendor,omitempty"`
	// +optional
	DeviceID string `json:"deviceID,omitempty"`
	// +optional
	Vlan int `json:"Vlan,omitempty"`
	// +optional
	Mtu  int `json:"mtu,omitempty"`
	VfID int `json:"vfID"`
	// +optional
	VdpaType string `json:"vdpaType,omitempty"`
	// +optional
	RepresentorName string `json:"representorName,omitempty"`
	// +optional
	GUID string `json:"guid,omitempty"`
	// RdmaDevice is the RDMA device of the function, such as mlx5_3.
	// +optional
	RdmaDevice string `json:"rdmaDevice,omitempty"`
	// LinkState is what the PF was told: auto, enable or disable.
	// +optional
	LinkState string `json:"linkState,omitempty"`
	// PortState is the logical state of the function's port, such as ACTIVE; absent while it cannot be seen.
	// +optional
	PortState string `json:"portState,omitempty"`
	// Resource is the extended resource, without its prefix, that the function is advertised as;
	// absent when it is not.
	// +optional
	Resource string `json:"resource,omitempty"`
	// NotReady says why a function of a group is not advertised.
	// +optional
	NotReady string `json:"notReady,omitempty"`
	// Pod is "namespace/name" of the pod that uses the function.
	// +optional
	Pod string `json:"pod,omitempty"`
}

// SriovNetworkNodeState is what the cards of the node of the same name shall be, and what they are.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=sriovnetworknodestates,singular=sriovnetworknodestate
// +kubebuilder:printcolumn:name="Sync Status",type=string,JSONPath=".status.syncStatus"
// +kubebuilder:printcolumn:name="Desired Sync State",type=string,JSONPath=".metadata.annotations['sriovnetwork\\.openshift\\.io/desired-state']"
// +kubebuilder:printcolumn:name="Current Sync State",type=string,JSONPath=".metadata.annotations['sriovnetwork\\.openshift\\.io/current-state']"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=".metadata.creationTimestamp"
type SriovNetworkNodeState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SriovNetworkNodeStateSpec   `json:"spec,omitempty"`
	Status SriovNetworkNodeStateStatus `json:"status,omitempty"`
}

// SriovNetworkNodeStateList is a list of node states.
//
// +kubebuilder:object:root=true
type SriovNetworkNodeStateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SriovNetworkNodeState `json:"items"`
}
