// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// FuzzMultusConfig: refusals name the field; defaulting once more changes nothing; and what is
// accepted has one known type with its stanza, chained plugins that have a type, and is accepted
// when it is written anew.
func FuzzMultusConfig(f *testing.F) {
	f.Add("cniType: ib-sriov\n"+ibsriov, "", "", "")
	f.Add("cniType: ib-sriov\nipoib: {master: ibs5f0, ippools: {ipv4: [v4-91]}}", "0.3.1", "", "")
	f.Add(
		`{cniType: ib-sriov, ibsriov: {resourceName: a.io/b, pkey: "0x8001", linkState: auto, rdmaIsolation: false, enableIbKubernetes: true, ippools: {ipv4: [a, b], ipv6: [c], matchMasterSubnet: true}},
  chainCNIJsonData: ['{"type": "tuning",  "sysctl": {"a": "1"}}', '{"type":"rdma"}'],
  coordinator: {mode: underlay, tunePodRoutes: false, vethLinkAddress: 169.254.1.1, podMACPrefix: "0a:1b", hostRuleTable: 600, hijackCIDR: [10.0.0.0/8], policyRoutes: [{dst: 10.1.0.0/16, gw: 10.0.0.1}]}}`, "1.0.0", "other", "inner")
	f.Add("{cniType: macvlan, macvlan: {master: [eth1], vlanID: 100, mtu: 1400, rdmaResourceName: a.io/b}}", "9", "A B",
		"-")
	f.Add("{cniType: ipvlan, ipvlan: {master: [a, a], bond: {name: bond0, mode: 7}}}", "", "", "")
	f.Add("{cniType: vlan, vlan: {master: [eth1], vlanMode: auto}}", "", "", "")
	f.Add("{cniType: sriov, sriov: {resourceName: a.io/b, vlanID: 5, minTxRateMbps: 3, maxTxRateMbps: 2}}", "", "", "")
	f.Add("{cniType: ovs, ovs: {bridge: br0, trunk: [{minID: 2, maxID: 1}, null]}}", "", "", "")
	f.Add(`{cniType: custom, customCNI: '{"plugins":[null,{"type":""}]}', chainCNIJsonData: ['{}', 'null', '[']}`, "",
		"", "")
	f.Add(`{cniType: custom, customCNI: '{"cniVersion":"0.3.1","type":"ptp"}'}`, "", "", "")
	f.Add("{cniType: x}", "", "", "")
	f.Add("{}", "", "", "")
	f.Fuzz(func(t *testing.T, spec, version, nadName, confName string) {
		annotations := map[string]string{}
		for key, value := range map[string]string{AnnotationMultusConfigCNIVersion: version,
			AnnotationMultusConfigNADName: nadName, AnnotationCNIConfigName: confName} {
			if value != "" {
				annotations[key] = value
			}
		}
		c := &SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "net", Namespace: "kube-system",
			Annotations: annotations}}
		if yaml.UnmarshalStrict([]byte(spec), &c.Spec) != nil {
			return
		}
		DefaultMultusConfig(c)
		once := c.DeepCopy()
		if warnings := DefaultMultusConfig(c); len(warnings) > 0 {
			t.Fatalf("%q: defaulting once more warns of %q", spec, warnings)
		}
		if diff := cmp.Diff(once, c); diff != "" {
			t.Fatalf("%q: defaulting once more:\n%s", spec, diff)
		}
		errs, _ := ValidateMultusConfig(c)
		says(t, errs)
		for _, err := range errs {
			if !strings.HasPrefix(err.Field, "spec") && !strings.HasPrefix(err.Field, "metadata.annotations") {
				t.Fatalf("%q: the refusal %v is of no field of the object", spec, err)
			}
		}
		if len(errs) > 0 {
			return
		}
		checkAccepted(t, c)
	})
}

func checkAccepted(t *testing.T, c *SpiderMultusConfig) {
	t.Helper()
	found := c.Spec.stanzas()
	cniType := c.Spec.EffectiveCNIType()
	if cniType != *c.Spec.CniType || !slices.Contains(knownCNITypes(), cniType) || len(found) > 1 || len(found) == 0 &&
		cniType != CustomCNI || len(found) == 1 && found[0].cniType != cniType {
		t.Fatalf("type %q with %d stanzas: %+v", cniType, len(found), c.Spec)
	}
	for _, text := range c.Spec.ChainCNIJsonData {
		var plugin struct{ Type any }
		if err := json.Unmarshal([]byte(text), &plugin); err != nil || plugin.Type == nil {
			t.Fatalf("the chained plugin %q: %v", text, err)
		}
	}
	written, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var again SpiderMultusConfig
	if err := json.Unmarshal(written, &again); err != nil {
		t.Fatal(err)
	}
	if errs, _ := ValidateMultusConfig(&again); len(errs) > 0 {
		t.Fatalf("%s is refused: %v", written, errs)
	}
	if errs := ValidateMultusConfigUpdate(c, &again); len(errs) > 0 {
		t.Fatalf("%s is refused as an update of itself: %v", written, errs)
	}
}

// What fuzzing found to be taken and to be of no use to anybody.
func TestFoundByFuzzing(t *testing.T) {
	for spec, want := range map[string]string{
		`{customCNI: '{"plugins":[{"type":"a"},null]}'}`: `plugins[1]: the plugin has no "type"`,
		`{customCNI: '{"plugins":[7]}'}`:                 "plugins[0]: want one CNI plugin as a JSON object",
		`{customCNI: '{"plugins":[],"type":"a"}'}`:       `at least one CNI plugin under "plugins"`,
		`{customCNI: '{"Type":"ptp"}'}`:                  `neither "type" nor "plugins"`,
		`{cniType: ipoib, ipoib: {master: ib0}, coordinator: {policyRoutes: [{dst: "fd00::/64", gw: "fe80::1%eth0"}]}}`:      "it has a zone; write fe80::1",
		`{cniType: ipoib, ipoib: {master: ib0}, coordinator: {policyRoutes: [{dst: "::ffff:10.0.0.0/104", gw: "fd00::1"}]}}`: "policyRoutes[0].dst",
		`{cniType: ipoib, ipoib: {master: ib0}, coordinator: {policyRoutes: [{dst: "10.0.0.0/8", gw: "::ffff:10.0.0.1"}]}}`:  "written as IPv6; write 10.0.0.1",
		`{cniType: ipoib, ipoib: {master: ib0}, coordinator: {hijackCIDR: ["10.0.0.0/8", "::ffff:10.0.0.0/104"]}}`:           "hijackCIDR[1]",
	} {
		c := parseMultusConfig(t, spec, nil)
		DefaultMultusConfig(c)
		errs, _ := ValidateMultusConfig(c)
		var messages []string
		for _, e := range errs {
			messages = append(messages, e.Error())
		}
		matchAll(t, spec, messages, []string{want})
	}
}
