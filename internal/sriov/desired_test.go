// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const guidePolicy = `
metadata: {name: ib-sriov, namespace: kube-system}
spec:
  nodeSelector:
    kubernetes.io/os: "linux"
  resourceName: mellanoxibsriov
  priority: 99
  numVfs: 12
  nicSelector:
      deviceID: "1017"
      rootDevices:
      - 0000:86:00.0
      vendor: "15b3"
  deviceType: netdevice
  isRdma: true
`

func policy(t *testing.T, text string, changes ...func(*v1.SriovNetworkNodePolicy)) v1.SriovNetworkNodePolicy {
	t.Helper()
	var p v1.SriovNetworkNodePolicy
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(&p)
	}
	return p
}

func with(name string, priority, numVfs int, pfNames ...string) func(*v1.SriovNetworkNodePolicy) {
	return func(p *v1.SriovNetworkNodePolicy) {
		p.Name, p.Spec.Priority, p.Spec.NumVfs, p.Spec.ResourceName = name, &priority, numVfs, "r"+name
		if len(pfNames) > 0 {
			p.Spec.NicSelector = v1.SriovNetworkNicSelector{PfNames: pfNames}
		}
	}
}

var linux = map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/hostname": "10-20-1-10"}

func cards() v1.InterfaceExts {
	return v1.InterfaceExts{
		{PciAddress: "0000:86:00.0", Name: "ibs5f0", AltNames: []string{"ibp134s0f0"}, Vendor: "15b3", DeviceID: "1017",
			TotalVfs: 16, LinkType: "IB"},
		{PciAddress: "0000:01:00.0", Name: "eno1", Vendor: "8086", DeviceID: "1521", LinkType: "ETH"},
		{PciAddress: "0000:87:00.0", Name: "ibs6f0", Vendor: "15b3", DeviceID: "1017", TotalVfs: 16, LinkType: "IB"},
	}
}

// The guide's policy gives exactly what section 7 of the contract works out.
func TestDesiredOfTheGuide(t *testing.T) {
	spec := Desired([]v1.SriovNetworkNodePolicy{policy(t, guidePolicy)}, linux, cards())
	got, err := json.Marshal(spec.Interfaces[0])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"pciAddress":"0000:86:00.0","name":"ibs5f0","numVfs":12,"vfGroups":[{"resourceName":"mellanoxibsriov","deviceType":"netdevice","vfRange":"0-11","policyName":"ib-sriov","isRdma":true}]}`
	if diff := cmp.Diff(decode(t, want), decode(t, string(got))); diff != "" || len(spec.Interfaces) != 1 {
		t.Errorf("%d interfaces: %s", len(spec.Interfaces), diff)
	}
}

func decode(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDesired(t *testing.T) {
	tests := []struct {
		name     string
		policies []v1.SriovNetworkNodePolicy
		change   func(v1.InterfaceExts)
	}{
		{name: "no-policy"},
		{name: "other-node", policies: []v1.SriovNetworkNodePolicy{policy(t, guidePolicy,
			func(p *v1.SriovNetworkNodePolicy) { p.Spec.NodeSelector["gpu"] = "yes" })}},
		{name: "no-such-card", policies: []v1.SriovNetworkNodePolicy{policy(t, guidePolicy,
			func(p *v1.SriovNetworkNodePolicy) { p.Spec.NicSelector.DeviceID = "1019" })}},
		{name: "ranges-of-one-card", policies: []v1.SriovNetworkNodePolicy{
			policy(t, guidePolicy, with("b", 99, 12, "ibs5f0#8-11")), policy(t, guidePolicy,
				with("a", 99, 8, "ibp134s0f0#0-7"))}},
		{name: "stronger-replaces-overlap", policies: []v1.SriovNetworkNodePolicy{
			policy(t, guidePolicy, with("weak", 99, 16)), policy(t, guidePolicy, with("strong", 10, 4))}},
		{name: "stronger-keeps-rest", policies: []v1.SriovNetworkNodePolicy{
			policy(t, guidePolicy, with("weak1", 99, 16, "ibs5f0#8-15"),
				func(p *v1.SriovNetworkNodePolicy) { p.Spec.Mtu = 4092 }),
			policy(t, guidePolicy, with("weak2", 98, 8, "ibs5f0#2-7")),
			policy(t, guidePolicy, with("strong", 10, 4, "ibs5f0#0-3"))}},
		{name: "equal-priority-takes-largest", policies: []v1.SriovNetworkNodePolicy{
			policy(t, guidePolicy, with("a", 99, 16)), policy(t, guidePolicy, with("b", 99, 4))}},
		{name: "all-cards-of-a-vendor", policies: []v1.SriovNetworkNodePolicy{policy(t, guidePolicy,
			func(p *v1.SriovNetworkNodePolicy) {
				p.Spec.NicSelector = v1.SriovNetworkNicSelector{Vendor: "15B3"}
				p.Spec.LinkType, p.Spec.ExcludeTopology = "ib", true
			})}},
		{name: "policy-gone-vfs-ours", change: func(c v1.InterfaceExts) { c[0].NumVfs, c[0].Managed = 12, true }},
		{name: "policy-gone-vfs-adopted", change: func(c v1.InterfaceExts) { c[0].NumVfs = 12 }},
		{name: "policy-being-deleted", policies: []v1.SriovNetworkNodePolicy{policy(t, guidePolicy,
			func(p *v1.SriovNetworkNodePolicy) { p.DeletionTimestamp = &metav1.Time{} })}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := cards()
			if tt.change != nil {
				tt.change(c)
			}
			golden(t, tt.name, Desired(tt.policies, linux, c))
		})
	}
}

// golden compares a value, as YAML, with a file in testdata.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("differs from %s (run with -update if that is right):\n%s", path, diff)
	}
}

func TestRdmaMode(t *testing.T) {
	config := func(name, mode string, labels map[string]string) v1.SriovNetworkPoolConfig {
		return v1.SriovNetworkPoolConfig{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1.SriovNetworkPoolConfigSpec{RdmaMode: mode,
				NodeSelector: &metav1.LabelSelector{MatchLabels: labels}}}
	}
	mode, overruled := RdmaMode([]v1.SriovNetworkPoolConfig{
		config("c", "shared", nil), config("b", "exclusive", linux), config("a", "shared", map[string]string{"x": "y"}),
		config("d", "exclusive", linux), config("e", "", nil),
	}, linux)
	if mode != "exclusive" || cmp.Diff([]string{"c"}, overruled) != "" {
		t.Errorf("mode %q, overruled %q; want exclusive and c", mode, overruled)
	}
	if mode, overruled := RdmaMode(nil, linux); mode != "" || overruled != nil {
		t.Errorf("no configuration: %q, %q", mode, overruled)
	}
}

func TestJudgeRdmaMode(t *testing.T) {
	for _, tt := range []struct {
		wanted, observed string
		ok               bool
		reason           string
	}{{"", "exclusive", true, "RdmaModeObserved"}, {"exclusive", "exclusive", true, "RdmaModeAsWanted"},
		{"exclusive", "shared", false, "RdmaModeDrift"}, {"shared", "exclusive", false, "RdmaModeDrift"},
		{"", "", false, "RdmaModeUnknown"}} {
		ok, reason, message := JudgeRdmaMode(tt.wanted, tt.observed)
		if ok != tt.ok || reason != tt.reason || message == "" {
			t.Errorf("wanted %q, observed %q: %t, %s: %s", tt.wanted, tt.observed, ok, reason, message)
		}
	}
	_, _, message := JudgeRdmaMode("exclusive", "shared")
	golden(t, "rdma-mode-drift", message)
}
