// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

func TestJudge(t *testing.T) {
	o := Options{}
	o.setDefaults()
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

	type change = func(*evidence)
	lease := func(e *evidence) {
		e.now = now
		e.lease = &v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: ago(time.Hour)},
			Spec: v2beta1.IPLeaseSpec{
				Node: "n1", Pod: &v2beta1.LeasePod{Namespace: "default", Name: "db-1", UID: "u1"},
			}}
	}
	running := func(e *evidence) {
		e.pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"},
			Spec: corev1.PodSpec{Containers: make([]corev1.Container, 1)}}
		e.pod.Status = corev1.PodStatus{Phase: corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{
				{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	}
	ended := func(d time.Duration) change {
		return func(e *evidence) {
			e.pod.Status.ContainerStatuses = []corev1.ContainerStatus{
				{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago(d)}}}}
		}
	}
	phase := func(p corev1.PodPhase) change { return func(e *evidence) { e.pod.Status.Phase = p } }
	terminating := func(d time.Duration) change { return func(e *evidence) { e.pod.DeletionTimestamp = new(ago(d)) } }
	otherUID := func(e *evidence) { e.pod.UID = "u2" }
	static := func(node string) change {
		return func(e *evidence) {
			e.pod.Annotations, e.pod.Spec.NodeName = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}, node
			e.goneSince = now.Add(-time.Hour)
		}
	}
	gone := func(d time.Duration) change {
		return func(e *evidence) { e.pod = nil; e.goneSince = now.Add(-d) }
	}
	owned := func(replicas int32, first int32) change {
		return func(e *evidence) {
			e.lease.Spec.Pod.Owner = &v2beta1.LeaseOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"}
			e.set = &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
				Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}
			if first > 0 {
				e.set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: first}
			}
		}
	}
	tests := []struct {
		name    string
		changes []change
		free    bool
		again   time.Duration
	}{
		{"running", []change{running}, false, 0},
		{"pending", []change{running, phase(corev1.PodPending)}, false, 0},
		{"gone just now", []change{gone(0)}, false, 30 * time.Second},
		{"gone a while", []change{gone(20 * time.Second)}, false, 10 * time.Second},
		{"gone past the grace", []change{gone(30 * time.Second)}, true, 0},
		{"never seen gone before", []change{func(e *evidence) { e.pod = nil }}, false, 30 * time.Second},
		{"another pod of the name",
			[]change{running, otherUID, func(e *evidence) { e.goneSince = now.Add(-time.Minute) }}, true, 0},
		{"static pod whose image was deleted and made again", []change{running, otherUID, static("n1")}, false, 0},
		{"static pod of another node", []change{running, otherUID, static("n2")}, true, 0},
		{"static pod that has ended", []change{running, otherUID, static("n1"), phase(corev1.PodFailed),
			ended(time.Hour)}, true, 0},
		{"finished", []change{running, phase(corev1.PodSucceeded), ended(time.Minute)}, true, 0},
		{"finished just now", []change{running, phase(corev1.PodSucceeded), ended(10 * time.Second)}, false,
			20 * time.Second},
		{"failed, a container still runs", []change{running, phase(corev1.PodFailed)}, false, 0},
		{"evicted before it started", []change{running, phase(corev1.PodFailed),
			func(e *evidence) { e.pod.Status.ContainerStatuses = nil }}, true, 0},
		{"finished, young lease", []change{running, phase(corev1.PodSucceeded), ended(40 * time.Second),
			func(e *evidence) { e.lease.CreationTimestamp = ago(45 * time.Second) }}, false, 15 * time.Second},
		{"all containers ended, but they may start again", []change{running, ended(time.Hour)}, false, 0},
		{"terminating, within its grace", []change{running, terminating(-20 * time.Second), ended(0)}, false,
			50 * time.Second},
		{"terminating past its grace, nothing runs", []change{running, terminating(time.Minute), ended(time.Minute)},
			true, 0},
		{"terminating past its grace, node silent", []change{running, terminating(time.Hour)}, false, 0},
		{"terminating, a container was never reported", []change{running, terminating(time.Hour),
			func(e *evidence) { e.pod.Status.ContainerStatuses = nil }}, false, 0},
		{"StatefulSet keeps it", []change{owned(2, 0), gone(time.Hour)}, false, 0},
		{"StatefulSet scaled down", []change{owned(1, 0), gone(time.Hour)}, true, 0},
		{"StatefulSet scaled down, pod still runs", []change{owned(1, 0), running}, false, 0},
		{"StatefulSet counts from one", []change{owned(1, 1), gone(time.Hour)}, false, 0},
		{"StatefulSet counts from two", []change{owned(5, 2), gone(time.Hour)}, true, 0},
		{"StatefulSet gone", []change{owned(2, 0), gone(time.Hour), func(e *evidence) { e.set = nil }}, true, 0},
		{"StatefulSet's new pod is being made", []change{owned(2, 0), running, otherUID, phase(corev1.PodPending),
			func(e *evidence) { e.goneSince = now.Add(-time.Hour) }}, false, 0},
		{"StatefulSet's new pod runs on another address", []change{owned(2, 0), running, otherUID,
			func(e *evidence) { e.goneSince = now.Add(-time.Hour) }}, true, 0},
		{"stock", []change{func(e *evidence) { e.lease.Spec.Pod = nil }}, false, 0},
		{"a virtual machine's pod is gone", []change{func(e *evidence) { e.pod, e.machine = nil, true }}, false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var e evidence
			lease(&e)
			for _, c := range test.changes {
				c(&e)
			}
			v := o.judge(e)
			if e.pod != nil { // the cache holds less of a pod
				stripped, err := StripPod(e.pod)
				if err != nil {
					t.Fatal(err)
				}
				e.pod = stripped.(*corev1.Pod)
				if again := o.judge(e); again != v {
					t.Errorf("of the pod in the cache: %+v, want %+v", again, v)
				}
			}
			if v.free != test.free || v.again != test.again || v.why == "" {
				t.Errorf("got %+v, want free %t, again %s, and a reason", v, test.free, test.again)
			}
		})
	}
}

// What a pod costs in the cache does not grow with its template.
func TestStripPod(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", Labels: map[string]string{"a": "b"},
		Annotations: map[string]string{"note": "long"}}}
	pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "E", Value: "long"}}}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady}}
	got, err := StripPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u"},
		Spec: corev1.PodSpec{Containers: make([]corev1.Container, 1)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if pod.Spec.Containers[0].Image != "i" {
		t.Error("the object itself was changed")
	}
}
