// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/lab/demo"
	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/terminal"
	"spidernet.io/spiderpool/lab/internal/topology"
)

func demoCommand() *cobra.Command {
	var o cluster.Options
	c := &cobra.Command{
		Use:     "demo",
		GroupID: "life",
		Short:   "Walk the user's guide on the lab, starting it if need be, and leave it running",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openLab()
			if err != nil {
				return err
			}
			return runDemo(c.Context(), l, o)
		},
	}
	addOptions(c.Flags(), &o)
	return c
}

func runDemo(ctx context.Context, l cluster.Lab, o cluster.Options) error {
	started := time.Now()
	o.Preload = true
	if err := l.Ensure(ctx, o, cellProgram); err != nil {
		return err
	}
	t, err := terminal.Open(ctx, l)
	if err != nil {
		return err
	}
	steps, err := demo.Steps(demo.Options{Nodes: topology.Names(), Install: demo.Install(topology.ProductImage)})
	if err != nil {
		return err
	}
	prepared := time.Since(started)
	results, err := demo.New(t, os.Stdout).Run(ctx, steps)
	demo.Summary(os.Stdout, results)
	fmt.Printf(" %.0f s of set-up before that\n", prepared.Seconds())
	fmt.Print(lookAround)
	return err
}

const lookAround = `
The lab is still running. Look around (in the folder lab):
  go run ./cmd/lab status                      what runs, and how it is
  go run ./cmd/lab shell 10-20-1-10            a root shell on a node: rdma link, ibstat, ip a show ibs5f0
  go run ./cmd/lab kubectl get sp,smc,se,sil -A
  go run ./cmd/lab kubectl -n kube-system get sriovnetworknodestates -o yaml
  export KUBECONFIG=$(go run ./cmd/lab kubeconfig)
Stop it:
  make down
`
