// SPDX-License-Identifier: Apache-2.0

// Command attachbench plays the container runtime on one node, without
// containers: it makes network namespaces, calls the CNI shim for pods as a
// runtime does, many at once, and prints how long each call took.
//
// It owns the namespaces and the calls, and undoes both: when a call fails, at a
// signal, and when its standard input ends, which is how the lab's benchmark
// stops it. It knows neither Kubernetes nor what the pods' networks are, and
// judges nothing; pods that exist for the agent are its caller's business.
//
// The first line of its standard input is the list of pods, as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"spidernet.io/spiderpool/internal/host/nodebench"
)

// output is what is printed.
type output struct {
	Samples []sample `json:"samples"`
	Held    string   `json:"held,omitempty"` // what the command of -hold printed
}

type options struct {
	atOnce           int
	quiet            time.Duration
	hold, shim, conf string
}

func main() {
	var o options
	flag.IntVar(&o.atOnce, "at-once", 1,
		"pods whose calls begin at the same moment; the list of pods is taken in such rounds")
	flag.DurationVar(&o.quiet, "quiet", 0,
		"how long nothing is asked of the agent before each round, so that it has done what the last one left it to do")
	flag.StringVar(&o.hold, "hold", "", "attach all pods, then run this shell command, and detach them only after it")
	flag.StringVar(&o.shim, "shim", "/opt/cni/bin/multus", "the CNI shim")
	flag.StringVar(&o.conf, "conf", "/etc/cni/net.d/00-multus.conf",
		"the configuration that the runtime would pass to it")
	flag.Parse()
	ctx, stop := nodebench.Context()
	defer stop()
	if err := run(ctx, o, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "attachbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	if o.atOnce < 1 {
		return fmt.Errorf("-at-once is %d: want at least 1", o.atOnce)
	}
	conf, err := os.ReadFile(o.conf)
	if err != nil {
		return fmt.Errorf("reading the runtime's configuration: %w", err)
	}
	lines := bufio.NewReader(in)
	pods, err := readPods(lines)
	if err != nil {
		return err
	}
	b := &bench{quiet: o.quiet, shim: o.shim, conf: conf, newNS: newNamespace}
	return b.print(nodebench.UntilEOF(ctx, lines), o, pods, out)
}

// print measures and prints. What was measured before a failure is not printed: a part of a round
// says nothing.
func (b *bench) print(ctx context.Context, o options, pods []pod, out io.Writer) (err error) {
	var all output
	if o.hold != "" {
		all.Held, err = b.hold(ctx, pods, o.atOnce, o.hold)
	} else {
		err = b.rounds(ctx, pods, o.atOnce)
	}
	if err != nil {
		return err
	}
	all.Samples = b.samples
	if err := json.NewEncoder(out).Encode(all); err != nil {
		return fmt.Errorf("printing the durations: %w", err)
	}
	return nil
}

// readPods reads the first line.
func readPods(in *bufio.Reader) ([]pod, error) {
	line, err := in.ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the list of pods: %w", err)
	}
	var pods []pod
	if err := json.Unmarshal(line, &pods); err != nil {
		return nil, fmt.Errorf("reading the list of pods, which is the first line of standard input: %w", err)
	}
	if len(pods) == 0 {
		return nil, errors.New("the list of pods is empty")
	}
	for i, p := range pods {
		if p.Namespace == "" || p.Name == "" || p.UID == "" || strings.ContainsAny(p.Namespace+p.Name+p.UID, ";=") {
			return nil,
				fmt.Errorf(
					"pod %d is %+v: want a namespace, a name and a UID, without ; and =, which stand between CNI's "+
						"arguments", i, p)
		}
	}
	return pods, nil
}
