// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"spidernet.io/spiderpool/lab/internal/cell"
	"spidernet.io/spiderpool/lab/internal/guest"
	"spidernet.io/spiderpool/lab/internal/topology"
	"spidernet.io/spiderpool/lab/internal/vm"
)

// productPods selects the product's pods in kube-system; the chart labels all of them so.
const productPods = "app.kubernetes.io/name=spiderpool"

// LoadImage compiles the product, imports its image on every node and replaces the product's pods.
func (l Lab) LoadImage(ctx context.Context) error {
	if missing := productSources(l.Source); missing != "" {
		return fmt.Errorf("%s is not there: the product cannot be compiled", missing)
	}
	if err := l.checkPreloaded(ctx); err != nil {
		return err
	}
	err := l.Say.Step("compiling the product", func() error { return splitProduct(ctx, l.Source, l.Layout.images()) })
	if err != nil {
		return err
	}
	err = l.Say.Step("importing the image", func() error {
		g, ctx := errgroup.WithContext(ctx)
		for _, n := range topology.Nodes() {
			g.Go(func() error { return l.runOn(ctx, n.Name, "/usr/lib/lab/load-image "+productFile) })
		}
		return g.Wait()
	})
	if err != nil {
		return err
	}
	return l.Say.Step("restarting the product's pods", func() error { return l.restartProduct(ctx) })
}

// checkPreloaded refuses to load an image that no pod of the product would run.
func (l Lab) checkPreloaded(ctx context.Context) error {
	client, err := l.Layout.Client()
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: productPods})
	if err != nil {
		return fmt.Errorf("listing the product's pods: %w", err)
	}
	for _, p := range list.Items {
		if image := p.Spec.Containers[0].Image; p.Status.Phase != corev1.PodSucceeded &&
			image != topology.ProductImage {
			return fmt.Errorf("loading the product's image: pod %s runs %s: expected %s, which loading replaces; "+
				"release into the lab's registry and upgrade instead (docs/try-it.md), or uninstall", p.Name, image,
				topology.ProductImage)
		}
	}
	return nil
}

func (l Lab) runOn(ctx context.Context, node, command string) error {
	m, err := l.Dial(ctx, node)
	if err != nil {
		return err
	}
	defer m.Close()
	_, err = m.Output(ctx, command)
	return err
}

// restartProduct deletes the pods at once, which is faster than a rollout and just as good in a
// lab. Pods that have done their work stay.
func (l Lab) restartProduct(ctx context.Context) error {
	client, err := l.Layout.Client()
	if err != nil {
		return err
	}
	pods := client.CoreV1().Pods("kube-system")
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: productPods})
	if err != nil {
		return fmt.Errorf("listing the product's pods: %w", err)
	}
	grace := int64(15) // enough to give up leadership, which the next one would otherwise wait for
	for _, p := range list.Items {
		if p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		if err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			return fmt.Errorf("deleting pod %s: %w", p.Name, err)
		}
	}
	return nil
}

