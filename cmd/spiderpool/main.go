// SPDX-License-Identifier: Apache-2.0

// Command spiderpool is every process of the product but the CNI shim: controller, agent,
// sriov-operator, and the init and clean pods. Its first argument says which.
//
// Every flag can be given by an environment variable too, which its help text names; the chart uses
// those. Logs are JSON lines on standard error. The exit status is 0 when the process did what it
// was for or was asked to end, and 1 otherwise; the reason is the last line, and the pod's
// termination message.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := limitMemory(os.Getenv("MEMORY_LIMIT_BYTES")); err != nil {
		exit(err)
	}
	if err := newRoot().ExecuteContext(ctx); err != nil {
		exit(err)
	}
}

// terminationLog is the file whose content Kubernetes shows as a container's termination message.
const terminationLog = "/dev/termination-log"

func exit(err error) {
	fmt.Fprintln(os.Stderr, "spiderpool:", err)
	if f, openErr := os.OpenFile(terminationLog, os.O_WRONLY, 0); openErr == nil {
		_, writeErr := f.WriteString(err.Error() + "\n")
		if err := errors.Join(writeErr, f.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "spiderpool: writing the termination message:", err)
		}
	}
	os.Exit(1)
}

// limitMemory makes the garbage collector work harder before the kernel kills the container: the
// limit is its memory limit in bytes, of which a tenth is left for what the collector does not
// count. GOMEMLIMIT wins.
func limitMemory(limit string) error {
	if limit == "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	bytes, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || bytes <= 0 {
		return fmt.Errorf(
			"environment variable MEMORY_LIMIT_BYTES is %q, want the container's memory limit as a number of bytes",
			limit)
	}
	debug.SetMemoryLimit(bytes - bytes/10)
	return nil
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "spiderpool",
		Short: "InfiniBand for Kubernetes pods",
		Long: "Every process of the product but the CNI shim. The chart runs them; by hand they are for " +
			"debugging.",
		Version:       version.Get().String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newController(), newAgent(), newSriovOperator(), newInit(), newClean(), newPurge())
	for _, c := range root.Commands() {
		c.Args = cobra.NoArgs
		c.PreRunE = func(c *cobra.Command, _ []string) error {
			logStart(c.ErrOrStderr(), c.Name())
			return readEnvironment(c.Flags(), os.LookupEnv)
		}
	}
	printed := newVersion()
	printed.Args = cobra.NoArgs
	root.AddCommand(printed)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	return root
}
