// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Networks are the guide's two, by the names of their NetworkAttachmentDefinitions and main plugins.
var Networks = []string{"ib-sriov", "ipoib"}

// Report is all that a run measured.
type Report struct {
	Node    string
	Pods    int
	Calls   map[string]Calls // by network; nil when they were not measured
	Many    *Many            // the same
	Samples []Sample
	// InOtherMode is what was measured with the node's RDMA subsystem in the other mode; nil when
	// it could not be changed.
	InOtherMode *Report
}

// row is one line of a table of phases.
type row struct {
	name        string
	calls, bare Stats
}

// Names of rows that are no phases of the agent's.
const (
	rowShim   = "shim"
	rowOther  = "other"
	rowTotal  = "total in the agent"
	rowStatus = "status, afterwards"
)

// phaseOrder is that of a call; phases that are not listed come behind.
var phaseOrder = []string{"gather", "record", "device-move", "link", "address", "coordinator", "exec"}

// Write writes the tables.
func (r Report) Write(out io.Writer) {
	if r.Calls != nil {
		for _, network := range Networks {
			c := r.Calls[network]
			r.writePhases(out, network, "ADD", c.Add, c.Status)
			r.writePhases(out, network, "DEL", c.Del, nil)
		}
	}
	r.writeMany(out)
	r.writeSteps(out)
	r.writeFailed(out)
}

func (r Report) writePhases(out io.Writer, network, verb string, calls, status []Timing) {
	fmt.Fprintf(out, "\nCNI %s of a pod on %s: %d of %d pods, in milliseconds\n", verb, network, len(calls), r.Pods)
	if len(calls) == 0 {
		return
	}
	t := table{{"phase", "p50", "p99", "min", "kernel p50", "p99", "min", "ratio of p50"}}
	for _, row := range r.rows(network, verb, calls, status) {
		t = append(t, append([]string{row.name}, slices.Concat(cells(row.calls), cells(row.bare),
			[]string{ratio(row)})...))
	}
	t.write(out)
}

// rows are the lines of one table, in order.
func (r Report) rows(network, verb string, calls, status []Timing) []row {
	shim := r.durations(func(s Sample) bool { return s.Step == "start, socket, answer" })
	rows := []row{{name: rowShim, calls: Summarize(shim)}}
	for _, phase := range phasesOf(calls) {
		rows = append(rows, row{phase, Summarize(phaseTimes(calls, phase)),
			Summarize(r.perRound(network, verb, phase))})
	}
	rows = append(rows, row{name: rowOther, calls: Summarize(others(calls))},
		row{rowTotal, Summarize(totals(calls)), Summarize(r.perRound(network, verb, ""))})
	if len(status) > 0 {
		rows = append(rows, row{name: rowStatus, calls: Summarize(totals(status))})
	}
	return rows
}

func phasesOf(calls []Timing) []string {
	var found []string
	for _, c := range calls {
		for _, p := range c.Phases {
			if !slices.Contains(found, p.Name) {
				found = append(found, p.Name)
			}
		}
	}
	rank := func(name string) int {
		if i := slices.Index(phaseOrder, name); i >= 0 {
			return i
		}
		return len(phaseOrder)
	}
	slices.SortStableFunc(found, func(a, b string) int { return rank(a) - rank(b) })
	return found
}

func phaseTimes(calls []Timing, phase string) []time.Duration {
	var out []time.Duration
	for _, c := range calls {
		out = append(out, sum(c, func(name string) bool { return name == phase }))
	}
	return out
}

func sum(c Timing, want func(phase string) bool) (d time.Duration) {
	for _, p := range c.Phases {
		if want(p.Name) {
			d += p.Duration
		}
	}
	return d
}

func totals(calls []Timing) []time.Duration {
	var out []time.Duration
	for _, c := range calls {
		out = append(out, c.Total)
	}
	return out
}

// others are what is left of each call beside its phases.
func others(calls []Timing) []time.Duration {
	var out []time.Duration
	for _, c := range calls {
		out = append(out, c.Total-sum(c, func(string) bool { return true }))
	}
	return out
}

// durations are those of the samples that are wanted.
func (r Report) durations(want func(Sample) bool) []time.Duration {
	var out []time.Duration
	for _, s := range r.Samples {
		if want(s) {
			out = append(out, s.Duration)
		}
	}
	return out
}

// perRound adds up each round's steps of a phase; phase "" is all of them. A phase without steps
// has no durations.
func (r Report) perRound(network, verb, phase string) []time.Duration {
	return r.roundSums(network, verb, func(p string) bool { return phase == "" || p == phase })
}

func (r Report) roundSums(network, verb string, want func(phase string) bool) []time.Duration {
	rounds := map[int]time.Duration{}
	for _, s := range r.Samples {
		if s.Series == network && s.Verb == verb && want(s.Phase) {
			rounds[s.Round] += s.Duration
		}
	}
	var out []time.Duration
	for _, d := range rounds {
		out = append(out, d)
	}
	return out
}

// writeSteps lists every bare step, in order of first appearance.
func (r Report) writeSteps(out io.Writer) {
	fmt.Fprintf(out, "\nThe bare steps on %s, in milliseconds\n", r.Node)
	t := table{{"series", "verb", "phase", "step", "p50", "p99", "min"}}
	var seen []Sample
	for _, s := range r.Samples {
		s.Round, s.Duration = 0, 0
		if slices.Contains(seen, s) {
			continue
		}
		seen = append(seen, s)
		same := r.durations(func(o Sample) bool { o.Round, o.Duration = 0, 0; return o == s })
		t = append(t, append([]string{s.Series, s.Verb, s.Phase, s.Step}, cells(Summarize(same))...))
	}
	t.write(out)
}

func (r Report) writeFailed(out io.Writer) {
	for _, network := range Networks {
		for _, f := range r.Calls[network].Failed {
			fmt.Fprintf(out, "\nfailed: %s of pod %s after %s ms: %s\n", f.Verb, f.Pod, millis(f.Total), f.Error)
		}
	}
}

func cells(s Stats) []string {
	if s.N == 0 {
		return []string{"", "", ""}
	}
	return []string{millis(s.P50), millis(s.P99), millis(s.Min)}
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func ratio(r row) string {
	if r.calls.N == 0 || r.bare.P50 <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", float64(r.calls.P50)/float64(r.bare.P50))
}

// table is lines of cells, the first being the heading. Numbers stand to the right, words to the left.
type table [][]string

func (t table) write(out io.Writer) {
	widths := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for n, line := range t {
		parts := make([]string, len(line))
		for i, cell := range line {
			if pad := widths[i]; t.numeric(i) {
				parts[i] = fmt.Sprintf("%*s", pad, cell)
			} else {
				parts[i] = fmt.Sprintf("%-*s", pad, cell)
			}
		}
		text := strings.TrimRight("  "+strings.Join(parts, "  "), " ")
		fmt.Fprintln(out, text)
		if n == 0 {
			fmt.Fprintln(out, "  "+strings.Repeat("─", len(strings.Join(parts, "  "))))
		}
	}
}

// numeric tells a column of numbers by its cells below the heading.
func (t table) numeric(column int) bool {
	for _, line := range t[1:] {
		if cell := line[column]; cell != "" {
			return strings.Trim(cell, "0123456789.-") == ""
		}
	}
	return true
}
