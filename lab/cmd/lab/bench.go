// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/lab/bench"
	"spidernet.io/spiderpool/lab/demo"
	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/terminal"
	"spidernet.io/spiderpool/lab/internal/topology"
)

func benchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", GroupID: "use", Short: "Measure the product in the lab"}
	c.AddCommand(benchCNICommand(), benchSRIOVCommand())
	return c
}

func benchCNICommand() *cobra.Command {
	var o cluster.Options
	var b bench.Options
	var asIs bool
	c := &cobra.Command{
		Use:   "cni",
		Short: "Print what CNI ADD and DEL cost beside the bare kernel steps, starting the lab if need be",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkCNI(&b); err != nil {
				return err
			}
			l, err := openForBench(c.Context(), o, asIs)
			if err != nil {
				return err
			}
			return benchCNI(c.Context(), l, b)
		},
	}
	c.Flags().IntVarP(&b.Pods, "number", "n", 20,
		"pods of each network that come one after another, and rounds of the bare steps")
	c.Flags().StringVar(&b.Only, "only", "",
		`measure one part beside the bare steps: "pods", which the kubelet runs, or "many", at once and with several networks`)
	c.Flags().IntVar(&b.Many.Rounds, "rounds", 3, "rounds of each case with several pods at once")
	c.Flags().IntVar(&b.Many.Held, "held", 100, "attachments at which the agent's memory is read; 0 leaves that out")
	c.Flags().BoolVar(&b.Many.Bound, "bound", false,
		"give the pods that no kubelet runs to the node, where it waits for a volume of theirs that never comes")
	c.Flags().StringVar(&b.Node, "node", topology.Nodes()[0].Name, "the node to measure on")
	c.Flags().BoolVar(&asIs, "as-is", false,
		"measure the product that runs in the lab, without bringing the present one there")
	addOptions(c.Flags(), &o)
	memory := c.Flags().Lookup("memory") // for a hundred attachments
	memory.DefValue, o.MemoryMiB = "3072", 3072
	return c
}

// checkCNI checks the flags of the benchmark, and fills in what follows from them.
func checkCNI(b *bench.Options) error {
	switch {
	case b.Pods < 1 || b.Pods > 200:
		return fmt.Errorf("--number is %d; want 1 to 200, which is what the agent remembers", b.Pods)
	case b.Only != "" && b.Only != bench.OnlyPods && b.Only != bench.OnlyMany:
		return fmt.Errorf("--only is %q; want %s, %s, or none for both", b.Only, bench.OnlyPods, bench.OnlyMany)
	case b.Many.Rounds < 1:
		return fmt.Errorf("--rounds is %d; want at least 1", b.Many.Rounds)
	case b.Many.Held < 0 || b.Many.Held > 400:
		return fmt.Errorf("--held is %d; want 0 to 400", b.Many.Held)
	}
	n, err := topology.Find(b.Node)
	if err != nil {
		return err
	}
	b.Many.Master = n.Cards(1)[0].Interface
	return nil
}

func openForBench(ctx context.Context, o cluster.Options, asIs bool) (cluster.Lab, error) {
	if asIs {
		if l, err := openRunning(); err != nil {
			return l, err
		}
		return openLab()
	}
	l, err := openLab()
	if err != nil {
		return l, err
	}
	o.Preload = true
	return l, l.Ensure(ctx, o, cellProgram)
}

func benchSRIOVCommand() *cobra.Command {
	var o cluster.Options
	var b bench.SRIOVOptions
	var asIs bool
	c := &cobra.Command{
		Use: "sriov",
		Short: "Print what it takes to make VFs beside the bare kernel steps, what an idle agent costs, and what " +
			"its death comes to",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := topology.Find(b.Node)
			if err != nil {
				return err
			}
			if b.Rounds < 1 {
				return fmt.Errorf("--number is %d; want at least 1", b.Rounds)
			}
			for _, card := range n.Cards(o.Cards) {
				b.Cards = append(b.Cards, card.PCI)
			}
			l, err := openForBench(c.Context(), o, asIs)
			if err != nil {
				return err
			}
			return benchSRIOV(c.Context(), l, b)
		},
	}
	c.Flags().IntVarP(&b.Rounds, "number", "n", 3, "rounds of each measurement")
	c.Flags().IntSliceVar(&b.VFs, "vfs", []int{1, 12, 16}, "VFs to make on each card")
	c.Flags().DurationVar(&b.Idle, "idle", time.Minute, "how long the idle agent is watched")
	c.Flags().StringVar(&b.Node, "node", topology.Nodes()[0].Name, "the node to measure on")
	c.Flags().BoolVar(&asIs, "as-is", false,
		"measure the product that runs in the lab, without bringing the present one there")
	addOptions(c.Flags(), &o)
	c.Flags().Lookup("cards").DefValue, o.Cards = "2", 2
	return c
}

// prepareBench opens a terminal and fills in what every benchmark needs; done removes it again.
func prepareBench(ctx context.Context, l cluster.Lab, b *bench.Options) (t *terminal.Terminal, done func(), err error) {
	if t, err = terminal.Open(ctx, l); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "lab-bench")
	if err != nil {
		return nil, nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	done = func() { os.RemoveAll(dir) }
	b.Program, b.Many.Program = filepath.Join(dir, "hostbench"), filepath.Join(dir, "attachbench")
	for pkg, out := range map[string]string{"./internal/host/hostbench": b.Program,
		"./internal/attach/attachbench": b.Many.Program} {
		if err := gobuild.Build(ctx, l.Source.Product(), pkg, out, ""); err != nil {
			done()
			return nil, nil, err
		}
	}
	b.ID = strconv.FormatInt(time.Now().Unix(), 36)
	b.Steps, err = demo.Setup(demo.Options{Nodes: topology.Names(), Install: demo.Install(topology.ProductImage)})
	if err != nil {
		done()
		return nil, nil, err
	}
	return t, done, nil
}

func benchCNI(ctx context.Context, l cluster.Lab, b bench.Options) error {
	t, done, err := prepareBench(ctx, l, &b)
	if err != nil {
		return err
	}
	defer done()
	report, err := bench.Run(ctx, t, b, os.Stderr)
	if err != nil {
		return err
	}
	report.Write(os.Stdout)
	return report.Incomplete()
}

func benchSRIOV(ctx context.Context, l cluster.Lab, b bench.SRIOVOptions) error {
	t, done, err := prepareBench(ctx, l, &b.Options)
	if err != nil {
		return err
	}
	defer done()
	report, err := bench.RunSRIOV(ctx, t, b, os.Stderr)
	report.Write(os.Stdout) // as far as it came
	return err
}
