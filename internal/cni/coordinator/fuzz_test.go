// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/ipam"
)

// FuzzSettings: of any configuration of a network, and any SpiderCoordinator that the webhook lets
// through, come settings that the rest of the plugin can rely on, in which the network's own win,
// or a refusal that names the field or the object.
func FuzzSettings(f *testing.F) {
	f.Add(`{"type":"coordinator"}`,
		`{"mode":"auto","tunePodRoutes":true,"hijackCIDR":["169.254.0.0/16"],"hostRuleTable":500,"podRPFilter":0}`,
		"10.96.0.0/16,fd96::/112", "")
	f.Add(
		`{"type":"coordinator","mode":"underlay","tunePodRoutes":false,"txQueueLen":10,"vethLinkAddress":"169.254.1.1","vethMTU":1400,"podMACPrefix":"0a:1b","podDefaultRouteNic":"eth0",`+
			`"podRPFilter":2,"hostRuleTable":600,"hijackCIDR":["10.0.0.0/8"],"policyRoutes":[{"dst":"10.1.0.0/16","gw":"10.0.0.1"}]}`, `{}`, "10.244.0.0/24,10.244.0.9/24", "net1")
	f.Add(`{"mode":"disable","hijackCIDR":[]}`, `{"policyRoutes":[{"dst":"fd00::1/64","gw":"fe80::1%eth0"}]}`,
		"::ffff:10.0.0.0/104", "eth0")
	f.Add(`{"vethLinkAddress":"::ffff:169.254.0.1","hostRuleTable":0}`, `{"vethLinkAddress":""}`, "", "")
	f.Add(`{"mode":7}`, `null`, "x", "\n")
	f.Add(`null`, `{"mode":"none"}`, "", "")
	f.Fuzz(func(t *testing.T, conf, cluster1, learnt, nic string) {
		c := cluster{status: v2beta1.CoordinatorStatus{OverlayPodCIDR: strings.Split(learnt, ",")}}
		if json.Unmarshal([]byte(cluster1), &c.spec) != nil ||
			len(v2beta1.ValidateCoordinatorSpec(&c.spec, field.NewPath("spec"))) > 0 {
			return
		}
		p := &Plugin{Cluster: c}
		r := &cni.Request{Conf: []byte(conf),
			Pod: ipam.Pod{Annotations: map[string]string{AnnotationDefaultRouteNIC: nic}}}
		got, err := p.readSettings(context.Background(), r)
		if err != nil {
			if text := err.Error(); !strings.Contains(text, "coordinator.") &&
				!strings.Contains(text, "SpiderCoordinator") && !strings.Contains(text, "does not parse") {
				t.Fatalf("%s: the refusal %q names nothing", conf, text)
			}
			return
		}
		checkSettings(t, got)
		var own v2beta1.CoordinatorSpec
		if err := json.Unmarshal([]byte(conf), &own); err != nil {
			t.Fatalf("%s is taken, and does not parse: %v", conf, err)
		}
		if own.Mode != nil && got.mode != *own.Mode || own.HostRuleTable != nil &&
			got.hostTable != *own.HostRuleTable || own.VethMTU != nil && got.vethMTU != *own.VethMTU ||
			nic != "" && (got.defaultNIC != nic || !got.nicOfPod) || own.PolicyRoutes != nil &&
			len(got.policyRoutes) != len(own.PolicyRoutes) {
			t.Fatalf("%s over %s, with %q: %+v", conf, cluster1, nic, got)
		}
		if again, err := p.readSettings(context.Background(), r); err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%s is read as %+v, and then as %+v, %v", conf, got, again, err)
		}
	})
}

func checkSettings(t *testing.T, s settings) {
	t.Helper()
	for _, ifname := range []string{firstNIC, "net1"} {
		for _, hasVeth := range []bool{false, true} {
			if _, err := resolveMode(s.mode, ifname, hasVeth); err != nil && strings.Contains(err.Error(),
				"want auto, underlay") {
				t.Fatalf("mode %q: %v", s.mode, err)
			}
		}
	}
	if s.hostTable < 1 || s.rpFilter > 2 || s.vethMTU < 0 || s.txQueueLen < 0 || s.vethAddress.IsValid() &&
		!s.vethAddress.Is4() {
		t.Fatalf("settings %+v", s)
	}
	for i, p := range s.viaNode {
		if !p.IsValid() || p != p.Masked() || slices.Index(s.viaNode, p) != i {
			t.Fatalf("networks reached through the node: %v", s.viaNode)
		}
	}
	for _, r := range s.policyRoutes {
		if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || r.Dst.Addr().Is4() != r.Gateway.Is4() ||
			r.Gateway.Zone() != "" || unmapped(r.Gateway) || unmapped(r.Dst.Addr()) {
			t.Fatalf("route %v via %v", r.Dst, r.Gateway)
		}
	}
}

// unmapped: the kernel knows no such address; it would be one of the other family, or none.
func unmapped(a netip.Addr) bool { return a.Is4In6() }
