// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

func TestElection(t *testing.T) {
	for replicas, most := range map[int]time.Duration{2: 15 * time.Second, 3: 15 * time.Second} {
		e := electionFor(replicas)
		if got := e.takeover(); got > most {
			t.Errorf("%d replicas: another one leads after %v at the latest: expected %v at most", replicas, got, most)
		}
	}
	for _, replicas := range []int{0, 1, 2, 3} {
		e := electionFor(replicas)
		// A leader that cannot renew has to stop before another one may lead; client-go demands as much.
		if e.leaseDuration <= e.renewDeadline || e.renewDeadline <= time.Duration(2.2*float64(e.retryPeriod)) {
			t.Errorf("%d replicas: lease %v, renewal within %v, retries every %v", replicas, e.leaseDuration,
				e.renewDeadline, e.retryPeriod)
		}
	}
	if e := electionFor(1); e.leaseDuration < 60*time.Second {
		t.Errorf("one replica ends itself after %v without the API server", e.renewDeadline)
	}
}

// TestTakeover cuts the leader off the API server, as the loss of its node does: it stops leading,
// and then the other replica leads.
func TestTakeover(t *testing.T) {
	api := testapi.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := startReplica(ctx, t, api.Config), (*replica)(nil)
	within(t, 30*time.Second, "the first replica leads", func() bool { return first.leads.Load() })
	second = startReplica(ctx, t, api.Config)

	first.cut.Store(true)
	cut := time.Now()
	within(t, time.Minute, "the second replica leads", func() bool { return second.leads.Load() })
	t.Logf("led by another replica %v after the leader was cut off", time.Since(cut).Round(100*time.Millisecond))
	if first.leads.Load() {
		t.Error("both replicas lead")
	}
}

// replica is a process that does nothing but lead.
type replica struct{ cut, leads atomic.Bool }

func startReplica(ctx context.Context, t *testing.T, config *rest.Config) *replica {
	t.Helper()
	r := &replica{}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(q *http.Request) (*http.Response, error) {
			if r.cut.Load() {
				return nil, errors.New("the node is gone")
			}
			return next.RoundTrip(q)
		})
	})
	mgr, _, err := NewManager(config, Options{Name: "takeover", Namespace: "default", HealthAddress: "127.0.0.1:0",
		Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	err = mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		r.leads.Store(true)
		defer r.leads.Store(false)
		<-ctx.Done()
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = mgr.Start(ctx) // the one that is cut off ends with an error
	}()
	t.Cleanup(func() { <-done })
	return r
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("not within %v: %s", limit, what)
}
