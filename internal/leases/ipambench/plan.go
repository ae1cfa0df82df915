// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// plan says what is measured, and how long anything may take.
type plan struct {
	Agents []int
	// Pods of one scenario; Exact is also the size of the pool that they fit exactly, Roomy that of
	// the other.
	Pods, Roomy int
	// Burst is the most pods of one agent that start at once from a warmed stock.
	Burst int
	// Flat are the sizes of pools that are half full; FlatPods the ADDs from stock of each.
	Flat     []int
	FlatPods int
	// Floor is how many durable writes are measured alone.
	Floor int
	// Limit bounds one scenario, QuietLimit the wait for the end of what follows it, Whole the run.
	Limit, QuietLimit, Whole time.Duration
	// Still is how long nothing must have been asked of the API server for things to count as
	// quiet. It is longer than the controller gathers the changes of a pool's status.
	Still time.Duration
	// Dir is where the ledgers are.
	Dir string
	// Only is the one part to measure; empty is all.
	Only string
}

// Parts of a run: agents with the default stock, with a warm one, pools by size, and the design of
// one pool object.
const (
	partUsual  = "usual"
	partWarm   = "warm"
	partFlat   = "flat"
	partObject = "object"
)

func (p plan) measures(part string) bool { return p.Only == "" || p.Only == part }

func fullPlan() plan {
	return plan{
		Agents: []int{1, 10, 50}, Pods: 1000, Roomy: 4096, Burst: 120, Flat: []int{1 << 10, 1 << 14, 1 << 16},
		FlatPods: 224, Floor: 300,
		Limit: time.Minute, QuietLimit: 90 * time.Second, Whole: 30 * time.Minute, Still: 2500 * time.Millisecond,
	}
}

func quickPlan() plan {
	return plan{
		Agents: []int{1, 10}, Pods: 100, Roomy: 512, Burst: 30, Flat: []int{1 << 10, 1 << 12}, FlatPods: 28, Floor: 100,
		Limit: 10 * time.Second, QuietLimit: 20 * time.Second, Whole: 3 * time.Minute, Still: 450 * time.Millisecond,
	}
}

// stockPerPool is the product's default.
const stockPerPool = 8

// burstOf is how many pods each of n agents starts from its stock, and how many addresses the stock
// has. More stock than pods: it is filled up only when half of it has gone, which would be in the
// middle of the burst.
func (p plan) burstOf(n int) (pods, stock int) {
	pods = max(min(p.Pods/n, p.Burst), 1)
	return pods, min(2*pods+stockPerPool, 256)
}

// burstPool is the size of a pool in which every one of n agents may hold so much: together they
// hold at most a quarter of what is free.
func burstPool(n, stock int) int { return 6 * n * (stock + 1) }
