// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"slices"
	"testing"

	"spidernet.io/spiderpool/config"
)

func TestCRDsAreCompleteAndLabelled(t *testing.T) {
	crds, err := config.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, crd := range crds {
		names = append(names, crd.Name)
		if got := crd.Labels[config.LabelPartOf]; got != config.PartOf {
			t.Errorf("%s: label %s is %q, want %q", crd.Name, config.LabelPartOf, got, config.PartOf)
		}
	}
	for _, want := range []string{
		"network-attachment-definitions.k8s.cni.cncf.io",
		"spiderippools.spiderpool.spidernet.io",
		"spideripleases.spiderpool.spidernet.io",
		"spidermultusconfigs.spiderpool.spidernet.io",
		"sriovnetworknodepolicies.sriovnetwork.openshift.io",
		"sriovnetworknodestates.sriovnetwork.openshift.io",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("CRD %s is missing from %v", want, names)
		}
	}
}
