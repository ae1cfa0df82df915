// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// Health answers the kubelet's probes under /v1/runtime/. Startup and readiness fail while a check
// fails, and say which and why; liveness says that the process answers. The zero value is ready.
type Health struct {
	mu     sync.Mutex
	checks map[string]func() error
	views  http.Handler // answers all other paths
}

// Require makes readiness depend on a check.
func (h *Health) Require(name string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.checks == nil {
		h.checks = map[string]func() error{}
	}
	h.checks[name] = check
}

// ServeHTTP answers one probe.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/runtime/liveness":
		fmt.Fprintln(w, "ok")
	case "/v1/runtime/startup", "/v1/runtime/readiness":
		h.serveReadiness(w)
	default:
		if h.views == nil {
			http.NotFound(w, r)
			return
		}
		h.views.ServeHTTP(w, r)
	}
}

func (h *Health) serveReadiness(w http.ResponseWriter) {
	problems := h.problems()
	if len(problems) == 0 {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
}

func (h *Health) problems() []string {
	h.mu.Lock()
	checks := maps.Clone(h.checks)
	h.mu.Unlock()
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if err := checks[name](); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", name, err))
		}
	}
	return problems
}

// server serves from the manager's start on, before caches are filled and whoever leads.
func (h *Health) server(address string) *manager.Server {
	return &manager.Server{
		Name:            "health",
		Server:          &http.Server{Addr: address, Handler: h, ReadHeaderTimeout: 5 * time.Second},
		ShutdownTimeout: ptr.To(time.Second),
	}
}
