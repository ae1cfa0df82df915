// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// SRIOVOptions say what to measure of virtual functions.
type SRIOVOptions struct {
	Options
	// Cards are the PCI addresses of the node's cards; one and all of them are measured.
	Cards []string
	// VFs are how many to make on each.
	VFs []int
	// Rounds of each.
	Rounds int
	// Idle is how long the agent is watched while nothing happens.
	Idle time.Duration
}

// SRIOVReport is all that a run measured.
type SRIOVReport struct {
	Node  string
	Made  []Made
	Idle  Idle
	Kills []Kill
}

// Made is what it took to make VFs.
type Made struct {
	Cards, VFs int
	// Ready is the time from the policy until the node's state said that it is as wanted; Offered
	// until the API server showed the VFs as allocatable, which the kubelet tells at its own pace;
	// Bare what the kernel alone takes, without a policy.
	Ready, Offered, Bare []time.Duration
	Samples              []Sample
}

// Idle is what an agent costs while nothing happens.
type Idle struct {
	VFs    int
	CPU    float64 // of one processor
	Memory int64   // resident, bytes
}

// Limits.
const (
	makeLimit   = 5 * time.Minute
	benchPolicy = "bench"
)

type sriovRunner struct {
	runner
	want SRIOVOptions
}

// RunSRIOV measures and returns what it found. Progress goes to out. It removes all policies
// meanwhile, and puts them back.
func RunSRIOV(ctx context.Context, lab Lab, o SRIOVOptions, out io.Writer) (report SRIOVReport, err error) {
	r := sriovRunner{runner{o.Options, lab, out}, o}
	report.Node = o.Node
	if err := r.prepare(ctx); err != nil {
		return report, err
	}
	saved, err := r.clear(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, r.restore(ctx, saved)) }()
	err = r.all(ctx, &report)
	return report, err
}

func (r sriovRunner) all(ctx context.Context, report *SRIOVReport) error {
	for cards := 1; cards <= len(r.want.Cards); cards++ {
		for _, vfs := range r.want.VFs {
			made, err := r.made(ctx, r.want.Cards[:cards], vfs)
			if err != nil {
				return fmt.Errorf("%d VFs on %d cards: %w", vfs, cards, err)
			}
			report.Made = append(report.Made, made)
		}
	}
	most := slices.Max(r.want.VFs)
	if _, _, err := r.make(ctx, r.want.Cards, most); err != nil {
		return err
	}
	var err error
	if report.Idle, err = r.idle(ctx, most*len(r.want.Cards)); err != nil {
		return err
	}
	for range r.want.Rounds {
		took, err := r.kill(ctx, most*len(r.want.Cards))
		if err != nil {
			return err
		}
		report.Kills = append(report.Kills, took)
	}
	return r.unmake(ctx, r.want.Cards)
}

// clear deletes all policies and returns them, to be put back.
func (r sriovRunner) clear(ctx context.Context) (saved string, err error) {
	//nolint:lll // the lines of a raw string
	saved, err = r.lab.Shell(ctx, `set -e
kubectl -n kube-system get sriovnetworknodepolicies -o json | jq 'del(.items[].metadata["uid","resourceVersion","generation","creationTimestamp","managedFields"], .items[].status)'
kubectl -n kube-system delete sriovnetworknodepolicies --all >&2`)
	if err != nil {
		return "", fmt.Errorf("setting the policies aside: %w", err)
	}
	return saved, r.waitGone(ctx, r.want.Cards)
}

func (r sriovRunner) restore(ctx context.Context, saved string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	_, err := r.lab.Shell(ctx, "kubectl -n kube-system delete sriovnetworknodepolicy --ignore-not-found "+benchPolicy+
		" && kubectl apply -f - <<'END'\n"+saved+"\nEND\n")
	if err != nil {
		return fmt.Errorf("putting the policies back: %w", err)
	}
	return nil
}

