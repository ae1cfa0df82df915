// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"sync"
	"time"
)

// Phases of a call, as labels of the metric and keys of the log line.
const (
	PhaseGather      = "gather"      // pod, networks, devices, configuration
	PhaseRecord      = "record"      // ledger writes
	PhaseDeviceMove  = "device-move" // RDMA device between namespaces
	PhaseLink        = "link"        // link state, create, move, rename, up
	PhaseAddress     = "address"     // allocation, addresses, routes
	PhaseCoordinator = "coordinator"
	PhaseExec        = "exec" // plugins on disk
	PhaseTurn        = "turn" // waiting for the pod's networks before
	PhaseStatus      = "status"
)

// Phase is the time spent in one phase.
type Phase struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"ns"`
}

// Phases adds up durations by phase, in order of first appearance. Time spent in a phase begun
// inside another counts for the inner one alone. The zero value and nil are ready for use;
// attachments made beside each other have one each.
type Phases struct {
	mu    sync.Mutex
	list  []Phase
	stack []frame
}

type frame struct {
	name  string
	since time.Time
}

// Start begins a phase; the function that it returns ends it.
//
//	defer r.Phases.Start(cni.PhaseLink)()
func (p *Phases) Start(name string) (end func()) {
	if p == nil {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if n := len(p.stack); n > 0 {
		p.add(p.stack[n-1].name, now.Sub(p.stack[n-1].since))
	}
	p.stack = append(p.stack, frame{name, now})
	return p.end
}

func (p *Phases) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	n := len(p.stack) - 1
	if n < 0 {
		return
	}
	p.add(p.stack[n].name, now.Sub(p.stack[n].since))
	p.stack = p.stack[:n]
	if n > 0 {
		p.stack[n-1].since = now
	}
}

func (p *Phases) add(name string, d time.Duration) {
	for i := range p.list {
		if p.list[i].Name == name {
			p.list[i].Duration += d
			return
		}
	}
	p.list = append(p.list, Phase{name, d})
}

// Add adds what others collected.
func (p *Phases) Add(list []Phase) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range list {
		p.add(x.Name, x.Duration)
	}
}

// List is what was collected so far.
func (p *Phases) List() []Phase {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Phase(nil), p.list...)
}
