// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/internal/controller"
	"spidernet.io/spiderpool/internal/settings"
)

func newController() *cobra.Command {
	var (
		o    controller.Options
		c    common
		e    endpoints
		conf string
	)
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "run the controllers and webhooks of pools, networks and policies",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Namespace, o.HealthAddress, o.MetricsAddress = c.namespace, e.healthAddress(), e.metricsAddress()
			return runController(cmd.Context(), o, c, conf)
		},
	}
	flags := cmd.Flags()
	c.add(flags)
	e.add(flags, 5720, 5721)
	addSettings(flags, &conf)
	addReplicas(flags, &o.Replicas)
	flags.StringVar(&o.Name, "name", "spiderpool-controller", "name of the Service and of both webhook configurations")
	env(flags, "name", "SPIDERPOOL_CONTROLLER_NAME")
	flags.IntVar(&o.WebhookPort, "webhook-port", 5722, "port of the webhook server, on all addresses")
	env(flags, "webhook-port", "SPIDERPOOL_WEBHOOK_PORT")
	flags.StringVar(&o.CertificateSecret, "certificate-secret", "spiderpool-controller-server-certs",
		"Secret of the webhook server's certificates; the controller fills it")
	env(flags, "certificate-secret", "SPIDERPOOL_CERTIFICATE_SECRET")
	flags.BoolVar(&o.SRIOV, "sriov", false, "serve the webhooks of SriovNetworkNodePolicy")
	env(flags, "sriov", "SPIDERPOOL_SRIOV_ENABLED")
	flags.BoolVar(&o.TakeOverCRDs, "take-over-crds", false,
		"replace CRDs of other products that have the names of ours")
	env(flags, "take-over-crds", "SPIDERPOOL_TAKE_OVER_CRDS")
	return cmd
}

func runController(ctx context.Context, o controller.Options, c common, conf string) (err error) {
	if o.Log, o.Config, err = c.start(); err != nil {
		return err
	}
	if o.Settings, err = settings.Load(conf); err != nil {
		return err
	}
	return controller.Run(ctx, o)
}
