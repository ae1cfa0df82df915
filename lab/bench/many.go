// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// ManyOptions say what to measure of many pods at once and of several networks in one pod.
type ManyOptions struct {
	// Program is the path of attachbench, compiled for the node.
	Program string
	// Master is the node's IPoIB interface that gets children.
	Master string
	// Rounds of each case with more than one pod at once; the others have as many as there are real pods.
	Rounds int
	// Held is how many attachments are there while the agent's memory is read; 0 leaves that out.
	Held int
	// Bound gives the pods to the node, where the kubelet waits for a volume that never comes.
	// Without it they are given to no node.
	Bound bool
}

// Many is what a run found of them.
type Many struct {
	Mode   string // of the node's RDMA subsystem
	Bound  bool
	Cases  []Case
	Memory *Memory // nil when it was not measured
	Notes  []string
}

// Case is one way of attaching pods.
type Case struct {
	Networks []string // in order, by their plugins; a pod's first interface has the first
	AtOnce   int
	Rounds   int
	Runtime  []Call // as whoever calls the shim sees it
	Agent    Calls  // the same as the agent does
	// Bare are the bare steps, measured in turn with the case.
	Bare []Sample
}

// Call is one call of the shim as attachbench prints it.
type Call struct {
	Pod      string        `json:"pod"`
	Round    int           `json:"round"`
	Verb     string        `json:"verb"`
	Duration time.Duration `json:"ns"`
	Done     time.Duration `json:"doneNs"` // since the round's calls began
	Error    string        `json:"error"`
}

// Memory is what the agent has resident, in bytes.
type Memory struct {
	Idle, Held  int64
	Attachments int
}

// turn is how many rounds of the bare steps follow each round of many pods, or as many rounds of one.
const turn = 3

// quiet is the time before each round of calls: pods of one round are not to pay for the agent's
// work after the last one, and after the bare steps, which let it stand still. It waits a second or
// two before it looks at the cards, and the look takes a second here. The bare steps get as much,
// so that neither finds the machine warmer than the other.
const quiet = 4 * time.Second

// Limits.
const (
	attachLimit = 15 * time.Minute
	boundSettle = 30 * time.Second // until the kubelet seldom looks again for what does not come
)

// many measures all cases in the node's own mode.
func (r runner) many(ctx context.Context) (*Many, error) {
	m := &Many{Bound: r.Many.Bound}
	mode, err := r.lab.Node(ctx, r.Node, "rdma system")
	if err != nil {
		return nil, fmt.Errorf("asking for the mode of the RDMA subsystem of %s: %w", r.Node, err)
	}
	if m.Mode, err = parseMode(mode); err != nil {
		return nil, err
	}
	vfs, err := r.freeVFs(ctx)
	if err != nil {
		return nil, err
	}
	var cases []Case
	cases, m.Notes = plan(len(vfs), r.Pods, r.Many.Rounds)
	return m, r.measureAll(ctx, m, vfs, cases)
}

// measureAll makes the networks, measures the cases, and the memory if that is asked for, and
// removes the networks.
func (r runner) measureAll(ctx context.Context, m *Many, vfs []string, cases []Case) (err error) {
	defer func() { err = errors.Join(err, r.removeNetworks(ctx)) }()
	if err := r.makeNetworks(ctx, vfs, m.Mode == exclusive); err != nil {
		return err
	}
	return r.withPrograms(ctx, func(path, bare string) (err error) {
		if r.Many.Held > 0 {
			m.Memory, err = r.memory(ctx, path)
			if errors.Is(err, errTooSmall) {
				m.Notes = append(m.Notes, fmt.Sprintf("The agent's memory was not measured: %v.", err))
			} else if err != nil {
				return err
			}
		}
		for _, c := range cases {
			if err := r.measure(ctx, path, bare, fmt.Sprintf("%s-%d", m.Mode, len(m.Cases)), &c); err != nil {
				return fmt.Errorf("%s: %w", c.title(m.Mode), err)
			}
			m.Cases = append(m.Cases, c)
		}
		return nil
	})
}

// withPrograms brings both programs.
func (r runner) withPrograms(ctx context.Context, use func(attach, bare string) error) error {
	return r.withProgram(ctx, r.Many.Program, func(attach string) error {
		return r.withProgram(ctx, r.Program, func(bare string) error { return use(attach, bare) })
	})
}

// Modes of a node's RDMA subsystem.
const exclusive, shared = "exclusive", "shared"

