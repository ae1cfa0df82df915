// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with testdata/name, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", path, diff)
	}
}

func TestRender(t *testing.T) {
	//nolint:lll // the lines of a raw string
	for _, tt := range []struct {
		name, spec  string
		annotations map[string]string
	}{
		{name: "ib-sriov",
			spec: "cniType: ib-sriov\nibsriov: {resourceName: spidernet.io/mellanoxibsriov, ippools: {ipv4: [v4-91]}}"},
		{name: "ipoib", spec: "cniType: ib-sriov\nipoib: {master: ibs5f0, ippools: {ipv4: [v4-91]}}"},
		{
			name: "ib-sriov-full",
			spec: `{cniType: ib-sriov, ibsriov: {resourceName: a.io/b, linkState: auto, rdmaIsolation: false, enableIbKubernetes: true, ippools: {ipv4: [a, b], ipv6: [c], matchMasterSubnet: true}},
				chainCNIJsonData: ['{"type": "tuning",  "sysctl": {"a": "1"}}'],
				coordinator: {mode: underlay, tunePodRoutes: false, txQueueLen: 10, vethLinkAddress: 169.254.1.1, vethMTU: 1400, podMACPrefix: "0a:1b",
					podDefaultRouteNIC: eth0, podRPFilter: 0, hostRuleTable: 600, hijackCIDR: [10.0.0.0/8], policyRoutes: [{dst: 10.1.0.0/16, gw: 10.0.0.1}]}}`,
			annotations: map[string]string{
				v2beta1.AnnotationMultusConfigCNIVersion: "1.0.0", v2beta1.AnnotationMultusConfigNADName: "other",
				v2beta1.AnnotationCNIConfigName: "inner",
				lastApplied:                     "{}", "example.io/team": "hpc",
			},
		},
		{name: "ipoib-bare",
			spec: "{cniType: ipoib, ipoib: {master: ib0}, enableCoordinator: false, disableIPAM: true}"},
		{name: "ipoib-subnet",
			spec: "{cniType: ipoib, ipoib: {master: ib0, ippools: {ipv4: [p], matchMasterSubnet: true}}}"},
		{name: "ib-sriov-no-pools", spec: "{cniType: ib-sriov, ibsriov: {resourceName: a.io/b}}"},
		{name: "ib-sriov-rdma-only", spec: "{cniType: ib-sriov, ibsriov: {resourceName: a.io/b}, disableIPAM: true}"},
		{name: "macvlan",
			spec: "{cniType: macvlan, macvlan: {master: [eth1], vlanID: 100, mtu: 1400, rdmaResourceName: a.io/b, " +
				"ippools: {ipv4: [p]}}}"},
		{name: "macvlan-plain", spec: "{cniType: macvlan, macvlan: {master: [eth1]}}"},
		{name: "ipvlan",
			spec: "{cniType: ipvlan, ipvlan: {master: [a, b], bond: {name: bond0, mode: 1, options: primary=a}}}"},
		{name: "vlan", spec: "{cniType: vlan, vlan: {master: [eth1], vlanMode: manual, vlanID: 7}}"},
		{name: "sriov",
			spec: "{cniType: sriov, sriov: {resourceName: a.io/b, vlanID: 5, mtu: 9000, minTxRateMbps: 1, " +
				"maxTxRateMbps: 2, rdmaIsolation: true, ippools: {ipv4: [p], matchMasterSubnet: true}}}"},
		{name: "ovs",
			spec: "{cniType: ovs, ovs: {bridge: br0, vlan: 5, deviceID: '0000:01:00.1', trunk: [{minID: 1, maxID: " +
				"2}, {id: 7}]}}"},
		{name: "custom", spec: `{cniType: custom, customCNI: '{ "type":  "ptp" }'}`},
		{name: "custom-file", spec: "{cniType: custom}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: strings.TrimSuffix(tt.name, "-full"),
				Namespace: "kube-system", Annotations: tt.annotations}}
			if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(tt.spec, "\t", " ")), &c.Spec); err != nil {
				t.Fatal(err)
			}
			bare, err := Render(c)
			if err != nil {
				t.Fatalf("without defaults: %v", err)
			}
			v2beta1.DefaultMultusConfig(c)
			if errs, _ := v2beta1.ValidateMultusConfig(c); len(errs) > 0 {
				t.Fatal(errs)
			}
			got, err := Render(c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(bare, got); diff != "" && tt.name != "vlan" {
				t.Errorf("differs without defaults (-without +with):\n%s", diff)
			}
			if strings.Contains(got.Spec.Config, "\n") {
				t.Error("the configuration has several lines, want one")
			}
			golden(t, tt.name+".json", marshal(t, got))
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	for spec, want := range map[string]string{
		"{cniType: ipoib}": `cniType "ipoib" has no stanza of its own`,
		"{cniType: ib-sriov, ibsriov: {resourceName: a.io/b, pkey: " +
			"'0x8001'}}": "rendering SpiderMultusConfig y/x: spec.ibsriov.pkey: Forbidden: partitions are not " +
			"implemented",
		"{cniType: ipoib, ipoib: {master: a}, chainCNIJsonData: ['{']}": "spec.chainCNIJsonData[0]: want a JSON object",
	} {
		c := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "y"}}
		if err := yaml.UnmarshalStrict([]byte(spec), &c.Spec); err != nil {
			t.Fatal(err)
		}
		if _, err := Render(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}
