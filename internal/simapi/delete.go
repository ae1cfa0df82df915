// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// remove deletes an object or marks it as being deleted: it stays while it has
// finalizers, and a pod on a node until its kubelet deletes it with no grace.
func (s *Server) remove(k *kind, key client.ObjectKey, o client.DeleteOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := k.objects.get(key)
	if old == nil {
		return apierrors.NewNotFound(k.resource, key.Name)
	}
	if err := k.meets(old, o.Preconditions); err != nil {
		return err
	}
	if err := s.judge(k, Delete, old, nil, old.GetName()); err != nil {
		return err
	}
	next, pending := old, false
	if k.graceful {
		next, pending = k.terminate(old, o.GracePeriodSeconds)
	}
	if pending {
		return nil
	}
	if next == old && len(old.GetFinalizers()) > 0 {
		next = k.mark(old)
	}
	if next != old {
		s.store(k, next)
	}
	if len(next.GetFinalizers()) == 0 && graceOf(next) == 0 {
		s.erase(k, next)
	}
	return nil
}

// meets checks that the object is still the one that was judged.
func (k *kind) meets(o client.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	var why error
	switch {
	case p.UID != nil && *p.UID != o.GetUID():
		why = fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). "+
			"The object might have been deleted and then recreated", *p.UID, o.GetUID())
	case p.ResourceVersion != nil && *p.ResourceVersion != o.GetResourceVersion():
		why = fmt.Errorf(
			"the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). "+
				"The object might have been modified", *p.ResourceVersion, o.GetResourceVersion())
	default:
		return nil
	}
	return apierrors.NewConflict(k.resource, o.GetName(), why)
}

// mark gives an object that waits for its finalizers its deletion timestamp.
func (k *kind) mark(o client.Object) client.Object {
	if o.GetDeletionTimestamp() != nil {
		return o
	}
	return k.ending(o, now(), 0)
}

// ending is the object with the time of its end.
func (k *kind) ending(o client.Object, at metav1.Time, grace int64) client.Object {
	next := k.copyOf(o)
	if o.GetDeletionTimestamp() == nil && o.GetGeneration() > 0 {
		next.SetGeneration(o.GetGeneration() + 1)
	}
	next.SetDeletionTimestamp(&at)
	next.SetDeletionGracePeriodSeconds(&grace)
	return next
}

// terminate is the pod with the time of its end, or with an earlier one than
// it had. Pending means that the pod is being deleted and this changes nothing.
func (k *kind) terminate(o client.Object, asked *int64) (next client.Object, pending bool) {
	if asked != nil && *asked < 0 {
		asked = new(int64(1))
	}
	if o.GetDeletionTimestamp() == nil {
		grace := gracePeriod(o.(*corev1.Pod), asked)
		return k.ending(o, later(now(), grace), grace), false
	}
	had := graceOf(o)
	switch {
	case had == 0:
		return o, false // only finalizers keep it
	case asked == nil || *asked >= had:
		return o, true
	}
	grace, end := *asked, later(*o.GetDeletionTimestamp(), *asked-had)
	if n := now(); end.Before(&n) {
		end, grace = n, min(grace, 1)
	}
	return k.ending(o, end, grace), false
}

// gracePeriod is how long a pod may take to end: no time when no kubelet has it.
func gracePeriod(pod *corev1.Pod, asked *int64) int64 {
	if asked == nil {
		asked = pod.Spec.TerminationGracePeriodSeconds
	}
	finished := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	switch {
	case asked == nil || finished || pod.Spec.NodeName == "":
		return 0
	case *asked < 0: // a spec may say so
		return 1
	}
	return *asked
}

func later(t metav1.Time, seconds int64) metav1.Time {
	return metav1.NewTime(t.Add(time.Duration(seconds) * time.Second))
}

// graceOf is the grace period of an object that is being deleted.
func graceOf(o client.Object) int64 {
	if grace := o.GetDeletionGracePeriodSeconds(); grace != nil {
		return *grace
	}
	return 0
}
