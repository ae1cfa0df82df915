// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/lab/internal/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

// errorsDoc is the table for users. A change of it is a change of what they read: -update writes it.
const errorsDoc = "../../docs/errors.md"

// TestBadInputDoc shows that users can look up every message of the table.
func TestBadInputDoc(t *testing.T) {
	want := renderErrors(badInputs)
	if *update {
		if err := os.WriteFile(errorsDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(errorsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/errors.md is not what the table says; run this test with -update:\n%s", diff)
	}
}

// TestBadInput (in a file behind main_test.go, because it needs what TestGuide installs) gives the
// product everything that users get wrong. Each is answered by one message, where the user looks
// first, and leaves nothing behind. The bad pods are made all at once: kubelets take their time.
func TestBadInput(t *testing.T) {
	shell(t,
		"kubectl -n kube-system rollout status --timeout=90s daemonset,deployment -l app.kubernetes.io/name=spiderpool")
	stop(t) // what a run that was interrupted left
	before := remember(t)
	t.Cleanup(func() { stop(t) })
	start(t)
	t.Run("kubectl", func(t *testing.T) {
		for _, b := range badInputs {
			if b.where != atPod {
				t.Run(b.title, func(t *testing.T) { testAnswer(t, b) })
			}
		}
	})
	t.Run("pods", testPods)
	t.Run("nothing is left", func(t *testing.T) {
		stop(t)
		eventually(t, time.Minute, func() string { return cmp.Diff(before, look(t)) })
	})
}

// testAnswer applies a bad object and compares what kubectl prints.
func testAnswer(t *testing.T, b badInput) {
	stdout, stderr, err := term.ShellBoth(t.Context(), "kubectl apply -f - <<'END'\n"+b.manifest+"END")
	if (err != nil) != (b.where == refused) {
		t.Errorf("kubectl apply: %v, want refused: %t", err, b.where == refused)
	}
	if err == nil {
		defer shell(t, "kubectl delete --wait=false -f - <<'END'\n"+b.manifest+"END")
	}
	if made := strings.Contains(stdout, " created"); made != (b.where == warned) {
		t.Errorf("kubectl says %q", stdout)
	}
	if diff := cmp.Diff(b.message, answer(stderr)); diff != "" {
		t.Errorf("kubectl's answer:\n%s\nnot as expected (-want +got):\n%s", stderr, diff)
	}
}

// preamble is what API server and kubectl put before a message: who refused which object.
var preamble = regexp.MustCompile(
	`^(Warning: |Error from server \(Invalid\): error when creating "STDIN": |The \w+ "[^"]+" is invalid: ?)` +
		`(admission webhook "[^"]+" denied the request: )?(\S+ "[^"]+" is invalid: )?`)

// finalizerWarning is the API server's word on every pool, good or bad: the name of our finalizer
// is older than the rule.
const finalizerWarning = "Warning: metadata.finalizers:"

// answer is kubectl's answer without what does not tell anything of the mistake.
func answer(stderr string) string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(stderr)) {
		if line = strings.TrimRight(line, "\n"); !strings.HasPrefix(line, finalizerWarning) {
			lines = append(lines, preamble.ReplaceAllString(line, ""))
		}
	}
	return strings.Join(lines, "\n")
}

// start makes what the bad pods need, and the good ones. One of these is to have the only address
// of its pool.
func start(t *testing.T) {
	t.Helper()
	apply(t, common)
	eventually(t, 90*time.Second, func() string {
		made := strings.Fields(shell(t, "kubectl -n badinput get network-attachment-definitions -o name"))
		if want := strings.Count(common, "kind: SpiderMultusConfig"); len(made) != want {
			return fmt.Sprintf("%d networks of %d: %s", len(made), want, made)
		}
		return ""
	})
	apply(t, manifests(goodPods))
	eventually(t, time.Minute, func() string {
		if leases := shell(t, "kubectl get spideripleases -o name"); !strings.Contains(leases, "badinput-one") {
			return "no lease of pool badinput-one: " + leases
		}
		return ""
	})
}

func badPods() []pod {
	var pods []pod
	for _, b := range badInputs {
		if b.where == atPod {
			pods = append(pods, b.pod)
		}
	}
	return pods
}

