// SPDX-License-Identifier: Apache-2.0

package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// DefaultOperatorConfigName is the name of the one SriovOperatorConfig that counts.
const DefaultOperatorConfigName = "default"

// SriovOperatorConfigSpec holds the operator's settings.
type SriovOperatorConfigSpec struct {
	// ConfigDaemonNodeSelector are labels of the nodes whose cards are managed.
	// +optional
	ConfigDaemonNodeSelector map[string]string `json:"configDaemonNodeSelector,omitempty"`
	// EnableInjector has no effect: pods name their resources themselves.
	// +optional
	EnableInjector bool `json:"enableInjector,omitempty"`
	// EnableOperatorWebhook has no effect: policies are always admitted by the controller.
	// +optional
	EnableOperatorWebhook bool `json:"enableOperatorWebhook,omitempty"`
	// LogLevel has no effect here: the chart's value of this name sets the operator's level.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2
	// +optional
	LogLevel int `json:"logLevel,omitempty"`
	// DisableDrain: nobody is ever evicted, and a card in use waits until it is free. With false,
	// the operator evicts the pods that use VFs of a card that has to change, through the Eviction
	// API, so that PodDisruptionBudgets count, and no other pods.
	// +kubebuilder:default=true
	// +optional
	DisableDrain *bool `json:"disableDrain,omitempty"`
	// ConfigurationMode has no effect: the agent is always the one that configures.
	// +kubebuilder:validation:Enum=daemon;systemd
	// +optional
	ConfigurationMode string `json:"configurationMode,omitempty"`
	// UseCDI, DisablePlugins, FeatureGates and ConfigDaemonEnvVars have no effect.
	// +optional
	UseCDI bool `json:"useCDI,omitempty"`
	// +optional
	DisablePlugins []string `json:"disablePlugins,omitempty"`
	// +optional
	FeatureGates map[string]bool `json:"featureGates,omitempty"`
	// +optional
	ConfigDaemonEnvVars map[string]string `json:"configDaemonEnvVars,omitempty"`
}

// SriovOperatorConfig holds the operator's settings; only the one named default, in the product's
// namespace, counts.
//
// +kubebuilder:object:root=true
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=sriovoperatorconfigs,singular=sriovoperatorconfig
type SriovOperatorConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SriovOperatorConfigSpec `json:"spec,omitempty"`
}

// SriovOperatorConfigList is a list of operator settings.
//
// +kubebuilder:object:root=true
type SriovOperatorConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SriovOperatorConfig `json:"items"`
}

// SriovNetworkPoolConfigSpec holds settings of a set of nodes.
type SriovNetworkPoolConfigSpec struct {
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// MaxUnavailable is how many of the selected nodes may be drained at once, as a number or a
	// percentage of them (rounded down, but at least one); 1 when absent, and 0 lets none be
	// drained. Of several configurations that select a node, the first in order of name counts. It
	// has no effect while SriovOperatorConfig has disableDrain.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 : self.matches('^[0-9]+%$')",message="want a number of nodes from 0 on, or a percentage of the selected nodes, such as 10%"
	// +optional
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
	// RdmaMode is the desired mode of the nodes' RDMA subsystem.
	// +kubebuilder:validation:Enum=shared;exclusive
	// +optional
	RdmaMode string `json:"rdmaMode,omitempty"`
	// OvsHardwareOffloadConfig is for Ethernet cards. Objects that sriov-network-operator has stored have an empty one.
	// +optional
	OvsHardwareOffloadConfig *OvsHardwareOffloadConfig `json:"ovsHardwareOffloadConfig,omitempty"`
}

// OvsHardwareOffloadConfig has nothing that InfiniBand cards could do.
type OvsHardwareOffloadConfig struct {
	// Name is refused unless it is empty.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == ''",message="Open vSwitch takes Ethernet cards: remove spec.ovsHardwareOffloadConfig"
	// +optional
	Name string `json:"name,omitempty"`
}

// SriovNetworkPoolConfig holds settings of a set of nodes.
//
// +kubebuilder:object:root=true
// +kubebuilder:metadata:labels="app.kubernetes.io/part-of=spiderpool"
// +kubebuilder:resource:path=sriovnetworkpoolconfigs,singular=sriovnetworkpoolconfig
type SriovNetworkPoolConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SriovNetworkPoolConfigSpec `json:"spec,omitempty"`
}

// SriovNetworkPoolConfigList is a list of pool settings.
//
// +kubebuilder:object:root=true
type SriovNetworkPoolConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SriovNetworkPoolConfig `json:"items"`
}
