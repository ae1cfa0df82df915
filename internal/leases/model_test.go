// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/testapi"
)

var modelSchedules = flag.Int("schedules", 4_000, "random schedules of the model; make test-model runs it for long")

var (
	modelSchedule = flag.String("schedule", "",
		"the schedule that TestModelSchedule runs, as a failed TestModel prints it")
	modelRuns = flag.Int("runs", 5, "how often TestModelSchedule runs it")
)

var modelGroup = flag.Int("group", -1, "play the schedules in this process; TestModel runs its groups by this")

// schedule is one life of a simulated cluster.
type schedule struct {
	Seed                      uint64
	Nodes, Addresses, PerPool int
	Actions                   []action
}

// action happens at one moment; Wait is the time until the next one.
type action struct {
	Kind           string
	Node, Pod      int
	Wait, Duration time.Duration
}

// actions by name, as often as they are to be drawn.
var actionKinds = []string{
	"create", "create", "create", "create", "fill", "crowd", "crowd", "set", "delete", "delete", "force", "empty",
	"finish", "sandbox",
	"cut", "cut", "mute", "mute", "stall", "crash", "crash", "crash-soon", "crash-soon", "restart", "pause", "off",
	"off", "wipe", "on", "remove-node",
	"exclude", "include", "disable", "enable", "controller",
}

func drawSchedule(t *rapid.T) schedule {
	waits := seconds(0, 0.05, 0.3, 1, 2, 4, 8, 15)
	durations := seconds(1, 5, 12, 20, 30, 45, 70, 100)
	s := schedule{
		Seed: rapid.Uint64().Draw(t, "seed"), Nodes: rapid.IntRange(2, 3).Draw(t, "nodes"),
		Addresses: rapid.SampledFrom([]int{4, 6, 10, 14, 20, 30}).Draw(t, "addresses"), PerPool: rapid.IntRange(0,
			4).Draw(t, "per pool"),
	}
	if rapid.IntRange(0, 3).Draw(t, "siege") == 0 {
		s.Actions = siege(t, s.Nodes)
	}
	for range rapid.IntRange(5, 30).Draw(t, "actions") {
		s.Actions = append(s.Actions, action{
			Kind: rapid.SampledFrom(actionKinds).Draw(t, "kind"), Node: rapid.IntRange(0, s.Nodes-1).Draw(t, "node"),
			Pod:  rapid.IntRange(0, 30).Draw(t, "pod"),
			Wait: rapid.SampledFrom(waits).Draw(t, "wait"), Duration: rapid.SampledFrom(durations).Draw(t, "duration"),
		})
	}
	return s
}

// siege cuts a node that has stock off for longer than its promise lasts, in one of the ways there
// are, with pods that come before, meanwhile and afterwards, and has another node take all that is
// free. Chance alone seldom puts that together.
func siege(t *rapid.T, nodes int) []action {
	victim := rapid.IntRange(0, nodes-1).Draw(t, "victim")
	other := (victim + 1) % nodes
	way := rapid.IntRange(0, muteWays-1).Draw(t, "way")
	maybe := func(node int, wait float64) []action {
		if !rapid.Bool().Draw(t, "maybe") {
			return nil
		}
		return []action{{Kind: "create", Node: node, Pod: rapid.IntRange(0, 30).Draw(t, "pod"), Wait: seconds(wait)[0]}}
	}
	actions := []action{
		{Kind: "create", Node: victim, Pod: 1, Wait: 8 * time.Second},
		{Kind: "mute", Node: victim, Pod: way, Duration: 100 * time.Second, Wait: time.Second},
	}
	actions = append(actions, maybe(victim, 4)...)
	actions = append(actions, action{Kind: "nothing", Wait: rapid.SampledFrom(seconds(10, 25, 40)).Draw(t, "long")})
	actions = append(actions, maybe(victim, 4)...)
	actions = append(actions, action{Kind: "crowd", Node: other, Pod: 2, Wait: 8 * time.Second})
	return append(actions, maybe(victim, 8)...)
}

// seconds are drawn from a list: rapid prefers small numbers in a range.
func seconds(values ...float64) []time.Duration {
	var all []time.Duration
	for _, v := range values {
		all = append(all, time.Duration(v*float64(time.Second)))
	}
	return all
}