// podTime bounds the waiting for some bad pods; emulated machines try and give up about one pod in
// two seconds.
const podTime = 2 * time.Minute

// podsAtATime is how many bad pods there are at once: with more, the machines have no time for the
// kubelet to answer.
const podsAtATime = 5

// testPods makes the bad pods, a few at a time, and waits until each has told what is wrong and
// holds nothing.
func testPods(t *testing.T) {
	for some := range slices.Chunk(badPods(), podsAtATime) {
		tellAll(t, some)
	}
	all := readEvents(t)
	for _, b := range badInputs {
		if b.where == atPod {
			t.Run(b.title, func(t *testing.T) { testEvents(t, b, all) })
		}
	}
	t.Run("Explicit rdmaIsolation on an exclusive node is right", func(t *testing.T) {
		shell(t, "kubectl -n badinput wait --for=condition=Ready --timeout=60s pod/isolated pod/holder")
		if devices := strings.Fields(shell(t, "kubectl -n badinput exec isolated -- ls /sys/class/infiniband")); len(
			devices) != 1 {
			t.Errorf("the pod sees RDMA devices %s, want its own alone", devices)
		}
	})
}

// tellAll makes pods and waits for their events. A pod is deleted as soon as it has told: the
// kubelet would go on trying.
func tellAll(t *testing.T, pods []pod) {
	t.Helper()
	apply(t, manifests(pods))
	waiting := map[string]bool{}
	for _, p := range pods {
		waiting[p.name] = true
	}
	eventually(t, podTime, func() string {
		all, holders := readEvents(t), holders(t)
		done := func(name string, _ bool) bool {
			return len(all.of(name, reasonOurs)) > 0 && len(all.of(name, reasonKubelet)) > 0 &&
				!slices.Contains(holders, "badinput/"+name)
		}
		gone := maps.Clone(waiting)
		maps.DeleteFunc(waiting, done)
		maps.DeleteFunc(gone, func(name string, _ bool) bool { return waiting[name] })
		if len(gone) > 0 {
			shell(t, "kubectl -n badinput delete pod --wait=false "+words(gone))
		}
		if len(waiting) > 0 {
			return "these pods have no events, or hold an address or a record: " + words(waiting)
		}
		return ""
	})
}

func words(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), " ") }

// holders are the pods that have an address, or of which an agent has a record.
func holders(t *testing.T) []string {
	t.Helper()
	list := strings.Fields(shell(t,
		`kubectl get spideripleases -o jsonpath='{range .items[?(@.spec.pod)]}{.spec.pod.namespace}/{.spec.pod.name}{"\n"}{end}'`))
	for _, n := range topology.Names() {
		list = append(list, strings.Fields(records(t, n))...)
	}
	return list
}

// testEvents wants one message, ours and the kubelet's alike.
func testEvents(t *testing.T, b badInput, all events) {
	ours := all.of(b.pod.name, reasonOurs)
	for _, message := range ours {
		if diff := cmp.Diff(b.message, placeholders(message)); diff != "" {
			t.Errorf("our event:\n%s\nnot as expected (-want +got):\n%s", message, diff)
		}
	}
	for _, message := range all.of(b.pod.name, reasonKubelet) {
		if !slices.ContainsFunc(ours, func(our string) bool { return strings.HasSuffix(message, our) }) {
			t.Errorf("the kubelet's event does not end with ours:\n%s\nours:\n%s", message, strings.Join(ours, "\n"))
		}
	}
}

// placeholders stand for what the kubelet chose.
func placeholders(message string) string {
	for _, p := range []struct{ pattern, with string }{
		{`\b[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\b`, "<PCI address>"},
		{`(has) ([0-9a-f]{2}:){7}[0-9a-f]{2}\b`, "$1 <GUID>"},
	} {
		message = regexp.MustCompile(p.pattern).ReplaceAllString(message, p.with)
	}
	return message
}

// Reasons of events: ours, and the kubelet's.
const (
	reasonOurs    = "FailedAttach"
	reasonKubelet = "FailedCreatePodSandBox"
)

type events struct {
	Items []struct {
		InvolvedObject struct{ Name string }
		Reason         string
		Message        string
	}
}

