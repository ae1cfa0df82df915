// SPDX-License-Identifier: Apache-2.0

// Command release builds, packs and publishes the product. `make build`, `make image`, `make push`
// and `make release` call it; it needs Go and git, and neither helm nor a container engine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/release/product"
	"spidernet.io/spiderpool/release/publish"
	"spidernet.io/spiderpool/release/source"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	var (
		o         publish.Options
		platforms string
	)
	root := &cobra.Command{
		Use:   "release",
		Short: "build, pack and publish the product",
		Long: "Builds the product of the git clone around the working directory. Each command does what " +
			"those before it do, first.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.Version, "version", "", "version, such as v0.2.0; empty takes what `git describe` says")
	flags.StringVar(&platforms, "platforms", "",
		"platforms, with commas between; empty takes all: linux/amd64,linux/arm64")
	flags.StringVar(&o.Out, "out", "", "directory of the results; empty takes bin/ of the clone")
	flags.StringVar(&o.SourceURL, "source", "", "address at which the source is published, for the image's labels")
	flags.StringVar(&o.Registry, "registry", "", "registry and path to push to, such as registry.example.com/me")
	flags.BoolVar(&o.Client.Insecure, "insecure", false,
		"allow plain HTTP and unknown certificates; loopback needs no permission for HTTP")
	flags.BoolVar(&o.AllowDirty, "allow-dirty", false, "release a tree with changes that are not committed")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("reading the working directory: %w", err)
		}
		if o.Root, err = source.Find(dir); err != nil {
			return err
		}
		if o.Out == "" {
			o.Out = filepath.Join(o.Root, "bin")
		}
		if o.Platforms, err = product.ParsePlatforms(platforms); err != nil {
			return err
		}
		o.Print, o.Say = cmd.OutOrStdout(), publish.NewProgress(cmd.ErrOrStderr())
		return nil
	}
	for _, c := range []struct {
		name, short string
		run         func(context.Context, publish.Options) error
	}{
		{"build", "compile the programs for every platform", func(ctx context.Context, o publish.Options) error {
			_, err := publish.Build(ctx, o)
			return err
		}},
		{"image", "pack them as one multi-architecture OCI image", func(ctx context.Context, o publish.Options) error {
			_, _, err := publish.Image(ctx, o)
			return err
		}},
		{"push", "push the image to --registry", func(ctx context.Context, o publish.Options) error {
			_, _, err := publish.Push(ctx, o)
			return err
		}},
		{"release", "push image and chart, and write what else a release has",
			func(ctx context.Context, o publish.Options) error {
				_, err := publish.Release(ctx, o)
				return err
			}},
	} {
		root.AddCommand(&cobra.Command{
			Use: c.name, Short: c.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), o) },
		})
	}
	return root
}