// made measures VFs made by a policy and, in turn, by the bare steps.
func (r sriovRunner) made(ctx context.Context, cards []string, vfs int) (Made, error) {
	m := Made{Cards: len(cards), VFs: vfs}
	for round := range r.want.Rounds {
		ready, offered, err := r.make(ctx, cards, vfs)
		if err != nil {
			return m, err
		}
		m.Ready, m.Offered = append(m.Ready, ready), append(m.Offered, offered)
		if err := r.unmake(ctx, cards); err != nil {
			return m, err
		}
		samples, err := r.program(ctx, fmt.Sprintf("-n 1 -make %s -vfs %d", strings.Join(cards, ","), vfs))
		if err != nil {
			return m, err
		}
		var bare time.Duration
		for _, s := range samples {
			bare += s.Duration
			s.Round = round
			m.Samples = append(m.Samples, s)
		}
		m.Bare = append(m.Bare, bare)
		fmt.Fprintf(r.out,
			"%d VFs on %d cards, round %d: ready after %.1f s, offered after %.1f s, the bare steps %.1f s\n",
			vfs, len(cards), round+1, ready.Seconds(), offered.Seconds(), bare.Seconds())
	}
	return m, nil
}

// policy gives the cards so many VFs each.
func policy(node string, cards []string, vfs int) string {
	list, _ := json.Marshal(cards) // strings can be encoded
	return fmt.Sprintf(`apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetworkNodePolicy
metadata: {name: %s, namespace: kube-system}
spec:
  nodeSelector: {kubernetes.io/hostname: %q}
  resourceName: bench
  numVfs: %d
  nicSelector: {rootDevices: %s}
  isRdma: true
`, benchPolicy, node, vfs, list)
}

// waits apply a policy and wait, with a watch, until the API server shows what is wanted. They
// print milliseconds since the policy.
//
//nolint:lll // the lines of a raw string
const waits = `set -e
node=%[1]s total=%[2]d
kubectl apply -f - >/dev/null <<'END'
%[3]sEND
began=$(date +%%s%%3N)
kubectl wait --for=jsonpath='{.status.allocatable.spidernet\.io/bench}'=$total node/$node --timeout=%[4]ds >/dev/null &
offered=$!
kubectl -n kube-system wait --for=jsonpath='{.status.conditions[?(@.type=="Ready")].message}'="bench: $total VFs ready" sriovnetworknodestate/$node --timeout=%[4]ds >/dev/null
echo $(($(date +%%s%%3N) - began))
wait $offered
echo $(($(date +%%s%%3N) - began))`

func (r sriovRunner) make(ctx context.Context, cards []string, vfs int) (ready, offered time.Duration, err error) {
	script := fmt.Sprintf(waits, r.Node, vfs*len(cards), policy(r.Node, cards, vfs), int(makeLimit.Seconds()))
	out, err := r.lab.Shell(ctx, script)
	if err != nil {
		return 0, 0, fmt.Errorf("waiting for the VFs of a policy: %w", err)
	}
	numbers := strings.Fields(out)
	if len(numbers) != 2 {
		return 0, 0, fmt.Errorf("waiting for the VFs of a policy: %q instead of two numbers", out)
	}
	if ready, err = parseMillis(numbers[0]); err == nil {
		offered, err = parseMillis(numbers[1])
	}
	return ready, offered, err
}

func parseMillis(s string) (time.Duration, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("a time in milliseconds: %w", err)
	}
	return time.Duration(n) * time.Millisecond, nil
}

// unmake deletes the policy and waits until the VFs have gone and nobody offers any.
func (r sriovRunner) unmake(ctx context.Context, cards []string) error {
	if _, err := r.lab.Shell(ctx, "kubectl -n kube-system delete sriovnetworknodepolicy "+benchPolicy); err != nil {
		return fmt.Errorf("deleting the policy: %w", err)
	}
	return r.waitGone(ctx, cards)
}

