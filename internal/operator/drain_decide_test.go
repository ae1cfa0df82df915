// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

var noon = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

// draining is a node in the midst of a drain: the agent withholds the VFs, and two pods are in the way.
func draining(changes ...func(*situation)) situation {
	s := situation{
		marks: marks{current: v1.StateDraining, since: ago(time.Minute)}, timing: DrainTiming{}.withDefaults(),
		now:     noon,
		enabled: true, turn: true, fresh: true, busy: true, told: reasonDraining,
		steps:   []step{{pci: "0000:86:00.0", change: "numVfs 4 -> 12", pods: []string{"default/a", "default/b"}}},
		pods:    map[string]podView{"default/a": {created: ago(time.Hour)}, "default/b": {created: ago(time.Hour)}},
		offered: map[string]bool{}, refused: map[string]string{}, queue: "one node at a time",
	}
	for _, change := range changes {
		change(&s)
	}
	return s
}

func TestDecideDrain(t *testing.T) {
	idle := func(s *situation) { s.marks, s.told = marks{current: v1.StateIdle}, "" }
	gone := func(s *situation) { s.steps = nil }
	asked := func(s *situation) { s.asked = true }
	long := func(s *situation) { s.since = ago(11 * time.Minute) }
	refuse := func(s *situation) {
		s.refused["default/a"] = "refused by its PodDisruptionBudget: The disruption budget web needs 2"
	}
	tests := []struct {
		name    string
		s       situation
		current string
		reason  string
		evict   string
		parts   []string
	}{
		{"begins", draining(idle), v1.StateDraining, reasonDraining, "",
			[]string{"numVfs 4 -> 12 on 0000:86:00.0 waits for default/a, default/b"}},
		{"evicts", draining(), v1.StateDraining, reasonDraining, "default/a default/b", nil},
		{"not before the scheduler knows", draining(func(s *situation) { s.since = ago(14 * time.Second) }),
			v1.StateDraining, reasonDraining, "", nil},
		{"not before the agent withholds", draining(func(s *situation) { s.offered["0000:86:00.0"] = true }),
			v1.StateDraining, reasonDraining, "",
			[]string{"not evicted before the agent offers"}},
		{"not what is ending",
			draining(func(s *situation) { s.pods["default/a"] = podView{ending: true, deleted: noon} }),
			v1.StateDraining, reasonDraining, "default/b", []string{"default/a (ending)"}},
		{"not what is gone", draining(func(s *situation) { delete(s.pods, "default/a") }), v1.StateDraining,
			reasonDraining, "default/b", []string{"default/a (gone)"}},
		{"not a namesake that has just come",
			draining(func(s *situation) { s.pods["default/a"] = podView{created: ago(30 * time.Second)} }),
			v1.StateDraining, reasonDraining, "default/b", nil},
		{"not with a static pod", draining(func(s *situation) { s.pods["default/a"] = podView{static: true} }),
			v1.StateIdle, reasonDrainRefused, "",
			[]string{"default/a cannot be evicted", "staticPodPath"}},
		{"another card's static pod", draining(func(s *situation) {
			s.steps = append(s.steps, step{pci: "0000:87:00.0", change: "numVfs 1 -> 2",
				pods: []string{"kube-system/static"}})
			s.pods["kube-system/static"] = podView{static: true}
		}), v1.StateDraining, reasonDraining, "default/a default/b", []string{"kube-system/static cannot be evicted"}},
		{"refused", draining(asked, refuse), v1.StateDraining, reasonDrainRefused, "default/a default/b",
			[]string{"default/a (refused by its PodDisruptionBudget: The disruption budget web needs 2)"}},
		{"refused for long", draining(asked, refuse, long), v1.StateIdle, reasonDrainTimedOut, "",
			[]string{"the next try is at 2026-08-01T12:10:00Z", "disruption budget web"}},
		{"refused for long, but one has just been granted",
			draining(asked, refuse, long, func(s *situation) { s.granted = true }), v1.StateDraining,
			reasonDrainRefused, "default/a default/b", nil},
		{"tried anew before it times out", draining(long), v1.StateDraining, reasonDraining, "default/a default/b",
			nil},
		{"all are ending, in the time that they have", draining(asked, long, func(s *situation) {
			for key := range s.pods {
				s.pods[key] = podView{ending: true, deleted: noon.Add(time.Hour)}
			}
		}), v1.StateDraining, reasonDraining, "", nil},
		{"one does not end", draining(asked, long, func(s *situation) {
			for key := range s.pods {
				s.pods[key] = podView{ending: true, deleted: ago(11 * time.Minute)}
			}
		}), v1.StateIdle, reasonDrainTimedOut, "", []string{"default/a (ending)"}},
		{"the agent is silent", draining(asked, long, func(s *situation) { s.fresh, s.steps = false, nil }),
			v1.StateIdle, reasonDrainTimedOut, "", []string{"agent has not yet said"}},
		{"the agent has yet to plan", draining(func(s *situation) { s.fresh, s.steps = false, nil }), v1.StateDraining,
			reasonDraining, "", nil},
		{"who is in the way is not known now", draining(func(s *situation) { s.steps[0].pods = nil }), v1.StateDraining,
			reasonDraining, "", []string{"not known at the moment"}},
		{"rests after a time-out", draining(idle, func(s *situation) {
			s.again, s.timeouts = noon.Add(time.Minute),
				1
		}), v1.StateIdle, "", "", nil},
		{"again after the rest", draining(idle, func(s *situation) { s.again, s.timeouts = noon, 1 }), v1.StateDraining,
			reasonDraining, "", nil},
		{"not its turn", draining(idle, func(s *situation) { s.turn = false }), v1.StateIdle, reasonDrainPending, "",
			[]string{"one node at a time", "default/a"}},
		{"its turn is taken back", draining(func(s *situation) { s.turn = false }), v1.StateIdle, reasonDrainPending,
			"", nil},
		{"switched off", draining(func(s *situation) { s.enabled = false }), v1.StateIdle, reasonDrainStopped, "",
			[]string{"spec.disableDrain"}},
		{"never switched on", draining(idle, func(s *situation) { s.enabled = false }), v1.StateIdle, "", "", nil},
		{"the pods are gone", draining(gone), v1.StateDrainComplete, reasonDrained, "",
			[]string{"the agent is at work"}},
		{"all is done", draining(gone, func(s *situation) { s.busy = false }), v1.StateIdle, reasonDrained, "", nil},
		{"all is done, switched off", draining(gone, func(s *situation) { s.enabled, s.busy = false, false }),
			v1.StateIdle, reasonDrained, "", nil},
		{"nothing was ever in the way", draining(idle, gone), v1.StateIdle, "", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := decideDrain(tt.s)
			if d.current != tt.current || d.reason != tt.reason || strings.Join(d.evict, " ") != tt.evict {
				t.Errorf("state %s, reason %q, evict %q; want %s, %q, %q (%s)", d.current, d.reason, d.evict,
					tt.current, tt.reason, tt.evict, d.message)
			}
			for _, part := range tt.parts {
				if !strings.Contains(d.message, part) {
					t.Errorf("message lacks %q: %s", part, d.message)
				}
			}
			if d.active() && d.after == 0 {
				t.Error("a drain is never looked at again")
			}
		})
	}
}