// TestModel runs the real allocators, heartbeats and collectors through random schedules of what
// can happen to a cluster. No address is ever used by two live pods, none comes from outside its
// pool, and when all is well again each pod has one, nothing is lost, and as many pods as addresses
// get one.
//
// Each group of schedules runs in a process of its own on one processor, because on several a seed
// decides little: goroutines that are ready at the same instant run at once. TestModelReplays
// measures what it decides on one.
func TestModel(t *testing.T) {
	if *modelGroup >= 0 {
		playSchedules(t, *modelSchedules)
		return
	}
	const groups = 4
	for g := range groups {
		t.Run(fmt.Sprint(g), func(t *testing.T) {
			t.Parallel()
			self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestModel$", "-test.v", "-test.timeout=0",
				fmt.Sprint("-group=", g), fmt.Sprint("-schedules=", *modelSchedules/groups))
			self.Env = append(os.Environ(), "GOMAXPROCS=1")
			out, err := self.CombinedOutput()
			if err != nil {
				t.Fatalf(
					"group %d: %v; to play a failure again, set GOMAXPROCS=1 and pass what rapid says below and "+
						"-group=%d\n%s", g, err, g, out)
			}
			t.Log(lastLog(string(out)))
		})
	}
}

// playSchedules draws and plays schedules.
func playSchedules(t *testing.T, count int) {
	setChecks(t, count)
	schedules, attached := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		s := drawSchedule(rt)
		w := run(t, s, mutant{})
		schedules, attached = schedules+1, attached+w.attached
		if bad := w.report(); bad != "" {
			rt.Fatalf("%s\n%s", s.command(), bad)
		}
	})
	t.Logf("%d schedules, in which pods got an address %d times", schedules, attached)
}

// lastLog is what playSchedules logged, from the output of its process.
func lastLog(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, " schedules, in which ") {
			return strings.TrimSpace(line)
		}
	}
	return out
}

// An agent dies between recording an assignment and answering the runtime, and the address is excluded
// before its successor starts: the pod keeps the address, as it does when its lease shows the pod.
func TestModelCrashAfterAssignment(t *testing.T) {
	for steps := range 24 {
		for excluded := range 8 {
			s := schedule{Seed: uint64(steps), Nodes: 2, Addresses: 8, PerPool: 4, Actions: []action{
				{Kind: "create", Pod: 1, Wait: 8 * time.Second},
				{Kind: "crash-soon", Pod: steps},
				{Kind: "fill", Pod: 3, Wait: 2 * time.Second},
				{Kind: "exclude", Pod: excluded},
				{Kind: "stall", Duration: 5 * time.Second},
				{Kind: "restart", Wait: 10 * time.Second},
			}}
			if bad := run(t, s, mutant{}).report(); bad != "" {
				t.Fatalf("agent dead after %d steps, 10.0.0.%d excluded: %s", steps, 1+excluded, bad)
			}
		}
	}
}

// TestModelReplays runs schedules twice and logs how many went the same way, event by event. The
// seed decides all random numbers and every delay; what is left to chance is which of several
// goroutines that wait for one event goes first.
func TestModelReplays(t *testing.T) {
	const schedules = 60
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	same := 0
	for n := range schedules {
		s := rapid.Custom(drawSchedule).Example(n)
		first, second := run(t, s, mutant{}).history(), run(t, s, mutant{}).history()
		if first == second {
			same++
		}
	}
	t.Logf("%d of %d schedules went the same way twice", same, schedules)
	if same < schedules*3/4 {
		t.Errorf(
			"only %d of %d schedules went the same way twice: expected nearly all; look for random numbers that "+
				"are shared "+
				"between actors, for maps that are walked in any order, and for actors that wake at one instant", same,
			schedules)
	}
}

// command is what runs a schedule again.
func (s schedule) command() string {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Sprintf("write the schedule: %v", err)
	}
	return fmt.Sprintf("to run this schedule again: "+
		"go test -count=1 -v -run '^TestModelSchedule$' ./internal/leases -args -schedule='%s'", text)
}

// TestModelSchedule runs the schedule that a failed TestModel printed again and again; without one, the
// same one of chance each time. It logs how many runs failed, and how many histories they had.
func TestModelSchedule(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := rapid.Custom(drawSchedule).Example(1)
	if *modelSchedule != "" {
		s = schedule{}
		if err := json.Unmarshal([]byte(*modelSchedule), &s); err != nil {
			t.Fatalf("read the schedule of -schedule: %v", err)
		}
	}
	failed, histories := 0, map[string]bool{}
	for range *modelRuns {
		w := run(t, s, mutant{})
		histories[w.history()] = true
		if bad := w.report(); bad != "" {
			failed++
			t.Error(bad)
		}
	}
	t.Logf("%d of %d runs failed; they had %d different histories", failed, *modelRuns, len(histories))
}

