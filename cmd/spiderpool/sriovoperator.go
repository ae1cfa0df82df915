// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/internal/operator"
)

func newSriovOperator() *cobra.Command {
	var (
		o operator.RunOptions
		c common
		e endpoints
	)
	cmd := &cobra.Command{
		Use:   "sriov-operator",
		Short: "turn policies into what each node's cards shall be",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o.Namespace, o.HealthAddress, o.MetricsAddress = c.namespace, e.healthAddress(), e.metricsAddress()
			if o.Log, o.Config, err = c.start(); err != nil {
				return err
			}
			return operator.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	c.add(flags)
	e.add(flags, 5730, 5731)
	addReplicas(flags, &o.Replicas)
	addResourcePrefix(flags, &o.ResourcePrefix)
	flags.StringVar(&o.Name, "name", "spiderpool-sriov-operator", "name of the leader election lease")
	env(flags, "name", "SPIDERPOOL_OPERATOR_NAME")
	return cmd
}
