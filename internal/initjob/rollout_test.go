// SPDX-License-Identifier: Apache-2.0

package initjob

import (
	"errors"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func daemonSet(generation int64, status appsv1.DaemonSetStatus) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Generation: generation},
		Spec: appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(2))},
		}},
		Status: status,
	}
}

func agent(name, node string, ready bool, waiting string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	if waiting != "" {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: waiting}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				Message: "no /sys\n"}},
		}}
	}
	return p
}

func TestAgentsState(t *testing.T) {
	status := func(desired, updated, ready int32) appsv1.DaemonSetStatus {
		return appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: desired,
			UpdatedNumberScheduled: updated, NumberReady: ready}
	}
	tests := map[string]struct {
		generation   int64
		status       appsv1.DaemonSetStatus
		pods         []corev1.Pod
		unreadyNodes map[string]bool
		wantNote     string
		wantErr      string
		wantRolling  bool
	}{
		"all ready": {1, status(2, 2, 2), []corev1.Pod{agent("a", "n1", true, ""), agent("b", "n2", true, "")},
			nil, "2 of 2 agents ready", "", false},
		"no node matches": {1, status(0, 0, 0), nil, nil, "0 of 0 agents ready", "", false},
		"not looked at":   {2, status(2, 2, 2), nil, nil, "", "has not looked at it", false},
		"one crashes": {1, status(2, 2, 1), []corev1.Pod{agent("a", "n1", true, ""),
			agent("b", "n2", false, "CrashLoopBackOff")}, nil, "", "b on n2: CrashLoopBackOff; it ended with: no /sys",
			false},
		"not yet created": {1, status(2, 1, 1), []corev1.Pod{agent("a", "n1", true, "")}, nil, "",
			"of 2 agents 1 are new and 1 are ready", false},
		"node is not ready": {1, status(2, 2, 1), []corev1.Pod{agent("a", "n1", true, ""), agent("b", "n2", false, "")},
			map[string]bool{"n2": true}, "not waited for on nodes that are not ready: n2", "", false},
		"long rollout": {1, status(1000, 40, 998), []corev1.Pod{agent("a", "n1", false, ""),
			agent("b", "n2", false, "")}, nil, "", "of 1000 agents 40 are new", true},
		"broken rollout": {1, status(1000, 40, 900), []corev1.Pod{agent("a", "n1", false, "")}, nil, "",
			"900 are ready", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			note, err := agentsState(daemonSet(tt.generation, tt.status), tt.pods, tt.unreadyNodes)
			if tt.wantErr == "" && (err != nil || !strings.Contains(note, tt.wantNote)) {
				t.Errorf("note %q, error %v; want %q", note, err, tt.wantNote)
			}
			if tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("error %v, want one with %q", err, tt.wantErr)
			}
			if rolling := (rollingError{}); errors.As(err, &rolling) != tt.wantRolling {
				t.Errorf("a rollout that goes on: %t, want %t", !tt.wantRolling, tt.wantRolling)
			}
		})
	}
}

func TestDetailIsBounded(t *testing.T) {
	got := detail(strings.Fields("a b c d e f g"))
	if want := " (a; b; c; d; e; and 2 more)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDeploymentState(t *testing.T) {
	status := func(observed int64, replicas, updated, available int32) appsv1.DeploymentStatus {
		return appsv1.DeploymentStatus{ObservedGeneration: observed, Replicas: replicas, UpdatedReplicas: updated,
			AvailableReplicas: available}
	}
	for name, tt := range map[string]struct {
		status appsv1.DeploymentStatus
		done   bool
	}{
		"done":          {status(2, 1, 1, 1), true},
		"not looked at": {status(1, 1, 1, 1), false},
		"old pod left":  {status(2, 2, 1, 2), false},
		"not available": {status(2, 1, 1, 0), false},
		"not started":   {status(2, 0, 0, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2},
				Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](1)}, Status: tt.status}
			if _, err := deploymentState(d); (err == nil) != tt.done {
				t.Errorf("error %v, want done %t", err, tt.done)
			}
		})
	}
}
