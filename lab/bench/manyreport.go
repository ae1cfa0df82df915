// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// writeMany writes the tables of many pods and of several networks.
func (r Report) writeMany(out io.Writer) {
	if r.Many == nil {
		return
	}
	fmt.Fprintf(out, "\nPods that no kubelet runs on %s, attached by calls of the CNI shim, in milliseconds\n%s",
		r.Node, explanation)
	fmt.Fprintln(out, map[bool]string{
		false: "The pods are given to no node: gather holds a read from the API server, and nobody writes their " +
			"network-status.",
		true: "The pods are given to the node, so that the agent knows them, as it knows real ones.",
	}[r.Many.Bound])
	for _, note := range r.Many.Notes {
		fmt.Fprintln(out, note)
	}
	for _, c := range r.Many.Cases {
		r.writeCase(out, c)
	}
	if r.Many.Memory != nil {
		r.Many.Memory.write(out)
	}
	if r.InOtherMode != nil {
		fmt.Fprintf(out, "\nThe same node with its RDMA subsystem in %s mode, and floors measured in it\n",
			r.InOtherMode.Many.Mode)
		for _, c := range r.InOtherMode.Many.Cases {
			r.InOtherMode.writeCase(out, c)
		}
	}
}

// explanation says what stands in the columns.
//
//nolint:lll // the lines of a raw string
const explanation = `call: from the start of the shim to its end, as a runtime sees it. agent: from the request on its socket to the answer.
floor: the median of the bare kernel steps for the same networks, measured in turn with the calls, in place of the agent, which stands still: all
steps of the first network, and of each further one all but the coordinator's, which are those of a pod's first interface. It holds
neither the shim's start nor the ledger, the lease, or a further interface's own routing table.
last done: from the moment at which a round's calls began until the last one ended, the median of the rounds; n pods are in a round. Below
1, last/(n x floor) says that kernel steps of several pods ran beside each other; what it is above 1 is what the floor does not hold.
`

// title names a case for people.
func (c Case) title(mode string) string {
	names := strings.Join(c.Networks, " + ")
	if count(c.Networks, "ib-sriov") > 0 {
		names += map[string]string{exclusive: " (RDMA isolated)", shared: " (RDMA shared)"}[mode]
	}
	if c.AtOnce == 1 {
		return names + ", one pod at a time"
	}
	return fmt.Sprintf("%s, %d pods at once", names, c.AtOnce)
}

func (r Report) writeCase(out io.Writer, c Case) {
	fmt.Fprintf(out, "\n%s, %d rounds\n", c.title(r.Many.Mode), c.Rounds)
	t := table{{"verb", "calls", "call p50", "p99", "max", "agent p50", "p99", "floor", "agent/floor"}}
	if c.AtOnce > 1 {
		t[0] = append(t[0], "calls/s", "call p99/p50", "last done", "last/(n x floor)")
	}
	for _, verb := range []string{"ADD", "DEL"} {
		t = append(t, r.caseRow(c, verb))
	}
	t.write(out)
	for _, verb := range []string{"ADD", "DEL"} {
		if text := phasesText(c.agent(verb)); text != "" {
			fmt.Fprintf(out, "  phases of %s in the agent, p50: %s\n", verb, text)
		}
	}
	writeFailures(out, c)
}

func (r Report) caseRow(c Case, verb string) []string {
	calls, agent, floor := Summarize(c.durations(verb)), Summarize(totals(c.agent(verb))), r.floorOf(c, verb)
	row := []string{verb, fmt.Sprint(calls.N), "", "", "", "", "", "", quotient(agent.P50, floor)}
	if calls.N > 0 {
		row[2], row[3], row[4] = millis(calls.P50), millis(calls.P99), millis(calls.Max)
	}
	if agent.N > 0 {
		row[5], row[6] = millis(agent.P50), millis(agent.P99)
	}
	if floor > 0 {
		row[7] = millis(floor)
	}
	if c.AtOnce == 1 {
		return row
	}
	last := Summarize(c.last(verb)).P50
	perSecond, done := "", ""
	if last > 0 {
		perSecond, done = fmt.Sprintf("%.1f", float64(c.AtOnce)/last.Seconds()), millis(last)
	}
	return append(row, perSecond, quotient(calls.P99, calls.P50), done, quotient(last, time.Duration(c.AtOnce)*floor))
}

// quotient is a over b; nothing when either is not known.
func quotient(a, b time.Duration) string {
	if a <= 0 || b <= 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

// floorOf is the floor of the steps that were measured in turn with a case.
func (r Report) floorOf(c Case, verb string) time.Duration {
	if len(c.Bare) > 0 {
		r.Samples = c.Bare
	}
	return r.floor(c.Networks, verb)
}

// floor is what the kernel alone takes for a pod's networks; 0 when the steps of one of them were
// not measured.
func (r Report) floor(networks []string, verb string) (all time.Duration) {
	for i, network := range networks {
		s := Summarize(r.roundSums(network, verb, func(phase string) bool { return i == 0 || phase != "coordinator" }))
		if s.N == 0 {
			return 0
		}
		all += s.P50
	}
	return all
}

func (c Case) agent(verb string) []Timing {
	if verb == "ADD" {
		return c.Agent.Add
	}
	return c.Agent.Del
}

// durations are those of the calls that succeeded.
func (c Case) durations(verb string) (out []time.Duration) {
	for _, call := range c.Runtime {
		if call.Verb == verb && call.Error == "" {
			out = append(out, call.Duration)
		}
	}
	return out
}

// last are the times of the rounds until the last call ended. A round with a call that failed is
// left out: it did less.
func (c Case) last(verb string) (out []time.Duration) {
	rounds, failed := map[int]time.Duration{}, map[int]bool{}
	for _, call := range c.Runtime {
		if call.Verb == verb {
			rounds[call.Round] = max(rounds[call.Round], call.Done)
			failed[call.Round] = failed[call.Round] || call.Error != ""
		}
	}
	for round, d := range rounds {
		if !failed[round] {
			out = append(out, d)
		}
	}
	return out
}

// phasesText lists the medians of phases. Those of networks that are attached beside each other add
// up to more than the call.
func phasesText(calls []Timing) string {
	var parts []string
	for _, phase := range phasesOf(calls) {
		parts = append(parts, phase+" "+millis(Summarize(phaseTimes(calls, phase)).P50))
	}
	return strings.Join(parts, ", ")
}

// writeFailures counts the failures of each kind.
func writeFailures(out io.Writer, c Case) {
	var order []string
	number := map[string]int{}
	for _, call := range c.Runtime {
		if call.Error == "" {
			continue
		}
		if number[call.Error] == 0 {
			order = append(order, call.Error)
		}
		number[call.Error]++
	}
	const most = 5 // an error may name its pod, and all differ then
	for i, text := range order {
		if i == most {
			fmt.Fprintf(out, "  failed besides: %d other errors\n", len(order)-most)
			return
		}
		fmt.Fprintf(out, "  failed %d times: %s\n", number[text], text)
	}
}
