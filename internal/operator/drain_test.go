// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/testapi"
)

// pod makes a running pod on a node. Without a kubelet, one that is deleted stays until end takes it away.
func (r *rig) pod(node, name string) {
	r.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	must(r.t, r.Create(context.Background(), pod))
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	must(r.t, r.Status().Update(context.Background(), pod))
	r.t.Cleanup(func() { r.end(name) })
}

func (r *rig) end(name string) {
	r.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	must(r.t, client.IgnoreNotFound(r.Delete(context.Background(), pod, client.GracePeriodSeconds(0))))
}

// ending tells whether a pod is being deleted, or gone.
func (r *rig) ending(name string) bool {
	r.t.Helper()
	pod := &corev1.Pod{}
	err := r.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: name}, pod)
	must(r.t, client.IgnoreNotFound(err))
	return apierrors.IsNotFound(err) || pod.DeletionTimestamp != nil
}

func (r *rig) waitDrain(node, current, reason string, parts ...string) *v1.SriovNetworkNodeState {
	r.t.Helper()
	return r.waitState(node, func(s *v1.SriovNetworkNodeState) string {
		c := meta.FindStatusCondition(s.Status.Conditions, v1.ConditionDrained)
		if s.Annotations[v1.AnnotationCurrentState] != current || c == nil || c.Reason != reason ||
			(c.Status == metav1.ConditionTrue) != (reason == reasonDrained) {
			return fmt.Sprintf("annotations %v, condition %+v; want %s, %s", s.Annotations, c, current, reason)
		}
		for _, part := range parts {
			if !strings.Contains(c.Message, part) {
				return fmt.Sprintf("message lacks %q: %s", part, c.Message)
			}
		}
		return ""
	})
}

// waiting is what an agent reports whose card's VFs these pods use.
func waiting(offered bool, pods ...string) v1.SriovNetworkNodeStateStatus {
	pf := guideCard(4, 4)
	pf.Managed = false // no policy is there, and the operator is not to ask for the VFs' removal
	change := v1.PlannedChange{PciAddress: pf.PciAddress, Change: "numVfs 4 -> 12", Blocked: "in use", InUse: true}
	for i, pod := range pods {
		pf.VFs[i].Pod = "default/" + pod
		change.WaitsFor = append(change.WaitsFor, "default/"+pod)
	}
	for i := range pf.VFs {
		if !offered {
			pf.VFs[i].Resource = ""
		}
	}
	return v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{pf}, SyncStatus: v1.SyncStatusInProgress,
		Plan: []v1.PlannedChange{change}}
}

var done = v1.SriovNetworkNodeStateStatus{SyncStatus: v1.SyncStatusSucceeded}

func (r *rig) setDrain(disable bool) {
	r.t.Helper()
	config := &v1.SriovOperatorConfig{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
	if client.IgnoreNotFound(r.Delete(context.Background(), config)) == nil {
		r.t.Cleanup(func() { must(r.t, client.IgnoreNotFound(r.Delete(context.Background(), config))) })
	}
	config = &v1.SriovOperatorConfig{ObjectMeta: config.ObjectMeta,
		Spec: v1.SriovOperatorConfigSpec{DisableDrain: &disable}}
	config.ResourceVersion = ""
	must(r.t, r.Create(context.Background(), config))
}

func (r *rig) wantEvent(object, reason string) {
	r.t.Helper()
	r.wait("event "+reason+" of "+object, func() string {
		var found corev1.EventList
		must(r.t, r.List(context.Background(), &found))
		if !slices.ContainsFunc(found.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == object &&
				e.Reason == reason
		}) {
			return fmt.Sprintf("%d events, none of it", len(found.Items))
		}
		return ""
	})
}

var quick = DrainTiming{Deadline: 2 * time.Second, Settle: time.Millisecond, Poll: 50 * time.Millisecond}