func TestDrainBackoff(t *testing.T) {
	s := draining(func(s *situation) { s.asked, s.since = true, ago(time.Hour) })
	var waits []float64
	for range 6 {
		d := decideDrain(s)
		waits = append(waits, d.again.Sub(noon).Minutes())
		s.timeouts = d.timeouts
	}
	if want := []float64{10, 20, 40, 80, 80, 80}; !slices.Equal(waits, want) {
		t.Errorf("rests of %v minutes, want %v", waits, want)
	}
}

// What annotations say is what they were made of.
func TestMarksSurvive(t *testing.T) {
	for _, m := range []marks{
		{current: v1.StateIdle}, {current: v1.StateDraining, since: noon}, {current: v1.StateDrainComplete, since: noon,
			again: noon, timeouts: 2}, {current: v1.StateIdle, again: noon, timeouts: 1},
	} {
		if got := marksOf(&v1.SriovNetworkNodeState{
			ObjectMeta: metav1.ObjectMeta{Annotations: m.annotations()}}); got != m {
			t.Errorf("got %+v, want %+v", got, m)
		}
	}
}

func TestQuota(t *testing.T) {
	worker, other := map[string]string{"role": "worker"}, map[string]string{"role": "other"}
	all := []map[string]string{worker, worker, worker, worker, other}
	config := func(name string, value any) v1.SriovNetworkPoolConfig {
		c := v1.SriovNetworkPoolConfig{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1.SriovNetworkPoolConfigSpec{NodeSelector: &metav1.LabelSelector{MatchLabels: worker}}}
		switch v := value.(type) {
		case int:
			c.Spec.MaxUnavailable = new(intstr.FromInt32(int32(v)))
		case string:
			c.Spec.MaxUnavailable = new(intstr.FromString(v))
		}
		return c
	}
	tests := []struct {
		name    string
		configs []v1.SriovNetworkPoolConfig
		node    map[string]string
		group   string
		limit   int
	}{
		{"none", nil, worker, "", 1},
		{"none for this node", []v1.SriovNetworkPoolConfig{config("a", 3)}, other, "", 1},
		{"a number", []v1.SriovNetworkPoolConfig{config("a", 3)}, worker, "a", 3},
		{"none at all", []v1.SriovNetworkPoolConfig{config("a", 0)}, worker, "a", 0},
		{"absent", []v1.SriovNetworkPoolConfig{config("a", nil)}, worker, "a", 1},
		{"a part, rounded down", []v1.SriovNetworkPoolConfig{config("a", "74%")}, worker, "a", 2},
		{"a part of few is one", []v1.SriovNetworkPoolConfig{config("a", "10%")}, worker, "a", 1},
		{"no part", []v1.SriovNetworkPoolConfig{config("a", "0%")}, worker, "a", 0},
		{"the first in order of name", []v1.SriovNetworkPoolConfig{config("b", 3), config("a", 2)}, worker, "a", 2},
	}
	for _, tt := range tests {
		if group, q := quotaOf(tt.configs, tt.node, all); group != tt.group || q.limit != tt.limit {
			t.Errorf("%s: %q, %+v; want %q, %d", tt.name, group, q, tt.group, tt.limit)
		}
	}
}