// inOtherMode measures ib-sriov, and the bare steps, with the node's RDMA subsystem in the mode
// that it is not in. The kernel changes it while no network namespace is there
// (rdma_compatdev_set): when pods run on the node, this is left out and noted.
func (r runner) inOtherMode(ctx context.Context, before *Many) (other *Report, err error) {
	mode := map[string]string{exclusive: shared, shared: exclusive}[before.Mode]
	if err := r.setMode(ctx, mode); err != nil {
		before.Notes = append(before.Notes,
			fmt.Sprintf("ib-sriov with the RDMA subsystem in %s mode was not measured: %v", mode, err))
		return nil, ctx.Err()
	}
	defer func() { err = errors.Join(err, r.setMode(context.WithoutCancel(ctx), before.Mode)) }()
	fmt.Fprintf(r.out, "ib-sriov with the RDMA subsystem in %s mode\n", mode)
	vfs, err := r.freeVFs(ctx)
	if err != nil {
		return nil, err
	}
	r.Many.Held = 0
	other = &Report{Node: r.Node, Pods: r.Pods, Many: &Many{Mode: mode, Bound: r.Many.Bound}}
	if err := r.measureAll(ctx, other.Many, vfs,
		[]Case{{Networks: []string{"ib-sriov"}, AtOnce: 1, Rounds: r.Pods}}); err != nil {
		return nil, err
	}
	other.Samples, err = r.bare(ctx)
	return other, err
}

// setMode tries for a while: the kernel may still be at work on namespaces that have just gone.
func (r runner) setMode(ctx context.Context, mode string) error {
	script := fmt.Sprintf("for i in $(seq 20); do rdma system set netns %s && exit; sleep 0.5; done; exit 1", mode)
	if _, err := r.lab.Node(ctx, r.Node, script); err != nil {
		return fmt.Errorf("changing it: %w", err)
	}
	return nil
}

// parseMode reads "netns exclusive copy-on-fork on".
func parseMode(text string) (string, error) {
	words := strings.Fields(text)
	if len(words) < 2 || words[0] != "netns" {
		return "", fmt.Errorf("rdma system prints %q: want netns and its mode", text)
	}
	return words[1], nil
}

// listFree prints the PCI addresses of the InfiniBand VFs whose netdev and RDMA device are both in
// the node's namespace.
const listFree = `for v in /sys/bus/pci/devices/*/virtfn*; do
  d=$(readlink -f "$v")
  cat "$d"/net/*/type 2>/dev/null | grep -qx 32 && test -n "$(ls "$d/infiniband" 2>/dev/null)" && basename "$d"
done; true`

func (r runner) freeVFs(ctx context.Context) ([]string, error) {
	out, err := r.lab.Node(ctx, r.Node, listFree)
	if err != nil {
		return nil, fmt.Errorf("listing the free VFs of %s: %w", r.Node, err)
	}
	vfs := strings.Fields(out)
	slices.Sort(vfs)
	return vfs, nil
}

