// SPDX-License-Identifier: Apache-2.0

// Package process assembles what every controller process has: a controller-runtime manager with
// the project's scheme, health endpoints on one address, metrics on another, and leader election.
//
// It knows nothing of what the controllers do.
package process

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"spidernet.io/spiderpool/internal/scheme"
)

// Options of a process.
type Options struct {
	// Log takes what the manager and its controllers say; nil is slog.Default().
	Log *slog.Logger
	// Name is the process's: its leader election lease and the agent it shows to the API server.
	Name string
	// Namespace holds the lease.
	Namespace string
	// HealthAddress is host:port.
	HealthAddress string
	// MetricsAddress is host:port; empty is no metrics.
	MetricsAddress string
	// Cache says which objects of a kind are kept.
	Cache cache.Options
	// Webhook is the webhook server; nil when there is none.
	Webhook webhook.Server
	// EveryReplica runs all parts in every replica: there is no leader.
	EveryReplica bool
	// Replicas is how many of the process are meant to run, 1 when it is less: it decides how soon
	// another one takes over.
	Replicas int
	// Views answers further paths on the health address; nil answers none.
	Views http.Handler
}

// election are the times of leader election. A leader that ends gives the lease up at once, so only
// the loss of its node costs the whole duration. Webhooks need no leader.
type election struct{ leaseDuration, renewDeadline, retryPeriod time.Duration }

// electionFor returns the times for so many replicas.
//
// One replica has nobody to hand over to: with client-go's usual 15 and 10 seconds a process on a
// node that is short of CPU would only end itself, which makes the shortage worse. Of several,
// another one leads at most takeover after the leader's last renewal.
func electionFor(replicas int) election {
	if replicas > 1 {
		return election{leaseDuration: 9 * time.Second, renewDeadline: 7 * time.Second, retryPeriod: time.Second}
	}
	return election{leaseDuration: 60 * time.Second, renewDeadline: 45 * time.Second, retryPeriod: 5 * time.Second}
}

// takeover is the longest time from the last renewal of a leader that is lost until another replica
// leads. A candidate looks at the lease every retryPeriod, prolonged by up to JitterFactor of it
// (client-go, tools/leaderelection, acquire): it may see the last renewal one such wait late, and
// the end of the lease one more.
func (e election) takeover() time.Duration {
	wait := time.Duration(float64(e.retryPeriod) * (1 + leaderelection.JitterFactor))
	return e.leaseDuration + 2*wait
}

// shutdownTimeout bounds how long controllers may take to end.
const shutdownTimeout = 20 * time.Second

// NewManager returns a manager that serves the health endpoints as soon as it starts.
func NewManager(config *rest.Config, o Options) (ctrl.Manager, *Health, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = o.Name
	// The API server's priority and fairness protects it better than a client can; the default of
	// 20 a second starves a node's worth of pods.
	config.QPS, config.Burst = 100, 200
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Cache.DefaultTransform == nil {
		o.Cache.DefaultTransform = cache.TransformStripManagedFields()
	}
	metrics := metricsserver.Options{BindAddress: o.MetricsAddress}
	if o.MetricsAddress == "" {
		metrics.BindAddress = "0"
	}
	times := electionFor(o.Replicas)
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Logger: logr.FromSlogHandler(o.Log.Handler()),
		Scheme: scheme.New(), Cache: o.Cache, Metrics: metrics, WebhookServer: o.Webhook,
		HealthProbeBindAddress: "0", // Health serves them
		LeaderElection:         !o.EveryReplica, LeaderElectionID: o.Name, LeaderElectionNamespace: o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &times.leaseDuration, RenewDeadline: &times.renewDeadline,
		RetryPeriod:             &times.retryPeriod,
		GracefulShutdownTimeout: ptr.To(shutdownTimeout),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("making the manager of %s: %w", o.Name, err)
	}
	health := &Health{views: o.Views}
	if err := mgr.Add(health.server(o.HealthAddress)); err != nil {
		return nil, nil, fmt.Errorf("adding the health endpoints of %s: %w", o.Name, err)
	}
	return mgr, health, nil
}

// Address joins a host, which may be empty for all addresses, and a port.
func Address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
