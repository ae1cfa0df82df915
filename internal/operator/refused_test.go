// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refusedPod makes a pod that a controller owns and that its kubelet refused, apart from what the
// change says.
func (r *rig) refusedPod(name string, change func(*corev1.Pod)) *corev1.Pod {
	r.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "job-server", UID: types.UID("owner-of-" + name),
				Controller: new(true)},
		}},
		Spec: corev1.PodSpec{NodeName: "rebooted",
			Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{"spidernet.io/mellanoxibsriov": resource.MustParse("1")},
			}}}},
		Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: refusedByKubelet,
			Message: "Allocate failed due to no healthy devices present"},
	}
	change(pod)
	status := pod.Status
	must(r.t, r.Create(context.Background(), pod))
	pod.Status = status
	must(r.t, r.Status().Update(context.Background(), pod))
	r.t.Cleanup(func() { r.end(name) })
	return pod
}

func TestRefusedPodsAreRemoved(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, ResourcePrefix: "spidernet.io"})
	kept := map[string]func(*corev1.Pod){
		"nobodys": func(p *corev1.Pod) { p.OwnerReferences = nil },
		"owned":   func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, // but nobody makes another
		"others": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1")}
		},
		"alike": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"spidernet.iota/x": resource.MustParse("1")}
		},
		"crashed":  func(p *corev1.Pod) { p.Status.Reason, p.Status.Message = "Error", "exit status 1" },
		"evicted":  func(p *corev1.Pod) { p.Status.Reason = "Evicted" },
		"starting": func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
	}
	for name, change := range kept {
		r.refusedPod(name, change)
	}
	removed := r.refusedPod("removed", func(*corev1.Pod) {})
	byInit := r.refusedPod("by-init", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{*p.Spec.Containers[0].DeepCopy()}
		p.Spec.InitContainers[0].Name, p.Spec.Containers[0].Resources = "init", corev1.ResourceRequirements{}
	})
	for _, pod := range []*corev1.Pod{removed, byInit} {
		r.wait("the removal of pod "+pod.Name, func() string {
			if err := r.Get(context.Background(), client.ObjectKeyFromObject(pod),
				&corev1.Pod{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("it is there: %v", err)
			}
			return ""
		})
	}
	for name := range kept {
		if r.ending(name) {
			t.Errorf("pod %s was removed", name)
		}
	}
	r.wait("the event that says so", func() string {
		var all eventsv1.EventList
		must(t, r.List(context.Background(), &all, client.InNamespace("default")))
		for _, e := range all.Items {
			if e.Reason == "RefusedPodRemoved" && e.Regarding.UID == removed.UID {
				const want = "the kubelet of node rebooted refused this pod, which asks for " +
					"spidernet.io/mellanoxibsriov, and will not try again; removed, since " +
					"ReplicaSet job-server makes another. The kubelet said: Allocate failed due to no healthy " +
					"devices present"
				if e.Note != want {
					t.Errorf("the event says %q, want %q", e.Note, want)
				}
				return ""
			}
		}
		return fmt.Sprintf("none of %d", len(all.Items))
	})
}
