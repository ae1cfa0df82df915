// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/sriov"
)

func TestClashesOn(t *testing.T) {
	clashes := []sriov.Clash{
		{GUID: "02:00:00:00:00:00:00:01", Bearers: []sriov.Bearer{{Node: "x", PCI: "0000:86:00.1", VF: true,
			PF: "0000:86:00.0"}, {Node: "y", PCI: "0000:86:00.1", VF: true, PF: "0000:86:00.0"}}},
		{GUID: "e8:eb:d3:03:00:93:ae:10", Bearers: []sriov.Bearer{{Node: "x", PCI: "0000:86:00.0"},
			{Node: "y", PCI: "0000:86:00.0"}}},
		{GUID: "02:00:00:00:00:00:00:02", Bearers: []sriov.Bearer{{Node: "y", PCI: "0000:87:00.1", VF: true,
			PF: "0000:87:00.0"}, {Node: "z", PCI: "0000:86:00.1", VF: true, PF: "0000:86:00.0"}}},
	}
	x, z := clashesOn("x", clashes), clashesOn("z", clashes)
	for _, part := range []string{
		"GUID e8:eb:d3:03:00:93:ae:10 is borne by node x 0000:86:00.0 and node y 0000:86:00.0",
		"mstflint", "mend the card first",
	} {
		if !strings.Contains(x, part) {
			t.Errorf("the message of x lacks %q: %s", part, x)
		}
	}
	if strings.Contains(x, "node z") || !strings.Contains(z, "node y 0000:87:00.1 and node z 0000:86:00.1") ||
		!strings.Contains(z, "troubleshooting") || strings.Contains(z, "mstflint") {
		t.Errorf("x: %s\nz: %s", x, z)
	}
	if got := clashesOn("elsewhere", clashes); got != "" {
		t.Errorf("a node that has none of them: %s", got)
	}
}

func TestGuids(t *testing.T) {
	r := start(t)
	cards := func(guid string) v1.SriovNetworkNodeStateStatus {
		pf := guideCard(0, 0)
		pf.Guid = guid
		return v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{pf}, SyncStatus: v1.SyncStatusSucceeded}
	}
	wait := func(node, reason string, parts ...string) {
		t.Helper()
		r.waitState(node, func(s *v1.SriovNetworkNodeState) string {
			c := meta.FindStatusCondition(s.Status.Conditions, v1.ConditionGuidsUnique)
			if c == nil || c.Reason != reason {
				return fmt.Sprintf("condition %+v, want %s", c, reason)
			}
			for _, part := range parts {
				if !strings.Contains(c.Message, part) {
					return fmt.Sprintf("message lacks %q: %s", part, c.Message)
				}
			}
			return ""
		})
	}
	for _, node := range []string{"guid-a", "guid-b", "guid-none"} {
		r.addNode(node, linux)
	}
	r.report("guid-none", v1.SriovNetworkNodeStateStatus{SyncStatus: v1.SyncStatusSucceeded})
	r.report("guid-a", cards("e8:eb:d3:03:00:93:ae:10"))
	wait("guid-a", reasonGuidsUnique)
	r.report("guid-b", cards("e8:eb:d3:03:00:93:ae:10"))
	for _, node := range []string{"guid-a", "guid-b"} {
		wait(node, reasonGuidClash,
			"GUID e8:eb:d3:03:00:93:ae:10 is borne by node guid-a 0000:86:00.0 and node guid-b 0000:86:00.0",
			"mstflint")
		r.wantEvent(node, reasonGuidClash)
	}
	r.report("guid-b", cards("e8:eb:d3:03:00:93:ae:20"))
	wait("guid-a", reasonGuidsUnique)
	wait("guid-b", reasonGuidsUnique)
	if s := r.waitState("guid-none", always); len(s.Status.Conditions) > 0 {
		t.Errorf("a node without InfiniBand is told of GUIDs: %+v", s.Status.Conditions)
	}
}
