// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/internal/initjob"
	"spidernet.io/spiderpool/internal/scheme"
)

func newInit() *cobra.Command {
	var (
		c        common
		defaults string
		o        = initjob.Options{Interval: time.Second, Out: os.Stdout}
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "create the default objects after an installation and wait until all is ready",
		Long: "Waits for the controller's webhook, creates the default objects, waits for the rollout, and ends. It " +
			"can be repeated. " +
			"When the time is up it ends with the reason.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o.Namespace = c.namespace
			if o.Defaults, err = initjob.ParseDefaults(defaults); err != nil {
				return err
			}
			if o.Client, err = c.client(); err != nil {
				return err
			}
			return initjob.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	c.add(flags)
	flags.StringVar(&defaults, "defaults", "{}", "default objects, as the chart writes them (JSON)")
	env(flags, "defaults", "SPIDERPOOL_INIT_DEFAULTS")
	flags.DurationVar(&o.Timeout, "timeout", 4*time.Minute, "time for all of it")
	return cmd
}

func newClean() *cobra.Command {
	var (
		c common
		o = initjob.CleanOptions{Out: os.Stdout}
	)
	cmd := &cobra.Command{
		Use: "clean",
		Short: "before an uninstallation, stop the controller and the sriov-operator and remove the webhooks and " +
			"our finalizers",
		Long: "Removes what would block others once the controller is gone. Pools, networks and addresses stay. It " +
			"can be repeated.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o.Namespace = c.namespace
			if o.Client, err = c.client(); err != nil {
				return err
			}
			return initjob.Clean(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	c.add(flags)
	flags.StringVar(&o.Controller, "controller-name", "spiderpool-controller",
		"name of the controller's Deployment and of both webhook configurations")
	env(flags, "controller-name", "SPIDERPOOL_CONTROLLER_NAME")
	flags.StringVar(&o.Operator, "operator-name", "spiderpool-sriov-operator",
		"name of the sriov-operator's Deployment")
	env(flags, "operator-name", "SPIDERPOOL_OPERATOR_NAME")
	flags.StringVar(&o.InitPod, "init-name", "spiderpool-init", "name of the init pod, which goes too")
	env(flags, "init-name", "SPIDERPOOL_INIT_NAME")
	flags.DurationVar(&o.Timeout, "timeout", 2*time.Minute, "time for all of it")
	return cmd
}

// client is one that reads and writes the API server directly.
func (c *common) client() (client.Client, error) {
	_, config, err := c.start()
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit of our own: it would hide the API server's answer when the time is up
	return client.New(config, client.Options{Scheme: scheme.New()})
}
