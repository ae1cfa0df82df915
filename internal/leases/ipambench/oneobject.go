// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// scribes are agents of the other design: each takes an address by writing it into the status of
// the one pool object.
type scribes struct {
	meter *meter
	each  []*scribe
}

// scribe is one of them. Its own pods take turns, so that they do not conflict with each other.
type scribe struct {
	mu   sync.Mutex
	live client.Client
}

var errFull = errors.New("the pool has no free address")

func newScribes(s *server, n int) (*scribes, error) {
	all := &scribes{meter: &meter{}}
	for range n {
		live, err := client.New(s.agentConfig(all.meter), client.Options{Scheme: s.scheme, Mapper: s.mapper})
		if err != nil {
			return nil, fmt.Errorf("make a client: %w", err)
		}
		all.each = append(all.each, &scribe{live: live})
	}
	return all, nil
}

func (s *scribes) size() int              { return len(s.each) }
func (s *scribes) count() *meter          { return s.meter }
func (s *scribes) settled() (bool, error) { return true, nil }

func (s *scribes) take(ctx context.Context, j job) (netip.Addr, error) {
	one := s.each[j.agent]
	one.mu.Lock()
	defer one.mu.Unlock()
	pool := j.request.DefaultIPv4[0]
	backoff := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 1.5, Jitter: 0.1, Steps: 5}
	for {
		ip, err := one.write(ctx, pool, j)
		if !apierrors.IsConflict(err) || backoff.Steps == 0 {
			return ip, err
		}
		select {
		case <-ctx.Done():
			return netip.Addr{}, ctx.Err()
		case <-time.After(backoff.Step()):
		}
	}
}

// write tries once to write the lowest free address into the status of the pool.
func (s *scribe) write(ctx context.Context, name string, j job) (netip.Addr, error) {
	var pool v2beta1.SpiderIPPool
	if err := s.live.Get(ctx, client.ObjectKey{Name: name}, &pool); err != nil {
		return netip.Addr{}, fmt.Errorf("read pool %s: %w", name, err)
	}
	used := map[string]v2beta1.AllocatedIP{}
	if text := pool.Status.AllocatedIPs; text != nil {
		if err := json.Unmarshal([]byte(*text), &used); err != nil {
			return netip.Addr{}, fmt.Errorf("read the addresses in use of pool %s: %w", name, err)
		}
	}
	ip, err := lowestFree(&pool, used)
	if err != nil {
		return netip.Addr{}, err
	}
	used[ip.String()] = v2beta1.AllocatedIP{Pod: j.request.Pod.Namespace + "/" + j.request.Pod.Name,
		PodUID: j.request.Pod.UID}
	text, err := json.Marshal(used)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("write down the addresses in use of pool %s: %w", name, err)
	}
	pool.Status.AllocatedIPs, pool.Status.AllocatedIPCount = new(string(text)), new(int64(len(used)))
	if err := s.live.Status().Update(ctx, &pool); err != nil {
		return netip.Addr{}, fmt.Errorf("write the status of pool %s: %w", name, err)
	}
	return ip, nil
}

func lowestFree(pool *v2beta1.SpiderIPPool, used map[string]v2beta1.AllocatedIP) (netip.Addr, error) {
	addresses, errs := v2beta1.ParseIPPoolSpec(&pool.Spec)
	if err := errs.ToAggregate(); err != nil {
		return netip.Addr{}, fmt.Errorf("read pool %s: %w", pool.Name, err)
	}
	for _, r := range addresses.IPs.Ranges() {
		for ip := r.From(); r.Contains(ip); ip = ip.Next() {
			if _, taken := used[ip.String()]; !taken {
				return ip, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("take an address of pool %s: %w", pool.Name, errFull)
}

// oneObject measures that design where it has most to do: all pods at once, and every address needed.
func (b *bench) oneObject(ctx context.Context, n int) error {
	s, err := newScribes(b.server, n)
	if err != nil {
		return err
	}
	pool, err := b.makePool(ctx, b.plan.Pods)
	if err != nil {
		return err
	}
	jobs, err := b.makePods(ctx, pool.Name, b.plan.Pods, n, 0)
	if err != nil {
		return err
	}
	o, err := b.measure(ctx, scenarioObject, s, jobs, nil)
	if err != nil {
		return err
	}
	b.report.object = append(b.report.object, o)
	return nil
}
