// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	corev1 "k8s.io/api/core/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
)

// Stock is what a node knows of its stock in one pool: addresses that it holds without a pod, to
// hand them out at once.
type Stock struct {
	// PerPool is the most that a node holds.
	PerPool int
	// Wanted: pods of this node have asked for the pool lately, and the pool serves.
	Wanted bool
	// Size is the number of addresses that the pool may give out; Leased of them have a lease, with
	// a pod or without.
	Size, Leased uint64
	// Mine is how many of the leases are this node's stock.
	Mine int
	// Nodes is how many nodes have leases in the pool, this one counted.
	Nodes int
}

// share divides what nobody holds: all nodes together hold at most a quarter of it.
const share = 4

// Target is how many addresses the node should hold. It falls to nothing as the pool runs dry, so
// that the last addresses are not scattered over nodes that do not need them.
func (s Stock) Target() int {
	if !s.Wanted || s.PerPool <= 0 {
		return 0
	}
	budget := uint64(s.Mine)
	if s.Size > s.Leased {
		budget += s.Size - s.Leased
	}
	return int(min(uint64(s.PerPool), budget/uint64(share*max(s.Nodes, 1))))
}

// Plan says how many addresses to take from the pool, or to give back to it; one of them is 0.
// Between half the target and twice the target nothing is done: each step costs a request.
func (s Stock) Plan() (take, give int) {
	target := s.Target()
	switch {
	case target == 0:
		return 0, s.Mine
	case s.Mine > 2*target:
		return 0, s.Mine - target
	case 2*s.Mine <= target:
		return target - s.Mine, 0
	}
	return 0, 0
}

// Known tells whether every address that the pod has is one that the API server shows. An agent
// hands out stock, of which the API server shows no pod at first, only to pods that have no
// network-status yet, and writes that only when the API server shows all addresses; see package
// leases. A pod on the host's network has none.
func Known(pod *corev1.Pod) bool {
	return pod.Spec.HostNetwork || pod.Annotations[cncfv1.AnnotationNetworkStatus] != "" || static(pod)
}

// static: the pod comes from a file of its node; what the API server has is an image of it that
// anybody may delete. It never gets stock, because its absence proves nothing.
func static(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// Finished tells whether the pod has ended for good, by its phase.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// MayHoldUnseen names the pods that may have an address of their node's stock that the API server
// shows without a pod.
func MayHoldUnseen(pods []corev1.Pod) []string {
	var names []string
	for i := range pods {
		if !Known(&pods[i]) && !Finished(&pods[i]) {
			names = append(names, pods[i].Namespace+"/"+pods[i].Name)
		}
	}
	return names
}