// plan chooses the cases that the free VFs allow, and says what is left out.
func plan(vfs, pods, rounds int) (cases []Case, notes []string) {
	const vf, child = "ib-sriov", "ipoib"
	for _, networks := range [][]string{{child}, {vf}, {vf, child}, {vf, vf, child, child}} {
		if need := count(networks, vf); need > vfs {
			notes = append(notes, fmt.Sprintf("%s was not measured: it needs %d free VFs, and the node has %d.",
				strings.Join(networks, " + "), need, vfs))
			continue
		}
		cases = append(cases, Case{Networks: networks, AtOnce: 1, Rounds: pods})
	}
	for _, n := range []int{10, 40} {
		cases = append(cases, Case{Networks: []string{child}, AtOnce: n, Rounds: rounds})
	}
	const wanted = 10
	if vfs < wanted {
		notes = append(notes, fmt.Sprintf("ib-sriov with %d pods at once was not measured: the node has %d free VFs.",
			wanted, vfs))
	}
	if most := min(wanted, vfs); most > 1 {
		cases = append(cases, Case{Networks: []string{vf}, AtOnce: most, Rounds: rounds})
	}
	return cases, notes
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// measure runs one case, some pods and some bare steps in turn, so that whatever else the machine
// does is the same for both.
func (r runner) measure(ctx context.Context, attach, bare, name string, c *Case) error {
	rounds := 1
	if c.AtOnce == 1 {
		rounds = turn
	}
	for done := 0; done < c.Rounds; done += rounds {
		pods := r.benchPods(fmt.Sprintf("%s-%d", name, done), c, min(rounds, c.Rounds-done)*c.AtOnce, r.Many.Bound)
		calls, agent, err := r.batch(ctx, attach, pods, c.AtOnce)
		if err == nil {
			err = r.bareTurn(ctx, bare, c)
		}
		if err != nil {
			return err
		}
		for _, call := range calls {
			call.Round += done
			c.Runtime = append(c.Runtime, call)
		}
		c.Agent.append(agent)
	}
	fmt.Fprintf(r.out, "%s, %d at once: %d rounds\n", strings.Join(c.Networks, " + "), c.AtOnce, c.Rounds)
	return nil
}

// bareTurn adds some rounds of the bare steps to a case.
func (r runner) bareTurn(ctx context.Context, program string, c *Case) error {
	samples, err := r.steps(ctx, program, fmt.Sprintf("-n %d -steps -series %s -quiet %s%s", turn,
		strings.Join(c.series(), ","), quiet, inAgentsPlace))
	if err != nil {
		return err
	}
	before := 0
	for _, s := range c.Bare {
		before = max(before, s.Round+1)
	}
	for _, s := range samples {
		s.Round += before
		c.Bare = append(c.Bare, s)
	}
	return nil
}

// series are the kinds of its networks.
func (c *Case) series() []string {
	kinds := slices.Clone(c.Networks)
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

func (c *Calls) append(more Calls) {
	c.Add, c.Del = append(c.Add, more.Add...), append(c.Del, more.Del...)
	c.Status, c.Failed = append(c.Status, more.Status...), append(c.Failed, more.Failed...)
}

// batch makes pods, has them attached and detached, and removes them.
func (r runner) batch(ctx context.Context, program string, pods []benchPod, atOnce int) (calls []Call, agent Calls,
	err error) {
	defer func() { err = errors.Join(err, r.removePods(ctx)) }()
	out, err := r.attach(ctx, pods, fmt.Sprintf("%s -at-once %d -quiet %s", program, atOnce, quiet))
	if err != nil {
		return nil, agent, err
	}
	var names []string
	for _, p := range pods {
		names = append(names, "default/"+p.name)
	}
	agent, err = r.collect(ctx, names, func(c Calls) bool {
		return len(c.Add) >= succeeded(out.Samples, "ADD") && len(c.Del) >= succeeded(out.Samples, "DEL")
	})
	return out.Samples, agent, err
}

func succeeded(calls []Call, verb string) (n int) {
	for _, c := range calls {
		if c.Verb == verb && c.Error == "" {
			n++
		}
	}
	return n
}

// attached is what attachbench prints.
type attached struct {
	Samples []Call `json:"samples"`
	Held    string `json:"held"`
}

// attach makes the pods and runs a command of attachbench with them.
func (r runner) attach(ctx context.Context, pods []benchPod, command string) (out attached, err error) {
	list, err := r.makePods(ctx, pods)
	if err != nil {
		return out, err
	}
	text, err := r.untilDone(ctx, command, list+"\n", attachLimit)
	if err != nil {
		return out, fmt.Errorf("calling the CNI shim on %s: %w", r.Node, err)
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return out, fmt.Errorf("reading the durations of the shim's calls: %w", err)
	}
	return out, nil
}

// memoryIdle prints the agent's process, what the node has left, and what the agent has resident,
// after a time in which nothing is asked of it.
const memoryIdle = `set -e
pid=$(` + agentPID + `)
sleep 10
echo $pid
grep MemAvailable /proc/meminfo
grep VmRSS /proc/$pid/status`

// perAttachment is what a namespace with an IPoIB child and a veth pair takes of a node: 40 of them
// left none of 500 MiB. A node without memory only reads its programs from disk, again and again.
const perAttachment = 16 << 20

// errTooSmall: the node has too little memory.
var errTooSmall = errors.New("the node has too little memory")

// memory reads the agent's memory without and with attachments.
func (r runner) memory(ctx context.Context, program string) (m *Memory, err error) {
	defer func() { err = errors.Join(err, r.removePods(ctx)) }()
	fmt.Fprintf(r.out, "the agent's memory, idle and with %d attachments\n", r.Many.Held)
	text, err := r.lab.Node(ctx, r.Node, memoryIdle)
	if err != nil {
		return nil, fmt.Errorf("reading the memory of the agent on %s: %w", r.Node, err)
	}
	pid, rest, _ := strings.Cut(text, "\n")
	left, idle, _ := strings.Cut(rest, "\n")
	available, err := parseKiB("MemAvailable", left)
	if err != nil {
		return nil, err
	}
	if need := int64(r.Many.Held) * perAttachment; available < need {
		return nil, fmt.Errorf("%w: %d MiB are available, and %d attachments may need %d; see --memory and --held",
			errTooSmall, available>>20, r.Many.Held, need>>20)
	}
	m = &Memory{}
	if m.Idle, err = parseKiB("VmRSS", idle); err != nil {
		return nil, err
	}
	pods := r.benchPods("held", &Case{Networks: []string{"ipoib"}, AtOnce: r.Many.Held}, r.Many.Held, false)
	out, err := r.attach(ctx, pods, fmt.Sprintf("%s -at-once 10 -hold 'sleep 10; grep VmRSS /proc/%s/status'", program,
		pid))
	if err != nil {
		return nil, err
	}
	m.Attachments = succeeded(out.Samples, "ADD")
	m.Held, err = parseKiB("VmRSS", out.Held)
	return m, err
}

// parseKiB reads a line such as "VmRSS:	   51234 kB", and returns bytes.
func parseKiB(what, line string) (int64, error) {
	var kib int64
	if _, err := fmt.Sscanf(strings.Join(strings.Fields(line), " "), what+": %d kB", &kib); err != nil {
		return 0, fmt.Errorf("looking for %s in %q: %w", what, line, err)
	}
	return kib << 10, nil
}

// write says what it came to.
func (m *Memory) write(out io.Writer) {
	const mib = 1 << 20
	fmt.Fprintf(out, "\nThe agent's resident memory: %.1f MiB idle, %.1f MiB with %d ipoib attachments",
		float64(m.Idle)/mib, float64(m.Held)/mib, m.Attachments)
	if m.Attachments > 0 {
		fmt.Fprintf(out, ", %.0f KiB each", float64(m.Held-m.Idle)/1024/float64(m.Attachments))
	}
	fmt.Fprintln(out)
}
