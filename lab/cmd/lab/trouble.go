// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/topology"
)

func cableCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "cable NODE [PCI-ADDRESS] up|down",
		GroupID: "trouble",
		Short:   "Plug or pull the cable of a node's card (the first one, if no address is given)",
		Args:    cobra.RangeArgs(2, 3),
		RunE: func(c *cobra.Command, args []string) error {
			state, pci := args[len(args)-1], "0000:86:00.0"
			if len(args) == 3 {
				pci = args[1]
			}
			if state != "up" && state != "down" {
				return fmt.Errorf("cable state is %q; expected up or down", state)
			}
			plugged := map[string]string{"up": "1", "down": "0"}[state]
			return onNode(c, args[0], fmt.Sprintf("echo %s >/sys/bus/pci/devices/%s/vhca_cable", plugged, pci))
		},
	}
}

func restartKubeletCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "restart-kubelet NODE",
		GroupID: "trouble",
		Short:   "End a node's kubelet; its init starts it again",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return onNode(c, args[0], "pkill -x kubelet") },
	}
}

func rebootCommand() *cobra.Command {
	var hard bool
	c := &cobra.Command{
		Use:     "reboot NODE",
		GroupID: "trouble",
		Short: "Restart a node in good order, or with --hard as if its power had failed; returns when it is " +
			"ready again",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			n, err := topology.Find(args[0])
			if err != nil {
				return err
			}
			return l.Reboot(c.Context(), n, hard)
		},
	}
	c.Flags().BoolVar(&hard, "hard", false, "reset the machine without telling it")
	return c
}

func pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "pause NODE",
		GroupID: "trouble",
		Short:   "Stop a node where it is, as if its power had failed",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return onMachine(c.Context(), args[0],
				cluster.Lab.Pause)
		},
	}
}

func resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "resume NODE",
		GroupID: "trouble",
		Short:   "Have a paused node go on, with the right time",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return onMachine(c.Context(), args[0], cluster.Lab.Resume)
		},
	}
}

// onMachine does something to a node of the running lab from outside it.
func onMachine(ctx context.Context, name string, do func(cluster.Lab, context.Context, topology.Node) error) error {
	l, err := openRunning()
	if err != nil {
		return err
	}
	n, err := topology.Find(name)
	if err != nil {
		return err
	}
	return do(l, ctx, n)
}

func outageCommand() *cobra.Command {
	var d time.Duration
	c := &cobra.Command{
		Use:     "outage PROGRAM",
		GroupID: "trouble",
		Short:   "End a program of the control plane, such as kube-apiserver, and keep it away for a while",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := openRunning()
			if err != nil {
				return err
			}
			return l.Outage(c.Context(), args[0], d)
		},
	}
	c.Flags().DurationVar(&d, "for", time.Minute, "how long")
	return c
}

// onNode runs a command line on a node.
func onNode(c *cobra.Command, node, command string) error {
	l, err := openRunning()
	if err != nil {
		return err
	}
	m, err := l.Dial(c.Context(), node)
	if err != nil {
		return err
	}
	defer m.Close()
	_, err = m.Output(c.Context(), command)
	return err
}