// setChecks tells rapid how many schedules to draw; it takes that from its flag alone.
func setChecks(t *testing.T, count int) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { _ = checks.Value.Set(before) })
	if err := checks.Value.Set(fmt.Sprint(count)); err != nil {
		t.Fatal(err)
	}
}

// Faults planted in the implementation are found: the model bites.
func TestModelFindsMutants(t *testing.T) {
	const most = 3000
	for name, m := range map[string]mutant{
		"the agent does not look at its promise":                          {noFence: true},
		"the controller does not ask which pods may have unseen stock":    {blindStock: true},
		"a hand-out is not recorded":                                      {noRecord: true},
		"network-status is written before the addresses are shown":        {earlyStatus: true},
		"the controller deletes a lease that changed since it was judged": {anyVersion: true},
		"the agent does not hear of changes of a pool":                    {oldPools: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := range most {
				s := rapid.Custom(drawSchedule).Example(n)
				s.PerPool = max(s.PerPool, 2)
				if m.oldPools { // every address is asked of the API server
					s.PerPool = 0
				}
				if w := run(t, s, m); len(w.bad) > 0 {
					t.Logf("found after %d schedules: %s", n+1, w.bad[0])
					return
				}
			}
			t.Errorf("not found in %d schedules", most)
		})
	}
}

// run plays a schedule to its end, lets all become well, and checks.
func run(t *testing.T, s schedule, m mutant) (w *world) {
	scheme, err := testapi.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(*testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w = newWorld(ctx, scheme, s.Seed, s.Nodes, s.Addresses, s.PerPool, m)
		for _, a := range s.Actions {
			w.do(a)
			w.sleep(a.Wait)
			if len(w.bad) > 0 {
				break
			}
		}
		if len(w.bad) == 0 {
			w.recover()
			w.checkRest()
			w.checkExactFit()
		}
		cancel()
		w.running.Wait()
	})
	return w
}

// history is all that happened, in order.
func (w *world) history() string {
	var b strings.Builder
	for _, s := range w.trace {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

func (w *world) report() string {
	if len(w.bad) == 0 {
		return ""
	}
	lines := append(slices.Clone(w.bad), "--- what happened")
	for _, s := range w.trace {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, "\n")
}

// do performs one action, if it is possible now.
func (w *world) do(a action) {
	m := w.nodes[a.Node]
	switch a.Kind {
	case "create":
		w.create(fmt.Sprint("p", a.Pod), m, nil)
	case "set":
		w.create(fmt.Sprint("set-", a.Pod%3), m, w.set())
	case "fill":
		for i := range 2 + a.Pod%6 {
			w.create(fmt.Sprintf("f%d-%d", a.Pod, i), m, nil)
		}
	case "crowd": // whatever is free by mistake is taken
		for i := range w.effective() {
			w.create(fmt.Sprintf("c%d-%d", a.Pod, i), m, nil)
		}
	case "delete", "force", "finish", "empty":
		w.end(a)
	case "sandbox":
		m.restartSandbox()
	case "cut":
		m.mu.Lock()
		m.cut = time.Now().Add(a.Duration)
		m.mu.Unlock()
	case "mute":
		m.mu.Lock()
		m.mute, m.muteHow = time.Now().Add(a.Duration), a.Pod%muteWays
		m.mu.Unlock()
	case "stall":
		m.mu.Lock()
		m.stalled = time.Now().Add(a.Duration)
		m.mu.Unlock()
	case "crash", "crash-soon", "restart", "pause":
		w.disturb(m, a)
	case "off", "wipe":
		m.powerOff(a.Kind == "wipe")
	case "on":
		if !m.isUp() {
			m.powerOn()
		}
	case "remove-node":
		w.removeNode(m)
	case "nothing":
	case "controller":
		w.startController(fmt.Sprint("controller-", a.Pod))
	default:
		w.edit(a)
	}
	w.say("%s: node %s, pod %d, %v", a.Kind, m.name, a.Pod, a.Duration)
}

func (w *world) disturb(m *machine, a action) {
	p := m.current()
	switch {
	case a.Kind == "restart" && m.isUp():
		m.killAgent()
		m.startAgent()
	case p == nil:
	case a.Kind == "crash":
		p.kill()
	case a.Kind == "crash-soon":
		p.dieAfter(a.Pod)
	case a.Kind == "pause":
		p.pause(a.Duration)
	}
}

// create makes a pod on a node, unless one of its name exists.
func (w *world) create(name string, m *machine, owner *metav1.OwnerReference) {
	var node corev1.Node
	if w.admin.Get(w.ctx, client.ObjectKey{Name: m.name}, &node) != nil {
		return // the node was removed
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: simNamespace, Name: name},
		Spec: corev1.PodSpec{NodeName: m.name, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	if err := w.admin.Create(w.ctx, pod); !apierrors.IsAlreadyExists(err) {
		w.must(err)
	}
}

// set is a StatefulSet of three pods.
func (w *world) set() *metav1.OwnerReference {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: simNamespace, Name: "set"},
		Spec: appsv1.StatefulSetSpec{Replicas: new(int32(3))}}
	if err := w.admin.Create(w.ctx, set); apierrors.IsAlreadyExists(err) {
		w.must(w.admin.Get(w.ctx, client.ObjectKeyFromObject(set), set))
	}
	return metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))
}

