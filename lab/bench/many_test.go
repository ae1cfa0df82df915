// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// manyLab answers as a lab with free VFs would: pods get UIDs, attachbench attaches every pod that
// it is given, and the agent remembers.
type manyLab struct {
	fakeLab
	vfs     int
	busy    bool // network namespaces are there
	small   bool // there is memory for a few attachments
	modes   []string
	timings []string
	batches []string // what attachbench was called with, and how many pods
	steps   []string // what hostbench was called with
}

var podName = regexp.MustCompile(`(?m)^  name: (\S+)\n  namespace: default$`)

func (l *manyLab) Shell(ctx context.Context, script string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var out strings.Builder
	if strings.Contains(script, "get pods -l") {
		found := podName.FindAllStringSubmatch(script, -1)
		slices.Reverse(found) // in an order of its own
		for _, m := range found {
			fmt.Fprintf(&out, "%s uid-%s\n", m[1], m[1])
		}
	}
	return out.String(), l.note(script)
}

func (l *manyLab) Node(_ context.Context, _, script string) (string, error) {
	err := l.note(script)
	switch {
	case strings.Contains(script, "rdma system set netns"):
		if l.busy {
			return "", errors.New("device or resource busy")
		}
		l.modes = append(l.modes,
			strings.Fields(script)[len(strings.Fields("for i in $(seq 20); do rdma system set netns"))])
		return "", err
	case script == "rdma system":
		return "netns exclusive copy-on-fork on\n", err
	case strings.Contains(script, "virtfn"):
		var vfs []string
		for i := range l.vfs {
			vfs = append(vfs, fmt.Sprintf("0000:86:00.%d", i))
		}
		return strings.Join(vfs, "\n"), err
	case strings.Contains(script, "VmRSS"):
		return fmt.Sprintf("4711\nMemAvailable:    %d kB\nVmRSS:\t   40960 kB\n",
			map[bool]int{true: 1 << 20, false: 4 << 20}[l.small]), err
	case strings.Contains(script, "timings"):
		return "[" + strings.Join(l.timings, ",") + "]", err
	}
	return "", err
}

func (l *manyLab) Feed(_ context.Context, _, script string, in io.Reader) (string, error) {
	err := l.note(script)
	switch {
	case strings.Contains(script, "hostbench -n"):
		_, args, _ := strings.Cut(script, "hostbench ")
		args, _, _ = strings.Cut(args, " -instead")
		l.steps = append(l.steps, args)
		return `[{"series":"shim","step":"start, socket, answer","ns":1}]`, err
	case strings.Contains(script, "attachbench -at-once"):
		out := l.attachbench(script, in)
		return out, err
	}
	_, copyErr := io.Copy(io.Discard, in)
	return "", errors.Join(err, copyErr)
}

// attachbench reads the first line only: the rest ends when the benchmark is interrupted.
func (l *manyLab) attachbench(script string, in io.Reader) string {
	line, err := bufio.NewReader(in).ReadBytes('\n')
	var pods []struct{ Namespace, Name, UID string }
	if err := errors.Join(err, json.Unmarshal(line, &pods)); err != nil {
		return err.Error()
	}
	_, args, _ := strings.Cut(script, "attachbench ")
	l.batches = append(l.batches, fmt.Sprintf("%d pods: %s", len(pods), args))
	var out attached
	for _, p := range pods {
		if p.UID != "uid-"+p.Name {
			return "UID of another pod"
		}
		for _, verb := range []string{"ADD", "DEL"} {
			out.Samples = append(out.Samples, Call{Pod: p.Namespace + "/" + p.Name, Verb: verb, Duration: 3, Done: 4})
			l.timings = append(l.timings,
				fmt.Sprintf(`{"verb":%q,"plugin":"multus","sandbox":%[2]q,"pod":"default/%[2]s","totalNs":2}`, verb,
					p.Name))
		}
	}
	if strings.Contains(args, "-hold") {
		out.Held = "VmRSS:\t   51200 kB\n"
	}
	text, _ := json.Marshal(out)
	return string(text)
}

