// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// rulesFor are the families for which the node has our rule for a table.
func rulesFor(t *testing.T, f *hosttest.Fake, table int) (families string) {
	t.Helper()
	rules, err := f.Rules(host.NodeNS)
	check(t, err)
	for _, v6 := range []bool{false, true} {
		if slices.Contains(rules, NodeRule(table, v6)) {
			families += map[bool]string{false: "4", true: "6"}[v6]
		}
	}
	return families
}

// TestRuleOfOwnTable: the rule for a network's own hostRuleTable goes with the last pod that has a
// route in it, that of the cluster's table stays.
func TestRuleOfOwnTable(t *testing.T) {
	moved := labCluster
	moved.spec.HostRuleTable = new(int)
	*moved.spec.HostRuleTable = 600
	away := labCluster
	away.err = errors.New("no API server")
	other := host.Route{Dst: netip.MustParsePrefix("172.91.0.7/32"), Table: 777}
	for name, test := range map[string]struct {
		conf    string
		table   int
		cluster cluster     // at DEL
		stays   *host.Route // of another pod
		want    string      // families with a rule at the end
	}{
		"own":                                {`{"hostRuleTable":777}`, 777, labCluster, nil, ""},
		"own, without an API server":         {`{"hostRuleTable":777}`, 777, away, nil, ""},
		"own, and another pod's route":       {`{"hostRuleTable":777}`, 777, labCluster, &other, "4"},
		"own, and the cluster's as well":     {`{"hostRuleTable":500}`, 500, labCluster, nil, "46"},
		"the cluster's":                      {`{}`, 500, labCluster, nil, "46"},
		"the cluster's, not any more":        {`{}`, 500, moved, nil, ""},
		"the cluster's, which is not known":  {`{}`, 500, away, nil, "46"},
		"own, which the cluster's is by now": {`{"hostRuleTable":600}`, 600, moved, nil, ""},
	} {
		for _, later := range []bool{false, true} {
			f := node(t)
			addresses := []string{"172.91.0.100/16", "fd00:91::64/64"}
			p := &Plugin{Kernel: f, Cluster: labCluster}
			main, err := f.LinkByName(host.NodeNS, "ibs5f0")
			check(t, err)
			check(t, f.AddAddress(host.NodeNS, main.Index, netip.MustParsePrefix("fd00:91::1/64")))
			r := request("eth0", attach(t, f, "eth0", "172.91.0.1", addresses...), test.conf)
			calls := []*cni.Request{r}
			if later {
				_, err := p.Add(t.Context(), request("eth0", r.Prev, `{}`))
				check(t, err)
				r = request("net1", attach(t, f, "net1", "", "172.92.0.100/16", "fd00:92::64/64"), test.conf)
				calls = []*cni.Request{r}
			}
			_, err = p.Add(t.Context(), r)
			check(t, err)
			if got := rulesFor(t, f, test.table); got != "46" {
				t.Errorf("%s: after ADD there are rules for %q", name, got)
			}
			if test.stays != nil {
				stays := *test.stays
				stays.Index = main.Index
				check(t, f.AddRoute(host.NodeNS, stays))
			}
			p.Cluster = test.cluster
			for _, r := range append(calls, calls...) {
				check(t, p.Del(t.Context(), r))
			}
			want := test.want
			if later && name == "the cluster's, not any more" {
				want = "46" // eth0 has its routes in it
			}
			if got := rulesFor(t, f, test.table); got != want {
				t.Errorf("%s, later %t: after DEL there are rules for %q, want %q", name, later, got, want)
			}
		}
	}
}

// TestRuleOfBrokenAdd: an ADD that failed anywhere leaves no rule for its own table behind DEL.
func TestRuleOfBrokenAdd(t *testing.T) {
	for k := 1; ; k++ {
		f := node(t)
		p := &Plugin{Kernel: f, Cluster: labCluster}
		r := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{"hostRuleTable":777}`)
		f.CrashAt(k, true)
		_, err := p.Add(t.Context(), r)
		f.Revive()
		check(t, p.Del(t.Context(), r))
		if got := rulesFor(t, f, 777); got != "" {
			t.Errorf("broken after call %d: rules for %q", k, got)
		}
		if err == nil {
			return
		}
	}
}

// TestForeignTable: a network cannot have the node's traffic follow routes of something else.
func TestForeignTable(t *testing.T) {
	f := node(t)
	main, err := f.LinkByName(host.NodeNS, "ibs5f0")
	check(t, err)
	foreign := host.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Index: main.Index, Table: 51}
	check(t, f.AddRoute(host.NodeNS, foreign))
	p := &Plugin{Kernel: f, Cluster: labCluster}
	r := request("eth0", attach(t, f, "eth0", "172.91.0.1", "172.91.0.100/16"), `{"hostRuleTable":51}`)
	_, err = p.Add(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "hostRuleTable is 51, and something else on this node uses that "+
		"table: it has a route to 10.0.0.0/8") {
		t.Errorf("err = %v", err)
	}
	check(t, p.Del(t.Context(), r))
	if got := rulesFor(t, f, 51); got != "" {
		t.Errorf("rules for %q", got)
	}
	// The administrator's choice for all is not a network's.
	table := 51
	p.Cluster = cluster{spec: v2beta1.CoordinatorSpec{HostRuleTable: &table}, status: labCluster.status}
	_, err = p.Add(t.Context(), request("eth0", r.Prev, `{}`))
	check(t, err)
}
