// SPDX-License-Identifier: Apache-2.0

// Package scheme assembles the one runtime scheme that all processes and tests share: Kubernetes' own types,
// CustomResourceDefinitions, and the three API groups of this project. It knows no client.
package scheme

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// New returns a fresh scheme. It panics when two packages claim one kind, which only a wrong build can cause.
func New() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme,
		apiextensionsv1.AddToScheme,
		v2beta1.AddToScheme,
		sriovv1.AddToScheme,
		cncfv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(fmt.Sprintf("assembling the scheme: %v", err))
		}
	}
	return s
}
