// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spidernet.io/spiderpool/internal/cni"
)

// Timing is how long one call took, from the request on the socket to the answer.
type Timing struct {
	Verb        string        `json:"verb"`
	Plugin      string        `json:"plugin"`
	NetworkType string        `json:"networkType,omitempty"` // main plugin of the sandbox's default network
	Sandbox     string        `json:"sandbox"`
	Pod         string        `json:"pod,omitempty"` // "namespace/name"
	IfName      string        `json:"ifname,omitempty"`
	Began       time.Time     `json:"began"`
	Total       time.Duration `json:"totalNs"`
	Phases      []cni.Phase   `json:"phases,omitempty"`
	Error       string        `json:"error,omitempty"`
}

func (t *Timing) phaseText() string {
	parts := make([]string, len(t.Phases))
	for i, p := range t.Phases {
		parts[i] = fmt.Sprintf("%s=%s", p.Name, p.Duration.Round(10*time.Microsecond))
	}
	return strings.Join(parts, " ")
}

// keepTimings is how many calls are remembered.
const keepTimings = 1024

// timings remembers the latest calls, for a benchmark to read, and feeds the metric.
type timings struct {
	mu        sync.Mutex
	ring      []Timing
	next      int
	histogram *prometheus.HistogramVec
}

func newTimings(reg prometheus.Registerer) (*timings, error) {
	t := &timings{histogram: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "spiderpool_cni_phase_seconds",
		Help:    "Time spent in each phase of a CNI call; phase total is the whole call.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
	}, []string{"verb", "network_type", "phase"})}
	if reg == nil {
		return t, nil
	}
	return t, reg.Register(t.histogram)
}

func (t *timings) add(one Timing) {
	t.histogram.WithLabelValues(one.Verb, one.NetworkType, "total").Observe(one.Total.Seconds())
	for _, p := range one.Phases {
		t.histogram.WithLabelValues(one.Verb, one.NetworkType, p.Name).Observe(p.Duration.Seconds())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ring) < keepTimings {
		t.ring = append(t.ring, one)
		return
	}
	t.ring[t.next] = one
	t.next = (t.next + 1) % keepTimings
}

// Timings returns the latest calls, oldest first.
func (s *Service) Timings() []Timing {
	s.timings.mu.Lock()
	defer s.timings.mu.Unlock()
	t := s.timings
	return append(append([]Timing(nil), t.ring[t.next:]...), t.ring[:t.next]...)
}
