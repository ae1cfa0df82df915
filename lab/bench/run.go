// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spidernet.io/spiderpool/lab/demo"
)

// Lab is what the benchmark needs of the lab.
type Lab interface {
	demo.Lab
	// Feed is Node with a standard input for the script.
	Feed(ctx context.Context, node, script string, in io.Reader) (string, error)
}

// Options say what to measure.
type Options struct {
	Node string
	Pods int // of each network, one after another, and rounds of the bare steps
	// Only is the one part to measure beside the bare steps: OnlyPods or OnlyMany; "" measures both.
	Only string
	Many ManyOptions
	// Steps bring the product and what the guide makes; they are run if any of it is missing.
	Steps []demo.Step
	// Program is the path of hostbench, compiled for the node.
	Program string
	// ID tells this run's pods from others'.
	ID string
}

// The parts of a run.
const (
	OnlyPods = "pods" // real pods of the guide's networks, by their phases
	OnlyMany = "many" // many pods at once and several networks in one, as a runtime's calls
)

// Limits.
const (
	podLimit     = 90 * time.Second // for a pod to run, and again to go
	bareLimit    = 5 * time.Minute
	cleanupLimit = 2 * time.Minute
)

type runner struct {
	Options
	lab Lab
	out io.Writer
}

// Run measures and returns what it found. Progress goes to out.
func Run(ctx context.Context, lab Lab, o Options, out io.Writer) (Report, error) {
	r := runner{o, lab, out}
	report := Report{Node: o.Node, Pods: o.Pods}
	if err := r.prepare(ctx); err != nil {
		return report, err
	}
	var err error
	if o.Only != OnlyMany {
		if report.Calls, err = r.realPods(ctx); err != nil {
			return report, err
		}
	}
	before, err := r.lab.Shell(ctx, fmt.Sprintf(allocatable, r.Node))
	if err != nil {
		return report, fmt.Errorf("counting the VFs of %s: %w", r.Node, err)
	}
	err = r.withoutKubelet(ctx, &report)
	return report, errors.Join(err, r.waitCounted(ctx, strings.TrimSpace(before)))
}

// realPods measures pods that the kubelet runs.
func (r runner) realPods(ctx context.Context) (map[string]Calls, error) {
	all := map[string]Calls{}
	for _, network := range Networks {
		calls, err := r.pods(ctx, network)
		if err != nil {
			return nil, err
		}
		all[network] = calls
	}
	return all, nil
}

// withoutKubelet measures what takes VFs that the kubelet offers meanwhile.
func (r runner) withoutKubelet(ctx context.Context, report *Report) (err error) {
	if r.Only != OnlyPods {
		if report.Many, err = r.many(ctx); err != nil {
			return err
		}
	}
	if report.Samples, err = r.bare(ctx); err != nil || report.Many == nil {
		return err
	}
	report.InOtherMode, err = r.inOtherMode(ctx, report.Many)
	return err
}

// allocatable prints how many VFs the kubelet offers.
const allocatable = `kubectl get node %s -o jsonpath='{.status.allocatable.spidernet\.io/mellanoxibsriov}'`

// waitCounted waits until the agent offers the VFs again that were used past the kubelet: it looks
// at the node every half minute.
func (r runner) waitCounted(ctx context.Context, before string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	script := fmt.Sprintf(`for i in $(seq 60); do test "$(%s)" = "%s" && exit; sleep 1; done; exit 1`,
		fmt.Sprintf(allocatable, r.Node), before)
	if _, err := r.lab.Shell(ctx, script); err != nil {
		return fmt.Errorf("%s does not offer %s VFs again, as it did before: %w", r.Node, before, err)
	}
	return nil
}

// ready succeeds when the product and the guide's objects are there, and both networks can serve a pod.
const ready = `set -e
kubectl -n kube-system get network-attachment-definitions ib-sriov ipoib >/dev/null
kubectl get spiderippool v4-91 >/dev/null
test "$(kubectl get node %s -o jsonpath='{.status.allocatable.spidernet\.io/mellanoxibsriov}')" -gt 0
kubectl -n kube-system rollout status --timeout=60s daemonset/spiderpool-agent >/dev/null
kubectl -n kube-system rollout status --timeout=60s deployment/spiderpool-controller >/dev/null`

func (r runner) prepare(ctx context.Context) error {
	if _, err := r.lab.Shell(ctx, fmt.Sprintf(ready, r.Node)); err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprintln(r.out, "the product, or what the guide makes, is missing here: walking those steps of the guide")
	if _, err := demo.New(r.lab, r.out).Run(ctx, r.Steps); err != nil {
		return fmt.Errorf("preparing the lab: %w", err)
	}
	return nil
}

// pods makes and deletes one pod after another and returns their calls.
func (r runner) pods(ctx context.Context, network string) (calls Calls, err error) {
	defer func() { err = errors.Join(err, r.removePods(ctx)) }()
	var pods []string
	began := time.Now()
	for i := range r.Pods {
		name := fmt.Sprintf("bench-%s-%s-%d", r.ID, network, i)
		pods = append(pods, "default/"+name)
		if err := r.pod(ctx, network, name); err != nil {
			return calls, err
		}
		if (i+1)%5 == 0 || i+1 == r.Pods {
			fmt.Fprintf(r.out, "%s: %d of %d pods came and went, %.0f s\n", network, i+1, r.Pods,
				time.Since(began).Seconds())
		}
	}
	return r.collect(ctx, pods, func(c Calls) bool { return c.complete(len(pods)) })
}

