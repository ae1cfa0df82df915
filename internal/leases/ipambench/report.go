// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// report is all that a run measured.
type report struct {
	plan         plan
	floor        []time.Duration
	ours, bursts []outcome
	object       []outcome
	flat         []flatness
	warnings     *warnings
}

func (r *report) write(out io.Writer) {
	fmt.Fprintf(out, "%d cores, %s, %s/%s; API server, etcd, controller and agents share them\n",
		runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	r.writeFloor(out)
	const units = "all pods at once; times in ms; requests per address"
	r.writeOutcomes(out, "Agents with the default stock of 8: "+units, r.ours)
	r.writeOutcomes(out, "Agents with a warm stock: "+units, r.bursts)
	r.writeWindows(out)
	r.writeOutcomes(out, "One pool object that all agents write, for comparison: "+units, r.object)
	r.writeRatios(out)
	r.writeFlat(out)
	r.writeNotes(out)
}

// table writes aligned rows below a heading.
func table(out io.Writer, heading string, rows [][]string) {
	if len(rows) < 2 {
		return // of a part that was not measured
	}
	fmt.Fprintf(out, "\n%s\n", heading)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t")+"\t")
	}
	_ = w.Flush() // what cannot be printed cannot be told either
}

func (r *report) writeFloor(out io.Writer) {
	table(out, fmt.Sprintf("The floor: one durable write of a hand-out to the ledger, %d in turn, in ms", len(r.floor)),
		[][]string{
			{"p50", "p99"}, {ms(percentile(r.floor, 50)), ms(percentile(r.floor, 99))},
		})
}

func (r *report) writeOutcomes(out io.Writer, heading string, outcomes []outcome) {
	rows := [][]string{{
		"scenario", "agents", "done", "of", "per second", "p50", "p99", "failed", "on path: writes", "reads", "409",
		"off: writes", "reads", "409", "controller: writes", "reads", "quiet after s",
	}}
	for _, o := range outcomes {
		per := func(n int64) string { return fmt.Sprintf("%.2f", float64(n)/float64(max(o.Done, 1))) }
		rows = append(rows, []string{
			o.Scenario, fmt.Sprint(o.Agents), fmt.Sprint(o.Done), fmt.Sprint(o.Pods),
			fmt.Sprintf("%.0f", rate(o.Done, o.Wall)),
			ms(percentile(o.Times, 50)), ms(percentile(o.Times, 99)), fmt.Sprint(o.Failures),
			per(o.On.Writes), per(o.On.Reads), fmt.Sprint(o.On.Refused), per(o.Off.Writes), per(o.Off.Reads),
			fmt.Sprint(o.Off.Refused),
			per(o.Controller.Writes), per(o.Controller.Reads), fmt.Sprintf("%.1f", o.Quiet.Seconds()),
		})
	}
	table(out, heading, rows)
	for _, o := range outcomes {
		if o.Failures > 0 || o.Duplicates > 0 {
			fmt.Fprintf(out, "  %s, %d agents: %d addresses given twice; the first of %d failed calls: %.300s\n",
				o.Scenario, o.Agents, o.Duplicates, o.Failures, o.Failure)
		}
	}
}

// resources are those that an address may touch, by the API server's names.
var resources = []string{"spideripleases", "spiderippools", "spiderendpoints"}

func (r *report) writeWindows(out io.Writer) {
	rows := [][]string{{"scenario", "agents", "pods", "window ms", "asked on path", "leases", "pools", "endpoints",
		"others"}}
	for _, o := range r.bursts {
		row := []string{o.Scenario, fmt.Sprint(o.Agents), fmt.Sprint(o.Done), ms(o.Wall),
			fmt.Sprint(o.On.Reads + o.On.Writes)}
		for _, resource := range resources {
			reads, writes := sum(o.Window, resource)
			row = append(row, fmt.Sprint(reads+writes))
		}
		rows = append(rows, append(row, others(o.Window)))
	}
	table(out,
		"Requests that the API server counted until the last pod of a warm burst had its address (all clients, "+
			"watches apart)", rows)
}

// others lists what else was asked, by resource.
func others(window map[asked]int64) string {
	found := map[string]int64{}
	for key, count := range window {
		if !slices.Contains(resources, key.resource) && key.resource != "" {
			found[key.resource] += count
		}
	}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(found)) {
		texts = append(texts, fmt.Sprintf("%s %d", name, found[name]))
	}
	return strings.Join(texts, ", ")
}

func (r *report) writeRatios(out io.Writer) {
	rows := [][]string{{"agents", "per second", "p50", "p99", "requests on path", "409", "from warm stock: per second",
		"p50", "p99"}}
	for _, other := range r.object {
		ours, ok := find(r.ours, scenarioExact, other.Agents)
		if !ok {
			continue
		}
		row := []string{
			fmt.Sprint(other.Agents), speedRatio(ours, other), timeRatio(ours, other, 50), timeRatio(ours, other, 99),
			ratio(perDone(ours, ours.On.Reads+ours.On.Writes), perDone(other, other.On.Reads+other.On.Writes)),
			ratio(perDone(ours, ours.On.Refused), perDone(other, other.On.Refused)),
		}
		if warm, ok := find(r.bursts, "", other.Agents); ok {
			row = append(row, speedRatio(warm, other), timeRatio(warm, other, 50), timeRatio(warm, other, 99))
		}
		rows = append(rows, row)
	}
	table(out, "Ours divided by the one pool object, exact fit; per second: more is better, the others: less is better",
		rows)
}

