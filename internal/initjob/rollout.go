// SPDX-License-Identifier: Apache-2.0

package initjob

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// rollingError is a rollout that is not at its end and has no fault.
type rollingError struct{ error }

func (e rollingError) Unwrap() error { return e.error }

func (o Options) deploymentRolledOut(ctx context.Context, name string) (string, error) {
	d := &appsv1.Deployment{}
	if err := o.Client.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, d); err != nil {
		return "", asFinal(err)
	}
	note, err := deploymentState(d)
	if err == nil {
		return note, nil
	}
	pods, listErr := o.pods(ctx, d.Spec.Selector)
	if listErr != nil {
		return "", listErr
	}
	waiting, _ := unreadyPods(pods, nil)
	return "", fmt.Errorf("%w%s", err, detail(waiting))
}

func (o Options) pods(ctx context.Context, selector *metav1.LabelSelector) ([]corev1.Pod, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, finalError{fmt.Errorf("reading the selector of its pods: %w", err)}
	}
	pods := &corev1.PodList{}
	if err := o.Client.List(ctx, pods, client.InNamespace(o.Namespace),
		client.MatchingLabelsSelector{Selector: s}); err != nil {
		return nil, asFinal(err)
	}
	return pods.Items, nil
}

// deploymentState says that a rollout is complete, or what is missing.
func deploymentState(d *appsv1.Deployment) (string, error) {
	wanted := ptr.Deref(d.Spec.Replicas, 1)
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas < wanted || s.AvailableReplicas < wanted ||
		s.Replicas > wanted {
		return "", fmt.Errorf("of %d pods %d are new and %d are available", wanted, s.UpdatedReplicas,
			s.AvailableReplicas)
	}
	return fmt.Sprintf("%d of %d pods available", s.AvailableReplicas, wanted), nil
}

func (o Options) agentsRolledOut(ctx context.Context) (string, error) {
	d := &appsv1.DaemonSet{}
	if err := o.Client.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.Defaults.Agents}, d); err != nil {
		return "", asFinal(err)
	}
	pods, err := o.pods(ctx, d.Spec.Selector)
	if err != nil {
		return "", err
	}
	nodes := &corev1.NodeList{}
	if err := o.Client.List(ctx, nodes); err != nil {
		return "", asFinal(err)
	}
	return agentsState(d, pods, unready(nodes.Items))
}

// agentsState says that every agent that can run is the new one and ready, or what is missing. An
// agent on a node that is not ready is nobody's to wait for.
func agentsState(d *appsv1.DaemonSet, pods []corev1.Pod, unreadyNodes map[string]bool) (string, error) {
	s := d.Status
	if s.ObservedGeneration < d.Generation {
		return "", fmt.Errorf("the DaemonSet controller has not looked at it yet")
	}
	waiting, excused := unreadyPods(pods, unreadyNodes)
	wanted := s.DesiredNumberScheduled - int32(len(excused))
	if len(waiting) == 0 && s.NumberReady >= wanted && s.UpdatedNumberScheduled >= wanted {
		note := fmt.Sprintf("%d of %d agents ready", s.NumberReady, s.DesiredNumberScheduled)
		if len(excused) > 0 {
			note += "; not waited for on nodes that are not ready: " + strings.Join(excused, ", ")
		}
		return note, nil
	}
	err := fmt.Errorf("of %d agents %d are new and %d are ready%s", s.DesiredNumberScheduled, s.UpdatedNumberScheduled,
		s.NumberReady, detail(waiting))
	// Only where it takes many rounds: on a small cluster a missing agent is a fault.
	if wave := maxUnavailable(d); wanted > 4*wave && s.UpdatedNumberScheduled < wanted && s.NumberReady >= wanted-wave {
		return "", rollingError{err}
	}
	return "", err
}

// maxNamed bounds how many agents a line names.
const maxNamed = 5

func detail(waiting []string) string {
	if len(waiting) == 0 {
		return ""
	}
	rest := ""
	if more := len(waiting) - maxNamed; more > 0 {
		waiting, rest = waiting[:maxNamed], fmt.Sprintf("; and %d more", more)
	}
	return " (" + strings.Join(waiting, "; ") + rest + ")"
}

// unready is the set of the nodes that are not ready.
func unready(nodes []corev1.Node) map[string]bool {
	set := map[string]bool{}
	for _, n := range nodes {
		set[n.Name] = !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	}
	return set
}

// unreadyPods returns a line for each pod that should be ready and is not, and the nodes that are
// at fault themselves.
func unreadyPods(pods []corev1.Pod, unreadyNodes map[string]bool) (waiting, excused []string) {
	for _, p := range pods {
		switch {
		case podReady(p):
		case unreadyNodes[p.Spec.NodeName]:
			excused = append(excused, p.Spec.NodeName)
		default:
			waiting = append(waiting, fmt.Sprintf("%s on %s: %s", p.Name, cmp.Or(p.Spec.NodeName, "no node yet"),
				podReason(p)))
		}
	}
	slices.Sort(waiting)
	slices.Sort(excused)
	return waiting, excused
}

func podReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podReason is what keeps a pod from being ready, as far as its status tells.
func podReason(p corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			reason := strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
			if t := s.LastTerminationState.Terminated; t != nil && t.Message != "" {
				reason += "; it ended with: " + strings.TrimSpace(t.Message)
			}
			return reason
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	if p.DeletionTimestamp != nil {
		return "it is being replaced"
	}
	return "phase " + string(p.Status.Phase)
}

func maxUnavailable(d *appsv1.DaemonSet) int32 {
	if d.Spec.UpdateStrategy.RollingUpdate == nil || d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable,
		int(d.Status.DesiredNumberScheduled), true)
	if err != nil {
		return 1
	}
	return int32(n)
}