// end has a pod deleted, deleted by force, or finished, or half of all pods deleted by force.
func (w *world) end(a action) {
	var pods corev1.PodList
	w.must(w.admin.List(w.ctx, &pods))
	if len(pods.Items) == 0 {
		return
	}
	if a.Kind == "empty" {
		for i := 0; i < len(pods.Items); i += 2 {
			w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx, &pods.Items[i], client.GracePeriodSeconds(0))))
		}
		return
	}
	pod := &pods.Items[a.Pod%len(pods.Items)]
	switch a.Kind {
	case "delete":
		w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx, pod)))
	case "force":
		w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx, pod, client.GracePeriodSeconds(0))))
	case "finish":
		pod.Status.Phase = corev1.PodSucceeded
		w.must(w.admin.Status().Update(w.ctx, pod))
	}
}

// removeNode deletes a node that is off, and its pods, as Kubernetes does.
func (w *world) removeNode(m *machine) {
	if m.isUp() {
		return
	}
	w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}})))
	var pods corev1.PodList
	w.must(w.admin.List(w.ctx, &pods, client.MatchingFields{"spec.nodeName": m.name}))
	for i := range pods.Items {
		w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx, &pods.Items[i], client.GracePeriodSeconds(0))))
	}
}

// edit changes the pool.
func (w *world) edit(a action) {
	var pool v2beta1.SpiderIPPool
	w.must(w.admin.Get(w.ctx, client.ObjectKey{Name: simPool}, &pool))
	switch a.Kind {
	case "exclude":
		pool.Spec.ExcludeIPs = []string{fmt.Sprintf("10.0.0.%d", 1+a.Pod%8)}
	case "include":
		pool.Spec.ExcludeIPs = nil
	case "disable":
		pool.Spec.Disable = new(true)
	case "enable":
		pool.Spec.Disable = nil
	}
	w.must(w.admin.Update(w.ctx, &pool))
}

// recover makes all well: links work, agents run, machines that are off go for good.
func (w *world) recover() {
	w.sick.Store(int64(time.Since(w.began) + time.Nanosecond))
	w.edit(action{Kind: "enable"})
	for _, m := range w.nodes {
		m.mu.Lock()
		m.cut, m.mute = time.Time{}, time.Time{}
		m.mu.Unlock()
		var node corev1.Node
		gone := w.admin.Get(w.ctx, client.ObjectKey{Name: m.name}, &node) != nil
		switch {
		case m.isUp() && !gone:
			m.killAgent() // one that is paused or about to crash
			m.startAgent()
		case m.isUp():
			m.powerOff(true)
			fallthrough
		default:
			w.removeNode(m)
		}
	}
	w.say("all is well again")
}

// eventually waits for a state in which nothing is wrong; what is wrong at the end is a fault.
func (w *world) eventually(limit time.Duration, wrong func() string) {
	last := ""
	for end := time.Now().Add(limit); time.Now().Before(end) && w.sleep(time.Second); {
		if last = wrong(); last == "" {
			return
		}
	}
	w.fault("%v after all is well: %s\n%s", limit, last, w.taken())
}

