// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
)

// tally counts requests by what they do. Watches and heartbeats are not in it: they do not depend on pods.
type tally struct{ reads, writes, refused atomic.Int64 }

// counts is what a tally shows at one moment. Refused are answers with 409, which are in the writes too.
type counts struct{ Reads, Writes, Refused int64 }

func (t *tally) now() counts { return counts{t.reads.Load(), t.writes.Load(), t.refused.Load()} }

func (c counts) minus(o counts) counts {
	return counts{c.Reads - o.Reads, c.Writes - o.Writes, c.Refused - o.Refused}
}

// meter counts the requests of clients: apart those made while a pod waits for its address, which
// their context tells.
type meter struct{ on, off tally }

type onPath struct{}

// waiting marks what is asked with the context as asked while a pod waits.
func waiting(ctx context.Context) context.Context { return context.WithValue(ctx, onPath{}, true) }

func (m *meter) wrap(rt http.RoundTripper) http.RoundTripper { return metered{rt, m} }

type metered struct {
	http.RoundTripper
	meter *meter
}

func (m metered) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "" || strings.HasPrefix(r.URL.Path, "/apis/coordination.k8s.io/") {
		return m.RoundTripper.RoundTrip(r)
	}
	t := &m.meter.off
	if r.Context().Value(onPath{}) != nil {
		t = &m.meter.on
	}
	if r.Method == http.MethodGet {
		t.reads.Add(1)
	} else {
		t.writes.Add(1)
	}
	response, err := m.RoundTripper.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusConflict {
		t.refused.Add(1)
	}
	return response, err
}
