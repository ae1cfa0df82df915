// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/lab/demo"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestSummarize(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	for _, tt := range []struct {
		name string
		in   []time.Duration
		want Stats
	}{
		{"none", nil, Stats{}},
		{"one", []time.Duration{7}, Stats{1, 7, 7, 7, 7}},
		{"two", []time.Duration{9, 7}, Stats{2, 7, 7, 9, 9}},
		{"three", []time.Duration{9, 7, 8}, Stats{3, 7, 8, 9, 9}},
		{"a hundred", hundred, Stats{100, 1, 50, 99, 100}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Summarize(tt.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// agentAnswer is as an agent prints it, with calls of other pods and repeated ones between.
//
//nolint:lll // the lines of a raw string
const agentAnswer = `[
 {"verb":"ADD","plugin":"multus","networkType":"ib-sriov","sandbox":"a","pod":"default/p0","ifname":"eth0","began":"2026-11-22T11:30:00Z","totalNs":40000000,
  "phases":[{"name":"coordinator","ns":12000000},{"name":"gather","ns":3000000},{"name":"device-move","ns":9000000},{"name":"link","ns":6000000},{"name":"address","ns":8000000}]},
 {"verb":"ADD","plugin":"network-status","networkType":"ib-sriov","sandbox":"a","pod":"default/p0","totalNs":20000000,"phases":[{"name":"status","ns":20000000}]},
 {"verb":"ADD","plugin":"multus","sandbox":"x","pod":"default/other","totalNs":1},
 {"verb":"STATUS","plugin":"multus","sandbox":"","totalNs":1},
 {"verb":"ADD","plugin":"ib-sriov","sandbox":"a","pod":"default/p0","totalNs":1},
 {"verb":"DEL","plugin":"multus","networkType":"ib-sriov","sandbox":"a","pod":"default/p0","totalNs":30000000,"phases":[{"name":"device-move","ns":20000000},{"name":"link","ns":5000000}]},
 {"verb":"DEL","plugin":"multus","sandbox":"a","pod":"default/p0","totalNs":1000},
 {"verb":"ADD","plugin":"multus","sandbox":"b","pod":"default/p1","totalNs":5000000,"error":"pool v4-91 is exhausted"},
 {"verb":"DEL","plugin":"multus","sandbox":"b","pod":"default/p1","totalNs":1000000}
]`

func TestSelect(t *testing.T) {
	all, err := ParseTimings(agentAnswer)
	if err != nil {
		t.Fatal(err)
	}
	c := Select(all, []string{"default/p0", "default/p1"})
	var got []string
	for kind, list := range map[string][]Timing{"add": c.Add, "del": c.Del, "status": c.Status, "failed": c.Failed} {
		for _, x := range list {
			got = append(got, fmt.Sprintf("%s %s %s", kind, x.Sandbox, x.Total))
		}
	}
	want := []string{"add a 40ms", "del a 30ms", "failed b 5ms", "status a 20ms"}
	if diff := cmp.Diff(want, sorted(got)); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	if _, err := ParseTimings("<html>"); err == nil || !strings.Contains(err.Error(), "timings") {
		t.Errorf("timings: %v", err)
	}
	if _, err := ParseSamples(""); err == nil || !strings.Contains(err.Error(), "bare steps") {
		t.Errorf("samples: %v", err)
	}
}

func FuzzParseTimings(f *testing.F) {
	f.Add(agentAnswer)
	f.Add("null")
	f.Fuzz(func(_ *testing.T, text string) {
		all, err := ParseTimings(text)
		if err != nil {
			return
		}
		r := Report{Pods: 1, Calls: map[string]Calls{"ipoib": Select(all, []string{"default/p0"})}}
		r.Write(io.Discard)
	})
}

func sample(series string, round int, verb, phase, step string, ms float64) Sample {
	return Sample{series, round, verb, phase, step, time.Duration(ms * float64(time.Millisecond))}
}

func testSamples() []Sample {
	var out []Sample
	for round := range 2 {
		slower := float64(round) / 10
		out = append(out,
			sample("shim", round, "", "shim", "start (VERSION)", 20+slower),
			sample("shim", round, "", "shim", "start, socket, answer", 25+slower),
			sample("ib-sriov", round, "ADD", "device-move", "RDMA device moved", 8+slower),
			sample("ib-sriov", round, "ADD", "link", "netdev found", 1),
			sample("ib-sriov", round, "ADD", "link", "netdev moved", 3+slower),
			sample("ib-sriov", round, "DEL", "device-move", "RDMA device moved back", 10+slower),
		)
	}
	return out
}

func TestReport(t *testing.T) {
	all, err := ParseTimings(agentAnswer)
	if err != nil {
		t.Fatal(err)
	}
	r := Report{Node: "10-20-1-10", Pods: 2, Samples: testSamples(),
		Calls: map[string]Calls{"ib-sriov": Select(all, []string{"default/p0", "default/p1"})}}
	var out bytes.Buffer
	r.Write(&out)
	golden(t, "report.txt", out.Bytes())
	if err := r.Incomplete(); err == nil || !strings.Contains(err.Error(),
		"ib-sriov: 1 ADD, 1 DEL and 1 status of 2 pods; ipoib: 0 ADD") {
		t.Errorf("incomplete: %v", err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
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
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, diff)
	}
}

// fakeLab answers as a lab would and remembers what was typed.
type fakeLab struct {
	typed  []string
	absent bool   // nothing is installed
	fails  string // scripts with this in them fail
	pods   []string
}

var errFails = errors.New("it failed")

func (l *fakeLab) note(script string) error {
	l.typed = append(l.typed, script)
	if l.fails != "" && strings.Contains(script, l.fails) {
		return errFails
	}
	return nil
}

func (l *fakeLab) Shell(ctx context.Context, script string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if l.absent && strings.Contains(script, "rollout status") {
		return "", errors.New("not found")
	}
	if _, after, ok := strings.Cut(script, "\n  name: "); ok {
		name, _, _ := strings.Cut(after, "\n")
		l.pods = append(l.pods, name)
	}
	return "", l.note(script)
}

func (l *fakeLab) Node(_ context.Context, _, script string) (string, error) {
	var calls []string
	for _, p := range l.pods {
		calls = append(calls,
			fmt.Sprintf(
				`{"verb":"ADD","plugin":"multus","sandbox":%[1]q,"pod":"default/%[1]s","totalNs":2},{"verb":"ADD","plugin":"network-status","pod":"default/%[1]s"},
			{"verb":"DEL","plugin":"multus","sandbox":%[1]q,"pod":"default/%[1]s","totalNs":1}`, p))
	}
	return "[" + strings.Join(calls, ",") + "]", l.note(script)
}

func (l *fakeLab) Feed(_ context.Context, _, script string, in io.Reader) (string, error) {
	err := l.note(script)
	if strings.Contains(script, "hostbench -n") {
		return `[{"series":"shim","step":"start, socket, answer","ns":1}]`, err
	}
	_, copyErr := io.Copy(io.Discard, in)
	return "", errors.Join(err, copyErr)
}

func run(t *testing.T, ctx context.Context, l *fakeLab) (Report, error) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "hostbench")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	steps := []demo.Step{{Title: "install", Do: func(ctx context.Context, w *demo.Walk) (string, error) {
		return w.Shell(ctx, "install")
	}}}
	return Run(ctx, l, Options{Node: "node", Pods: 2, Only: OnlyPods, Steps: steps, Program: program, ID: "id"},
		io.Discard)
}

func TestRun(t *testing.T) {
	l := &fakeLab{}
	r, err := run(t, t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Incomplete(); err != nil {
		t.Error(err)
	}
	if len(r.Samples) != 1 {
		t.Errorf("samples: %+v", r.Samples)
	}
	if diff := cmp.Diff([]string{"bench-id-ib-sriov-0", "bench-id-ib-sriov-1", "bench-id-ipoib-0", "bench-id-ipoib-1"},
		l.pods); diff != "" {
		t.Error(diff)
	}
	for _, script := range l.typed {
		if script == "install" {
			t.Error("installed what was there")
		}
	}
}

func TestRunInstallsWhatIsMissing(t *testing.T) {
	l := &fakeLab{absent: true}
	if _, err := run(t, t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if l.typed[0] != "install" {
		t.Errorf("typed first: %s", l.typed[0])
	}
}

// Whatever fails, the pods and the program are removed.
func TestRunRemovesWhatItMade(t *testing.T) {
	for fails, last := range map[string]string{
		"kubectl apply":   "kubectl -n default delete pod -l lab-bench-run=id",
		"v1/node/timings": "kubectl -n default delete pod -l lab-bench-run=id",
		"cat >":           "rm -rf /run/lab-bench-id",
		"hostbench -n":    "rm -rf /run/lab-bench-id",
	} {
		l := &fakeLab{fails: fails}
		if _, err := run(t, t.Context(), l); !errors.Is(err, errFails) {
			t.Errorf("%s: error %v", fails, err)
		}
		at := slices.IndexFunc(l.typed, func(s string) bool { return strings.Contains(s, fails) })
		if !slices.ContainsFunc(l.typed[at:], func(s string) bool { return strings.HasPrefix(s, last) }) {
			t.Errorf("%s fails: typed then %q, want %q", fails, l.typed[at:], last)
		}
	}
}

func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &interruptedLab{fakeLab: &fakeLab{}, cancel: cancel}
	r := runner{Options{Node: "node", Pods: 2, ID: "id"}, l, io.Discard}
	if _, err := r.pods(ctx, "ipoib"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := l.typed[len(l.typed)-1]; !strings.HasPrefix(got, "kubectl -n default delete pod -l lab-bench-run=id") {
		t.Errorf("typed last: %q", got)
	}
}

// interruptedLab is interrupted while the first pod starts.
type interruptedLab struct {
	*fakeLab
	cancel context.CancelFunc
}

func (l *interruptedLab) Shell(ctx context.Context, script string) (string, error) {
	out, err := l.fakeLab.Shell(ctx, script)
	l.cancel()
	return out, err
}

func TestUntilDoneEndsTheInput(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := runner{Options{Node: "node"}, feedLab{started: cancel}, io.Discard}
	if out, err := r.untilDone(ctx, "anything", "", time.Minute); out != "cleared up" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// feedLab runs a command that ends with its input.
type feedLab struct {
	Lab
	started func()
}

func (l feedLab) Feed(ctx context.Context, _, _ string, in io.Reader) (string, error) {
	l.started()
	if _, err := io.Copy(io.Discard, in); err != nil {
		return "", err
	}
	return "cleared up", ctx.Err()
}

func sorted(lines []string) []string { slices.Sort(lines); return lines }
