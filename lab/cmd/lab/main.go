// SPDX-License-Identifier: Apache-2.0

// Command lab runs a real Kubernetes cluster on virtual InfiniBand cards: see the README beside its module.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/lab/internal/guest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return
	}
	status, quiet := exitStatus(err)
	if !quiet {
		fmt.Fprintln(os.Stderr, "lab:", err)
	}
	os.Exit(status)
}

// exitStatus is that of the program that lab stood in for, which has said itself what was wrong; or 1.
// An error about a program that lab used is another matter: it has more to say than the status.
func exitStatus(err error) (status int, quiet bool) {
	switch e := err.(type) { //nolint:errorlint // what is wrapped was used
	case *exec.ExitError:
		return e.ExitCode(), true
	case guest.Exit:
		return e.Status, true
	}
	return 1, false
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "lab",
		Short:         "A real Kubernetes cluster on virtual InfiniBand cards",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddGroup(
		&cobra.Group{ID: "life", Title: "Its life:"},
		&cobra.Group{ID: "use", Title: "Using it:"},
		&cobra.Group{ID: "trouble", Title: "Making trouble:"},
		&cobra.Group{ID: "parts", Title: "Parts of it:"},
	)
	c.AddCommand(
		demoCommand(), upCommand(), statusCommand(), downCommand(), cleanCommand(),
		kubectlCommand(), helmCommand(), kubeconfigCommand(), envCommand(), shellCommand(), consoleCommand(),
		logsCommand(), loadImageCommand(), benchCommand(),
		cableCommand(), rebootCommand(), pauseCommand(), resumeCommand(), restartKubeletCommand(), outageCommand(),
		kubeBinCommand(), cellCommand(), registryCommand(),
	)
	return c
}
