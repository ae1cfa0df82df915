// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

func ibNetwork(spec sriovv1.SriovIBNetworkSpec) *sriovv1.SriovIBNetwork {
	spec.ResourceName = "mellanoxibsriov"
	return &sriovv1.SriovIBNetwork{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ib"}, Spec: spec}
}

func TestRenderIBNetwork(t *testing.T) {
	tests := []struct {
		name string
		spec sriovv1.SriovIBNetworkSpec
		want string
	}{
		{"least", sriovv1.SriovIBNetworkSpec{}, `{"cniVersion":"1.0.0","name":"ib","type":"ib-sriov"}`},
		{"all but meta plugins", sriovv1.SriovIBNetworkSpec{LinkState: "enable",
			Capabilities: `{ "infinibandGUID": true }`, IPAM: "{\n\"type\": \"spiderpool\"\n}"},
			`{"cniVersion":"1.0.0","name":"ib","type":"ib-sriov","link_state":"enable","capabilities":{"infinibandGUID":true},"ipam":{"type":"spiderpool"}}`},
		{"meta plugins", sriovv1.SriovIBNetworkSpec{LinkState: "auto",
			MetaPluginsConfig: `{"type": "coordinator"}, {"type": "tuning", "mtu": 1500}`},
			`{"cniVersion":"1.0.0","name":"ib","plugins":[{"type":"ib-sriov","link_state":"auto"},{"type":"coordinator"},{"type":"tuning","mtu":1500}]}`},
	}
	for _, tt := range tests {
		got, err := RenderIBNetwork(ibNetwork(tt.spec), "spidernet.io")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got.Spec.Config); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		want := map[string]string{
			"k8s.v1.cni.cncf.io/resourceName":     "spidernet.io/mellanoxibsriov",
			"sriovnetwork.openshift.io/owner-ref": "SriovIBNetwork.sriovnetwork.openshift.io/kube-system/ib",
		}
		if diff := cmp.Diff(want, got.Annotations); diff != "" || got.Namespace != "kube-system" || got.Name != "ib" {
			t.Errorf("%s: %s/%s %s", tt.name, got.Namespace, got.Name, diff)
		}
		if _, err := Configure([]byte(got.Spec.Config), "kube-system/ib", nil, "0000:86:00.1"); err != nil {
			t.Errorf("%s: a pod cannot be attached to it: %v", tt.name, err)
		}
	}
	elsewhere, err := RenderIBNetwork(ibNetwork(sriovv1.SriovIBNetworkSpec{NetworkNamespace: "apps"}), "spidernet.io")
	if err != nil || elsewhere.Namespace != "apps" {
		t.Errorf("%v, %v", elsewhere, err)
	}
	if _, err := RenderIBNetwork(ibNetwork(sriovv1.SriovIBNetworkSpec{IPAM: "{"}), "spidernet.io"); err == nil ||
		!strings.Contains(err.Error(), "spec.ipam") {
		t.Errorf("error %v", err)
	}
}
