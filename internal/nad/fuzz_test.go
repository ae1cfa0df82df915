// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// FuzzRender: a SpiderMultusConfig that the webhook lets through has a NetworkAttachmentDefinition,
// always the same, of one line, with every chained plugin in it, to which a pod can be attached;
// and rendering changes nothing of it.
func FuzzRender(f *testing.F) {
	for _, seed := range []string{
		"cniType: ib-sriov\nibsriov: {resourceName: spidernet.io/mellanoxibsriov, ippools: {ipv4: [v4-91]}}",
		"cniType: ib-sriov\nipoib: {master: ibs5f0, ippools: {ipv4: [v4-91]}}",
		`{cniType: ib-sriov, ibsriov: {resourceName: a.io/b, pkey: "0x8001"}, chainCNIJsonData: ['{"type": "tuning",  "sysctl": {"a": "<1>"}}', "{\"type\":\"x\"\n}"], coordinator: {mode: overlay, hijackCIDR: [10.0.0.0/8]}}`,
		"{cniType: macvlan, macvlan: {master: [a, b], bond: {name: bond0, mode: 1}, vlanID: 100, mtu: 1400, " +
			"rdmaResourceName: a.io/b, ippools: {ipv4: [p]}}, disableIPAM: true}",
		"{cniType: ipvlan, ipvlan: {master: [eth1], vlanID: 0}}", "{cniType: vlan, vlan: {master: [eth1], vlanID: 7}}",
		"{cniType: sriov, sriov: {resourceName: a.io/b, vlanID: 5, mtu: 9000, rdmaIsolation: true}}",
		"{cniType: ovs, ovs: {bridge: br0, vlan: 5, deviceID: '0000:01:00.1', trunk: [{minID: 1, maxID: 2}]}}",
		`{cniType: custom, customCNI: '{ "type":  "ptp" }'}`,
		`{cniType: custom, customCNI: '{"plugins":[{"type":"a"},null]}'}`, `{customCNI: '{"plugins":[7]}'}`,
		"{cniType: custom}",
	} {
		f.Add(seed, "", "")
	}
	f.Add("{cniType: ipoib, ipoib: {master: ib0}}", "1.0.0", "inner")
	f.Fuzz(func(t *testing.T, spec, version, confName string) {
		c := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "net", Namespace: "kube-system",
			Annotations: map[string]string{lastApplied: "{}"}}}
		if version != "" {
			c.Annotations[v2beta1.AnnotationMultusConfigCNIVersion] = version
		}
		if confName != "" {
			c.Annotations[v2beta1.AnnotationCNIConfigName] = confName
		}
		if yaml.UnmarshalStrict([]byte(spec), &c.Spec) != nil {
			return
		}
		v2beta1.DefaultMultusConfig(c)
		if errs, _ := v2beta1.ValidateMultusConfig(c); len(errs) > 0 {
			if got, err := Render(c); err == nil && got == nil {
				t.Fatal("neither an object nor an error")
			}
			return
		}
		before := c.DeepCopy()
		got, err := Render(c)
		if err != nil {
			t.Fatalf("%q is valid and has no NetworkAttachmentDefinition: %v", spec, err)
		}
		if again, err := Render(c); err != nil || cmp.Diff(got, again) != "" || cmp.Diff(before, c) != "" {
			t.Fatalf("%q is rendered as %+v, and then as %+v, %v", spec, got, again, err)
		}
		if _, ok := got.Annotations[lastApplied]; ok || got.Name != c.NADName() || got.Namespace != c.Namespace {
			t.Fatalf("%q: %+v", spec, got.ObjectMeta)
		}
		if *c.Spec.CniType == v2beta1.CustomCNI {
			if text := c.Spec.CustomCNIConfig; text != nil && *text != "" {
				runnable(t, got.Spec.Config)
			}
			return
		}
		checkRendered(t, c, got)
	})
}

