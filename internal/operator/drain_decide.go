// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// Reasons of a node's condition Drained; it is True with reasonDrained only.
const (
	reasonDrained       = "Drained"
	reasonDraining      = "Draining"
	reasonDrainPending  = "DrainPending"  // other nodes come first
	reasonDrainRefused  = "DrainRefused"  // a pod may not be evicted, at the moment or ever
	reasonDrainTimedOut = "DrainTimedOut" // nothing moved for too long
	reasonDrainStopped  = "DrainStopped"  // disableDrain is true again
)

// Annotations that remember a drain beside the two that users see: a restarted operator goes on where it was.
const (
	annotationDrainSince    = "spiderpool.spidernet.io/drain-since"
	annotationDrainAgain    = "spiderpool.spidernet.io/drain-again"
	annotationDrainTimeouts = "spiderpool.spidernet.io/drain-timeouts"
)

// DrainTiming are the waits of a drain. Zero takes the value in the comment.
type DrainTiming struct {
	// Deadline bounds the time without an eviction that is granted: 10 minutes. Then VFs are
	// offered again, and the drain is tried anew after as long, then twice as long, up to eight
	// times.
	Deadline time.Duration
	// Settle is the time between the agent's withholding VFs and the first eviction, for the
	// scheduler to hear of it: 15 seconds. The kubelet tells what a node has every 10 seconds.
	Settle time.Duration
	// Poll is the time between two looks at a node that is being drained: 5 seconds.
	Poll time.Duration
}

// pendingLook is the time between two looks at a node whose turn it is not; the end of another's
// drain causes one too.
const pendingLook = time.Minute

func (t DrainTiming) withDefaults() DrainTiming {
	return DrainTiming{Deadline: cmp.Or(t.Deadline, 10*time.Minute), Settle: cmp.Or(t.Settle, 15*time.Second),
		Poll: cmp.Or(t.Poll, 5*time.Second)}
}

// backoff is the rest after the nth drain of a node in a row that timed out.
func (t DrainTiming) backoff(n int) time.Duration { return t.Deadline << min(max(n-1, 0), 3) }

// marks are what a node's annotations say of its drain.
type marks struct {
	current  string    // one of v1.State…
	since    time.Time // the drain began, or an eviction was last granted
	again    time.Time // not to be tried before
	timeouts int       // in a row
}

func marksOf(state *v1.SriovNetworkNodeState) marks {
	a := state.Annotations
	m := marks{current: cmp.Or(a[v1.AnnotationCurrentState], v1.StateIdle)}
	// What is not there or cannot be read is zero: it happened long ago.
	m.since, _ = time.Parse(time.RFC3339Nano, a[annotationDrainSince])
	m.again, _ = time.Parse(time.RFC3339Nano, a[annotationDrainAgain])
	m.timeouts, _ = strconv.Atoi(a[annotationDrainTimeouts])
	return m
}

func (m marks) active() bool {
	return m.current == v1.StateDraining || m.current == v1.StateDrainComplete
}

// annotations writes the marks. An empty value is to be removed.
func (m marks) annotations() map[string]string {
	out := map[string]string{
		v1.AnnotationCurrentState: m.current, v1.AnnotationDesiredState: v1.StateIdle,
		annotationDrainSince: "", annotationDrainAgain: "", annotationDrainTimeouts: "",
	}
	if m.active() {
		out[v1.AnnotationDesiredState], out[annotationDrainSince] = v1.StateDrainRequired,
			m.since.UTC().Format(time.RFC3339Nano)
	}
	if m.timeouts > 0 {
		out[annotationDrainAgain], out[annotationDrainTimeouts] = m.again.UTC().Format(time.RFC3339Nano),
			strconv.Itoa(m.timeouts)
	}
	return out
}

// step is a change that pods alone block.
type step struct {
	pci, change string
	pods        []string // "namespace/name"; none when they are not known at the moment
}

// usedSteps are the steps of a node's plan that pods block, and whether others are left that the
// agent is about to take: not those that have failed, nor those that wait for a person. The plan
// counts only when it speaks of the present spec.
func usedSteps(state *v1.SriovNetworkNodeState) (steps []step, busy bool) {
	for _, c := range state.Status.Plan {
		if c.InUse {
			steps = append(steps, step{pci: c.PciAddress, change: c.Change, pods: c.WaitsFor})
		}
		busy = busy || c.Blocked == "" && state.Status.SyncStatus != v1.SyncStatusFailed
	}
	return steps, busy
}

// podView is what matters of a pod that is in the way. A pod that is gone, or on another node by
// now, has none.
type podView struct {
	static  bool      // made by the kubelet from a file: the API cannot evict it
	ending  bool      // being deleted, or all its containers have ended
	deleted time.Time // when it should have ended; zero when it is not being deleted
	created time.Time
}

