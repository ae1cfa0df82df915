// SPDX-License-Identifier: Apache-2.0

package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion names the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "sriovnetwork.openshift.io", Version: "v1"}

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&SriovNetworkNodePolicy{}, &SriovNetworkNodePolicyList{},
		&SriovNetworkNodeState{}, &SriovNetworkNodeStateList{},
		&SriovOperatorConfig{}, &SriovOperatorConfigList{},
		&SriovNetworkPoolConfig{}, &SriovNetworkPoolConfigList{},
		&SriovIBNetwork{}, &SriovIBNetworkList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