func TestUsedSteps(t *testing.T) {
	doable := v1.PlannedChange{PciAddress: "0000:86:00.0", Change: "numVfs 0 -> 12"}
	used := v1.PlannedChange{PciAddress: "0000:86:00.0", Change: "numVfs 4 -> 12", Blocked: "in use", InUse: true,
		WaitsFor: []string{"default/a"}}
	stranger := v1.PlannedChange{PciAddress: "0000:87:00.0", Change: "numVfs 4 -> 12",
		Blocked: "in use by something that is no known pod"}
	tests := []struct {
		name  string
		sync  string
		plan  []v1.PlannedChange
		steps int
		busy  bool
	}{
		{"nothing left", v1.SyncStatusSucceeded, nil, 0, false},
		{"at work", v1.SyncStatusInProgress, []v1.PlannedChange{doable}, 0, true},
		{"pods in the way", v1.SyncStatusInProgress, []v1.PlannedChange{used}, 1, false},
		{"both", v1.SyncStatusInProgress, []v1.PlannedChange{used, doable}, 1, true},
		{"for ever in the way", v1.SyncStatusInProgress, []v1.PlannedChange{stranger}, 0, false},
		{"a step that fails", v1.SyncStatusFailed, []v1.PlannedChange{doable}, 0, false},
	}
	for _, tt := range tests {
		steps, busy := usedSteps(&v1.SriovNetworkNodeState{Status: v1.SriovNetworkNodeStateStatus{SyncStatus: tt.sync,
			Plan: tt.plan}})
		if len(steps) != tt.steps || busy != tt.busy {
			t.Errorf("%s: %v, busy %t; want %d, %t", tt.name, steps, busy, tt.steps, tt.busy)
		}
	}
}
