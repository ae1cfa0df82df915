// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"spidernet.io/spiderpool/internal/ib"
)

// guidePolicy is the policy of the guide.
func guidePolicy() *SriovNetworkNodePolicy {
	priority := 99
	return &SriovNetworkNodePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "ib-sriov", Namespace: "kube-system"},
		Spec: SriovNetworkNodePolicySpec{
			NodeSelector: map[string]string{"kubernetes.io/os": "linux"}, ResourceName: "mellanoxibsriov",
			Priority: &priority, NumVfs: 12,
			NicSelector: SriovNetworkNicSelector{DeviceID: "1017", RootDevices: []string{"0000:86:00.0"},
				Vendor: "15b3"},
			DeviceType: DeviceTypeNetDevice, IsRdma: true,
		},
	}
}

func guideNodes(total int) []NodeCards {
	card := InterfaceExt{PciAddress: "0000:86:00.0", Name: "ibs5f0", AltNames: []string{"ibp134s0f0"}, Vendor: "15b3",
		DeviceID: "1017", TotalVfs: total}
	labels := map[string]string{"kubernetes.io/os": "linux"}
	return []NodeCards{
		{Name: "10-20-1-10", Labels: labels, Interfaces: InterfaceExts{card}},
		{Name: "10-20-1-20", Labels: labels, Interfaces: InterfaceExts{card}},
	}
}

func texts(errs field.ErrorList) string {
	var lines []string
	for _, e := range errs {
		lines = append(lines, e.Error())
	}
	return strings.Join(lines, "\n")
}

