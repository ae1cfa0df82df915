// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/sriov"
)

const guidePolicy = `
apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetworkNodePolicy
metadata:
  name: ib-sriov
  namespace: kube-system
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

func policyOf(t *testing.T, changes ...func(*v1.SriovNetworkNodePolicy)) *v1.SriovNetworkNodePolicy {
	t.Helper()
	p := &v1.SriovNetworkNodePolicy{}
	if err := yaml.UnmarshalStrict([]byte(guidePolicy), p); err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

var linux = map[string]string{"kubernetes.io/os": "linux"}

func guideCard(ready, total int) v1.InterfaceExt {
	pf := v1.InterfaceExt{PciAddress: "0000:86:00.0", Name: "ibs5f0", Vendor: "15b3", DeviceID: "1017", TotalVfs: 16,
		NumVfs: total, LinkType: "IB", Managed: total > 0}
	for i := range total {
		vf := v1.VirtualFunction{PciAddress: fmt.Sprintf("0000:86:%02x.%x", (i+1)/8, (i+1)%8), VfID: i}
		if i < ready {
			vf.Resource = "mellanoxibsriov"
		} else {
			vf.NotReady = "no driver is bound yet"
		}
		pf.VFs = append(pf.VFs, vf)
	}
	return pf
}

// stateOf is a node that the operator has given its spec and whose agent has reported.
func stateOf(name string, pf v1.InterfaceExt, policies ...v1.SriovNetworkNodePolicy) *v1.SriovNetworkNodeState {
	s := &v1.SriovNetworkNodeState{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 2}}
	s.Spec = sriov.Desired(policies, linux, v1.InterfaceExts{pf})
	s.Status = v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{pf}, SyncStatus: v1.SyncStatusSucceeded,
		ObservedGeneration: 2}
	return s
}

func TestJudge(t *testing.T) {
	equal := policyOf(t, func(p *v1.SriovNetworkNodePolicy) { p.Name = "later" })
	apart := policyOf(t, func(p *v1.SriovNetworkNodePolicy) {
		p.Name, p.Spec.NicSelector.PfNames = "apart", []string{"ibs5f0#0-1"}
	})
	strong := policyOf(t, func(p *v1.SriovNetworkNodePolicy) { one := 1; p.Name, p.Spec.Priority = "strong", &one })
	tests := []struct {
		name   string
		state  func(*v1.SriovNetworkNodeState)
		pf     v1.InterfaceExt
		others []v1.SriovNetworkNodePolicy
		reason string
		parts  []string
	}{
		{"in force", nil, guideCard(12, 12), nil, reasonInForce,
			[]string{"24 VFs ready", "node a card 0000:86:00.0: 12", "node b card 0000:86:00.0: 12"}},
		{"on the way", func(s *v1.SriovNetworkNodeState) { s.Status.SyncStatus = v1.SyncStatusInProgress },
			guideCard(3, 12), nil, reasonConfiguring, []string{"1 of 2 cards",
				"node b card 0000:86:00.0: 3 of 12 VFs ready"}},
		{"not taken up", func(s *v1.SriovNetworkNodeState) { s.Generation = 3 }, guideCard(12, 12), nil,
			reasonConfiguring, []string{"has not taken it up"}},
		{"waiting for pods", func(s *v1.SriovNetworkNodeState) {
			s.Status.SyncStatus = v1.SyncStatusInProgress
			s.Status.Plan = []v1.PlannedChange{{PciAddress: "0000:86:00.0", Change: "numVfs 4 -> 12",
				Blocked: "in use by default/x"}}
		}, guideCard(4, 4), nil, reasonWaiting,
			[]string{"node b card 0000:86:00.0: numVfs 4 -> 12: in use by default/x"}},
		{"blocked", func(s *v1.SriovNetworkNodeState) {
			s.Status.SyncStatus = v1.SyncStatusFailed
			s.Status.Plan = []v1.PlannedChange{{PciAddress: "0000:86:00.0", Change: "numVfs 0 -> 32",
				Blocked: "at most 16"}}
		}, guideCard(0, 0), nil, reasonBlocked, []string{"at most 16"}},
		{"another card's block", func(s *v1.SriovNetworkNodeState) {
			s.Status.Plan = []v1.PlannedChange{{PciAddress: "0000:87:00.0", Change: "numVfs 0 -> 32",
				Blocked: "at most 16"}}
		}, guideCard(12, 12), nil, reasonInForce, nil},
		{"failed", func(s *v1.SriovNetworkNodeState) { s.Status.SyncStatus = v1.SyncStatusFailed }, guideCard(11, 12),
			nil, reasonFailed, []string{"11 of 12 VFs ready: VF 0000:86:01.4 is not offered: no driver is bound yet"}},
		{"failed before there are VFs", func(s *v1.SriovNetworkNodeState) {
			s.Status.SyncStatus, s.Status.LastSyncError = v1.SyncStatusFailed, "numVfs 0 -> 12: no space on the bus"
		}, guideCard(0, 0), nil, reasonFailed, []string{"no space on the bus"}},
		{"overruled", nil, guideCard(12, 12), []v1.SriovNetworkNodePolicy{*strong}, reasonOverruled,
			[]string{"policy strong has the same VFs and wins"}},
		{"overruled by an equal", nil, guideCard(12, 12), []v1.SriovNetworkNodePolicy{*equal}, reasonConflict,
			[]string{"policy later claims the same VFs at the same priority 99", "own range in pfNames"}},
		{"not yet taken up beside a policy of other VFs", func(s *v1.SriovNetworkNodeState) {
			s.Spec.Interfaces[0].VfGroups = []v1.VfGroup{{PolicyName: "apart", VfRange: "12-15"}}
		}, guideCard(12, 12), []v1.SriovNetworkNodePolicy{*apart}, reasonConfiguring, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := policyOf(t)
			a, b := stateOf("a", guideCard(12, 12), *p), stateOf("b", tt.pf, append(tt.others, *p)...)
			if tt.state != nil {
				tt.state(b)
			}
			nodes := []v1.NodeCards{{Name: "a", Labels: linux, Interfaces: a.Status.Interfaces},
				{Name: "b", Labels: linux, Interfaces: b.Status.Interfaces}}
			v := judge(p, append(tt.others, *p), nodes, map[string]*v1.SriovNetworkNodeState{"a": a, "b": b})
			if v.reason != tt.reason || v.ready != (tt.reason == reasonInForce) {
				t.Fatalf("%+v, want reason %s", v, tt.reason)
			}
			for _, part := range tt.parts {
				if !strings.Contains(v.message, part) {
					t.Errorf("message lacks %q: %s", part, v.message)
				}
			}
		})
	}
	v := judge(policyOf(t), nil, nil, nil)
	if v.reason != reasonSelectsNothing || v.ready {
		t.Errorf("no nodes: %+v", v)
	}
}