// Reboot restarts a node, in good order or with a reset, and returns when it is ready again.
func (l Lab) Reboot(ctx context.Context, n topology.Node, hard bool) error {
	before, err := l.bootID(ctx, n)
	if err != nil {
		return err
	}
	if hard {
		err = vm.Reset(ctx, vm.MonitorSocket(l.Layout.run(), n.Name))
	} else {
		err = l.runOn(ctx, n.Name, "setsid sh -c 'sleep 0.2; reboot' >/dev/null 2>&1 </dev/null &")
	}
	if err != nil {
		return fmt.Errorf("restarting node %s: %w", n.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	return l.Say.Step("booting node "+n.Name,
		func() error { return l.until(ctx, "node "+n.Name, l.rebooted(n, before)) })
}

// Pause stops a node where it is, as far as others see as if its power had failed, until Resume.
func (l Lab) Pause(ctx context.Context, n topology.Node) error {
	if err := vm.Pause(ctx, vm.MonitorSocket(l.Layout.run(), n.Name)); err != nil {
		return fmt.Errorf("pausing node %s: %w", n.Name, err)
	}
	return nil
}

// Resume has a paused node go on, and sets its clock, which stood still, by this host's: what a
// hypervisor's agent in the machine does.
func (l Lab) Resume(ctx context.Context, n topology.Node) error {
	if err := vm.Resume(ctx, vm.MonitorSocket(l.Layout.run(), n.Name)); err != nil {
		return fmt.Errorf("resuming node %s: %w", n.Name, err)
	}
	set := fmt.Sprintf("busybox date -u -s @%d", time.Now().Unix())
	if err := l.runOn(ctx, n.Name, set); err != nil {
		return fmt.Errorf("setting the clock of node %s: %w", n.Name, err)
	}
	return nil
}

// Outage ends a program of the control plane ("lab status" lists them) and has it started again
// only after some time.
func (l Lab) Outage(ctx context.Context, program string, d time.Duration) error {
	return cell.Outage(ctx, l.Layout.control(), program, d)
}

func (l Lab) rebooted(n topology.Node, before string) condition {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		now, err := l.bootID(ctx, n)
		if err != nil {
			return err
		}
		if now == before {
			return errors.New("it has not gone down yet")
		}
		if err := l.cardsActive(n)(ctx); err != nil {
			return err
		}
		client, err := l.Layout.Client()
		if err != nil {
			return err
		}
		return nodeReady(client, n.Name)(ctx)
	}
}

func (l Lab) bootID(ctx context.Context, n topology.Node) (string, error) {
	m, err := l.Dial(ctx, n.Name)
	if err != nil {
		return "", err
	}
	defer m.Close()
	return m.Output(ctx, "cat /proc/sys/kernel/random/boot_id")
}

// Console attaches this process's terminal to a node's serial console.
func (l Lab) Console(node string) error {
	if _, err := topology.Find(node); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "serial console of "+node+"; Enter shows its prompt, Ctrl-] leaves it")
	return guest.Console(vm.ConsoleSocket(l.Layout.run(), node))
}

// Status prints how the parts of a running lab are.
func (l Lab) Status(ctx context.Context, out io.Writer) error {
	state, _, err := l.Layout.Load()
	if err != nil {
		return err
	}
	processes, err := cell.Processes(ctx, l.Layout.control())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "API server on this host: https://127.0.0.1:%d, kubeconfig %s\n\n", state.Options.APIPort,
		l.Layout.Kubeconfig())
	printProcesses(out, processes)
	for _, n := range topology.Nodes() {
		fmt.Fprintf(out, "\n%s (%s)\n", n.Name, n.Address)
		fmt.Fprint(out, indent(l.nodeStatus(ctx, n)))
	}
	fmt.Fprintln(out)
	return l.printObjects(ctx, out)
}

func printProcesses(out io.Writer, processes []cell.Process) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "PROGRAM\tSTATE\tSINCE\tSTARTS\tLAST END")
	for _, p := range processes {
		state := "ended"
		switch {
		case p.Running:
			state = "running"
		case p.Waiting:
			state = "waiting"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.Name, state, time.Since(p.Since).Round(time.Second), p.Starts,
			p.LastExit)
	}
}

// describeNode prints a machine's age and memory, its RDMA mode, and a line for each card.
//
//nolint:lll // the lines of a raw string
const describeNode = `echo "up $(cut -d. -f1 /proc/uptime) s, $(free -m | awk '/^Mem/{print $7}') MiB of memory available"
rdma system
for f in /sys/bus/pci/drivers/mlx5_core/*:*; do
	[ -e $f/physfn ] && continue
	echo "card ${f##*/}: $(ls $f/infiniband), port $(cat $f/infiniband/*/ports/1/state), $(cat $f/sriov_numvfs) of $(cat $f/sriov_totalvfs) virtual functions"
done`