func viewOf(pod *corev1.Pod) podView {
	v := podView{created: pod.CreationTimestamp.Time}
	_, v.static = pod.Annotations[corev1.MirrorPodAnnotationKey]
	v.ending = pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded ||
		pod.Status.Phase == corev1.PodFailed
	if pod.DeletionTimestamp != nil {
		v.deleted = pod.DeletionTimestamp.Time
	}
	return v
}

// situation is all that the decision about one node takes into account.
type situation struct {
	marks
	timing  DrainTiming
	now     time.Time
	enabled bool // drains are
	// turn: the node may be drained now; else queue says why not.
	turn  bool
	queue string
	// fresh: the plan speaks of the present spec.
	fresh bool
	steps []step
	busy  bool
	// offered are the cards of which the agent still offers VFs that these pods use.
	offered map[string]bool
	pods    map[string]podView
	// asked: this look's evictions have been asked for. refused are those that were refused, by
	// pod; granted tells that one was not.
	asked   bool
	refused map[string]string
	granted bool
	// told is the condition's reason until now, "" when there is none.
	told string
}

// decision is what shall become of a node's drain. An empty reason leaves the condition as it is.
type decision struct {
	marks
	evict           []string
	reason, message string
	after           time.Duration // the next look; 0 waits for something to happen
}

// decideDrain decides about one node: once to learn whom to evict, and with the answers to that once more.
func decideDrain(s situation) decision {
	idle := marks{current: v1.StateIdle}
	switch {
	case s.fresh && len(s.steps) == 0:
		return s.nobodyInTheWay()
	case !s.enabled:
		if !s.active() && s.told == "" {
			return decision{marks: s.marks}
		}
		return decision{marks: idle, reason: reasonDrainStopped,
			message: "nobody is evicted any more: spec.disableDrain of SriovOperatorConfig default is true; " +
				s.describe(s.steps)}
	case s.now.Before(s.again):
		return decision{marks: s.marks, after: s.again.Sub(s.now)}
	case !s.fresh && !s.active():
		return decision{marks: s.marks}
	}
	possible, never := s.possible()
	switch {
	case len(possible) == 0 && len(never) > 0:
		return decision{marks: idle, reason: reasonDrainRefused, message: strings.Join(never, "; "),
			after: s.timing.Deadline}
	case !s.turn:
		return decision{marks: marks{current: v1.StateIdle, again: s.again, timeouts: s.timeouts},
			reason:  reasonDrainPending,
			message: s.queue + "; " + s.describe(s.steps), after: pendingLook}
	}
	return s.drain(possible, never)
}

// nobodyInTheWay ends a drain, once the agent has done what the pods were in the way of.
func (s *situation) nobodyInTheWay() decision {
	d := decision{marks: marks{current: v1.StateIdle}}
	if s.active() && s.busy {
		d.current, d.since = v1.StateDrainComplete, s.since
		d.reason, d.message = reasonDrained,
			"the pods that were in the way are gone, and the agent is at work, see status.plan"
		d.after = s.timing.Poll
		return d
	}
	if s.active() || s.told != "" {
		d.reason, d.message = reasonDrained, "no pod is in the way of what the node shall become"
	}
	return d
}

// possible are the steps that evictions can free. A step that a static pod blocks as well would
// have its other pods evicted in vain.
func (s *situation) possible() (possible []step, never []string) {
	for _, st := range s.steps {
		static := slices.DeleteFunc(slices.Clone(st.pods), func(key string) bool { return !s.pods[key].static })
		if len(static) > 0 {
			never = append(never,
				fmt.Sprintf(
					"%s on %s: %s cannot be evicted, as the kubelet makes it from a file: take its manifest from "+
						"the node (staticPodPath of the kubelet's configuration)",
					st.change, st.pci, strings.Join(static, ", ")))
			continue
		}
		possible = append(possible, st)
	}
	return possible, never
}

func (s *situation) drain(possible []step, never []string) decision {
	d := decision{marks: s.marks, after: s.timing.Poll, reason: reasonDraining}
	d.current = v1.StateDraining
	switch {
	case s.current != v1.StateDraining:
		d.since = s.now
	case s.granted:
		d.since = s.now.Add(-s.timing.Settle) // the scheduler knows by now
	}
	if s.asked && s.now.Sub(d.since) > s.timing.Deadline && s.stuck(possible) {
		return s.timedOut(possible, never)
	}
	if s.current == v1.StateDraining && s.now.Sub(s.since) >= s.timing.Settle {
		d.evict = s.toEvict(possible)
	}
	if len(s.refused) > 0 {
		d.reason = reasonDrainRefused
	}
	d.message = strings.Join(append([]string{s.describe(possible)}, never...), "; ")
	return d
}

// stuck tells whether waiting longer is of no use: pods that are being deleted get their time to end.
func (s *situation) stuck(possible []step) bool {
	for _, st := range possible {
		for _, key := range st.pods {
			v, there := s.pods[key]
			if there && !v.deleted.IsZero() && s.now.Sub(v.deleted) <= s.timing.Deadline && len(s.refused) == 0 {
				return false
			}
		}
	}
	return true
}