func (e events) of(pod, reason string) []string {
	var messages []string
	for _, item := range e.Items {
		if item.InvolvedObject.Name == pod && item.Reason == reason && !outOfTime(item.Message) {
			messages = append(messages, item.Message)
		}
	}
	slices.Sort(messages)
	return slices.Compact(messages)
}

// outOfTime tells messages of a machine that was too slow: the kubelet did not answer the agent, or
// the agent not the shim. Both are repeated, and what comes then is what is compared.
func outOfTime(message string) bool {
	return strings.Contains(message, "code = DeadlineExceeded") || strings.Contains(message, "i/o timeout")
}

func readEvents(t *testing.T) events {
	t.Helper()
	var e events
	if err := json.Unmarshal([]byte(shell(t, "kubectl -n badinput get events -o json")), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// stop deletes what start made. Pods with networks that never came to be go at once.
func stop(t *testing.T) {
	t.Helper()
	shell(t, "kubectl -n badinput delete pod --all --timeout=60s")
	shell(t, "kubectl delete --ignore-not-found --timeout=60s -f - <<'END'\n"+common+"END")
}

// snapshot is all that bad input could have changed.
type snapshot struct {
	Objects, Leases string
	Nodes           map[string]string // node -> its links, RDMA devices, records
}

func remember(t *testing.T) snapshot {
	t.Helper()
	s := look(t)
	if !strings.Contains(s.Objects, "spiderippool.spiderpool.spidernet.io/v4-91") {
		t.Fatal("pool v4-91 of the guide does not exist: run TestGuide first")
	}
	return s
}

func look(t *testing.T) snapshot {
	t.Helper()
	s := snapshot{Nodes: map[string]string{}}
	s.Objects = shell(t, "kubectl get spiderippools,spidermultusconfigs,network-attachment-definitions,"+
		"sriovnetworknodepolicies,spiderendpoints -A -o name")
	// the others are nodes' stock
	s.Leases = shell(t, `kubectl get spideripleases -o jsonpath='{.items[?(@.spec.pod)].metadata.name}'`)
	for _, n := range topology.Names() {
		s.Nodes[n] = node(t, n, devicesOfNode) + records(t, n)
	}
	return s
}

// devicesOfNode prints links, RDMA devices with their GUIDs, and what the kubelet may give away,
// without the primary network's links.
const devicesOfNode = `ip -br link show | awk '{print $1}' | sed 's/@.*//' | grep -v -e ^veth -e ^cni0$ | sort; rdma dev show | sed 's/^[0-9]*: //' | sort` + "\n"

// records are the pods of which the agent on a node has a record of InfiniBand.
func records(t *testing.T, name string) string {
	t.Helper()
	var list []struct {
		Pod struct{ Namespace, Name string }
	}
	text := node(t, name, "curl -sf http://127.0.0.1:5710/v1/node/sandboxes")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("records of %s: %v\n%s", name, err, text)
	}
	var pods []string
	for _, sb := range list {
		pods = append(pods, sb.Pod.Namespace+"/"+sb.Pod.Name+"\n")
	}
	slices.Sort(pods)
	return strings.Join(pods, "")
}

func manifests(pods []pod) string {
	return manifestOf(len(pods), func(i int) string { return pods[i].manifest() })
}

// manifest is the pod as users would write it, as small as can be.
func (p pod) manifest() string {
	namespace := "badinput"
	if p.namespace != "" {
		namespace = p.namespace
	}
	var b strings.Builder
	fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n", p.name, namespace)
	if p.label != "" {
		fmt.Fprintf(&b, "  labels: {e2e: %s}\n", p.label)
	}
	if len(p.annotations) > 0 {
		b.WriteString("  annotations:\n" + p.annotationLines())
	}
	b.WriteString("spec:\n")
	if p.node != "" {
		fmt.Fprintf(&b, "  nodeSelector: {kubernetes.io/hostname: %q}\n", p.node)
	}
	b.WriteString(
		"  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: docker.io/mellanox/rping-test\n" +
			"    imagePullPolicy: IfNotPresent\n    command: [sleep, infinity]\n")
	limits := map[string]int{}
	if p.vfs > 0 {
		limits[guideVFs] = p.vfs
	}
	for _, resource := range p.devices {
		limits[resource] = 1
	}
	if len(limits) > 0 {
		b.WriteString("    resources:\n      limits:\n")
	}
	for _, resource := range slices.Sorted(maps.Keys(limits)) {
		fmt.Fprintf(&b, "        %s: %d\n", resource, limits[resource])
	}
	return b.String()
}

func (p pod) annotationLines() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(p.annotations)) {
		fmt.Fprintf(&b, "    %s: '%s'\n", key, p.annotations[key])
	}
	return b.String()
}

