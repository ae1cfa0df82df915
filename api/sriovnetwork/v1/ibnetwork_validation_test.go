// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"strings"
	"testing"
)

func TestSriovIBNetworkValidate(t *testing.T) {
	tests := []struct {
		name string
		spec SriovIBNetworkSpec
		want []string // parts of the only error; none: valid
	}{
		{"least", SriovIBNetworkSpec{}, nil},
		{"all", SriovIBNetworkSpec{NetworkNamespace: "apps", Capabilities: "{\n \"infinibandGUID\": true}",
			IPAM:              ` {"type": "spiderpool", "x": [1]} `,
			MetaPluginsConfig: "{\"type\": \"a\"},\n {\"type\": \"b\"}"}, nil},
		{"blank texts", SriovIBNetworkSpec{Capabilities: " ", IPAM: "{}", MetaPluginsConfig: "\n"}, nil},
		{"resource with its prefix", SriovIBNetworkSpec{ResourceName: "spidernet.io/x"},
			[]string{"spec.resourceName", "without a prefix"}},
		{"namespace", SriovIBNetworkSpec{NetworkNamespace: "A B"}, []string{"spec.networkNamespace",
			"name of a namespace"}},
		{"capabilities of other values", SriovIBNetworkSpec{Capabilities: `{"ips": "yes"}`},
			[]string{"spec.capabilities", "line 1, column 13: found a JSON string", "true or false"}},
		{"capabilities as a list", SriovIBNetworkSpec{Capabilities: `["ips"]`},
			[]string{"spec.capabilities", "found a JSON array"}},
		{"IPAM, second line", SriovIBNetworkSpec{IPAM: "{\n  \"type\": spiderpool\n}"},
			[]string{"spec.ipam", "line 2, column 11", "invalid character 's'", `{"type": "spiderpool"}`}},
		{"IPAM cut off", SriovIBNetworkSpec{IPAM: `{"type": "spiderpool"`},
			[]string{"spec.ipam", "line 1, column 21: the JSON ends too early"}},
		{"IPAM and more", SriovIBNetworkSpec{IPAM: `{"type": "spiderpool"} {}`},
			[]string{"spec.ipam", "there is more behind the end"}},
		{"IPAM without a type", SriovIBNetworkSpec{IPAM: `{"range": "x"}`}, []string{"spec.ipam", `no "type"`}},
		{"DHCP", SriovIBNetworkSpec{IPAM: `{"type": "dhcp"}`}, []string{"spec.ipam", "does not work on InfiniBand"}},
		{"meta plugin", SriovIBNetworkSpec{MetaPluginsConfig: "{\"type\": \"a\"}\n{\"type\": \"b\"}"},
			[]string{"spec.metaPlugins", "line 2, column 1: invalid character '{'", "separated by commas"}},
		{"meta plugin cut off", SriovIBNetworkSpec{MetaPluginsConfig: `{"type": "a"`},
			[]string{"spec.metaPlugins", "line 1, column 13"}},
		{"meta plugin without a type", SriovIBNetworkSpec{MetaPluginsConfig: `{"type": "a"}, {}`},
			[]string{"spec.metaPlugins", `plugin 2 has no "type"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &SriovIBNetwork{Spec: tt.spec}
			if n.Spec.ResourceName == "" {
				n.Spec.ResourceName = "mellanoxibsriov"
			}
			_, errs := n.Validate()
			if len(tt.want) == 0 {
				if len(errs) > 0 {
					t.Fatal(errs)
				}
				return
			}
			if len(errs) != 1 {
				t.Fatalf("%d errors, want one: %v", len(errs), errs)
			}
			for _, part := range tt.want {
				if !strings.Contains(errs[0].Error(), part) {
					t.Errorf("lacks %q: %v", part, errs[0])
				}
			}
		})
	}
}
