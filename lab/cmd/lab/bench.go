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
	c.AddCommand(benchCNICommand())
	return c
}

func benchCNICommand() *cobra.Command {
	var o cluster.Options
	var b bench.Options
	var asIs bool
	c := &cobra.Command{
		Use:   "cni",
		Short: "Print the phases of CNI ADD and DEL beside the bare kernel steps, starting the lab if need be",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if b.Pods < 1 || b.Pods > 200 {
				return fmt.Errorf("--number is %d; want 1 to 200, which is what the agent remembers", b.Pods)
			}
			if _, err := topology.Find(b.Node); err != nil {
				return err
			}
			l, err := openForBench(c.Context(), o, asIs)
			if err != nil {
				return err
			}
			return benchCNI(c.Context(), l, b)
		},
	}
	c.Flags().IntVarP(&b.Pods, "number", "n", 20, "pods of each network, and rounds of the bare steps")
	c.Flags().StringVar(&b.Node, "node", topology.Nodes()[0].Name, "the node to measure on")
	c.Flags().BoolVar(&asIs, "as-is", false, "measure the product that runs in the lab, without bringing the present one there")
	addOptions(c.Flags(), &o)
	return c
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
	return l, l.Ensure(ctx, o, cellProgram)
}

func benchCNI(ctx context.Context, l cluster.Lab, b bench.Options) error {
	t, err := terminal.Open(ctx, l)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lab-bench")
	if err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	b.Program = filepath.Join(dir, "hostbench")
	if err := gobuild.Build(ctx, l.Source.Product(), "./internal/host/hostbench", b.Program, ""); err != nil {
		return err
	}
	b.Steps, err = demo.Setup(demo.Options{Nodes: topology.Names(), Install: demo.Install(topology.ProductImage)})
	if err != nil {
		return err
	}
	b.ID = strconv.FormatInt(time.Now().Unix(), 36)
	report, err := bench.Run(ctx, t, b, os.Stderr)
	if err != nil {
		return err
	}
	report.Write(os.Stdout)
	return report.Incomplete()
}