// cycle makes a pod, waits until it runs, and deletes it.
const cycle = `set -e
kubectl apply -f - <<'EOF' >/dev/null
%[1]s
EOF
kubectl wait --for=jsonpath='{.status.phase}'=Running --timeout=%[3]ds pod/%[2]s >/dev/null || {
  kubectl describe pod %[2]s | sed -n '/^Events:/,$p' >&2
  exit 1
}
kubectl delete pod %[2]s --timeout=%[3]ds >/dev/null`

func (r runner) pod(ctx context.Context, network, name string) error {
	script := fmt.Sprintf(cycle, manifest(network, name, r.Node, r.ID), name, int(podLimit.Seconds()))
	if _, err := r.lab.Shell(ctx, script); err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	return nil
}

// runLabel marks all pods of a run.
const runLabel = "lab-bench-run"

// manifest is a bare pod with the guide's annotation and, for ib-sriov, the guide's resource.
func manifest(network, name, node, id string) string {
	var limits string
	if network == "ib-sriov" {
		limits = "\n    resources: {limits: {spidernet.io/mellanoxibsriov: 1}}"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: default
  labels: {%s: %q}
  annotations: {v1.multus-cni.io/default-network: kube-system/%s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: %s}
  containers:
  - name: sleep
    image: docker.io/mellanox/rping-test
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]%s`, name, runLabel, id, network, node, limits)
}

// removePods deletes what an interrupted run left; it works when ctx has ended.
func (r runner) removePods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	script := fmt.Sprintf("kubectl -n default delete pod -l %s=%s --ignore-not-found --timeout=%ds", runLabel, r.ID,
		int(podLimit.Seconds()))
	if _, err := r.lab.Shell(ctx, script); err != nil {
		return fmt.Errorf("removing the pods of this run: %w", err)
	}
	return nil
}

// collect reads the agent's memory. The last pod's DEL and status may be a moment late: it asks
// again until it has enough, for a while.
func (r runner) collect(ctx context.Context, pods []string, enough func(Calls) bool) (Calls, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, err := r.lab.Node(ctx, r.Node, "curl -sSf http://127.0.0.1:5710/v1/node/timings")
		if err != nil {
			return Calls{}, fmt.Errorf("asking the agent on %s for its timings: %w", r.Node, err)
		}
		all, err := ParseTimings(text)
		if err != nil {
			return Calls{}, err
		}
		c := Select(all, pods)
		if enough(c) || time.Now().After(deadline) {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return c, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// bare measures the steps of CNI calls.
func (r runner) bare(ctx context.Context) ([]Sample, error) {
	fmt.Fprintf(r.out, "the bare steps on %s, %d rounds\n", r.Node, r.Pods)
	return r.program(ctx, fmt.Sprintf("-n %d%s", r.Pods, inAgentsPlace))
}

// inAgentsPlace has the steps measured with the agent's share of the processor, and the agent stand still.
const inAgentsPlace = ` -instead $(` + agentPID + `)`

// program brings hostbench to the node and runs it.
func (r runner) program(ctx context.Context, args string) (samples []Sample, err error) {
	err = r.withProgram(ctx, r.Program, func(path string) (err error) {
		samples, err = r.steps(ctx, path, args)
		return err
	})
	return samples, err
}

// steps runs hostbench, which is on the node.
func (r runner) steps(ctx context.Context, path, args string) ([]Sample, error) {
	text, err := r.untilDone(ctx, path+" "+args, "", bareLimit)
	if err != nil {
		return nil, fmt.Errorf("measuring the bare steps on %s: %w", r.Node, err)
	}
	return ParseSamples(text)
}

// withProgram brings a program to the node, and removes it when it has been used.
func (r runner) withProgram(ctx context.Context, local string, use func(path string) error) (err error) {
	name := filepath.Base(local)
	dir := "/run/lab-bench-" + r.ID + "-" + name
	defer func() { err = errors.Join(err, r.removeProgram(ctx, dir, name)) }()
	f, err := os.Open(local)
	if err != nil {
		return fmt.Errorf("opening the program %s: %w", name, err)
	}
	defer f.Close()
	bring := fmt.Sprintf("mkdir -p %[1]s && cat >%[1]s/%[2]s && chmod 755 %[1]s/%[2]s", dir, name)
	if _, err := r.lab.Feed(ctx, r.Node, bring, f); err != nil {
		return fmt.Errorf("bringing the program %s to %s: %w", name, r.Node, err)
	}
	return use(dir + "/" + name)
}

func (r runner) removeProgram(ctx context.Context, dir, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	if _, err := r.lab.Node(ctx, r.Node, "rm -rf "+dir); err != nil {
		return fmt.Errorf("removing the program %s from %s: %w", name, r.Node, err)
	}
	return nil
}

// untilDone runs a command that ends early, having cleared up, when its standard input ends after
// what it is given. That is how ctx reaches it: breaking the connection instead would leave nobody
// to wait for it.
func (r runner) untilDone(ctx context.Context, command, given string, limit time.Duration) (string, error) {
	in, hold := io.Pipe()
	defer hold.Close()
	defer context.AfterFunc(ctx, func() { hold.Close() })()
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return r.lab.Feed(limited, r.Node, command, io.MultiReader(strings.NewReader(given), in))
}

func (c Calls) complete(pods int) bool {
	return len(c.Add) >= pods && len(c.Del) >= pods && len(c.Status) >= pods
}

// Incomplete says which calls are missing from a report; nil when none is.
func (r Report) Incomplete() error {
	var missing []string
	for _, network := range Networks {
		if c := r.Calls[network]; r.Calls != nil && !c.complete(r.Pods) {
			missing = append(missing, fmt.Sprintf("%s: %d ADD, %d DEL and %d status of %d pods", network, len(c.Add),
				len(c.Del), len(c.Status), r.Pods))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the agent on %s remembers only some of the calls; did it start anew? %s", r.Node,
			strings.Join(missing, "; "))
	}
	return nil
}
