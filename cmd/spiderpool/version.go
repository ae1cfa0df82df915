// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/internal/version"
)

func newVersion() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print version, commit and build time",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd.OutOrStdout(), version.Get(), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printVersion(out io.Writer, i version.Info, format string) error {
	switch format {
	case "text":
		_, err := io.WriteString(out, i.Text("spiderpool"))
		return err
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(i)
	}
	return fmt.Errorf("printing the version: --output is %q: expected text or json", format)
}

// logStart writes a process's first log line. It does so whatever --log-level says: which build
// wrote a log is what one needs to know first, of a quiet log too.
func logStart(err io.Writer, process string) {
	slog.New(slog.NewJSONHandler(err, nil)).Info("starting", append([]any{"process", process},
		version.Get().LogArgs()...)...)
}
