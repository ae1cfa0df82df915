// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// Client returns a client of the cluster with every right.
func (l Layout) Client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("reading the lab's kubeconfig: %w", err)
	}
	config.Timeout = 10 * time.Second
	config.QPS, config.Burst = 50, 100
	return kubernetes.NewForConfig(config)
}

// waitReady returns when both nodes are Ready and their cards active.
func (l Lab) waitReady(ctx context.Context) error {
	client, err := l.Layout.Client()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	var wanted sync.WaitGroup
	want := func(name, what string, c condition) {
		wanted.Add(1)
		g.Go(func() error {
			defer wanted.Done()
			return l.Say.Step(name, func() error { return l.until(ctx, what, c) })
		})
	}
	want("starting the control plane", "the API server", apiReady(client))
	for _, n := range topology.Nodes() {
		want("booting node "+n.Name, "node "+n.Name, nodeReady(client, n.Name))
		want("activating the cards of "+n.Name, "InfiniBand on "+n.Name, l.cardsActive(n))
	}
	go func() { wanted.Wait(); close(done) }()
	for _, n := range topology.Nodes() {
		g.Go(func() error { return l.watchPanic(ctx, done, n) })
	}
	if err := g.Wait(); err != nil {
		return l.explain(err)
	}
	return nil
}

// watchPanic fails as soon as a node's console shows a kernel panic, so that nobody waits for a
// machine that is dead.
func (l Lab) watchPanic(ctx context.Context, done <-chan struct{}, n topology.Node) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			return nil
		case <-time.After(time.Second):
		}
		b, err := os.ReadFile(l.Layout.log(n.Name + ".console"))
		if err == nil && bytes.Contains(b, []byte("Kernel panic")) {
			return fmt.Errorf("the kernel of node %s panicked", n.Name)
		}
	}
}

// condition tells whether something has come about; its error says why it has not yet.
type condition func(ctx context.Context) error

// until asks again and again; the error at the end is the last reason.
func (l Lab) until(ctx context.Context, what string, c condition) error {
	for {
		err := c(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not get ready: %w", what, errors.Join(err, context.Cause(ctx)))
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func apiReady(c kubernetes.Interface) condition {
	return func(ctx context.Context) error {
		return c.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}
}

func nodeReady(c kubernetes.Interface, name string) condition {
	return func(ctx context.Context) error {
		n, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return fmt.Errorf("kubelet says: %s", cond.Message)
			}
			if cond.Type == corev1.NodeReady {
				return nil
			}
		}
		return errors.New("kubelet has not reported yet")
	}
}

// cardStates prints the port state of every card; of its virtual functions the cluster's software takes care.
const cardStates = `for f in /sys/bus/pci/drivers/mlx5_core/*:*; do [ -e $f/physfn ] || cat $f/infiniband/*/ports/1/state; done`

// cardsActive asks a machine whether the ports of its InfiniBand cards are active.
func (l Lab) cardsActive(n topology.Node) condition {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		m, err := l.Dial(ctx, n.Name)
		if err != nil {
			return err
		}
		defer m.Close()
		out, err := m.Output(ctx, cardStates)
		if err != nil {
			return err
		}
		if out = strings.TrimSpace(out); out == "" || strings.Count(out, "ACTIVE") != strings.Count(out, ":") {
			return fmt.Errorf("port states are %q, expected ACTIVE", out)
		}
		return nil
	}
}

// explain adds where to look.
func (l Lab) explain(err error) error {
	var tails strings.Builder
	for _, n := range topology.Nodes() {
		fmt.Fprintf(&tails, "\nlast lines of the console of %s:\n%s", n.Name, tail(l.Layout.log(n.Name+".console"), 10))
	}
	return fmt.Errorf("%w\n%s\nthe lab is left as it is: \"lab logs\" lists all logs, \"lab down\" ends it", err,
		tails.String())
}

// tail returns the last lines of a file, or why it cannot be read.
func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error() + "\n"
	}
	all := strings.SplitAfter(string(b), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