// apply tries again when an emulated machine did not answer the API server's question in time.
func apply(t *testing.T, manifest string) {
	t.Helper()
	script := "kubectl apply -f - <<'END'\n" + manifest + "END"
	for range 3 {
		_, err := term.Shell(context.WithoutCancel(t.Context()), script)
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "failed calling webhook") {
			giveUp(t, "%s\n%v", script, err)
		}
	}
	shell(t, script)
}

func shell(t *testing.T, script string) string {
	t.Helper()
	out, err := term.Shell(context.WithoutCancel(t.Context()), script)
	if err != nil {
		giveUp(t, "%s\n%v\n%s", script, err, out)
	}
	return out
}

func node(t *testing.T, name, script string) string {
	t.Helper()
	out, err := term.Node(context.WithoutCancel(t.Context()), name, script)
	if err != nil {
		giveUp(t, "on %s: %s\n%v\n%s", name, script, err, out)
	}
	return out
}

// eventually waits until f has nothing to complain about.
func eventually(t *testing.T, most time.Duration, f func() string) {
	t.Helper()
	for deadline := time.Now().Add(most); ; time.Sleep(500 * time.Millisecond) {
		complaint := f()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			giveUp(t, "still after %s: %s", most, complaint)
		}
	}
}

// giveUp ends a test with a complaint, after the state of things: at the end a cut log still has it.
func giveUp(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Log(state(t))
	t.Fatalf(format, args...)
}

// state is what one looks at first when a test has failed.
func state(t *testing.T) string {
	var all strings.Builder
	for _, look := range []string{
		"kubectl get nodes",
		"kubectl -n kube-system get pods -o wide",
		`kubectl -n kube-system get sriovnetworknodestates -o jsonpath='{range .items[*]}{.metadata.name}{": "}{.status.syncStatus}{" "}{.status.plan}{" "}{.status.conditions}{"\n"}{end}'`,
		"kubectl -n e2e events --types=Warning | cut -c-300 | tail -15",
		"kubectl -n e2e get pods -o wide",
	} {
		out, err := term.Shell(context.WithoutCancel(t.Context()), look)
		fmt.Fprintf(&all, "$ %s\n%s", look, out)
		if err != nil {
			fmt.Fprintln(&all, err)
		}
	}
	return all.String()
}

// renderErrors is the table as users read it.
func renderErrors(list []badInput) string {
	var b strings.Builder
	b.WriteString(
		"# Errors\n\nWhat you may get wrong, what you are told, and what to do. The end-to-end test gives the " +
			"product each of these and compares\n" +
			"the message; it also writes this page. Words in angle brackets stand for what differs.\n\n" +
			"An object that is refused is not made. A pod whose network cannot be made holds no address and no " +
			"device, and starts by itself\n" +
			"once the cause is gone.\n")
	group := ""
	for _, c := range list {
		if c.group != group {
			group = c.group
			fmt.Fprintf(&b, "\n## %s\n", group)
		}
		written := c.manifest
		if _, spec, ok := strings.Cut(c.manifest, "\nspec:\n"); ok {
			written = "spec:\n" + spec
		}
		if c.where == atPod {
			written = c.pod.excerpt()
		}
		fmt.Fprintf(&b, "\n### %s\n\n```yaml\n%s```\n\nSeen in %s.\n\n```\n%s\n```\n\n%s\n", c.title, written, c.where,
			c.message, c.remedy)
	}
	return b.String()
}

// excerpt is the part of a pod that matters.
func (p pod) excerpt() string { return "metadata:\n  annotations:\n" + p.annotationLines() }
