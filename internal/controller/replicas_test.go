// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

// TestLostReplicas plays rounds of answers: which replicas count as lost after each.
func TestLostReplicas(t *testing.T) {
	a, b := replica{uid: "a"}, replica{uid: "b"}
	type round = map[replica]error
	dead := errors.New("i/o timeout")
	for name, c := range map[string]struct {
		rounds []round
		want   []types.UID // after the last round
	}{
		"all answer":     {[]round{{a: nil, b: nil}, {a: nil, b: nil}, {a: nil, b: nil}}, nil},
		"too early":      {[]round{{a: nil, b: dead}, {a: nil, b: dead}}, nil},
		"three in a row": {[]round{{a: nil, b: dead}, {a: nil, b: dead}, {a: nil, b: dead}}, []types.UID{"b"}},
		"answers in between": {[]round{{a: nil, b: dead}, {a: nil, b: dead}, {a: nil, b: nil}, {a: nil, b: dead}},
			nil},
		"nobody answers": {[]round{{a: dead, b: dead}, {a: dead, b: dead}, {a: dead, b: dead}, {a: dead, b: dead}},
			nil},
		"the last one stays": {[]round{{a: dead}, {a: dead}, {a: dead}, {a: dead}}, nil},
		"gone and come back": {[]round{{a: nil, b: dead}, {a: nil, b: dead}, {a: nil}, {a: nil, b: dead}}, nil},
		"long without leader": {[]round{{a: nil, b: dead}, {a: nil, b: dead}, {a: nil, b: dead}, {a: nil, b: dead}},
			[]types.UID{"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := replicas{log: slog.New(slog.DiscardHandler)}
			var lost []types.UID
			for _, answers := range c.rounds {
				lost = nil
				for _, one := range r.count(answers) {
					lost = append(lost, one.uid)
				}
			}
			if diff := cmp.Diff(c.want, lost); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReplicasOnAPI has two pods behind the webhooks' Service, one of which does not answer. Under
// the rights that the chart gives, a leader sets its Ready condition to False, a standby does not,
// and neither could write the status of another pod.
func TestReplicasOnAPI(t *testing.T) {
	api := testapi.Start(t)
	admin := api.Client(t)
	kinds := append(testchart.RBACKinds, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
	testchart.Install(t, admin, testchart.Objects(t, "everything.yaml", kinds...))
	c, err := client.New(testchart.As(api.Config, "spiderpool-controller", ""), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	controllerLabels := map[string]string{"app.kubernetes.io/component": "controller"}
	living, dead := makePod(t, admin, "living", controllerLabels), makePod(t, admin, "dead", controllerLabels)
	other := makePod(t, admin, "other", map[string]string{"app.kubernetes.io/component": "agent"})
	// The API server grants rights, and enforces a policy, some time after they are stored.
	eventually(t, "the rights", func(ctx context.Context) error {
		return c.List(ctx, &discoveryv1.EndpointSliceList{}, client.InNamespace(testchart.Namespace))
	})
	eventually(t, "the policy", func(ctx context.Context) error {
		patch := client.RawPatch(types.StrategicMergePatchType, []byte(`{"status":{"message":"x"}}`))
		err := c.Status().Patch(ctx, other.DeepCopy(), patch, client.DryRunAll)
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "its own replicas' pods") {
			return fmt.Errorf("writing the status of another component's pod: %v", err)
		}
		return nil
	})
	makeSlice(t, admin, map[string]*corev1.Pod{"192.0.2.1": living, "192.0.2.2": dead})

	leads := make(chan struct{})
	r := &replicas{
		client: c, log: slog.New(slog.NewTextHandler(t.Output(), nil)), now: time.Now, isLeader: leads, port: 5722,
		service: types.NamespacedName{Namespace: testchart.Namespace, Name: "spiderpool-controller"},
		dial: func(_ context.Context, address string) error {
			if address == "192.0.2.2:5722" {
				return errors.New("i/o timeout")
			}
			return nil
		},
	}
	rounds := func(n int) {
		t.Helper()
		for range n {
			if err := r.round(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	rounds(probeFailures + 1)
	checkReady(t, admin, dead, corev1.ConditionTrue)
	close(leads) // it has probed before it leads: the first round as leader is enough
	rounds(1)
	checkReady(t, admin, dead, corev1.ConditionFalse)
	checkReady(t, admin, living, corev1.ConditionTrue)

	if err := r.mark(t.Context(), replica{pod: client.ObjectKeyFromObject(other), uid: other.UID}); err == nil {
		t.Error("the controller may write the status of another component's pod")
	}
	checkReady(t, admin, other, corev1.ConditionTrue)
	if err := r.mark(t.Context(), replica{pod: client.ObjectKeyFromObject(living), uid: "another"}); err == nil {
		t.Error("a later pod of the same name was marked")
	}
	if err := r.mark(t.Context(), replica{pod: types.NamespacedName{Namespace: testchart.Namespace,
		Name: "gone"}}); err != nil {
		t.Errorf("a pod that has gone: %v", err)
	}
}

func makePod(t *testing.T, c client.Client, name string, labels map[string]string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: testchart.Namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if err := c.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), p, client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
	})
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if err := c.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// makeSlice plays the endpoint controller, which this API server does not have.
func makeSlice(t *testing.T, c client.Client, pods map[string]*corev1.Pod) {
	t.Helper()
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: testchart.Namespace, Name: "spiderpool-controller-x",
			Labels: map[string]string{discoveryv1.LabelServiceName: "spiderpool-controller"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for address, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	if err := c.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), s); err != nil {
			t.Error(err)
		}
	})
}

func checkReady(t *testing.T, c client.Client, p *corev1.Pod, want corev1.ConditionStatus) {
	t.Helper()
	var now corev1.Pod
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), &now); err != nil {
		t.Fatal(err)
	}
	if got := now.Status.Conditions[0]; got.Status != want {
		t.Errorf("pod %s: %s, expected Ready=%s", p.Name, fmt.Sprint(got), want)
	}
}
