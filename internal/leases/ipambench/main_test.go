// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, test := range []struct {
		values  []time.Duration
		percent int
		want    time.Duration
	}{
		{nil, 50, 0}, {hundred[:1], 99, 100}, {hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100},
		{hundred[:3], 50, 99}, {hundred, 0, 1},
	} {
		if got := percentile(test.values, test.percent); got != test.want {
			t.Errorf("percentile %d of %d values is %d, want %d", test.percent, len(test.values), got, test.want)
		}
	}
}

func TestRate(t *testing.T) {
	if got := rate(50, 2*time.Second); got != 25 {
		t.Errorf("50 in 2 s are %v a second", got)
	}
	if got := rate(50, 0); got != 0 {
		t.Errorf("50 in no time are %v a second, want the 0 of what cannot be told", got)
	}
}

//nolint:lll // the lines of a raw string
const someMetrics = `# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="spiderippools",scope="resource",subresource="",verb="GET",version="v2beta1"} 5
apiserver_request_total{code="404",resource="spiderippools",scope="resource",subresource="",verb="GET",version="v2beta1"} 2
apiserver_request_total{code="409",resource="spiderippools",scope="resource",subresource="status",verb="PUT",version="v2beta1"} 1.2e+02
apiserver_request_total{code="0",resource="spiderippools",scope="cluster",subresource="",verb="WATCH",version="v2beta1"} 9
apiserver_request_total{code="0",resource="spiderippools",scope="cluster",subresource="",verb="WATCHLIST",version="v2beta1"} 3
apiserver_request_duration_seconds_count{resource="pods",verb="GET"} 7
`

func TestParseRequests(t *testing.T) {
	got, err := parseRequests(strings.NewReader(someMetrics))
	if err != nil {
		t.Fatal(err)
	}
	want := map[asked]int64{{"GET", "spiderippools"}: 7, {"PUT", "spiderippools"}: 120, {"WATCH", "spiderippools"}: 9,
		{"WATCHLIST", "spiderippools"}: 3}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(asked{})); diff != "" {
		t.Error(diff)
	}
	more := grown(map[asked]int64{{"GET", "spiderippools"}: 4, {"PUT", "spiderippools"}: 120}, got)
	if reads, writes := sum(more, "spiderippools"); reads != 3 || writes != 0 || len(more) != 1 {
		t.Errorf("%d reads and %d writes more, of %v; want 3 and 0", reads, writes, more)
	}
	if _, err := parseRequests(strings.NewReader(`apiserver_request_total{verb="GET"} many`)); err == nil {
		t.Error("a count that is no number was read")
	}
}

func TestPlans(t *testing.T) {
	p := fullPlan()
	for n, want := range map[int][2]int{1: {120, 248}, 10: {100, 208}, 50: {20, 48}, 5000: {1, 10}} {
		if pods, stock := p.burstOf(n); pods != want[0] || stock != want[1] {
			t.Errorf("%d agents start %d pods from a stock of %d, want %v", n, pods, stock, want)
		}
	}
	if got, err := parseAgents("1, 10"); err != nil || !cmp.Equal(got, []int{1, 10}) {
		t.Errorf("parseAgents: %v, %v", got, err)
	}
	if _, err := parseAgents("1,none"); err == nil {
		t.Error("a number of agents that is none was read")
	}
	if got := later(netip.MustParseAddr("10.1.0.0"), 300).String(); got != "10.1.1.44" {
		t.Errorf("300 addresses after 10.1.0.0 is %s", got)
	}
}

// The whole program runs, in a small way, so that it does not rot.
func TestSmallRun(t *testing.T) {
	log.SetLogger(logr.Discard())
	p := plan{
		Agents: []int{2}, Pods: 10, Roomy: 64, Burst: 4, Flat: []int{1 << 10}, FlatPods: 6, Floor: 5,
		Limit: 30 * time.Second, QuietLimit: 30 * time.Second, Whole: 3 * time.Minute, Still: 400 * time.Millisecond,
		Dir: t.TempDir(),
	}
	var out, progress bytes.Buffer
	if err := run(t.Context(), p, &out, &progress); err != nil {
		t.Fatalf("%v\nit had come to:\n%s", err, progress.String())
	}
	for _, want := range []string{"exact fit", "re-creation, of 64", "from stock, 8 of 8", "from stock, 4 of 16",
		scenarioObject, "1024"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing of %q in:\n%s", want, out.String())
		}
	}
	if t.Failed() {
		t.Log(progress.String())
	}
}