func checkRendered(t *testing.T, c *v2beta1.SpiderMultusConfig, got *cncfv1.NetworkAttachmentDefinition) {
	t.Helper()
	types := runnable(t, got.Spec.Config)
	if strings.Contains(got.Spec.Config, "\n") {
		t.Fatalf("several lines: %s", got.Spec.Config)
	}
	if want := len(c.Spec.ChainCNIJsonData) + 1; len(types) < want || !slices.Contains(types, *c.Spec.CniType) ||
		slices.Contains(types, TypeCoordinator) != true && *c.Spec.EnableCoordinator {
		t.Fatalf("plugins %q of %+v", types, c.Spec)
	}
}

// runnable is the types of a configuration's plugins, to which a pod can be attached.
func runnable(t *testing.T, config string) (types []string) {
	t.Helper()
	list, err := Configure([]byte(config), "kube-system/net", nil, "0000:86:00.1")
	if err != nil {
		t.Fatalf("a pod cannot be attached to %s: %v", config, err)
	}
	var plugins struct{ Plugins []object }
	if err := json.Unmarshal(list, &plugins); err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins.Plugins {
		var name string
		if err := json.Unmarshal(p["type"], &name); err != nil {
			t.Fatal(err)
		}
		types = append(types, name)
	}
	return types
}

// FuzzRenderIBNetwork: a SriovIBNetwork is refused, and the refusal names the field, or it has a
// NetworkAttachmentDefinition of one line, to which a pod can be attached, with the meta plugins
// behind ours.
func FuzzRenderIBNetwork(f *testing.F) {
	f.Add("mellanoxibsriov", "", "enable", `{ "infinibandGUID": true }`,
		"{\n\"type\": \"spiderpool\", \"default_ipv4_ippool\": [\"v4-91\"]\n}", "")
	f.Add("mellanoxibsriov", "apps", "auto", "", "{}", `{"type": "coordinator"}, {"type": "tuning", "mtu": 1500}`)
	f.Add("a.io/b", "A B", "", `{"ips": "yes"}`, `{"type": "dhcp"}`, `{"type": "a"`)
	f.Add("x", "", "", "null", "null", `{"type":"a"}],[{"type":"b"}`)
	f.Add("x", "", "", "{} {}", `{"type":"<&>"}`, "null")
	f.Add("x", "", "", `{"a":null}`, `[]`, `{"type":"a"},null`)
	f.Fuzz(func(t *testing.T, resource, namespace, state, capabilities, ipam, meta string) {
		n := ibNetwork(sriovv1.SriovIBNetworkSpec{NetworkNamespace: namespace, LinkState: state,
			Capabilities: capabilities, IPAM: ipam, MetaPluginsConfig: meta})
		n.Spec.ResourceName = resource
		got, err := RenderIBNetwork(n, "spidernet.io")
		if err != nil {
			if !strings.Contains(err.Error(), "spec.") || got != nil {
				t.Fatalf("the refusal %q names no field, or comes with %v", err, got)
			}
			return
		}
		types := runnable(t, got.Spec.Config)
		if strings.Contains(got.Spec.Config, "\n") || types[0] != v2beta1.IBSriovCNI ||
			len(types) > 1 != (strings.TrimSpace(meta) != "" && len(types) > 1) {
			t.Fatalf("plugins %q in %s", types, got.Spec.Config)
		}
		if _, err := takenBy([]byte(got.Spec.Config)); err != nil {
			t.Fatal(err)
		}
		if got.Name != n.Name || got.Namespace != n.TargetNamespace() ||
			got.Annotations[cncfv1.AnnotationResourceName] != "spidernet.io/"+resource {
			t.Fatalf("%+v", got.ObjectMeta)
		}
		again, err := RenderIBNetwork(n, "spidernet.io")
		if err != nil || cmp.Diff(got, again) != "" {
			t.Fatalf("rendered as %+v, and then as %+v, %v", got, again, err)
		}
	})
}
