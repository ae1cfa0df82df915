// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// evidence is what is known about the user of a lease at one moment.
type evidence struct {
	lease *v2beta1.SpiderIPLease
	// pod of the lease's namespace and name, whatever its UID; nil when there is none.
	pod *corev1.Pod
	// set is the StatefulSet that owns the lease; nil when there is none or the lease has no owner.
	set *appsv1.StatefulSet
	// machine: the KubeVirt virtual machine that owns the lease exists.
	machine bool
	// goneSince is when the pod was first seen gone; zero for now.
	goneSince time.Time
	now       time.Time
}

// verdict is what to do with a lease.
type verdict struct {
	// free: nobody can be using the address.
	free bool
	// why, for people.
	why string
	// again is when to judge anew; zero: at the next event or rescan.
	again time.Duration
	// gone: the pod is gone, and the grace runs.
	gone bool
}

func keep(why string) verdict { return verdict{why: why} }

// judge decides about one lease. In doubt the address stays taken.
func (o Options) judge(e evidence) verdict {
	holder := e.lease.Spec.Pod
	switch {
	case holder == nil:
		return keep("it is stock of its node; see stockCollector")
	case e.machine:
		return keep("its virtual machine keeps it")
	case holder.Owner != nil && ownerKeeps(e.set, holder.Name) && !superseded(e):
		return keep("its StatefulSet keeps it")
	case staticPod(e) && !stopped(e.pod):
		return keep("its static pod may be running")
	case e.pod == nil || string(e.pod.UID) != holder.UID:
		return o.judgeGone(e)
	case !stopped(e.pod):
		return keep("its pod may be running")
	}
	return o.judgeStopped(e)
}

// staticPod: the pod comes from a file of the lease's node. What the API server has is an image of
// it, made again with another UID whenever somebody deletes it, while the containers go on. Its
// node alone knows when one of its sandboxes ends.
func staticPod(e evidence) bool {
	if e.pod == nil || e.pod.Spec.NodeName != e.lease.Spec.Node {
		return false
	}
	_, mirror := e.pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// superseded: the pod was made again, runs, and so has chosen its addresses; this one was not among them.
func superseded(e evidence) bool {
	return e.pod != nil && string(e.pod.UID) != e.lease.Spec.Pod.UID && e.pod.Status.Phase == corev1.PodRunning
}

// judgeGone frees the address of a pod that is gone, after a grace.
func (o Options) judgeGone(e evidence) verdict {
	why := "its pod is gone"
	if e.pod != nil {
		why = "its pod is gone and another has its name"
	}
	since := e.goneSince
	if since.IsZero() {
		since = e.now
	}
	return after(since.Add(o.GoneGrace), e.now, verdict{why: why, gone: true})
}

// judgeStopped frees the address of a pod whose containers have all ended for good.
func (o Options) judgeStopped(e evidence) verdict {
	due := lastEnd(e.pod).Add(o.FinishedGrace)
	if young := e.lease.CreationTimestamp.Add(o.YoungLease); young.After(due) {
		due = young
	}
	return after(due, e.now, verdict{why: "all containers of its pod have ended for good"})
}

// after frees when the time has come, else asks again then.
func after(due, now time.Time, v verdict) verdict {
	if now.Before(due) {
		v.again = due.Sub(now)
		return v
	}
	v.free = true
	return v
}

// ownerKeeps tells whether the StatefulSet exists and still has a pod of this name.
func ownerKeeps(set *appsv1.StatefulSet, pod string) bool {
	if set == nil || !set.DeletionTimestamp.IsZero() {
		return false
	}
	text, ok := strings.CutPrefix(pod, set.Name+"-")
	ordinal, err := strconv.ParseInt(text, 10, 32)
	if !ok || err != nil {
		return false
	}
	first, replicas := int64(0), int64(1)
	if set.Spec.Ordinals != nil {
		first = int64(set.Spec.Ordinals.Start)
	}
	if set.Spec.Replicas != nil {
		replicas = int64(*set.Spec.Replicas)
	}
	return ordinal >= first && ordinal < first+replicas
}

// stopped tells whether no container of the pod runs and none will: the pod
// has finished, or it is being deleted and its grace is over. A node that is
// silent reports nothing, so its pods' containers still look as if they ran.
func stopped(p *corev1.Pod) bool {
	finished := ipam.Finished(p)
	if !finished && p.DeletionTimestamp.IsZero() { // DeletionTimestamp lies at the end of the grace
		return false
	}
	for _, s := range containerStatuses(p) {
		if s.State.Running != nil {
			return false
		}
	}
	if finished {
		return true
	}
	ended := 0
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Terminated != nil {
			ended++
		}
	}
	return ended == len(p.Spec.Containers)
}

func containerStatuses(p *corev1.Pod) []corev1.ContainerStatus {
	var all []corev1.ContainerStatus
	all = append(all, p.Status.InitContainerStatuses...)
	all = append(all, p.Status.ContainerStatuses...)
	return append(all, p.Status.EphemeralContainerStatuses...)
}

// lastEnd is when the last container ended, or the deletion was to be over, whichever is later.
func lastEnd(p *corev1.Pod) time.Time {
	var last time.Time
	if p.DeletionTimestamp != nil {
		last = p.DeletionTimestamp.Time
	}
	for _, s := range containerStatuses(p) {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(last) {
			last = t.FinishedAt.Time
		}
	}
	return last
}
