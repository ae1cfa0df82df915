// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// parseMultusConfig reads the spec of a SpiderMultusConfig as a user writes it.
func parseMultusConfig(t *testing.T, spec string, annotations map[string]string) *SpiderMultusConfig {
	t.Helper()
	c := &SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "net", Namespace: "kube-system",
		Annotations: annotations}}
	if err := yaml.UnmarshalStrict([]byte(spec), &c.Spec); err != nil {
		t.Fatalf("spec of the test: %v", err)
	}
	return c
}

const ibsriov = "ibsriov: {resourceName: spidernet.io/mellanoxibsriov, ippools: {ipv4: [v4-91]}}\n"

func TestMultusConfig(t *testing.T) {
	for _, tt := range []struct {
		name, spec  string
		annotations map[string]string
		wantType    string
		// errors and warnings are matched as substrings, one each, in order.
		errors, warnings []string
	}{
		{name: "the guide's ib-sriov", spec: "cniType: ib-sriov\n" + ibsriov, wantType: "ib-sriov"},
		{
			name: "the guide's ipoib", spec: "cniType: ib-sriov\nipoib: {master: ibs5f0, ippools: {ipv4: [v4-91]}}",
			wantType: "ipoib",
			warnings: []string{
				`spec.cniType is "ib-sriov", but the only stanza is spec.ipoib and spec.ibsriov is absent: the stanza wins, and spec.cniType is taken as "ipoib"; write cniType: ipoib to be rid of this warning`},
		},
		{
			name: "no cniType, which the API server made custom", spec: "cniType: custom\nmacvlan: {master: [eth0]}",
			wantType: "macvlan",
			warnings: []string{
				`spec.cniType is "custom" (which it also is when not given), but the only stanza is spec.macvlan and spec.customCNI is absent`},
		},
		{name: "no cniType, no API server", spec: "ipoib: {master: ibs5f0}", wantType: "ipoib"},
		{
			name: "two stanzas", spec: "cniType: ib-sriov\n" + ibsriov + "ipoib: {master: ibs5f0}",
			wantType: "ib-sriov",
			errors: []string{
				`spec: Forbidden: 2 stanzas are present, spec.ibsriov and spec.ipoib: want exactly one; spec.cniType is "ib-sriov": remove spec.ipoib`},
		},
		{
			name: "three stanzas, none of the type", spec: "cniType: macvlan\n" + ibsriov +
				"ipoib: {master: ibs5f0}\ncustomCNI: '{}'", wantType: "macvlan",
			errors: []string{
				`3 stanzas are present, spec.ibsriov, spec.ipoib and spec.customCNI: want exactly one; spec.cniType is "macvlan": give spec.macvlan and remove spec.ibsriov, spec.ipoib and spec.customCNI, or keep one of them`},
		},
		{
			name: "no stanza", spec: "cniType: ipoib", wantType: "ipoib",
			errors: []string{
				`spec.ipoib: Required value: spec.cniType is "ipoib" and no stanza is present: give spec.ipoib`},
		},
		{
			name: "unknown type", spec: "cniType: infiniband\n" + ibsriov, wantType: "infiniband",
			errors: []string{
				`spec.cniType: Unsupported value: "infiniband": supported values: "macvlan", "ipvlan", "vlan", "sriov", "ovs", "ib-sriov", "ipoib", "custom"`},
		},
		{
			name: "resource missing", spec: "cniType: ib-sriov\nibsriov: {}", wantType: "ib-sriov",
			errors: []string{
				"spec.ibsriov.resourceName: Required value: want the extended resource with its prefix, such as " +
					"spidernet.io/mellanoxibsriov"},
		},
		{
			name: "resource without prefix", spec: "cniType: ib-sriov\nibsriov: {resourceName: mellanoxibsriov}",
			wantType: "ib-sriov",
			errors: []string{
				`spec.ibsriov.resourceName: Invalid value: "mellanoxibsriov": has no prefix: want the extended resource`},
		},
		{
			name: "resource malformed", spec: "cniType: ib-sriov\nibsriov: {resourceName: a/b/c}", wantType: "ib-sriov",
			errors: []string{`spec.ibsriov.resourceName: Invalid value: "a/b/c": want the extended resource`},
		},
		{
			name: "pkey and link state",
			spec: "cniType: ib-sriov\nibsriov: {resourceName: a.io/b, pkey: '7', linkState: up}", wantType: "ib-sriov",
			errors: []string{
				"spec.ibsriov.pkey: Forbidden: partitions are not implemented, and the pod would be in the default " +
					"partition: remove the field",
				`spec.ibsriov.linkState: Unsupported value: "up": supported values: "auto", "enable", "disable"`,
			},
		},
		{
			name: "rdma moved twice", spec: "cniType: ib-sriov\n" + ibsriov +
				"chainCNIJsonData: ['{\"type\":\"rdma\"}']", wantType: "ib-sriov",
			errors: []string{
				`spec.chainCNIJsonData[0]: Forbidden: the rdma plugin would move the RDMA device a second time`},
		},
		{
			name: "master missing", spec: "cniType: ipoib\nipoib: {}", wantType: "ipoib",
			errors: []string{
				"spec.ipoib.master: Required value: want the name of an IPoIB interface of the node, such as ibs5f0"},
		},
		{
			name: "master malformed", spec: "cniType: ipoib\nipoib: {master: ib/0}", wantType: "ipoib",
			errors: []string{`spec.ipoib.master: Invalid value: "ib/0": want the name of an IPoIB interface`},
		},
		{
			name: "pool name", spec: "cniType: ipoib\nipoib: {master: ib0, ippools: {ipv4: [V4], ipv6: ['']}}",
			wantType: "ipoib",
			errors: []string{`spec.ipoib.ippools.ipv4[0]: Invalid value: "V4": want the name of a SpiderIPPool`,
				`spec.ipoib.ippools.ipv6[0]: Invalid value: ""`},
		},
		{
			name: "chain",
			spec: "cniType: ipoib\nipoib: {master: ib0}\nchainCNIJsonData: ['{\"type\":\"tuning\"}', '{}', '[]', " +
				"'{\"type\":7}']", wantType: "ipoib",
			errors: []string{
				`spec.chainCNIJsonData[1]: Invalid value: "{}": the plugin has no "type": want one CNI plugin`,
				`spec.chainCNIJsonData[2]: Invalid value: "[]": want one CNI plugin as a JSON object`,
				`spec.chainCNIJsonData[3]: Invalid value: "{\"type\":7}": the plugin has no "type"`,
			},
		},
		{
			name:     "coordinator",
			spec:     "cniType: ipoib\nipoib: {master: ib0}\ncoordinator: {mode: bridge, podCIDRType: auto}",
			wantType: "ipoib",
			errors: []string{
				`spec.coordinator.mode: Unsupported value: "bridge": supported values: "auto", "underlay", "overlay", "disabled"`},
			warnings: []string{"spec.coordinator.podCIDRType has no effect here"},
		},
		{
			name: "annotations", spec: "cniType: ipoib\nipoib: {master: ib0}", wantType: "ipoib",
			annotations: map[string]string{AnnotationMultusConfigNADName: "Net.",
				AnnotationMultusConfigCNIVersion: "0.2.0", AnnotationCNIConfigName: "-x"},
			errors: []string{
				`metadata.annotations[multus.spidernet.io/cr-name]: Invalid value: "Net.": a lowercase RFC 1123 subdomain`,
				`metadata.annotations[multus.spidernet.io/cni-version]: Invalid value: "0.2.0": want one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0`,
				`metadata.annotations[cni.spidernet.io/cniconfig-name]: Invalid value: "-x": want letters`,
			},
			warnings: []string{"has a dot"},
		},
		{
			name: "cni version 1.1.0", spec: "cniType: ipoib\nipoib: {master: ib0}", wantType: "ipoib",
			annotations: map[string]string{AnnotationMultusConfigCNIVersion: "1.1.0"},
		},
		{
			name:     "subnet of an IPoIB master",
			spec:     "cniType: ipoib\nipoib: {master: ib0, ippools: {ipv4: [v4-91], matchMasterSubnet: true}}",
			wantType: "ipoib",
			warnings: []string{
				"spec.ipoib.ippools.matchMasterSubnet has no effect: it is for networks whose pods get a virtual " +
					"function"},
		},
		{
			name: "macvlan",
			spec: "cniType: macvlan\nmacvlan: {master: [eth0, eth0, ''], rdmaResourceName: x, ippools: " +
				"{matchMasterSubnet: true}}", wantType: "macvlan",
			errors: []string{
				`spec.macvlan.master[1]: Duplicate value: "eth0"`, `spec.macvlan.master[2]: Required value`,
				`spec.macvlan.bond: Required value: master names 3 interfaces`,
				`spec.macvlan.ippools.matchMasterSubnet: Invalid value: true: is only for`,
			},
			warnings: []string{
				"spec.macvlan.rdmaResourceName has no effect: resources are not injected into pods; request x in " +
					"the pod's resources.limits"},
		},
		{
			name: "resource of ipvlan", spec: "cniType: ipvlan\nipvlan: {master: [eth0], rdmaResourceName: a.io/b}",
			wantType: "ipvlan",
			warnings: []string{"spec.ipvlan.rdmaResourceName has no effect"},
		},
		{
			name: "resource of vlan",
			spec: "cniType: vlan\nvlan: {master: [eth0], vlanID: 3, rdmaResourceName: a.io/b}", wantType: "vlan",
			warnings: []string{"spec.vlan.rdmaResourceName has no effect"},
		},
		{
			name: "injection", spec: "cniType: ib-sriov\n" + ibsriov, wantType: "ib-sriov",
			annotations: map[string]string{"cni.spidernet.io/rdma-resource-inject": "a",
				"cni.spidernet.io/network-resource-inject": "b"},
			warnings: []string{
				"annotation cni.spidernet.io/rdma-resource-inject has no effect: networks and resources are not " +
					"injected into pods",
				"annotation cni.spidernet.io/network-resource-inject has no effect",
			},
		},
		{name: "macvlan without master", spec: "cniType: macvlan\nmacvlan: {master: []}", wantType: "macvlan",
			errors: []string{"spec.macvlan.master: Required value"}},
		{name: "ipvlan bond", spec: "cniType: ipvlan\nipvlan: {master: [a, b], bond: {name: '', mode: 9}}",
			wantType: "ipvlan", errors: []string{"spec.ipvlan.bond.name: Required value"}},
		{name: "vlan manual", spec: "cniType: vlan\nvlan: {master: [a]}", wantType: "vlan",
			errors: []string{`spec.vlan.vlanID: Required value: vlanMode is "manual"`}},
		{name: "vlan auto", spec: "cniType: vlan\nvlan: {master: [a], vlanMode: auto, vlanID: 3}", wantType: "vlan",
			errors: []string{`spec.vlan.vlanID: Invalid value: 3: vlanMode is "auto"`}},
		{
			name:     "sriov",
			spec:     "cniType: sriov\nsriov: {resourceName: a.io/b, minTxRateMbps: 5, maxTxRateMbps: 4, vlanID: 4095}",
			wantType: "sriov",
			errors: []string{"spec.sriov.vlanID: Invalid value: 4095: want 0 to 4094",
				"spec.sriov.minTxRateMbps: Invalid value: 5: must not be above maxTxRateMbps, which is 4"},
		},
		{
			name: "ovs", spec: "cniType: ovs\novs: {bridge: '', trunk: [{minID: 5, maxID: 3}]}", wantType: "ovs",
			errors: []string{"spec.ovs.bridge: Required value", "spec.ovs.trunk[0].minID: Invalid value: 5"},
		},
		{name: "custom", spec: "cniType: custom\ncustomCNI: '{\"type\":\"ptp\"}'", wantType: "custom"},
		{name: "custom with a coordinator",
			spec: "cniType: custom\ncustomCNI: '{\"type\":\"ptp\"}'\ncoordinator: {mode: auto}", wantType: "custom",
			warnings: []string{"spec.coordinator is dropped"}},
		{name: "custom by file", spec: "cniType: custom", wantType: "custom",
			warnings: []string{`use the file in the node's CNI configuration directory whose name is "net"`}},
		{name: "custom not JSON", spec: "cniType: custom\ncustomCNI: 'x'", wantType: "custom",
			errors: []string{`spec.customCNI: Invalid value: "x": want a CNI configuration as a JSON object`}},
		{name: "custom without plugins", spec: "cniType: custom\ncustomCNI: '{\"name\":\"x\"}'", wantType: "custom",
			errors: []string{`it has neither "type" nor "plugins"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := parseMultusConfig(t, tt.spec, tt.annotations)
			warnings := DefaultMultusConfig(c)
			once := c.DeepCopy()
			if more := DefaultMultusConfig(c); len(more) > 0 || !cmp.Equal(once, c) {
				t.Errorf("defaulting is not idempotent: warnings %q, change %s", more, cmp.Diff(once, c))
			}
			if *c.Spec.CniType != tt.wantType {
				t.Errorf("cniType = %q, want %q", *c.Spec.CniType, tt.wantType)
			}
			errs, more := ValidateMultusConfig(c)
			var messages []string
			for _, e := range errs {
				messages = append(messages, e.Error())
			}
			matchAll(t, "errors", messages, tt.errors)
			matchAll(t, "warnings", append(warnings, more...), tt.warnings)
		})
	}
}

// What a Spiderpool cluster has stored and exports is admitted as it is: its webhook writes empty
// texts and zeros.
func TestSpiderpoolsDefaults(t *testing.T) {
	for _, name := range []string{"spiderpool-ib-sriov.yaml", "spiderpool-macvlan.yaml"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var c SpiderMultusConfig
		if err := yaml.UnmarshalStrict(text, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		warnings := DefaultMultusConfig(&c)
		errs, more := ValidateMultusConfig(&c)
		if all := append(warnings, more...); len(errs)+len(all) > 0 {
			t.Errorf("%s: errors %v, warnings %q; want none", name, errs, all)
		}
	}
}

// matchAll wants one message for each text, in order, that contains it.
func matchAll(t *testing.T, what string, got, want []string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := range want {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		t.Errorf("%s:\n got  %s\n want %s", what, strings.Join(got, "\n      "), strings.Join(want, "\n      "))
	}
}

func TestDefaultMultusConfig(t *testing.T) {
	c := parseMultusConfig(t, "cniType: ib-sriov\n"+ibsriov, nil)
	DefaultMultusConfig(c)
	if got := *c.Spec.IbSriovConfig.LinkState; got != "enable" {
		t.Errorf("linkState = %q, want enable", got)
	}
	if c.Spec.IbSriovConfig.RdmaIsolation != nil {
		t.Error("rdmaIsolation was decided: the node's mode decides it at attach time")
	}
	if !*c.Spec.EnableCoordinator || *c.Spec.DisableIPAM {
		t.Errorf("enableCoordinator %v, disableIPAM %v, want true and false", *c.Spec.EnableCoordinator,
			*c.Spec.DisableIPAM)
	}
	custom := parseMultusConfig(t, "cniType: custom\nenableCoordinator: true\ncustomCNI: '{}'", nil)
	DefaultMultusConfig(custom)
	if *custom.Spec.EnableCoordinator {
		t.Error("enableCoordinator stays true for custom, want false")
	}
}

func TestValidateMultusConfigUpdate(t *testing.T) {
	named := func(name string) *SpiderMultusConfig {
		a := map[string]string{}
		if name != "" {
			a[AnnotationMultusConfigNADName] = name
		}
		return &SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "net", Annotations: a}}
	}
	for _, tt := range []struct{ before, after, want string }{
		{"", "", ""},
		{"a", "a", ""},
		{"a", "b", `Invalid value: "b": is immutable, pods may already name a: put "a" back`},
		{"a", "", `Invalid value: "": is immutable`},
		{"", "b", `Invalid value: "b": cannot be added after creation, pods may already name net`},
	} {
		errs := ValidateMultusConfigUpdate(named(tt.before), named(tt.after))
		if (tt.want == "") != (len(errs) == 0) || tt.want != "" && !strings.Contains(errs[0].Error(), tt.want) {
			t.Errorf("%q to %q: %v, want %q", tt.before, tt.after, errs, tt.want)
		}
	}
}

func TestCoordinator(t *testing.T) {
	for _, tt := range []struct{ spec, want string }{
		{"{}", ""},
		{"mode: disabled", ""},
		{"mode: disable", ""},
		{"mode: x", `spec.mode: Unsupported value: "x"`},
		{"podCIDRType: flannel", `spec.podCIDRType: Unsupported value: "flannel"`},
		{"hijackCIDR: ['169.254.0.0']", `spec.hijackCIDR[0]: Invalid value: "169.254.0.0": want a network`},
		{"hijackCIDR: ['169.254.0.0/16', 'fd00::/8']", ""},
		{"policyRoutes: [{dst: 10.0.0.0/8, gw: 'fd00::1'}]",
			`spec.policyRoutes[0].gw: Invalid value: "fd00::1": is not of the same family as dst, which is 10.0.0.0/8`},
		{"policyRoutes: [{dst: x, gw: y}]", `spec.policyRoutes[0].dst: Invalid value: "x"`},
		{"policyRoutes: [{dst: 10.0.0.0/8, gw: here}]",
			`spec.policyRoutes[0].gw: Invalid value: "here": want the address of a gateway`},
		{"podMACPrefix: '0a:1b'", ""},
		{"podMACPrefix: '0a1b'", `spec.podMACPrefix: Invalid value: "0a1b": want two hexadecimal octets`},
		{"podMACPrefix: '0a:1b:2c'", "want two hexadecimal octets"},
		{"podMACPrefix: '0b:1b'", "makes a group address"},
		{"vethLinkAddress: 169.254.100.1", ""},
		{"vethLinkAddress: 10.0.0.1",
			`spec.vethLinkAddress: Invalid value: "10.0.0.1": want an IPv4 link-local address`},
		{"hostRuleTable: 254", `spec.hostRuleTable: Invalid value: 254: want a routing table of its own`},
		{"hostRuleTable: 0", `spec.hostRuleTable: Invalid value: 0`},
		{"podRPFilter: -1", ""},
		{"podRPFilter: 3", `spec.podRPFilter: Invalid value: 3: want 0 (off)`},
		{"txQueueLen: -1", `spec.txQueueLen: Invalid value: -1`},
		{"vethMTU: 67", `spec.vethMTU: Invalid value: 67: want 68`},
	} {
		c := &SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: DefaultCoordinatorName}}
		if err := yaml.UnmarshalStrict([]byte(tt.spec), &c.Spec); err != nil {
			t.Fatal(err)
		}
		DefaultCoordinator(c)
		errs, warnings := ValidateCoordinator(c)
		if (tt.want == "") != (len(errs) == 0) || tt.want != "" && !strings.Contains(errs[0].Error(), tt.want) ||
			len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q; want %q", tt.spec, errs, warnings, tt.want)
		}
	}
	_, warnings := ValidateCoordinator(&SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	matchAll(t, "warnings", warnings,
		[]string{`SpiderCoordinator "other" has no effect: only the one named "default" is read`})
}