func TestValidatePolicy(t *testing.T) {
	tests := []struct {
		name   string
		change func(*SriovNetworkNodePolicySpec)
		want   []string // parts of the one message; empty: admitted
	}{
		{"the guide's", func(*SriovNetworkNodePolicySpec) {}, nil},
		{"upper case IDs", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.Vendor = "15B3" }, nil},
		{"resource name with a dot", func(s *SriovNetworkNodePolicySpec) { s.ResourceName = "mellanox.ib" },
			[]string{"spec.resourceName", `"mellanox.ib"`, "want 1 to 63 letters"}},
		{"resource name with the prefix", func(s *SriovNetworkNodePolicySpec) { s.ResourceName = "spidernet.io/x" },
			[]string{"spec.resourceName", "the prefix is added"}},
		{"no resource name", func(s *SriovNetworkNodePolicySpec) { s.ResourceName = "" },
			[]string{"spec.resourceName"}},
		{"long resource name", func(s *SriovNetworkNodePolicySpec) { s.ResourceName = strings.Repeat("a", 64) },
			[]string{"spec.resourceName"}},
		{"longest resource name", func(s *SriovNetworkNodePolicySpec) { s.ResourceName = strings.Repeat("a", 63) },
			nil},
		{"priority", func(s *SriovNetworkNodePolicySpec) { p := 100; s.Priority = &p }, []string{"spec.priority", "100",
			"want 0"}},
		{"node selector", func(s *SriovNetworkNodePolicySpec) { s.NodeSelector = map[string]string{"a b": "c"} },
			[]string{"spec.nodeSelector", "a b"}},
		{"no VFs", func(s *SriovNetworkNodePolicySpec) { s.NumVfs = 0 },
			[]string{"spec.numVfs", "0", "delete the policy"}},
		{"mtu", func(s *SriovNetworkNodePolicySpec) { s.Mtu = -1 }, []string{"spec.mtu", "-1"}},
		{"empty selector", func(s *SriovNetworkNodePolicySpec) { s.NicSelector = SriovNetworkNicSelector{} },
			[]string{"spec.nicSelector", "found no field", "lspci -nn"}},
		{"net filter and others",
			func(s *SriovNetworkNodePolicySpec) { s.NicSelector.NetFilter = "openstack/NetworkID:x" },
			[]string{"spec.nicSelector.netFilter", "excludes"}},
		{"vendor", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.Vendor = "Mellanox" },
			[]string{"spec.nicSelector.vendor", "Mellanox", "15b3"}},
		{"device", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.DeviceID = "0x1017" },
			[]string{"spec.nicSelector.deviceID", "0x1017", "1017"}},
		{"address without domain",
			func(s *SriovNetworkNodePolicySpec) { s.NicSelector.RootDevices = []string{"86:00.0"} },
			[]string{"spec.nicSelector.rootDevices[0]", "want 0000:86:00.0"}},
		{"address", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.RootDevices = []string{"0000:86:20.0"} },
			[]string{"spec.nicSelector.rootDevices[0]", "want a PCI address"}},
		{"names", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"ibs5f0#0-11", "ibs6f0"} },
			nil},
		{"range backwards", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"ibs5f0#7-0"} },
			[]string{"spec.nicSelector.pfNames[0]", "backwards", "0-7"}},
		{"range too long", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"ibs5f0#0-12"} },
			[]string{"spec.nicSelector.pfNames[0]", "ends at VF 12", "numVfs is 12", "last VF is 11"}},
		{"range without end", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"ibs5f0#3"} },
			[]string{"spec.nicSelector.pfNames[0]", "first-last"}},
		{"range of words", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"ibs5f0#a-b"} },
			[]string{"spec.nicSelector.pfNames[0]", "two numbers"}},
		{"no name", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"#0-1"} },
			[]string{"spec.nicSelector.pfNames[0]", "want the name"}},
		{"name twice", func(s *SriovNetworkNodePolicySpec) {
			s.NicSelector.PfNames = []string{"ibs5f0#0-1",
				"ibs5f0#4-5"}
		}, []string{"spec.nicSelector.pfNames[1]", "twice"}},
		{"device type", func(s *SriovNetworkNodePolicySpec) { s.DeviceType = "vfio" },
			[]string{"spec.deviceType", "vfio", "netdevice"}},
		{"link type", func(s *SriovNetworkNodePolicySpec) { s.LinkType = "roce" }, []string{"spec.linkType", "roce",
			"IB"}},
		{"link type in lower case", func(s *SriovNetworkNodePolicySpec) { s.LinkType = "ib" }, nil},
		{"vfio with RDMA", func(s *SriovNetworkNodePolicySpec) { s.DeviceType = DeviceTypeVfioPci },
			[]string{"spec.isRdma", "set deviceType: netdevice, or isRdma: false"}},
		{"switchdev on InfiniBand", func(s *SriovNetworkNodePolicySpec) {
			s.LinkType, s.ESwitchMode = "IB",
				"switchdev"
		}, []string{"spec.eSwitchMode", "no switchdev"}},
		{"vDPA on InfiniBand", func(s *SriovNetworkNodePolicySpec) { s.LinkType, s.VdpaType = "IB", "virtio" },
			[]string{"spec.vdpaType"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := guidePolicy()
			tt.change(&p.Spec)
			_, errs := p.Validate()
			if len(errs) != min(1, len(tt.want)) {
				t.Fatalf("%d errors, want %d:\n%s", len(errs), min(1, len(tt.want)), texts(errs))
			}
			for _, part := range tt.want {
				if !strings.Contains(texts(errs), part) {
					t.Errorf("message lacks %q:\n%s", part, texts(errs))
				}
			}
		})
	}
}

func TestWarnsOfFieldsWithoutEffect(t *testing.T) {
	p := guidePolicy()
	if warnings, _ := p.Validate(); len(warnings) > 0 {
		t.Errorf("the guide's policy: %q", warnings)
	}
	p.Spec.DeviceType, p.Spec.IsRdma, p.Spec.ESwitchMode, p.Spec.NeedVhostNet = DeviceTypeVfioPci, false, "switchdev",
		true
	warnings, errs := p.Validate()
	if len(warnings) != 3 || len(errs) > 0 {
		t.Errorf("warnings %q, errors %v; want three and none", warnings, errs)
	}
}

func TestDefaultPolicy(t *testing.T) {
	p := &SriovNetworkNodePolicy{Spec: SriovNetworkNodePolicySpec{LinkType: "ib"}}
	p.Default()
	if *p.Spec.Priority != 99 || p.Spec.DeviceType != DeviceTypeNetDevice || !p.Spec.IsRdma {
		t.Errorf("defaults: %+v", p.Spec)
	}
	p = &SriovNetworkNodePolicy{Spec: SriovNetworkNodePolicySpec{LinkType: "ib", DeviceType: DeviceTypeVfioPci}}
	if p.Default(); p.Spec.IsRdma {
		t.Error("a vfio-pci policy was made to ask for RDMA")
	}
	p = guidePolicy()
	if p.Default(); cmp.Diff(guidePolicy(), p) != "" {
		t.Errorf("the guide's policy was changed: %s", cmp.Diff(guidePolicy(), p))
	}
}