func (r sriovRunner) waitGone(ctx context.Context, cards []string) error {
	var files []string
	for _, c := range cards {
		files = append(files, "/sys/bus/pci/devices/"+c+"/sriov_numvfs")
	}
	script := fmt.Sprintf(
		`for i in $(seq %d); do test "$(cat %s | sort -u)" = 0 && exit; sleep 0.5; done; echo "VFs are still there" >&2; exit 1`,
		2*int(makeLimit.Seconds()), strings.Join(files, " "))
	if _, err := r.lab.Node(ctx, r.Node, script); err != nil {
		return fmt.Errorf("waiting for the VFs of %s to go: %w", r.Node, err)
	}
	// Until the kubelet has told that they are gone, the next time would be right at once.
	_, err := r.lab.Shell(ctx,
		fmt.Sprintf(
			`for i in $(seq 240); do n=$(kubectl get node %s -o jsonpath='{.status.allocatable.spidernet\.io/bench}'); test "${n:-0}" = 0 && exit; sleep 0.5; done; exit 1`, r.Node))
	if err != nil {
		return fmt.Errorf("waiting for %s to offer none: %w", r.Node, err)
	}
	return nil
}

// agentPID prints the process of the node's agent.
const agentPID = `pgrep -o -f '^/[^ ]*spiderpool agent'`

// idle watches the agent while nothing happens.
func (r sriovRunner) idle(ctx context.Context, vfs int) (Idle, error) {
	fmt.Fprintf(r.out, "watching the idle agent with %d VFs for %s\n", vfs, r.want.Idle)
	script := fmt.Sprintf(`set -e
pid=$(%s)
ticks() { awk '{print $14 + $15}' /proc/$pid/stat; }
before=$(ticks); sleep %d; after=$(ticks)
echo $((after - before)) $(getconf CLK_TCK) $(awk '/^VmRSS/ {print $2}' /proc/$pid/status)`, agentPID,
		int(r.want.Idle.Seconds()))
	out, err := r.lab.Node(ctx, r.Node, script)
	if err != nil {
		return Idle{}, fmt.Errorf("watching the idle agent: %w", err)
	}
	var ticks, perSecond, kib int64
	if _, err := fmt.Sscan(out, &ticks, &perSecond, &kib); err != nil {
		return Idle{}, fmt.Errorf("watching the idle agent: %q: %w", out, err)
	}
	return Idle{VFs: vfs, CPU: float64(ticks) / float64(perSecond) / r.want.Idle.Seconds(), Memory: kib << 10}, nil
}

// Kill is what the death of an agent came to.
type Kill struct {
	// Serving is the time until its successor said that it is ready; Wrong the time, from the death
	// on, until the API server showed the right number for good, 0 if it never showed another.
	Serving, Wrong time.Duration
}

// killWatch is how long allocatable is watched after a kill; the kubelet tells the API server every
// 10 seconds.
const killWatch = 45 * time.Second

// watchOffered prints what the API server shows as allocatable, with milliseconds, at each change
// of the node.
const watchOffered = `timeout %d kubectl get node %s --watch -o jsonpath='{.status.allocatable.spidernet\.io/bench}{"\n"}' | while read v; do echo $(date +%%s%%3N) $v; done`

// killAgent kills the agent and waits for its successor. It prints the milliseconds of the death
// and of the answer.
const killAgent = `set -e
kill -9 $(%s)
date +%%s%%3N
for i in $(seq 600); do sleep 0.05; curl -sf http://127.0.0.1:5710/v1/runtime/readiness >/dev/null && break; done
date +%%s%%3N`

