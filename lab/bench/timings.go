// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Timing is one CNI call as the agent keeps it.
type Timing struct {
	Verb        string        `json:"verb"`
	Plugin      string        `json:"plugin"`
	NetworkType string        `json:"networkType"`
	Sandbox     string        `json:"sandbox"`
	Pod         string        `json:"pod"` // "namespace/name"
	Total       time.Duration `json:"totalNs"`
	Phases      []Phase       `json:"phases"`
	Error       string        `json:"error"`
}

// Phase is a part of it.
type Phase struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"ns"`
}

// Sample is one bare step as hostbench prints it.
type Sample struct {
	Series   string        `json:"series"`
	Round    int           `json:"round"`
	Verb     string        `json:"verb"`
	Phase    string        `json:"phase"`
	Step     string        `json:"step"`
	Duration time.Duration `json:"ns"`
}

// ParseTimings reads the answer of the agent's view of its calls.
func ParseTimings(text string) ([]Timing, error) {
	var list []Timing
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("reading the agent's timings: %w", err)
	}
	return list, nil
}

// ParseSamples reads what hostbench prints.
func ParseSamples(text string) ([]Sample, error) {
	var list []Sample
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("reading the durations of the bare steps: %w", err)
	}
	return list, nil
}

// The agent's name for the writer of network-status, which works after the answer; and for the meta
// plugin's calls.
const (
	statusWriter = "network-status"
	metaPlugin   = "multus"
)

// Calls are what a run's pods of one network cost.
type Calls struct {
	Add, Del, Status []Timing
	Failed           []Timing
}

// Select takes the calls for the named pods ("namespace/name") of all that the agent remembers,
// oldest first. A runtime repeats a DEL to be sure: only the first after an ADD has something to
// do, and only it counts.
func Select(all []Timing, pods []string) Calls {
	var c Calls
	attached := map[string]bool{} // by sandbox
	for _, t := range all {
		switch {
		case !slices.Contains(pods, t.Pod):
		case t.Error != "":
			c.Failed = append(c.Failed, t)
		case t.Plugin == statusWriter:
			c.Status = append(c.Status, t)
		case t.Plugin != metaPlugin:
		case t.Verb == "ADD":
			attached[t.Sandbox] = true
			c.Add = append(c.Add, t)
		case t.Verb == "DEL" && attached[t.Sandbox]:
			delete(attached, t.Sandbox)
			c.Del = append(c.Del, t)
		}
	}
	return c
}
