// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion names the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "spiderpool.spidernet.io", Version: "v2beta1"}

// Finalizer guards objects of this group that must not vanish while others use them.
const Finalizer = "spiderpool.spidernet.io"

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&SpiderIPPool{}, &SpiderIPPoolList{},
		&SpiderReservedIP{}, &SpiderReservedIPList{},
		&SpiderIPLease{}, &SpiderIPLeaseList{},
		&SpiderEndpoint{}, &SpiderEndpointList{},
		&SpiderMultusConfig{}, &SpiderMultusConfigList{},
		&SpiderCoordinator{}, &SpiderCoordinatorList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
