// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"slices"
	"time"
)

// Stats sum up durations.
type Stats struct {
	N                  int
	Min, P50, P99, Max time.Duration
}

// Summarize sums up durations in any order. Percentiles are by nearest rank: with fewer than 100
// durations P99 is the longest.
func Summarize(list []time.Duration) Stats {
	if len(list) == 0 {
		return Stats{}
	}
	sorted := slices.Sorted(slices.Values(list))
	return Stats{N: len(sorted), Min: sorted[0], P50: percentile(sorted, 50), P99: percentile(sorted, 99),
		Max: sorted[len(sorted)-1]}
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}
