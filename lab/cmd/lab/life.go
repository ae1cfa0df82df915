// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/cell"
	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/progress"
	"spidernet.io/spiderpool/lab/internal/registry"
	"spidernet.io/spiderpool/lab/internal/topology"
)

// openLab finds the lab's sources, cache and state. Nothing of them need exist yet but the sources.
func openLab() (cluster.Lab, error) {
	l, err := openInstalled()
	if err != nil {
		return l, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return l, fmt.Errorf("finding the current directory: %w", err)
	}
	l.Source, err = gobuild.FindSource(dir)
	return l, err
}

// openInstalled is openLab for commands that build nothing and so work in any directory.
func openInstalled() (cluster.Lab, error) {
	c, err := cache.Default()
	if err != nil {
		return cluster.Lab{}, fmt.Errorf("finding the cache directory: %w", err)
	}
	layout, err := cluster.DefaultLayout()
	return cluster.Lab{Layout: layout, Cache: c, Say: progress.New(os.Stderr)}, err
}

// openRunning is openInstalled with the demand that the lab is up.
func openRunning() (cluster.Lab, error) {
	l, err := openInstalled()
	if err != nil {
		return l, err
	}
	_, up, err := l.Layout.Load()
	if err == nil && !up {
		err = errors.New(`no lab is up: "lab up" starts one`)
	}
	return l, err
}

// cellProgram is this program as the cell's first process.
var cellProgram = []string{"/proc/self/exe", "cell"}

// addOptions adds the flags of what a person may choose about a lab.
func addOptions(flags *pflag.FlagSet, o *cluster.Options) {
	d := cluster.DefaultOptions()
	flags.IntVar(&o.Cards, "cards", d.Cards, "InfiniBand cards per machine: 1 or 2")
	flags.IntVar(&o.MemoryMiB, "memory", d.MemoryMiB, "memory of each machine, in MiB")
	flags.IntVar(&o.CPUs, "cpus", d.CPUs, "processors of each machine; without KVM more than one can hang")
	flags.IntVar(&o.RegistryPort, "registry-port", d.RegistryPort,
		"port of this host's loopback address for the container registry")
	flags.IntVar(&o.APIPort, "api-port", d.APIPort, "port of this host's loopback address for the API server")
}

func upCommand() *cobra.Command {
	var o cluster.Options
	c := &cobra.Command{
		Use:     "up",
		GroupID: "life",
		Short:   "Build what is missing and start the cluster; returns when both nodes are ready",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openLab()
			if err != nil {
				return err
			}
			if o.Cards < 1 || o.Cards > 2 {
				return fmt.Errorf("--cards is %d; a machine has 1 or 2", o.Cards)
			}
			if err := l.Up(c.Context(), o, cellProgram); err != nil {
				return err
			}
			l.Say.Say("the lab is up: \"lab status\", \"lab kubectl get nodes\", \"lab shell %s\"; its registry is %s",
				topology.Nodes()[0].Name, o.Registry())
			return nil
		},
	}
	addOptions(c.Flags(), &o)
	return c
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		GroupID: "life",
		Short:   "Show how the control plane, the nodes, the cards and the pods are",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			return l.Status(c.Context(), os.Stdout)
		},
	}
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		GroupID: "life",
		Short:   "End the cluster and forget it; what was built stays in the cache",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openInstalled()
			if err != nil {
				return err
			}
			return l.Say.Step("ending the lab", func() error { return l.Down(c.Context()) })
		},
	}
}

func cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "clean",
		GroupID: "life",
		Short:   "End the cluster and remove all that was built for it; the next start fetches and compiles anew",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openInstalled()
			if err != nil {
				return err
			}
			if err := l.Down(c.Context()); err != nil {
				return err
			}
			return l.Cache.Clean()
		},
	}
}

func kubeBinCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "kube-bin",
		GroupID: "parts",
		Short: "Print the directory of the Kubernetes programs (etcd, kube-apiserver, kubectl ...), compiling " +
			"them first if need be",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := openLab()
			if err != nil {
				return err
			}
			return l.Say.Step("compiling the Kubernetes programs (once per machine, about five minutes)", func() error {
				dir, err := gobuild.Kube(c.Context(), l.Cache, l.Source)
				if err == nil {
					fmt.Println(dir + "/bin")
				}
				return err
			})
		},
	}
}

// registryCommand is what the cell starts.
func registryCommand() *cobra.Command {
	return &cobra.Command{
		Use:    cluster.RegistryCommand + " DIRECTORY ADDRESS",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE:   func(_ *cobra.Command, args []string) error { return registry.Serve(args[0], args[1], os.Stderr) },
	}
}

// cellCommand is what "up" starts inside new namespaces.
func cellCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "cell SPEC",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return cell.Main(args[0]) },
	}
}
