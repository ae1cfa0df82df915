// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/nad"
)

// What is made of a SriovIBNetwork is what this plugin takes, alone and before meta plugins.
func TestTakesSriovIBNetwork(t *testing.T) {
	for _, meta := range []string{"", `{"type": "coordinator"}`} {
		n, err := nad.RenderIBNetwork(&sriovv1.SriovIBNetwork{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ib"},
			Spec: sriovv1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov", LinkState: "enable",
				Capabilities: `{"infinibandGUID": true}`,
				IPAM:         `{"type": "spiderpool"}`, MetaPluginsConfig: meta},
		}, "spidernet.io")
		must(t, err)
		list, err := nad.Configure([]byte(n.Spec.Config), "kube-system/ib", nil, vf0)
		must(t, err)
		var conf struct {
			Plugins []json.RawMessage `json:"plugins"`
		}
		must(t, json.Unmarshal(list, &conf))
		req, err := parse(call(string(conf.Plugins[0])))
		must(t, err)
		if req.pci != vf0 || req.linkState != host.VFEnable || req.isolate != nil {
			t.Errorf("%s is taken as %+v", conf.Plugins[0], req)
		}
	}
}