// taken lists the leases, for a report.
func (w *world) taken() string {
	var all v2beta1.SpiderIPLeaseList
	w.must(w.admin.List(w.ctx, &all))
	var lines []string
	for _, l := range all.Items {
		lines = append(lines, fmt.Sprintf("  %s on %s: %s %v", l.Spec.IP, l.Spec.Node, l.Holder(), l.Annotations))
	}
	return strings.Join(lines, "\n")
}

// alive are the machines that serve.
func (w *world) alive() []*machine {
	return slices.DeleteFunc(slices.Clone(w.nodes), func(m *machine) bool {
		var node corev1.Node
		return !m.isUp() || w.admin.Get(w.ctx, client.ObjectKey{Name: m.name}, &node) != nil
	})
}

// checkRest waits until every pod that runs has one address, which the API server shows, and
// nothing else is taken but what living nodes hold ready and a StatefulSet keeps. A pool can have
// fewer addresses than there are pods: then they are all in use.
func (w *world) checkRest() { w.eventually(10*time.Minute, w.unrest) }

func (w *world) unrest() string {
	var pods corev1.PodList
	var all v2beta1.SpiderIPLeaseList
	w.must(w.admin.List(w.ctx, &pods))
	w.must(w.admin.List(w.ctx, &all))
	uses := map[string]netip.Addr{}
	for ip, u := range w.liveUses() {
		uses[u.pod] = ip
	}
	running := map[string]string{}
	for _, p := range pods.Items {
		if p.DeletionTimestamp.IsZero() && !ipam.Finished(&p) {
			running[string(p.UID)] = p.Name
		}
	}
	byPod := map[string]int{}
	for _, l := range all.Items {
		if wrong := w.wrongLease(&l, uses, running); wrong != "" {
			return wrong
		}
		if l.Spec.Pod != nil {
			byPod[l.Spec.Pod.UID]++
		}
	}
	for uid, name := range running {
		if byPod[uid] != 1 && len(all.Items) < w.effective() {
			return fmt.Sprintf("pod %s has %d leases", name, byPod[uid])
		}
	}
	return ""
}

// wrongLease tells what is wrong with a lease when all is at rest.
func (w *world) wrongLease(l *v2beta1.SpiderIPLease, uses map[string]netip.Addr, running map[string]string) string {
	ip, err := l.Address()
	holder := l.Spec.Pod
	switch {
	case err != nil:
		return err.Error()
	case holder == nil && !slices.ContainsFunc(w.alive(), func(m *machine) bool { return m.name == l.Spec.Node }):
		return fmt.Sprintf("%s is stock of node %s, which does not serve", ip, l.Spec.Node)
	case holder == nil && !w.pool().Has(ip):
		return fmt.Sprintf("%s is stock and outside the pool", ip)
	case holder == nil:
		return ""
	case running[holder.UID] == "" && holder.Owner == nil:
		return fmt.Sprintf("%s is held for pod %s, which does not run", ip, holder.Name)
	case running[holder.UID] != "" && uses[holder.UID] != ip:
		return fmt.Sprintf("%s is held for pod %s, which uses %s", ip, holder.Name, uses[holder.UID])
	}
	return ""
}

func (w *world) pool() *ipam.Pool {
	var pool v2beta1.SpiderIPPool
	w.must(w.admin.Get(w.ctx, client.ObjectKey{Name: simPool}, &pool))
	return ipam.ParsePool(&pool, nil)
}

// effective is how many addresses can be given out.
func (w *world) effective() int { return int(w.pool().Size()) }

// checkExactFit deletes all pods, makes as many as there are addresses at once, and wants each to have one.
func (w *world) checkExactFit() {
	alive := w.alive()
	if len(alive) == 0 || len(w.bad) > 0 {
		return
	}
	var pods corev1.PodList
	w.must(w.admin.List(w.ctx, &pods))
	for i := range pods.Items {
		w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx, &pods.Items[i])))
	}
	w.must(client.IgnoreNotFound(w.admin.Delete(w.ctx,
		&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: simNamespace, Name: "set"}})))
	for i := range w.effective() {
		w.create(fmt.Sprint("fit", i), alive[i%len(alive)], nil)
	}
	w.eventually(10*time.Minute, func() string {
		if uses := len(w.liveUses()); uses < w.effective() {
			return fmt.Sprintf("of %d pods for as many addresses %d have one", w.effective(), uses)
		}
		return w.unrest()
	})
}