// kill ends the agent at once and watches what becomes of allocatable.
func (r sriovRunner) kill(ctx context.Context, total int) (k Kill, err error) {
	var g errgroup.Group
	var seen, times string
	g.Go(func() (err error) {
		seen, err = r.lab.Shell(ctx, fmt.Sprintf(watchOffered, int(killWatch.Seconds()), r.Node))
		return err
	})
	g.Go(func() (err error) {
		times, err = r.lab.Node(ctx, r.Node, fmt.Sprintf(killAgent, agentPID))
		return err
	})
	begun := time.Now()
	if err := g.Wait(); err != nil {
		return k, fmt.Errorf("killing the agent: %w", err)
	}
	var died, served int64
	if _, err := fmt.Sscan(times, &died, &served); err != nil {
		return k, fmt.Errorf("killing the agent: %q: %w", times, err)
	}
	k.Serving = time.Duration(served-died) * time.Millisecond
	k.Wrong, err = wrongFor(seen, strconv.Itoa(total), begun)
	return k, err
}

// wrongFor is the time from a moment until the watched value was right for good.
func wrongFor(seen, want string, begun time.Time) (time.Duration, error) {
	wrong, last := time.Duration(0), want
	for line := range strings.Lines(seen) {
		millis, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		at, err := strconv.ParseInt(millis, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("watching allocatable: %q: %w", line, err)
		}
		if value == want && last != want {
			wrong = time.UnixMilli(at).Sub(begun)
		}
		last = value
	}
	if last != want {
		return 0, fmt.Errorf("allocatable is %q, want %q, %s after the agent was killed", last, want, killWatch)
	}
	return wrong, nil
}

// Write writes the tables.
func (r SRIOVReport) Write(out io.Writer) {
	fmt.Fprintf(out,
		"\nVFs made on %s, in milliseconds: from the policy until the node is as wanted (ready), until the API "+
			"server shows it (offered), and the bare kernel steps\n", r.Node)
	t := table{{"cards", "VFs each", "ready p50", "min", "offered p50", "min", "bare p50", "min", "ratio ready/bare"}}
	for _, m := range r.Made {
		ready, offered, bare := Summarize(m.Ready), Summarize(m.Offered), Summarize(m.Bare)
		t = append(t, []string{strconv.Itoa(m.Cards), strconv.Itoa(m.VFs), millis(ready.P50), millis(ready.Min),
			millis(offered.P50), millis(offered.Min),
			millis(bare.P50), millis(bare.Min), fmt.Sprintf("%.1f", float64(ready.P50)/float64(max(bare.P50, 1)))})
	}
	t.write(out)
	r.writeBare(out)
	fmt.Fprintf(out, "\nThe agent, idle with %d VFs: %.2f %% of a processor, %.1f MiB resident\n", r.Idle.VFs,
		100*r.Idle.CPU, float64(r.Idle.Memory)/(1<<20))
	fmt.Fprintln(out, "\nThe agent killed, in milliseconds")
	t = table{{"until its successor is ready", "until allocatable is right for good"}}
	for _, k := range r.Kills {
		t = append(t, []string{millis(k.Serving), millis(k.Wrong)})
	}
	t.write(out)
	fmt.Fprintln(out,
		"\nThe kubelet tells the API server of a change within 10 seconds; a container that died is started again "+
			"by the kubelet.")
}

// writeBare lists the bare steps of the largest case.
func (r SRIOVReport) writeBare(out io.Writer) {
	if len(r.Made) == 0 {
		return
	}
	last := r.Made[len(r.Made)-1]
	fmt.Fprintf(out, "\nThe bare steps for %d VFs on %d cards, in milliseconds\n", last.VFs, last.Cards)
	t := table{{"step", "p50", "min"}}
	for _, step := range stepsOf(last.Samples) {
		var list []time.Duration
		for _, s := range last.Samples {
			if s.Step == step {
				list = append(list, s.Duration)
			}
		}
		sum := Summarize(list)
		t = append(t, []string{step, millis(sum.P50), millis(sum.Min)})
	}
	t.write(out)
}

func stepsOf(samples []Sample) []string {
	var names []string
	for _, s := range samples {
		if !slices.Contains(names, s.Step) {
			names = append(names, s.Step)
		}
	}
	return names
}