func TestDrain(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, Drain: quick})
	for _, node := range []string{"drain-a", "drain-b"} {
		r.addNode(node, linux)
	}
	r.pod("drain-a", "user-a")
	r.pod("drain-a", "bystander") // uses another card, or none
	r.pod("drain-b", "user-b")
	r.report("drain-a", waiting(true, "user-a"))
	r.report("drain-b", waiting(true, "user-b"))

	r.setDrain(true)
	time.Sleep(300 * time.Millisecond) // nothing is to happen, and nothing tells when it has not
	for _, node := range []string{"drain-a", "drain-b"} {
		if s := r.waitState(node, always); s.Annotations[v1.AnnotationCurrentState] != v1.StateIdle ||
			drainedReason(s) != "" {
			t.Errorf("drained although disableDrain is true: %v, %s", s.Annotations, drainedReason(s))
		}
	}

	r.setDrain(false)
	state := r.waitDrain("drain-a", v1.StateDraining, reasonDraining, "numVfs 4 -> 12 on 0000:86:00.0",
		"default/user-a", "not evicted before")
	if got := state.Annotations[v1.AnnotationDesiredState]; got != v1.StateDrainRequired {
		t.Errorf("desired state %s", got)
	}
	r.waitDrain("drain-b", v1.StateIdle, reasonDrainPending, "one node is drained at a time", "default/user-b")
	if r.ending("user-a") {
		t.Error("evicted while the agent still offers VFs of the card")
	}

	r.report("drain-a", waiting(false, "user-a"))
	r.wait("the eviction", func() string { return map[bool]string{false: "not evicted"}[r.ending("user-a")] })
	r.waitDrain("drain-a", v1.StateDraining, reasonDraining, "default/user-a (ending)")
	if r.ending("bystander") || r.ending("user-b") {
		t.Error("a pod that is not in the way was evicted")
	}
	r.wantEvent("user-a", reasonDraining)
	r.wantEvent("drain-a", reasonDraining)
	r.wantEvent("drain-b", reasonDrainPending)

	r.end("user-a")
	working := waiting(false)
	working.Plan = []v1.PlannedChange{{PciAddress: "0000:86:00.0", Change: "numVfs 4 -> 12"}}
	r.report("drain-a", working)
	r.waitDrain("drain-a", v1.StateDrainComplete, reasonDrained, "the agent is at work")
	if s := r.waitState("drain-b", always); s.Annotations[v1.AnnotationCurrentState] != v1.StateIdle {
		t.Error("the next node is drained before this one is back")
	}
	r.report("drain-a", done)
	r.waitDrain("drain-a", v1.StateIdle, reasonDrained)
	r.wantEvent("drain-a", reasonDrained)

	r.waitDrain("drain-b", v1.StateDraining, reasonDraining)
	r.setDrain(true)
	r.waitDrain("drain-b", v1.StateIdle, reasonDrainStopped, "spec.disableDrain")
	r.report("drain-b", waiting(false, "user-b"))
	time.Sleep(300 * time.Millisecond)
	if r.ending("user-b") {
		t.Error("evicted after the drain was stopped")
	}
}

// Budgets are respected; a drain that they hold up ends in time, says which budget it is, and is tried again.
func TestDrainMeetsBudget(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, Drain: quick})
	r.addNode("budget-a", linux)
	r.pod("budget-a", "guarded")
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keep-one"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}},
	}
	must(t, r.Create(t.Context(), budget))
	t.Cleanup(func() { must(t, client.IgnoreNotFound(r.Delete(context.Background(), budget))) })
	allow := func(n int32) { // as the disruption controller does
		before := budget.DeepCopy()
		budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DisruptionsAllowed: n,
			CurrentHealthy: 1 + n, DesiredHealthy: 1, ExpectedPods: 1 + n}
		must(t, r.Status().Patch(context.Background(), budget, client.MergeFrom(before)))
	}
	allow(0)
	r.setDrain(false)
	r.report("budget-a", waiting(false, "guarded"))
	r.waitDrain("budget-a", v1.StateDraining, reasonDrainRefused,
		"default/guarded (refused by its PodDisruptionBudget: The disruption budget keep-one needs 1 healthy pods")
	state := r.waitDrain("budget-a", v1.StateIdle, reasonDrainTimedOut, "VFs are offered again", "default/guarded",
		"keep-one", "the next try is at")
	if r.ending("guarded") || marksOf(state).timeouts != 1 {
		t.Errorf("guarded: %t, annotations %v", r.ending("guarded"), state.Annotations)
	}
	r.wantEvent("budget-a", reasonDrainRefused)
	r.wantEvent("budget-a", reasonDrainTimedOut)

	allow(1)
	r.wait("the next try", func() string { return map[bool]string{false: "not evicted"}[r.ending("guarded")] })
	r.end("guarded")
	r.report("budget-a", done)
	state = r.waitDrain("budget-a", v1.StateIdle, reasonDrained)
	if m := marksOf(state); m != (marks{current: v1.StateIdle}) {
		t.Errorf("marks are left: %+v", m)
	}
}

func TestDrainSparesStaticPods(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, Drain: quick})
	r.addNode("static-a", linux)
	r.pod("static-a", "other")
	mirror := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mirror-static-a",
			Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}},
		Spec: corev1.PodSpec{NodeName: "static-a", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	must(t, r.Create(t.Context(), mirror))
	t.Cleanup(func() { r.end(mirror.Name) })
	r.setDrain(false)
	r.report("static-a", waiting(false, "other", mirror.Name))
	r.waitDrain("static-a", v1.StateIdle, reasonDrainRefused, "default/mirror-static-a cannot be evicted")
	r.wantEvent("static-a", reasonDrainRefused)
	if r.ending("other") {
		t.Error("a pod was evicted in vain")
	}
}

