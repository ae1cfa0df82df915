// SPDX-License-Identifier: Apache-2.0

// Command ipambench measures what an address costs: how fast agents allocate, how many requests to
// the API server that takes, and how both grow with the number of agents and the size of a pool.
// Beside it, in the same run, it measures the design in which all agents write into one pool
// object.
//
// It owns an API server and etcd of its own, started from KUBEBUILDER_ASSETS, the pools controller
// in a manager as the controller process has it, and agents that are goroutines: each with its own
// connection, client, informers, ledger and heartbeat, and the product's own leases.Allocator on
// top. It prints tables and judges nothing. It knows nothing of CNI, of the kernel and of how an
// Allocator works inside: it sees calls, requests and time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	log.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ipambench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("ipambench", flag.ExitOnError)
	agents := flags.String("agents", "", "numbers of agents, separated by commas (default 1,10,50; with --quick 1,10)")
	quick := flags.Bool("quick", false, "fewer pods and smaller pools, in less than 90 seconds")
	dir := flags.String("dir", os.TempDir(), "directory for the agents' ledgers; its disk is part of what is measured")
	only := flags.String("only", "", "measure one part alone: usual, warm, flat or object")
	profile := flags.String("cpuprofile", "", "write a CPU profile of agents and controller to this file")
	_ = flags.Parse(args) // it exits by itself
	p := fullPlan()
	if *quick {
		p = quickPlan()
	}
	p.Dir, p.Only = *dir, *only
	if !p.measures(partUsual) && !p.measures(partWarm) && !p.measures(partFlat) && !p.measures(partObject) {
		return fmt.Errorf("--only is %q: give usual, warm, flat or object", p.Only)
	}
	if *agents != "" {
		if p.Agents, err = parseAgents(*agents); err != nil {
			return err
		}
	}
	if *profile != "" {
		stop, err := startProfile(*profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	return run(ctx, p, os.Stdout, os.Stderr)
}

func parseAgents(text string) ([]int, error) {
	var counts []int
	for _, field := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 1 {
			return nil, fmt.Errorf("--agents has %q: give numbers of at least 1, such as 1,10,50", field)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

func startProfile(path string) (stop func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make the file of the CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("start the CPU profile: %w", err), f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}

// run measures all of the plan and prints it; when something fails, what was measured until then.
func run(ctx context.Context, p plan, out, progress io.Writer) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Whole, fmt.Errorf("the whole run took longer than %s", p.Whole))
	defer cancel()
	b, err := newBench(p, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	err = b.all(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	b.report.write(out)
	return err
}