// find returns the last outcome of that scenario and number of agents; any scenario for "".
func find(outcomes []outcome, scenario string, agents int) (outcome, bool) {
	for _, o := range slices.Backward(outcomes) {
		if o.Agents == agents && (scenario == "" || o.Scenario == scenario) {
			return o, true
		}
	}
	return outcome{}, false
}

func perDone(o outcome, n int64) float64 { return float64(n) / float64(max(o.Done, 1)) }

func speedRatio(a, b outcome) string { return ratio(rate(a.Done, a.Wall), rate(b.Done, b.Wall)) }

func timeRatio(a, b outcome, percent int) string {
	return ratio(percentile(a.Times, percent).Seconds(), percentile(b.Times, percent).Seconds())
}

func ratio(a, b float64) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g", a/b)
}

func (r *report) writeFlat(out io.Writer) {
	rows := [][]string{{
		"pool", "leases in cluster", "from stock: p50", "p99", "ledger alone: p50", "p99", "ratio", "p99", "requests",
		"by create: p50", "p99", "create alone: p50", "p99", "ratio", "p99", "agent MB", "starts in ms",
		"controller MB",
	}}
	for _, f := range r.flat {
		row := []string{fmt.Sprint(f.Size), fmt.Sprint(f.Leases)}
		row = append(append(row, beside(f.Stock, f.Disk)...), fmt.Sprint(f.StockAsks.Reads+f.StockAsks.Writes))
		row = append(append(row, beside(f.Direct, f.Create)...), mb(f.Agent), ms(f.StartsIn), mb(f.Controller))
		rows = append(rows, row)
	}
	table(out,
		"A pool that is half full, by its size: one ADD after another on one agent, in turn with its floor, in ms; "+
			"heap in MB after a collection", rows)
}

// beside shows times and their floor, and what one is of the other.
func beside(times, floor []time.Duration) []string {
	half, tail := percentile(times, 50), percentile(times, 99)
	halfFloor, tailFloor := percentile(floor, 50), percentile(floor, 99)
	return []string{
		ms(half), ms(tail), ms(halfFloor), ms(tailFloor), ratio(half.Seconds(), halfFloor.Seconds()),
		ratio(tail.Seconds(), tailFloor.Seconds()),
	}
}

// writeNotes says what the numbers hold and do not hold.
func (r *report) writeNotes(out io.Writer) {
	//nolint:lll // the lines of a raw string
	fmt.Fprintf(out, `
A pod's time runs from the moment when all ask until it has its address: what it waits for its agent's other pods is in it, and so is
the kubelet's second after a call that failed. A scenario ends after %s; "done" says how many pods had an address by then.
"On path" is what agents asked while a pod waited; "off" is what they asked besides until nothing more followed, "quiet after" when that
was. Each kind of object may be asked for 100 times a second by each agent, after 200 at once, as in the product.
409 on the path is an address that another agent had first (ours), or a pool that another had written (the one pool object).
One pool object: agents read it live, and the pods of one agent take turns; no controller runs beside it.
Agents and controller are measured as heap of one process; the controller's has no pods of the leases in it.
Not measured: webhooks, CNI, the kernel, the network between nodes (all is on the loopback), a durable etcd (this one does not sync
its writes), more API servers than one, a disk for each node (all ledgers share one).
`, r.plan.Limit)
	if name := diskless(r.plan.Dir); name != "" {
		fmt.Fprintf(out, "The ledgers are on %s: their writes cost no disk. Choose another directory with --dir.\n",
			name)
	}
	r.warnings.write(out)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func mb(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// warnings counts what agents and controller complain of.
type warnings struct {
	mu     sync.Mutex
	counts map[string]int
}

// names are the numbers by which objects differ.
var names = regexp.MustCompile(`[0-9]+([-.][0-9]+)*`)

func (w *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" || a.Key == "err" {
			text += ": " + names.ReplaceAllString(fmt.Sprintf("%.200s", a.Value), "N")
		}
		return true
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[text]++
	return nil
}

func (w *warnings) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w *warnings) WithGroup(string) slog.Handler      { return w }

// mostWarnings is how many kinds of warnings are printed.
const mostWarnings = 20

func (w *warnings) write(out io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.counts) == 0 {
		fmt.Fprintln(out, "Agents and controller logged no warning.")
		return
	}
	fmt.Fprintf(out, "Warnings and errors that agents and controller logged, %d kinds:\n", len(w.counts))
	texts := slices.SortedFunc(maps.Keys(w.counts), func(a, b string) int { return w.counts[b] - w.counts[a] })
	for _, text := range texts[:min(len(texts), mostWarnings)] {
		fmt.Fprintf(out, "  %d × %s\n", w.counts[text], text)
	}
}
