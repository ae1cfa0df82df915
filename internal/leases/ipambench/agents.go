// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/fence"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
)

// startLimit bounds the start of anything.
const startLimit = time.Minute

// fleet are agents at work. Their requests are counted together.
type fleet struct {
	agents []*agent
	meter  *meter
}

// agent is what one node's agent has for addresses.
type agent struct {
	*leases.Allocator
	book      *ledger.Ledger
	heartbeat *fence.Heartbeat
	informers cache.Cache
	http      *http.Client
	stop      func() error
}

// nodeName is the node of the i-th agent.
func nodeName(i int) string { return fmt.Sprintf("node-%02d", i) }

// startFleet starts agents on the first n nodes, with ledgers below dir.
func startFleet(ctx context.Context, s *server, n, perPool int, dir string, log *slog.Logger) (*fleet, error) {
	f := &fleet{meter: &meter{}}
	for i := range n {
		a, err := startAgent(ctx, s, f.meter, nodeName(i), perPool, filepath.Join(dir, nodeName(i)+".db"), log)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start the agent of %s: %w", nodeName(i), err), f.stop())
		}
		f.agents = append(f.agents, a)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for i, a := range f.agents {
		if err := a.ready(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("start the agent of %s: %w", nodeName(i), err), f.stop())
		}
	}
	return f, nil
}

// cacheOptions keep an agent's cache to what a real agent's holds.
func cacheOptions(s *server, node string, over *http.Client) cache.Options {
	return cache.Options{
		Scheme: s.scheme, Mapper: s.mapper, HTTPClient: over, DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:           {Field: fields.OneTermEqualSelector("spec.nodeName", node)},
			&corev1.Node{}:          {Field: fields.OneTermEqualSelector("metadata.name", node)},
			&v2beta1.SpiderIPPool{}: {Transform: withoutStatus},
		},
	}
}

func withoutStatus(object any) (any, error) {
	if pool, ok := object.(*v2beta1.SpiderIPPool); ok {
		pool.Status = v2beta1.IPPoolStatus{}
		pool.ManagedFields = nil
	}
	return object, nil
}

func startAgent(ctx context.Context, s *server, m *meter, node string, perPool int, file string,
	log *slog.Logger) (*agent, error) {
	config := s.agentConfig(m)
	a := &agent{}
	cached, live, err := a.clients(s, config, node)
	if err != nil {
		return nil, err
	}
	if a.book, _, err = ledger.Open(file); err != nil {
		return nil, err
	}
	a.heartbeat = fence.New(fence.Options{
		Client: cached, Live: live, Namespace: heartbeatNamespace, Node: node, Holder: a.book.ID(),
		Valid: fence.DefaultValid, Log: log,
	})
	ctx, cancel := context.WithCancel(ctx)
	a.Allocator, err = leases.New(ctx, leases.Options{
		Client: cached, Live: live, Informers: a.informers, Node: node, Families: v2beta1.Families{IPv4: true},
		NetworkNamespace: heartbeatNamespace, Book: a.book, Promise: a.heartbeat, PerPool: perPool, Log: log,
	})
	if err != nil {
		cancel()
		return nil, errors.Join(err, a.book.Close())
	}
	a.run(ctx, cancel)
	return a, nil
}

// clients makes a reader of the cache that writes to the API server, and one that also reads from it.
func (a *agent) clients(s *server, config *rest.Config, node string) (cached, live client.Client, err error) {
	if a.http, err = rest.HTTPClientFor(config); err != nil {
		return nil, nil, fmt.Errorf("make an HTTP client: %w", err)
	}
	if a.informers, err = cache.New(config, cacheOptions(s, node, a.http)); err != nil {
		return nil, nil, fmt.Errorf("make a cache: %w", err)
	}
	options := client.Options{Scheme: s.scheme, Mapper: s.mapper, HTTPClient: a.http}
	if live, err = client.New(config, options); err != nil {
		return nil, nil, fmt.Errorf("make a client: %w", err)
	}
	options.Cache = &client.CacheOptions{Reader: a.informers}
	if cached, err = client.New(config, options); err != nil {
		return nil, nil, fmt.Errorf("make a client: %w", err)
	}
	return cached, live, nil
}

// run starts all parts; stop ends them.
func (a *agent) run(ctx context.Context, cancel context.CancelFunc) {
	var running sync.WaitGroup
	for _, part := range []func(context.Context) error{a.informers.Start, a.heartbeat.Start, a.Start} {
		running.Go(func() { _ = part(ctx) }) // they end without an error, or what waits for them tells
	}
	a.stop = sync.OnceValue(func() error {
		cancel()
		running.Wait()
		a.http.CloseIdleConnections()
		return a.book.Close()
	})
}

// ready waits until the agent has read what it needs and may hand out stock.
func (a *agent) ready(ctx context.Context) error {
	for _, kind := range []client.Object{
		&corev1.Namespace{}, &corev1.Node{}, &corev1.Pod{}, &v2beta1.SpiderIPPool{}, &v2beta1.SpiderReservedIP{},
		&v2beta1.SpiderIPLease{},
	} {
		if _, err := a.informers.GetInformer(ctx, kind); err != nil {
			return fmt.Errorf("fill the cache of %T: %w", kind, err)
		}
	}
	if !a.informers.WaitForCacheSync(ctx) { // GetInformer does not wait before the cache has been started
		return fmt.Errorf("fill the cache: %w", context.Cause(ctx))
	}
	err := until(ctx, "the allocator has read the leases", 10*time.Millisecond, func() (bool, error) {
		return true, a.Release(ctx, "no-pod", "no-sandbox", "")
	})
	if err != nil {
		return err
	}
	return until(ctx, "the first heartbeat is written", 10*time.Millisecond,
		func() (bool, error) { return a.heartbeat.Epoch() != 0, nil })
}

func (f *fleet) size() int     { return len(f.agents) }
func (f *fleet) count() *meter { return f.meter }

func (f *fleet) take(ctx context.Context, j job) (netip.Addr, error) {
	got, err := f.agents[j.agent].Allocate(ctx, j.request)
	if err != nil {
		return netip.Addr{}, err
	}
	return got.Addresses[0].IP.Addr(), nil
}

// settled tells whether the API server shows all that was handed out.
func (f *fleet) settled() (bool, error) {
	for i, a := range f.agents {
		all, err := a.book.HandOuts()
		if err != nil {
			return false, fmt.Errorf("read the ledger of %s: %w", nodeName(i), err)
		}
		if len(all) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// release gives back what pods have, at once.
func (f *fleet) release(ctx context.Context, jobs []job) error {
	return each(ctx, len(jobs), jobs, func(ctx context.Context, j job) error {
		r := j.request
		return again(ctx, func() error { return f.agents[j.agent].Release(ctx, r.Pod.UID, r.Sandbox, "") })
	})
}

func (f *fleet) stop() error {
	var errs []error
	for _, a := range f.agents {
		errs = append(errs, a.stop())
	}
	return errors.Join(errs...)
}

// job is one pod's address on one agent.
type job struct {
	agent   int
	request ipam.Request
}
