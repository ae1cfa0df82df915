// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	// What the processes link registers itself when it is loaded.
	_ "spidernet.io/spiderpool/internal/agent"
	"spidernet.io/spiderpool/internal/attach"
	_ "spidernet.io/spiderpool/internal/controller"
	_ "spidernet.io/spiderpool/internal/operator"
)

// metric is what a descriptor says.
type metric struct{ name, labels, help string }

// metricsPage lists what the processes register, by the registries themselves.
func metricsPage() (string, error) {
	own := prometheus.NewRegistry()
	if err := agentMetrics(own); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(title("Metrics", "the registries of the processes"))
	for _, part := range []struct {
		title, about string
		from         prometheus.Collector
	}{
		{"The agent", "On each node, with `spiderpoolAgent.prometheus.enabled`. Histograms have the suffixes\n" +
			"`_bucket`, `_sum` and `_count`.", own},
		{"Every process",
			"Of the libraries: work queues, API requests, webhooks, leader election, and the Go runtime.\n" +
				"Which of them have values depends on what the process does.", metrics.Registry.(prometheus.Collector)},
	} {
		all, err := described(part.from)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", part.title, part.about)
		b.WriteString(row("Metric", "Labels", "Description") + row("---", "---", "---"))
		for _, m := range all {
			b.WriteString(row(code(m.name), code(m.labels), cell(m.help)))
		}
	}
	return b.String(), nil
}

// agentMetrics has the agent's service of CNI calls register its metrics. New uses none of the parts yet.
func agentMetrics(reg prometheus.Registerer) error {
	_, err := attach.New(attach.Options{
		Ledger: struct{ attach.Ledger }{}, Kernel: struct{ attach.Kernel }{}, Addresses: struct{ attach.Addresses }{},
		Pods: struct{ attach.PodSource }{}, Networks: struct{ attach.NetworkSource }{},
		Devices: struct{ attach.DeviceSource }{}, Status: struct{ attach.StatusWriter }{},
		Events: struct{ attach.Recorder }{}, Log: slog.New(slog.DiscardHandler), Metrics: reg,
	})
	return err
}

// descriptor is how a descriptor prints itself; it has no other way to its parts.
var descriptor = regexp.MustCompile(
	`^Desc\{fqName: "([^"]*)", help: "(.*)", constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

func described(c prometheus.Collector) ([]metric, error) {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		c.Describe(ch)
	}()
	var all []metric
	var fault error
	for d := range ch {
		m := descriptor.FindStringSubmatch(d.String())
		if m == nil {
			fault = fmt.Errorf("parse the descriptor %s: must look like %s", d, descriptor)
			continue
		}
		all = append(all, metric{m[1], m[3], strings.ReplaceAll(m[2], `\"`, `"`)})
	}
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(all), fault
}