// nodeStatus is what the machine itself says, or why it says nothing.
func (l Lab) nodeStatus(ctx context.Context, n topology.Node) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := l.Dial(ctx, n.Name)
	if err != nil {
		return "does not answer: " + err.Error() + "\n"
	}
	defer m.Close()
	out, err := m.Output(ctx, describeNode)
	if err != nil {
		return out + err.Error() + "\n"
	}
	return out
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("  " + line)
	}
	return b.String()
}

// printObjects lists the nodes' conditions and all pods.
func (l Lab) printObjects(ctx context.Context, out io.Writer) error {
	client, err := l.Layout.Client()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "NODE\tREADY\tINFINIBAND RESOURCES")
	for _, n := range topology.Nodes() {
		ready := "yes"
		if err := nodeReady(client, n.Name)(ctx); err != nil {
			ready = err.Error()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", n.Name, ready, resources(ctx, client, n.Name))
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	fmt.Fprintf(w, "\nPOD\tPHASE\tNODE\n")
	for _, p := range pods.Items {
		fmt.Fprintf(w, "%s/%s\t%s\t%s\n", p.Namespace, p.Name, p.Status.Phase, p.Spec.NodeName)
	}
	return nil
}

// resources are the extended resources that a node offers, as "name=count".
func resources(ctx context.Context, client kubernetes.Interface, node string) string {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	var all []string
	for name, q := range n.Status.Allocatable {
		if strings.Contains(string(name), "/") {
			all = append(all, fmt.Sprintf("%s=%s", name, q.String()))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// ListLogs prints the names that PrintLog knows.
func (l Lab) ListLogs(ctx context.Context, out io.Writer) error {
	here, err := filepath.Glob(filepath.Join(l.Layout.logs(), "*.log"))
	if err != nil {
		return fmt.Errorf("listing logs: %w", err)
	}
	for _, f := range here {
		fmt.Fprintln(out, strings.TrimSuffix(filepath.Base(f), ".log"))
	}
	for _, n := range topology.Nodes() {
		m, err := l.Dial(ctx, n.Name)
		if err != nil {
			fmt.Fprintf(out, "%s/... (%v)\n", n.Name, err)
			continue
		}
		names, err := m.Output(ctx, "cd /var/log && ls *.log && ls -d pods/*/*/*.log 2>/dev/null; true")
		m.Close()
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(names) {
			fmt.Fprintf(out, "%s/%s\n", n.Name, strings.TrimSuffix(name, ".log"))
		}
	}
	return nil
}

// PrintLog prints the end of a log: of the control plane or a machine's console (NAME), or of a
// machine (NODE/NAME).
func (l Lab) PrintLog(ctx context.Context, name string, lines int, follow bool, out io.Writer) error {
	node, rest, onNode := strings.Cut(name, "/")
	if !onNode {
		return l.printLocal(ctx, name, lines, follow, out)
	}
	m, err := l.Dial(ctx, node)
	if err != nil {
		return err
	}
	defer m.Close()
	args := []string{"tail", "-n", fmt.Sprint(lines)}
	if follow {
		args = append(args, "-F")
	}
	return m.Run(ctx, guest.Quote(append(args, "/var/log/"+rest+".log")), guest.Stdio{Out: out, Err: out})
}

func (l Lab) printLocal(ctx context.Context, name string, lines int, follow bool, out io.Writer) error {
	file := l.Layout.log(name)
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("no log %q (\"lab logs\" lists them): %w", name, err)
	}
	defer f.Close()
	fmt.Fprint(out, tail(file, lines+1))
	if !follow {
		return nil
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("reading log %s: %w", name, err)
	}
	for ctx.Err() == nil {
		if _, err := io.Copy(out, f); err != nil {
			return fmt.Errorf("reading log %s: %w", name, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}
