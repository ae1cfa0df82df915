// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spidernet.io/spiderpool/internal/text"
)

// refusedByKubelet is the reason of a pod that the kubelet would not admit since a device plugin
// had no device for it (UnexpectedAdmissionErrorReason in k8s.io/kubernetes/pkg/kubelet/lifecycle).
// After a reboot that is every pod with a device which it finds before the plugin has registered,
// and a plugin that is a pod cannot be there first (devicesToAllocate in
// pkg/kubelet/cm/devicemanager, "scenario 3").
const refusedByKubelet = "UnexpectedAdmissionError"

// refused removes pods that a kubelet refused for want of a device of ours, when a controller makes
// others in their place. Such a pod never ran and never will, and ReplicaSets let it lie until
// Kubernetes' collector finds 12,500 of them. A pod that nobody makes anew stays, for its owner to
// see.
type refused struct {
	Options
	client client.Client
	events events.EventRecorder
}

func setupRefused(mgr ctrl.Manager, o Options) error {
	r := &refused{Options: o, client: mgr.GetClient(), events: mgr.GetEventRecorder("spiderpool-sriov-operator")}
	mine := predicate.NewPredicateFuncs(func(object client.Object) bool { return r.removes(object.(*corev1.Pod)) })
	return ctrl.NewControllerManagedBy(mgr).Named("sriov-refused").For(&corev1.Pod{},
		builder.WithPredicates(mine)).Complete(r)
}

// failedPods has the cache hold failed pods alone, and of those no more than what decides: a
// cluster may have very many.
func failedPods() cache.ByObject {
	return cache.ByObject{Field: fields.OneTermEqualSelector("status.phase", string(corev1.PodFailed)),
		Transform: slimPod}
}

func slimPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	slim := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			OwnerReferences: pod.OwnerReferences, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message},
	}
	if pod.Status.Reason == refusedByKubelet {
		slim.Spec.InitContainers, slim.Spec.Containers = resourcesOnly(pod.Spec.InitContainers),
			resourcesOnly(pod.Spec.Containers)
	}
	return slim, nil
}

func resourcesOnly(containers []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(containers))
	for i, c := range containers {
		out[i] = corev1.Container{Name: c.Name, Resources: c.Resources}
	}
	return out
}

// removes tells whether a pod is one to remove.
func (r *refused) removes(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == refusedByKubelet &&
		pod.DeletionTimestamp == nil &&
		metav1.GetControllerOf(pod) != nil && r.asked(pod) != ""
}

// asked is the first resource of ours that a pod asked for, or "".
func (r *refused) asked(pod *corev1.Pod) string {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			for name := range c.Resources.Limits {
				if strings.HasPrefix(string(name), r.ResourcePrefix+"/") {
					return string(name)
				}
			}
		}
	}
	return ""
}

// Reconcile removes one pod.
func (r *refused) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	pod := &corev1.Pod{}
	if err := r.client.Get(ctx, request.NamespacedName, pod); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !r.removes(pod) {
		return reconcile.Result{}, nil
	}
	// An eviction, since that is the right which this process has; no budget protects a pod that has failed.
	no, err := ask(ctx, r.client, pod)
	if err == nil && no != "" {
		err = errors.New(no)
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("remove pod %s, which its kubelet refused: %w", request, err)
	}
	owner := metav1.GetControllerOf(pod)
	r.events.Eventf(pod, nil, corev1.EventTypeNormal, "RefusedPodRemoved", "Remove",
		"the kubelet of node %s refused this pod, which asks for %s, and will not try again; removed, since %s %s "+
			"makes another. The kubelet said: %s",
		pod.Spec.NodeName, r.asked(pod), owner.Kind, owner.Name, text.Limit(pod.Status.Message, text.MaxNote/2))
	log.FromContext(ctx).Info("removed a pod that its kubelet refused", "pod", request.String(), "node",
		pod.Spec.NodeName, "message", pod.Status.Message)
	return reconcile.Result{}, nil
}
