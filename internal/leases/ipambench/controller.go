// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/controller/pools"
	"spidernet.io/spiderpool/internal/process"
)

// heartbeatNamespace is where the agents' heartbeats are; every API server has it.
const heartbeatNamespace = "kube-system"

// controller is the pools controller in a manager of its own.
type controller struct {
	meter *meter
	stop  func() error
}

// startController runs what the controller process runs for pools: status and collectors. The
// webhooks are not installed at the API server: no request of an agent meets one. It can run once
// in a process, since controllers' names must not repeat.
func startController(ctx context.Context, s *server, log *slog.Logger) (*controller, error) {
	c := &controller{meter: &meter{}}
	hooks := s.env.WebhookInstallOptions
	mgr, _, err := process.NewManager(s.agentConfig(c.meter), process.Options{
		Log: log, Name: "spiderpool-controller", Namespace: heartbeatNamespace, HealthAddress: "127.0.0.1:0",
		EveryReplica: true,
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}: {Transform: pools.StripPod}}},
		Webhook: webhook.NewServer(webhook.Options{
			Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir,
		}),
	})
	if err != nil {
		return nil, err
	}
	err = pools.SetupWithManager(mgr, pools.Options{
		Namespace: heartbeatNamespace, Families: v2beta1.Families{IPv4: true},
		// Pods that were replaced are removed between scenarios, not when they end: the collector
		// must not free their leases meanwhile.
		GoneGrace: time.Hour, FinishedGrace: time.Hour,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the pools controller: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	c.stop = sync.OnceValue(func() error { cancel(); return <-done })
	synced, end := context.WithTimeout(ctx, startLimit)
	defer end()
	if !mgr.GetCache().WaitForCacheSync(synced) {
		return nil, fmt.Errorf("the controller's cache did not fill within %s; it ended with: %w", startLimit, c.stop())
	}
	return c, nil
}
