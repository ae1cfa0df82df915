// SPDX-License-Identifier: Apache-2.0

// Package controller is the controller process: it brings the CRDs, keeps the webhook server's
// certificates good, and runs the controllers and webhooks of its subpackages and the webhooks of
// the SR-IOV policies.
//
// It knows the process's surroundings (ports, names, leader election) and nothing of pools,
// networks or cards.
package controller

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/controller/networks"
	"spidernet.io/spiderpool/internal/controller/pools"
	"spidernet.io/spiderpool/internal/operator"
	"spidernet.io/spiderpool/internal/process"
	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/settings"
	"spidernet.io/spiderpool/internal/version"
)

// Options of the process.
type Options struct {
	// Config reaches the API server.
	Config *rest.Config
	Log    *slog.Logger
	// Name is that of the Service, of both webhook configurations and of the leader election lease.
	Name string
	// Namespace is the release's.
	Namespace string
	// CertificateSecret holds the webhook server's certificates; the chart makes it, empty.
	CertificateSecret string
	// HealthAddress is host:port; MetricsAddress too, empty is no metrics.
	HealthAddress, MetricsAddress string
	// WebhookHost and WebhookPort are where the webhook server listens; an empty host is all addresses.
	WebhookHost string
	WebhookPort int
	// Replicas is how many of this process are meant to run.
	Replicas int
	// SRIOV turns on the webhooks of SriovNetworkNodePolicy.
	SRIOV bool
	// TakeOverCRDs replaces CRDs of other products that have the names of ours.
	TakeOverCRDs bool
	// Settings are those of conf.yml.
	Settings settings.Settings
}

// Run runs the process until ctx ends; then it returns nil.
func Run(ctx context.Context, o Options) error {
	c, err := client.New(o.Config, client.Options{Scheme: scheme.New()})
	if err != nil {
		return fmt.Errorf("making a client of the API server: %w", err)
	}
	crds := crdInstaller{
		client: c, log: o.Log, version: version.Get().Version, takeOver: o.TakeOverCRDs, sriov: o.SRIOV,
	}
	if err := crds.apply(ctx); err != nil {
		return err
	}
	mgr, err := newManager(o)
	if err != nil {
		return err
	}
	if err := setup(mgr, o); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the controllers: %w", err)
	}
	return nil
}

// newManager makes the manager, its webhook server and what keeps that reachable.
func newManager(o Options) (ctrl.Manager, error) {
	var certs *certificates
	server := webhook.NewServer(webhook.Options{
		Host: o.WebhookHost, Port: o.WebhookPort,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.MinVersion = tls.VersionTLS12
			c.GetCertificate = certs.get
		}},
	})
	mgr, health, err := process.NewManager(o.Config, process.Options{
		Log: o.Log, Name: o.Name, Namespace: o.Namespace, HealthAddress: o.HealthAddress,
		MetricsAddress: o.MetricsAddress,
		Cache:          cacheOptions(o), Webhook: server, Replicas: o.Replicas,
	})
	if err != nil {
		return nil, err
	}
	certs = newCertificates(mgr.GetClient(), o, time.Now)
	if err := certs.setupWithManager(mgr); err != nil {
		return nil, fmt.Errorf("setting up the webhook certificates: %w", err)
	}
	health.Require("webhook server", func() error {
		if err := certs.ready(); err != nil {
			return err
		}
		return server.StartedChecker()(nil)
	})
	return mgr, nil
}

// podGrace is how long a pod must be gone or finished before its address is taken back, beside what
// the options add: its node normally gives it back first.
const podGrace = 30 * time.Second

// setup adds the parts of the process.
func setup(mgr ctrl.Manager, o Options) error {
	gc := o.Settings.GC
	err := pools.SetupWithManager(mgr, pools.Options{
		Namespace: o.Namespace, Heartbeat: o.Settings.Stock.Heartbeat(),
		Families: v2beta1.Families{IPv4: o.Settings.EnableIPv4, IPv6: o.Settings.EnableIPv6},
		Rescan:   gc.Interval(), GoneGrace: podGrace + gc.AdditionalGrace(), FinishedGrace: podGrace +
			gc.AdditionalGrace(),
	})
	if err != nil {
		return fmt.Errorf("setting up the pools: %w", err)
	}
	if err := networks.SetupWithManager(mgr, networks.Options{}); err != nil {
		return fmt.Errorf("setting up the networks: %w", err)
	}
	if err := setupReplicas(mgr, o); err != nil {
		return fmt.Errorf("setting up the probing of other replicas: %w", err)
	}
	if !o.SRIOV {
		return nil
	}
	if err := operator.SetupWebhooks(mgr, operator.Options{Namespace: o.Namespace}); err != nil {
		return fmt.Errorf("setting up the policies: %w", err)
	}
	return nil
}

// cacheOptions keep the process from reading more than it may and needs: of Secrets, webhook
// configurations and leases its own, of the SR-IOV objects those that count, of pods what tells
// whether they have ended.
func cacheOptions(o Options) cache.Options {
	own := map[string]cache.Config{o.Namespace: {}}
	named := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	return cache.Options{ByObject: map[client.Object]cache.ByObject{
		&corev1.Pod{}: {Transform: pools.StripPod},
		&corev1.Secret{}: {Namespaces: map[string]cache.Config{
			o.Namespace: {FieldSelector: named(o.CertificateSecret)}}},
		&admissionv1.ValidatingWebhookConfiguration{}: {Field: named(o.Name)},
		&admissionv1.MutatingWebhookConfiguration{}:   {Field: named(o.Name)},
		&discoveryv1.EndpointSlice{}: {Namespaces: own,
			Label: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: o.Name})},
		&coordinationv1.Lease{}:           {Namespaces: own},
		&sriovv1.SriovNetworkNodePolicy{}: {Namespaces: own},
		&sriovv1.SriovNetworkNodeState{}:  {Namespaces: own},
		&sriovv1.SriovNetworkPoolConfig{}: {Namespaces: own},
		&sriovv1.SriovOperatorConfig{}:    {Namespaces: own},
	}}
}