func (s *situation) timedOut(possible []step, never []string) decision {
	m := marks{current: v1.StateIdle, timeouts: s.timeouts + 1}
	m.again = s.now.Add(s.timing.backoff(m.timeouts))
	text := fmt.Sprintf("nothing has moved for %s, so VFs are offered again; the next try is at %s; %s",
		s.timing.Deadline, m.again.UTC().Format(time.RFC3339), s.describe(possible))
	return decision{marks: m, reason: reasonDrainTimedOut, message: strings.Join(append([]string{text}, never...),
		"; "), after: m.again.Sub(s.now)}
}

// toEvict lists the pods to ask to leave: not before the agent offers their VFs to nobody else, and
// not those that are leaving. A pod younger than two looks of the agent, each 30 seconds after the
// other, may be the namesake of one that is gone.
func (s *situation) toEvict(possible []step) (out []string) {
	for _, st := range possible {
		if s.offered[st.pci] {
			continue
		}
		for _, key := range st.pods {
			v, there := s.pods[key]
			young := v.created.After(s.since) && s.now.Sub(v.created) < 4*s.timing.Settle
			if there && !v.ending && !young && !slices.Contains(out, key) {
				out = append(out, key)
			}
		}
	}
	slices.Sort(out)
	return out
}

// describe says which pods are in the way of what, and how each stands.
func (s *situation) describe(steps []step) string {
	var out []string
	for _, st := range steps {
		line := fmt.Sprintf("%s on %s waits for ", st.change, st.pci)
		if len(st.pods) == 0 {
			out = append(out, line+"pods that are not known at the moment")
			continue
		}
		var pods []string
		for _, key := range st.pods {
			pods = append(pods, key+s.standing(st, key))
		}
		out = append(out, line+strings.Join(cut(pods), ", "))
	}
	if len(out) == 0 {
		return "the agent has not yet said what the pods are in the way of"
	}
	return strings.Join(out, "; ")
}

func (s *situation) standing(st step, key string) string {
	v, there := s.pods[key]
	switch {
	case s.pods == nil:
		return ""
	case s.refused[key] != "":
		return " (" + s.refused[key] + ")"
	case !there:
		return " (gone)"
	case v.ending:
		return " (ending)"
	case s.current == v1.StateDraining && s.offered[st.pci]:
		return " (not evicted before the agent offers its card's VFs to nobody else)"
	}
	return ""
}

// quota is how many nodes of a set may be drained at once.
type quota struct {
	limit int
	text  string // where that is said
}

// quotaOf finds the configuration that counts for a node, the first in order of name, and what it
// allows. all are the labels of every managed node.
func quotaOf(configs []v1.SriovNetworkPoolConfig, node map[string]string, all []map[string]string) (name string,
	q quota) {
	ordered := slices.Clone(configs)
	slices.SortFunc(ordered, func(a, b v1.SriovNetworkPoolConfig) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range ordered {
		selector, err := selectorOf(&c)
		if err != nil || c.DeletionTimestamp != nil || !selector.Matches(labels.Set(node)) {
			continue
		}
		selected := 0
		for _, l := range all {
			if selector.Matches(labels.Set(l)) {
				selected++
			}
		}
		limit := atOnce(c.Spec.MaxUnavailable, selected)
		return c.Name,
			quota{limit,
				fmt.Sprintf("SriovNetworkPoolConfig %s lets %d of its %d nodes be drained at once (maxUnavailable)",
					c.Name, limit, selected)}
	}
	return "", quota{1, "one node is drained at a time (no SriovNetworkPoolConfig selects the node)"}
}

func selectorOf(c *v1.SriovNetworkPoolConfig) (labels.Selector, error) {
	if c.Spec.NodeSelector == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(c.Spec.NodeSelector)
}

// atOnce is maxUnavailable as a number: a percentage of few nodes still lets one go.
func atOnce(maxUnavailable *intstr.IntOrString, selected int) int {
	if maxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(maxUnavailable, selected, false)
	switch {
	case err != nil || n < 0:
		return 1 // the schema refuses it
	case n == 0 && maxUnavailable.Type == intstr.String && maxUnavailable.StrVal != "0%":
		return 1
	}
	return n
}

// stillOffered are the cards of which the agent offers VFs that pods in the way use: it has not
// heard of the drain yet.
func stillOffered(state *v1.SriovNetworkNodeState, steps []step) map[string]bool {
	out := map[string]bool{}
	for _, st := range steps {
		for _, pf := range state.Status.Interfaces {
			out[st.pci] = out[st.pci] || strings.EqualFold(pf.PciAddress, st.pci) && slices.ContainsFunc(pf.VFs,
				func(vf v1.VirtualFunction) bool {
					return vf.Resource != "" && slices.Contains(st.pods, vf.Pod)
				})
		}
	}
	return out
}

func drainedReason(state *v1.SriovNetworkNodeState) string {
	if c := meta.FindStatusCondition(state.Status.Conditions, v1.ConditionDrained); c != nil {
		return c.Reason
	}
	return ""
}