func TestValidateNumVfsAgainstCards(t *testing.T) {
	p := guidePolicy()
	p.Spec.NumVfs = 32
	_, errs := p.ValidateAgainst(nil, guideNodes(16))
	for _, part := range []string{"spec.numVfs", "32", "card 0000:86:00.0 on node 10-20-1-10 supports at most 16",
		"on node 10-20-1-20", "mstconfig"} {
		if !strings.Contains(texts(errs), part) {
			t.Errorf("message lacks %q: %s", part, texts(errs))
		}
	}
	nodes := guideNodes(16)
	nodes[1].Interfaces[0].TotalVfs = 64
	warnings, errs := p.ValidateAgainst(nil, nodes)
	if len(errs) > 0 || len(warnings) != 1 || !strings.Contains(warnings[0], "10-20-1-10 supports at most 16") ||
		strings.Contains(warnings[0], "10-20-1-20") {
		t.Errorf("one card of two suffices: warnings %q, errors %v", warnings, errs)
	}
	if warnings, errs := p.ValidateAgainst(nil, guideNodes(32)); len(warnings)+len(errs) > 0 {
		t.Errorf("enough VFs: warnings %q, errors %v", warnings, errs)
	}
}

func TestWarnsOfPolicyThatSelectsNothing(t *testing.T) {
	tests := []struct {
		name   string
		change func(*SriovNetworkNodePolicySpec)
		nodes  []NodeCards
		want   []string
	}{
		{"label", func(s *SriovNetworkNodePolicySpec) { s.NodeSelector["gpu"] = "yes" }, guideNodes(16),
			[]string{"no node has gpu=yes,kubernetes.io/os=linux, so nothing happens until one has"}},
		{"device", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.DeviceID = "1019" }, guideNodes(16),
			[]string{"selects no card",
				"10-20-1-10 has 0000:86:00.0 (ibs5f0, 15b3:1017, at most 16 VFs): its deviceID is 1017, not 1019",
				"10-20-1-20"}},
		{"address", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.RootDevices[0] = "0000:87:00.0" },
			guideNodes(16), []string{"not in rootDevices (0000:87:00.0)"}},
		{"name", func(s *SriovNetworkNodePolicySpec) { s.NicSelector.PfNames = []string{"ib9#0-1"} }, guideNodes(16),
			[]string{"its name is ibs5f0, which is not in pfNames (ib9#0-1)"}},
		{"SR-IOV off", func(*SriovNetworkNodePolicySpec) {}, guideNodes(0),
			[]string{"allows no VFs", "mstconfig -d 0000:86:00.0"}},
		{"not reported", func(*SriovNetworkNodePolicySpec) {},
			[]NodeCards{{Name: "n", Labels: map[string]string{"kubernetes.io/os": "linux"}}},
			[]string{"node n: its agent has not reported"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := guidePolicy()
			tt.change(&p.Spec)
			warnings, errs := p.ValidateAgainst(nil, tt.nodes)
			if len(errs) > 0 {
				t.Fatalf("refused: %v", errs)
			}
			for _, part := range tt.want {
				if !strings.Contains(strings.Join(warnings, "\n"), part) {
					t.Errorf("warnings lack %q:\n%s", part, strings.Join(warnings, "\n"))
				}
			}
		})
	}
	if warnings, _ := guidePolicy().ValidateAgainst(nil, guideNodes(16)); len(warnings) > 0 {
		t.Errorf("the guide's policy: %q", warnings)
	}
	p := guidePolicy()
	p.Spec.NicSelector = SriovNetworkNicSelector{PfNames: []string{"ibp134s0f0#0-3"}}
	if warnings, _ := p.ValidateAgainst(nil, guideNodes(16)); len(warnings) > 0 {
		t.Errorf("an alternative name: %q", warnings)
	}
}