func runMany(t *testing.T, l Lab) (Report, error) {
	t.Helper()
	o := Options{Node: "node", Pods: 2, Only: OnlyMany, ID: "id", Many: ManyOptions{Master: "ibs5f0", Rounds: 3,
		Held: 100}}
	for name, into := range map[string]*string{"hostbench": &o.Program, "attachbench": &o.Many.Program} {
		*into = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(*into, []byte("program"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Run(t.Context(), l, o, io.Discard)
}

func TestMany(t *testing.T) {
	l := &manyLab{vfs: 12}
	r, err := runMany(t, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Incomplete(); err != nil {
		t.Error(err)
	}
	var got []string
	for _, c := range r.Many.Cases {
		turns := map[int]bool{}
		for _, s := range c.Bare {
			turns[s.Round] = true
		}
		got = append(got, fmt.Sprintf("%s: %d rounds, %d calls, %d ADD and %d DEL in the agent, %d turns of bare steps",
			c.title(r.Many.Mode), c.Rounds, len(c.Runtime), len(c.Agent.Add), len(c.Agent.Del), len(turns)))
	}
	want := []string{
		"ipoib, one pod at a time: 2 rounds, 4 calls, 2 ADD and 2 DEL in the agent, 1 turns of bare steps",
		"ib-sriov (RDMA isolated), one pod at a time: 2 rounds, 4 calls, 2 ADD and 2 DEL in the agent, 1 turns of " +
			"bare steps",
		"ib-sriov + ipoib (RDMA isolated), one pod at a time: 2 rounds, 4 calls, 2 ADD and 2 DEL in the agent, 1 " +
			"turns of bare steps",
		"ib-sriov + ib-sriov + ipoib + ipoib (RDMA isolated), one pod at a time: 2 rounds, 4 calls, 2 ADD and 2 DEL " +
			"in the agent, 1 turns of bare steps",
		"ipoib, 10 pods at once: 3 rounds, 60 calls, 30 ADD and 30 DEL in the agent, 3 turns of bare steps",
		"ipoib, 40 pods at once: 3 rounds, 240 calls, 120 ADD and 120 DEL in the agent, 3 turns of bare steps",
		"ib-sriov (RDMA isolated), 10 pods at once: 3 rounds, 60 calls, 30 ADD and 30 DEL in the agent, 3 turns of " +
			"bare steps",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want = []string{"100 pods: -at-once 10 -hold 'sleep 10; grep VmRSS /proc/4711/status'",
		"2 pods: -at-once 1 -quiet 4s", "2 pods: -at-once 1 -quiet 4s", "2 pods: -at-once 1 -quiet 4s",
		"2 pods: -at-once 1 -quiet 4s", "10 pods: -at-once 10 -quiet 4s", "10 pods: -at-once 10 -quiet 4s",
		"10 pods: -at-once 10 -quiet 4s", "40 pods: -at-once 40 -quiet 4s", "40 pods: -at-once 40 -quiet 4s",
		"40 pods: -at-once 40 -quiet 4s",
		"10 pods: -at-once 10 -quiet 4s", "10 pods: -at-once 10 -quiet 4s", "10 pods: -at-once 10 -quiet 4s",
		"2 pods: -at-once 1 -quiet 4s"}
	if diff := cmp.Diff(want, l.batches); diff != "" {
		t.Error(diff)
	}
	slices.Sort(l.steps)
	want = []string{"-n 2", "-n 3 -steps -series ib-sriov -quiet 4s", "-n 3 -steps -series ib-sriov,ipoib -quiet 4s",
		"-n 3 -steps -series ipoib -quiet 4s"}
	if diff := cmp.Diff(want, slices.Compact(l.steps)); diff != "" {
		t.Errorf("bare steps: %s", diff)
	}
	if diff := cmp.Diff([]string{"shared", "exclusive"}, l.modes); diff != "" {
		t.Errorf("modes: %s", diff)
	}
	if other := r.InOtherMode; len(other.Many.Cases) != 1 || other.Many.Cases[0].title(other.Many.Mode) !=
		"ib-sriov (RDMA shared), one pod at a time" || len(other.Many.Cases[0].Agent.Add) != 2 ||
		len(other.Samples) == 0 {
		t.Errorf("in the other mode: %+v", other)
	}
	if diff := cmp.Diff(&Memory{Idle: 40 << 20, Held: 50 << 20, Attachments: 100}, r.Many.Memory); diff != "" {
		t.Error(diff)
	}
}

// A node with pods keeps its mode, and the report says that the other was not measured.
func TestManyWithPodsOnTheNode(t *testing.T) {
	r, err := runMany(t, &manyLab{vfs: 12, busy: true})
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(r.Many.Notes, "\n"); r.InOtherMode != nil ||
		!strings.Contains(all, "in shared mode was not measured: changing it: device or resource busy") {
		t.Errorf("notes %q, in the other mode %+v", all, r.InOtherMode)
	}
}

// A node that has no memory for so many attachments gets none of them, and the report says so.
func TestManyOnASmallNode(t *testing.T) {
	l := &manyLab{vfs: 12, small: true}
	r, err := runMany(t, l)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(r.Many.Notes, "\n"); r.Many.Memory != nil ||
		!strings.Contains(all, "1024 MiB are available, and 100 attachments may need 1600") || len(r.Many.Cases) == 0 {
		t.Errorf("notes %q, memory %+v, %d cases", all, r.Many.Memory, len(r.Many.Cases))
	}
	if slices.ContainsFunc(l.batches, func(b string) bool { return strings.Contains(b, "-hold") }) {
		t.Errorf("attached all the same: %q", l.batches)
	}
}

// Whatever fails, pods, networks and the program are removed, and the run says what failed.
func TestManyRemovesWhatItMade(t *testing.T) {
	networks, pods, program := "kubectl -n kube-system delete network-attachment-definitions -l lab-bench-run=id",
		"kubectl -n default delete pod -l lab-bench-run=id", "rm -rf /run/lab-bench-id"
	for fails, removed := range map[string][]string{
		"SpiderIPPool":   {networks},
		"cat >":          {program, networks},
		"VmRSS":          {pods, program, networks},
		"get pods -l":    {pods, program, networks},
		"-hold":          {pods, program, networks},
		"-at-once 40":    {pods, program, networks},
		"v1/node/timing": {pods, program, networks},
	} {
		l := &manyLab{vfs: 12, fakeLab: fakeLab{fails: fails}}
		if _, err := runMany(t, l); !errors.Is(err, errFails) {
			t.Errorf("%s: error %v", fails, err)
		}
		at := slices.IndexFunc(l.typed, func(s string) bool { return strings.Contains(s, fails) })
		for _, want := range removed {
			next := slices.IndexFunc(l.typed[at+1:], func(s string) bool { return strings.HasPrefix(s, want) })
			if next < 0 {
				t.Errorf("%s fails: typed then %q, want %q in its turn", fails, l.typed[at:], want)
				break
			}
			at += 1 + next
		}
	}
}

// An interrupted run ends attachbench by its standard input, and then removes all.
func TestManyInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &interruptedMany{manyLab: manyLab{vfs: 12}, cancel: cancel}
	r := runner{Options{Node: "node", Pods: 2, ID: "id", Program: os.DevNull, Many: ManyOptions{Program: os.DevNull,
		Rounds: 3}}, l, io.Discard}
	if _, err := r.many(ctx); !errors.Is(err, errFails) {
		t.Errorf("error %v", err)
	}
	last := l.typed[len(l.typed)-4:]
	for i, want := range []string{"kubectl -n default delete pod", "rm -rf /run/lab-bench-id",
		"rm -rf /run/lab-bench-id", "kubectl -n kube-system delete network-attachment-definitions"} {
		if !strings.HasPrefix(last[i], want) {
			t.Errorf("typed %q, want %q", last[i], want)
		}
	}
}

// interruptedMany is interrupted while attachbench runs.
type interruptedMany struct {
	manyLab
	cancel context.CancelFunc
}

func (l *interruptedMany) Feed(ctx context.Context, node, script string, in io.Reader) (string, error) {
	if !strings.Contains(script, " -at-once") {
		return l.manyLab.Feed(ctx, node, script, in)
	}
	l.cancel()
	if _, err := io.Copy(io.Discard, in); err != nil || ctx.Err() != nil {
		return "", errors.Join(err, ctx.Err())
	}
	return "", errFails // as a program that says that it was interrupted
}

func TestPlanByFreeVFs(t *testing.T) {
	for vfs, want := range map[int][]string{
		0: {"ipoib 1", "ipoib 10", "ipoib 40"},
		1: {"ipoib 1", "ib-sriov 1", "ib-sriov+ipoib 1", "ipoib 10", "ipoib 40"},
		2: {"ipoib 1", "ib-sriov 1", "ib-sriov+ipoib 1", "ib-sriov+ib-sriov+ipoib+ipoib 1", "ipoib 10", "ipoib 40",
			"ib-sriov 2"},
		12: {"ipoib 1", "ib-sriov 1", "ib-sriov+ipoib 1", "ib-sriov+ib-sriov+ipoib+ipoib 1", "ipoib 10", "ipoib 40",
			"ib-sriov 10"},
	} {
		cases, notes := plan(vfs, 5, 3)
		var got []string
		for _, c := range cases {
			got = append(got, fmt.Sprintf("%s %d", strings.Join(c.Networks, "+"), c.AtOnce))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d VFs: %s", vfs, diff)
		}
		all := strings.Join(notes, "\n")
		if strings.Contains(all, "10 pods at once was not measured") != (vfs < 10) {
			t.Errorf("%d VFs: notes %s", vfs, all)
		}
	}
}

// The manifests are what the API server reads: as objects.
func TestManifests(t *testing.T) {
	r := runner{Options: Options{Node: "node", ID: "id", Many: ManyOptions{Master: "ibs5f0"}}}
	c := &Case{Networks: []string{"ib-sriov", "ib-sriov", "ipoib"}, AtOnce: 2}
	text := r.networks([]string{"0000:86:00.1"}, true)
	for _, p := range r.benchPods("0-0", c, 3, true) {
		text += p.manifest(r.Node, r.ID)
	}
	var got []string
	for doc := range strings.SplitSeq(text, "---\n") {
		var o struct {
			Kind     string
			Metadata struct {
				Name        string
				Labels      map[string]string
				Annotations map[string]string
			}
			Spec map[string]any
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if o.Metadata.Labels[runLabel] != "id" {
			t.Errorf("%s %s has labels %v", o.Kind, o.Metadata.Name, o.Metadata.Labels)
		}
		line := fmt.Sprint(o.Kind, " ", o.Metadata.Name, " ",
			o.Metadata.Annotations["v1.multus-cni.io/default-network"], " ",
			o.Metadata.Annotations["k8s.v1.cni.cncf.io/networks"])
		got = append(got,
			strings.Join(append(strings.Fields(line),
				strings.Fields(fmt.Sprint(o.Spec["config"], " ", o.Spec["nodeName"]))...), " "))
	}
	pod := func(name, vfs string) string { return "Pod bench-id-0-0-" + name + " " + vfs + " <nil> node" }
	networks := func(a, b string) string {
		return "kube-system/bench-id-" + a + " kube-system/bench-id-" + b + ",kube-system/bench-id-ipoib"
	}
	want := []string{
		"SpiderIPPool bench-id-pool <nil> <nil>",
		`NetworkAttachmentDefinition bench-id-ipoib {"cniVersion":"0.3.1","name":"bench-id-ipoib","plugins":[{"ipam":{"default_ipv4_ippool":["bench-id-pool"],"type":"spiderpool"},"master":"ibs5f0","type":"ipoib"},{"type":"coordinator"}]} <nil>`,
		`NetworkAttachmentDefinition bench-id-vf0 {"cniVersion":"0.3.1","name":"bench-id-vf0","plugins":[{"deviceID":"0000:86:00.1","ipam":{"default_ipv4_ippool":["bench-id-pool"],"type":"spiderpool"},"rdmaIsolation":true,"type":"ib-sriov"},{"type":"coordinator"}]} <nil>`,
		pod("0", networks("vf0", "vf1")), pod("1", networks("vf2", "vf3")), pod("2", networks("vf0", "vf1")),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if shared := r.networks([]string{"0000:86:00.1"}, false); strings.Contains(shared, "rdmaIsolation") {
		t.Errorf("asks for isolation in shared mode:\n%s", shared)
	}
}

// manyReport has a case of each shape, with a failure, and a bare series for each network.
func manyReport() Report {
	ms := func(f float64) time.Duration { return time.Duration(f * float64(time.Millisecond)) }
	call := func(verb string, round int, duration, done float64, fault string) Call {
		return Call{"default/p", round, verb, ms(duration), ms(done), fault}
	}
	timing := func(verb string, total float64) Timing {
		return Timing{Verb: verb, Total: ms(total), Phases: []Phase{{"link", ms(total / 2)}, {"gather", ms(1)}}}
	}
	samples := append(testSamples(), sample("ib-sriov", 0, "ADD", "coordinator", "veth pair made", 5),
		sample("ib-sriov", 1, "ADD", "coordinator", "veth pair made", 5),
		sample("ipoib", 0, "ADD", "link", "IPoIB child made", 4), sample("ipoib", 0, "ADD", "coordinator",
			"veth pair made", 6), sample("ipoib", 0, "DEL", "link", "IPoIB child deleted", 2))
	other := &Report{Node: "10-20-1-10", Samples: samples,
		Many: &Many{Mode: "shared", Cases: []Case{{Networks: []string{"ib-sriov"}, AtOnce: 1, Rounds: 1,
			Runtime: []Call{call("ADD", 0, 20, 20, ""), call("DEL", 0, 8, 8, "")},
			Agent:   Calls{Add: []Timing{timing("ADD", 17)}, Del: []Timing{timing("DEL", 6)}}}}}}
	return Report{Node: "10-20-1-10", Samples: samples, InOtherMode: other, Many: &Many{Mode: "exclusive",
		Notes:  []string{"ib-sriov with 10 pods at once was not measured: the node has 2 free VFs."},
		Memory: &Memory{Idle: 40 << 20, Held: 50 << 20, Attachments: 100},
		Cases: []Case{
			{Networks: []string{"ib-sriov", "ipoib"}, AtOnce: 1, Rounds: 2,
				Runtime: []Call{call("ADD", 0, 30, 30, ""), call("DEL", 0, 10, 10, ""), call("ADD", 1, 40, 40, ""),
					call("DEL", 1, 12, 12, "")},
				Agent: Calls{Add: []Timing{timing("ADD", 20), timing("ADD", 30)}, Del: []Timing{timing("DEL", 8),
					timing("DEL", 9)}}},
			{Networks: []string{"ipoib"}, AtOnce: 2, Rounds: 2,
				Runtime: []Call{call("ADD", 0, 10, 11, ""), call("ADD", 0, 14, 15, ""),
					call("ADD", 1, 9, 10, "ADD: pool is exhausted"), call("ADD", 1, 15, 16, "")},
				Agent: Calls{Add: []Timing{timing("ADD", 8), timing("ADD", 12), timing("ADD", 12)}}},
		}}}
}

func TestManyReport(t *testing.T) {
	var out bytes.Buffer
	manyReport().Write(&out)
	golden(t, "many.txt", out.Bytes())
}

// A case that was measured in turn with bare steps is held against these, not against those of the whole run.
func TestFloorInTurn(t *testing.T) {
	r := manyReport()
	c := Case{Networks: []string{"ipoib"}, Bare: []Sample{sample("ipoib", 0, "ADD", "link", "IPoIB child made", 7),
		sample("ipoib", 1, "ADD", "link", "IPoIB child made", 7)}}
	if got := r.floorOf(c, "ADD"); got != 7*time.Millisecond {
		t.Errorf("floor %s, want 7 ms", got)
	}
	c.Bare = nil
	if got := r.floorOf(c, "ADD"); got != 10*time.Millisecond {
		t.Errorf("floor of the whole run %s, want 10 ms", got)
	}
}

// What is left out of the floor of further networks are the coordinator's steps; a network without
// bare steps leaves no floor at all.
func TestFloor(t *testing.T) {
	r := manyReport()
	for networks, want := range map[string]time.Duration{"ib-sriov": 17, "ipoib": 10, "ib-sriov ipoib": 21,
		"ipoib ib-sriov": 22, "ipoib none": 0} {
		if got := r.floor(strings.Fields(networks), "ADD"); got != want*time.Millisecond {
			t.Errorf("%s: %s, want %d ms", networks, got, want)
		}
	}
}

func TestParseWhatTheNodePrints(t *testing.T) {
	if mode, err := parseMode("netns shared copy-on-fork on\n"); mode != "shared" || err != nil {
		t.Errorf("%q, %v", mode, err)
	}
	if _, err := parseMode("command not found"); err == nil {
		t.Error("a mode was found in an error")
	}
	if _, err := parseKiB("VmRSS", "cat: no such process"); err == nil {
		t.Error("memory was found in an error")
	}
	if _, err := podList([]benchPod{{name: "a"}}, "b uid\n"); err == nil || !strings.Contains(err.Error(),
		"no UID of pod a") {
		t.Errorf("error %v", err)
	}
}
