package coordinator

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// takeFromNode removes all rules and routes to pods from the node, as a network manager does that knows only its own.
func takeFromNode(t *testing.T, f *hosttest.Fake, rules, routes bool) {
	t.Helper()
	if rules {
		all, err := f.Rules(host.NodeNS)
		check(t, err)
		for _, r := range all {
			check(t, f.DeleteRule(host.NodeNS, r))
		}
	}
	if routes {
		all, err := f.Routes(host.NodeNS, 500)
		check(t, err)
		for _, r := range all {
			check(t, f.DeleteRoute(host.NodeNS, r))
		}
	}
}

// What the node has lost is found by Check and made again by Mend, and nothing else is changed.
func TestMend(t *testing.T) {
	first := func(t *testing.T, f *hosttest.Fake) *cni.Request {
		return request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16", "fd00:91::64/64"), `{}`)
	}
	overlay := func(t *testing.T, f *hosttest.Fake) *cni.Request {
		bridge(t, f)
		return request("net1", attachBoth(t, f), `{}`)
	}
	for name, lost := range map[string]struct {
		rules, routes bool
		attach        func(*testing.T, *hosttest.Fake) *cni.Request
		want          string
	}{
		"rules":              {true, false, first, "no rule that leads to table 500"},
		"routes":             {false, true, first, "table 500 has no route to "},
		"both":               {true, true, first, "no rule"},
		"both of an overlay": {true, true, overlay, "no rule"},
		"its routes":         {false, true, overlay, "via 10.244.0.7"},
	} {
		t.Run(name, func(t *testing.T) {
			f := node(t)
			p := &Plugin{Kernel: f, Cluster: labCluster}
			r := lost.attach(t, f)
			_, err := p.Add(t.Context(), r)
			check(t, err)
			check(t, p.Check(t.Context(), r))
			whole := f.Snapshot()
			takeFromNode(t, f, lost.rules, lost.routes)
			if err := p.Check(t.Context(), r); err == nil || !strings.Contains(err.Error(), lost.want) {
				t.Errorf("check: %v, want %q", err, lost.want)
			}
			for range 2 {
				check(t, p.Mend(t.Context(), r))
				check(t, p.Check(t.Context(), r))
			}
			if diff := cmp.Diff(whole, f.Snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A pair that has gone is not made again: the pod's routes went with it.
func TestMendWithoutThePair(t *testing.T) {
	f := node(t)
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{}`)
	_, err := p.Add(t.Context(), r)
	check(t, err)
	l, err := f.LinkByName(pod, podVeth)
	check(t, err)
	check(t, f.DeleteLink(pod, l.Index))
	if err := p.Mend(t.Context(), r); err == nil || !strings.Contains(err.Error(), "end of the pair") {
		t.Errorf("mend: %v", err)
	}
	var _ cni.Mender = p
}