func TestOverlappingPolicies(t *testing.T) {
	names := func(s ...string) func(*SriovNetworkNodePolicySpec) {
		return func(p *SriovNetworkNodePolicySpec) { p.NicSelector = SriovNetworkNicSelector{PfNames: s} }
	}
	vendor := func(p *SriovNetworkNodePolicySpec) { p.NicSelector = SriovNetworkNicSelector{Vendor: "15b3"} }
	whole := func(*SriovNetworkNodePolicySpec) {}
	tests := []struct {
		name  string
		a, b  func(*SriovNetworkNodePolicySpec)
		nodes []NodeCards
		want  []string
	}{
		{"same device", whole, whole, nil, []string{"spec.nicSelector", "card 0000:86:00.0", "policy other",
			"priority 99"}},
		{"another kind of card in the slot", whole,
			func(p *SriovNetworkNodePolicySpec) { p.NicSelector.DeviceID = "1019" }, guideNodes(16), nil},
		{"ranges apart", names("ibs5f0#0-5"), names("ibs5f0#6-11"), guideNodes(16), nil},
		{"ranges meet", names("ibs5f0#0-6"), names("ibs5f0#6-11"), nil, []string{"card ibs5f0: VFs 0-6 and 6-11"}},
		{"name and alternative name", names("ibs5f0#0-6"), names("ibp134s0f0#6-11"), guideNodes(16),
			[]string{"card 0000:86:00.0 on node 10-20-1-10: VFs 0-6 and 6-11"}},
		{"vendor and device", vendor, whole, guideNodes(16),
			[]string{"card 0000:86:00.0 on node 10-20-1-10: VFs 0-11 and 0-11"}},
		{"vendor, nothing known", vendor, whole, nil, nil},
		{"other priority", whole, func(p *SriovNetworkNodePolicySpec) { ten := 10; p.Priority = &ten }, guideNodes(16),
			nil},
		{"other nodes", whole,
			func(p *SriovNetworkNodePolicySpec) { p.NodeSelector = map[string]string{"kubernetes.io/os": "beos"} },
			guideNodes(16), nil},
		{"topology", names("ibs5f0#0-5"),
			func(p *SriovNetworkNodePolicySpec) { names("ibs5f0#6-11")(p); p.ExcludeTopology = true }, nil,
			[]string{"spec.excludeTopology", "policy other has true for the same resourceName"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := guidePolicy(), guidePolicy()
			b.Name = "other"
			tt.a(&a.Spec)
			tt.b(&b.Spec)
			_, errs := a.ValidateAgainst([]SriovNetworkNodePolicy{*a, *b}, tt.nodes)
			if len(errs) != min(1, len(tt.want)) {
				t.Fatalf("%d errors, want %d:\n%s", len(errs), min(1, len(tt.want)), texts(errs))
			}
			for _, part := range tt.want {
				if !strings.Contains(texts(errs), part) {
					t.Errorf("message lacks %q:\n%s", part, texts(errs))
				}
			}
		})
	}
}

func FuzzParsePFName(f *testing.F) {
	for _, s := range []string{"ibs5f0", "ibs5f0#0-7", "#", "a#1-0", "a#-1-2", "a#00-+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, r, err := ParsePFName(s)
		if err != nil {
			return
		}
		if name == "" || r != nil && (r.First > r.Last || r.First < 0) {
			t.Fatalf("%q reads as %q, %v", s, name, r)
		}
		if r == nil {
			return
		}
		again, err := ParseVFRange(r.String())
		if err != nil || again != *r {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, *r, again, err)
		}
	})
}

// The API server judges PCI addresses by the rule of package ib, in both cases of the digits.
func TestPCIRuleOfTheCRD(t *testing.T) {
	crd, err := os.ReadFile("../../../config/crd/sriovnetwork.openshift.io_sriovnetworknodepolicies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	either := strings.NewReplacer("a-f", "a-fA-F", `\.`, "[.]").Replace(ib.PCIAddressPattern)
	if rule := "rule: self.matches('^" + either + "$')"; !strings.Contains(string(crd), rule) {
		t.Errorf("the CRD of SriovNetworkNodePolicy has no %q", rule)
	}
}
