// Command lab runs a real Kubernetes cluster on virtual InfiniBand cards: see the README beside its module.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/progress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "lab",
		Short:         "A real Kubernetes cluster on virtual InfiniBand cards",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(kubeBin())
	return c
}

// workplace is what building needs: where the sources are, where results are kept, where to say what is going on.
type workplace struct {
	source gobuild.Source
	cache  cache.Dir
	say    *progress.Printer
}

func openWorkplace() (workplace, error) {
	dir, err := os.Getwd()
	if err != nil {
		return workplace{}, fmt.Errorf("finding the current directory: %w", err)
	}
	source, err := gobuild.FindSource(dir)
	if err != nil {
		return workplace{}, err
	}
	c, err := cache.Default()
	if err != nil {
		return workplace{}, err
	}
	return workplace{source: source, cache: c, say: progress.New(os.Stderr)}, nil
}

func kubeBin() *cobra.Command {
	return &cobra.Command{
		Use:   "kube-bin",
		Short: "Print the directory of the Kubernetes programs (etcd, kube-apiserver, kubectl ...), building them first if need be",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w, err := openWorkplace()
			if err != nil {
				return err
			}
			return w.say.Step("compiling the Kubernetes programs (once per machine)", func() error {
				dir, err := gobuild.Kube(c.Context(), w.cache, w.source)
				if err == nil {
					fmt.Println(dir + "/bin")
				}
				return err
			})
		},
	}
}
