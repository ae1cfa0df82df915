// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// percentile is by nearest rank: with fewer than 100 values the 99th is the greatest. 0 of none.
func percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max((len(sorted)*percent+99)/100-1, 0)]
}

// rate is how many a second.
func rate(count int, in time.Duration) float64 {
	if in <= 0 {
		return 0
	}
	return float64(count) / in.Seconds()
}

// asked is one kind of request in the API server's own count.
type asked struct{ verb, resource string }

// requestTotal is the API server's counter of answered requests.
const requestTotal = "apiserver_request_total{"

// parseRequests sums that counter over everything but verb and resource.
func parseRequests(text io.Reader) (map[asked]int64, error) {
	counts := map[asked]int64{}
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), requestTotal)
		if !ok {
			continue
		}
		labels, value, ok := strings.Cut(rest, "} ")
		count, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("read the API server's metrics: no number in %q", lines.Text())
		}
		counts[asked{label(labels, "verb"), label(labels, "resource")}] += int64(count)
	}
	return counts, lines.Err()
}

// label finds the value of one label; none of those read here has a quote or a comma in it.
func label(labels, name string) string {
	for _, l := range strings.Split(labels, ",") {
		if value, ok := strings.CutPrefix(l, name+"="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// grown is what was counted between two readings, watches apart.
func grown(before, after map[asked]int64) map[asked]int64 {
	more := map[asked]int64{}
	for key, count := range after {
		if d := count - before[key]; d > 0 && !strings.HasPrefix(key.verb, "WATCH") { // WATCHLIST is one too
			more[key] = d
		}
	}
	return more
}

// sum adds the reads and the writes of one resource.
func sum(counts map[asked]int64, resource string) (reads, writes int64) {
	for key, count := range counts {
		switch {
		case key.resource != resource:
		case key.verb == "GET" || key.verb == "LIST":
			reads += count
		default:
			writes += count
		}
	}
	return reads, writes
}
