// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/guest"
	"spidernet.io/spiderpool/lab/internal/terminal"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ARGUMENTS",
		GroupID:            "use",
		Short:              "Run kubectl against the cluster",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			return standIn(l.Layout.Kubeconfig(), l.Layout.Kubectl(), args)
		},
	}
}

func helmCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "helm ARGUMENTS",
		GroupID:            "use",
		Short:              "Run helm against the cluster",
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openLab()
			if err != nil {
				return err
			}
			var helm string
			err = l.Say.Step("compiling helm (once per machine)", func() (err error) {
				helm, err = gobuild.Helm(c.Context(), l.Cache, l.Source)
				return err
			})
			if err != nil {
				return err
			}
			return standIn(l.Layout.Kubeconfig(), helm, args)
		},
	}
}

// standIn runs a program of the lab in place of this one.
func standIn(kubeconfig, program string, args []string) error {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func kubeconfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "kubeconfig",
		GroupID: "use",
		Short: "Print the path of the administrator's kubeconfig, for any tool on this host: export " +
			"KUBECONFIG=$(lab kubeconfig)",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := openRunning()
			if err == nil {
				fmt.Println(l.Layout.Kubeconfig())
			}
			return err
		},
	}
}

// envCommand has a shell find the lab's kubectl and helm and its cluster, so that commands of the
// documentation work as they stand.
func envCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "env",
		GroupID: "use",
		Short:   "Print what makes a shell use the lab's kubectl, helm and cluster: eval \"$(lab env)\"",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := openRunning(); err != nil {
				return err
			}
			l, err := openLab()
			if err != nil {
				return err
			}
			t, err := terminal.Open(c.Context(), l)
			if err != nil {
				return err
			}
			for _, setting := range t.Environment() {
				name, value, _ := strings.Cut(setting, "=")
				fmt.Printf("export %s=%s\n", name, guest.Quote([]string{value}))
			}
			return nil
		},
	}
}

func shellCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "shell NODE [-- COMMAND ARGUMENTS]",
		GroupID: "use",
		Short:   "Open a root shell on a node, or run a command there",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			m, err := l.Dial(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			command := guest.Quote(args[1:])
			if len(args) == 2 {
				command = args[1] // one word may be a whole command line, as with ssh
			}
			if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
				return m.Shell(c.Context(), command)
			}
			return m.Run(c.Context(), command, guest.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
		},
	}
}

func consoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "console NODE",
		GroupID: "use",
		Short:   "Attach to a node's serial console; Ctrl-] leaves it",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			return l.Console(args[0])
		},
	}
}

func logsCommand() *cobra.Command {
	var follow bool
	var lines int
	c := &cobra.Command{
		Use:     "logs [NAME]",
		GroupID: "use",
		Short: "List the logs of all parts, or print the end of one, as in \"lab logs kube-apiserver\" or \"lab " +
			"logs 10-20-1-10/kubelet\"",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return l.ListLogs(c.Context(), os.Stdout)
			}
			return l.PrintLog(c.Context(), args[0], lines, follow, os.Stdout)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as the log grows")
	c.Flags().IntVarP(&lines, "lines", "n", 50, "how many of the last lines")
	return c
}

func loadImageCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "load-image",
		GroupID: "use",
		Short:   "Compile the product, bring its image to both nodes and restart its pods",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := openRunning(); err != nil {
				return err
			}
			l, err := openLab()
			if err != nil {
				return err
			}
			return l.LoadImage(c.Context())
		},
	}
}