// The agent's conditions and the operator's are in one list; neither takes the other's back,
// whoever writes last.
func TestConditionsOfTwoWriters(t *testing.T) {
	api := testapi.Start(t)
	r := &rig{t: t, Client: api.Client(t)}
	object := &v1.SriovNetworkNodeState{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "writers-a"}}
	must(t, r.Create(t.Context(), object))
	t.Cleanup(func() { must(t, r.Delete(context.Background(), object)) })
	agent := func(reason string) {
		state := r.waitState("writers-a", always)
		before := state.DeepCopy()
		meta.SetStatusCondition(&state.Status.Conditions, metav1.Condition{Type: v1.ConditionReady,
			Status: metav1.ConditionFalse, Reason: reason})
		must(t, r.Status().Patch(t.Context(), state, client.MergeFromWithOptions(before,
			client.MergeFromWithOptimisticLock{})))
	}
	for i := range 5 {
		state := r.waitState("writers-a", always)
		agent(fmt.Sprintf("Pass%d", i))
		// applied from a copy that is older than the agent's last write
		old := state.DeepCopy()
		must(t, applyCondition(t.Context(), r.Client, state, "spiderpool-drain",
			metav1.Condition{Type: v1.ConditionDrained, Status: metav1.ConditionFalse,
				Reason: fmt.Sprintf("Look%d", i)}))
		must(t, applyCondition(t.Context(), r.Client, state, "spiderpool-guids",
			metav1.Condition{Type: v1.ConditionGuidsUnique, Status: metav1.ConditionFalse,
				Reason: fmt.Sprintf("Look%d", i)}))
		late := old.DeepCopy()
		meta.SetStatusCondition(&late.Status.Conditions, metav1.Condition{Type: v1.ConditionReady,
			Status: metav1.ConditionFalse, Reason: "Late"})
		if err := r.Status().Patch(t.Context(), late, client.MergeFromWithOptions(old,
			client.MergeFromWithOptimisticLock{})); !apierrors.IsConflict(err) {
			t.Fatalf("an agent that does not know the operator's conditions wrote over them: %v", err)
		}
		got := map[string]string{}
		for _, c := range r.waitState("writers-a", always).Status.Conditions {
			got[c.Type] = c.Reason
		}
		if got[v1.ConditionReady] != fmt.Sprintf("Pass%d", i) || got[v1.ConditionDrained] != fmt.Sprintf("Look%d", i) ||
			got[v1.ConditionGuidsUnique] != fmt.Sprintf("Look%d", i) {
			t.Fatalf("round %d: %v", i, got)
		}
	}
}

func TestMaxUnavailableIsChecked(t *testing.T) {
	c := testapi.Start(t).Client(t)
	for value, good := range map[intstr.IntOrString]bool{
		intstr.FromInt32(0): true, intstr.FromInt32(3): true, intstr.FromString("25%"): true,
		intstr.FromInt32(-1): false, intstr.FromString("3"): false, intstr.FromString("many"): false,
	} {
		config := &v1.SriovNetworkPoolConfig{ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
			GenerateName: "limit-"}, Spec: v1.SriovNetworkPoolConfigSpec{MaxUnavailable: &value}}
		err := c.Create(t.Context(), config)
		if good != (err == nil) || err != nil && !strings.Contains(err.Error(), "want a number of nodes from 0 on") {
			t.Errorf("maxUnavailable %s: %v", value.String(), err)
		}
		if err == nil {
			must(t, c.Delete(t.Context(), config))
		}
	}
}

// TestUpstreamExports admits objects as sriov-network-operator stores and exports them, with the empty
// fields that its types always write, and refuses what asks for Open vSwitch.
func TestUpstreamExports(t *testing.T) {
	c := testapi.Start(t).Client(t)
	const policy = `{"apiVersion": "sriovnetwork.openshift.io/v1", "kind": "SriovNetworkNodePolicy",
"metadata": {"name": "upstream-export", "namespace": "default"},
"spec": {"bridge": %s, "deviceType": "netdevice", "isRdma": true, "linkType": "ib", "nicSelector": {"vendor": "15b3"},
"nodeSelector": {"kubernetes.io/os": "linux"}, "numVfs": 8, "priority": 99, "resourceName": "ib"}}`
	const config = `{"apiVersion": "sriovnetwork.openshift.io/v1", "kind": "SriovNetworkPoolConfig",
"metadata": {"name": "upstream-export", "namespace": "default"},
"spec": {"maxUnavailable": 1, "nodeSelector": {}, "ovsHardwareOffloadConfig": %s}}`
	for _, tt := range []struct{ object, want string }{
		{fmt.Sprintf(policy, `{}`), ""},
		{fmt.Sprintf(policy, `{"ovs": {}}`), "remove spec.bridge.ovs"},
		{fmt.Sprintf(policy, `{"ovs": {"bridge": {"datapathType": "netdev"}}}`), "remove spec.bridge.ovs"},
		{fmt.Sprintf(config, `{}`), ""},
		{fmt.Sprintf(config, `{"name": ""}`), ""},
		{fmt.Sprintf(config, `{"name": "worker"}`), "remove spec.ovsHardwareOffloadConfig"},
	} {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON([]byte(tt.object)); err != nil {
			t.Fatal(err)
		}
		// Strict, as kubectl's requests are: an unknown field is an error.
		err := client.WithFieldValidation(c, metav1.FieldValidationStrict).Create(t.Context(), o, client.DryRunAll)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.object, err, tt.want)
		}
	}
}
