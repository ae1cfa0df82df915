// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
)

func TestIgnored(t *testing.T) {
	for conf, want := range map[string][]string{
		`{"type":"coordinator","mode":"auto","hostRPFilter":0,"detectGateway":true}`: {
			`key "detectGateway" of plugin coordinator has no effect: the agent's setting enableGatewayDetection counts`,
			`key "hostRPFilter" of plugin coordinator has no effect: rp_filter of the node stays as it is`,
		},
		`{"type":"ipoib","master":"ib0","foreign":1,"ipam":{"type":"spiderpool","log_level":"DEBUG"}}`: {
			`key "log_level" of plugin spiderpool has no effect: the agent's log has what the plugin did`,
		},
		`{"type":"bridge","detectGateway":true,"ipam":{"type":"host-local","log_level":"x"}}`: nil,
		`{"type":7,"ipam":"x"}`: nil,
		`[]`:                    nil,
	} {
		if diff := cmp.Diff(want, Ignored([]byte(conf))); diff != "" {
			t.Errorf("%s:\n%s", conf, diff)
		}
	}
}

func TestCheckInjection(t *testing.T) {
	wish := map[string]string{"cni.spidernet.io/rdma-resource-inject": "rdma-network"}
	const want = "annotation cni.spidernet.io/rdma-resource-inject: networks and resources are not injected into " +
		"pods: name the networks with annotation " +
		"v1.multus-cni.io/default-network or k8s.v1.cni.cncf.io/networks, and their resources in resources.limits"
	if err := CheckInjection(wish, Selected{}); err == nil || err.Error() != want {
		t.Errorf("a pod without networks: %v, want %q", err, want)
	}
	for name, s := range map[string]Selected{"default": {Default: &cncfv1.NetworkSelectionElement{}},
		"further": {Networks: make([]cncfv1.NetworkSelectionElement, 1)}} {
		if err := CheckInjection(wish, s); err != nil {
			t.Errorf("a pod that names its %s network: %v", name, err)
		}
	}
	if err := CheckInjection(map[string]string{"cni.spidernet.io/network-resource-inject": ""},
		Selected{}); err != nil {
		t.Errorf("an empty annotation: %v", err)
	}
}
