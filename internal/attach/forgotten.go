// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/internal/ledger"
)

// A runtime that lost its state, or crashed at the wrong moment, never asks for the DEL of a
// sandbox that it does not know any more, and a namespace under a mount lives on without processes.
// What tells that nothing runs in it is the kubelet: it stops a pod's sandbox before it has another
// made for the pod, and it has done with a pod that it does not list, some time after the pod's
// grace.

// forgottenAfter is how long, beyond its grace period, a pod has to be unknown to API server and
// kubelet both.
const forgottenAfter = 10 * time.Minute

// supersede takes down those of other sandboxes that are earlier ones of a pod for which another one is made.
func (s *Service) supersede(ctx context.Context, others []ledger.Sandbox, pod *corev1.Pod) error {
	if pod == nil {
		return nil
	}
	for _, sb := range others {
		if sb.Pod.UID != string(pod.UID) || sb.DefaultAttachment() == nil {
			continue
		}
		s.Log.Info("taking down an earlier sandbox of a pod, for which the runtime did not ask", "sandbox",
			sb.ContainerID, "namespace", pod.Namespace, "pod", pod.Name)
		if err := s.forget(context.WithoutCancel(ctx), sb.ContainerID); err != nil {
			return fmt.Errorf("take down the pod's earlier sandbox %s: %w", sb.ContainerID, err)
		}
	}
	return nil
}

// missed remembers since when sandboxes are without a pod. A restart forgets it, which costs time
// and nothing else.
type missed struct {
	mu    sync.Mutex
	since map[string]time.Time // by container ID
}

// check tells whether a sandbox was missed in every pass for so long.
func (m *missed) check(id string, now time.Time, missing bool, most time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !missing {
		delete(m.since, id)
		return false
	}
	if m.since == nil {
		m.since = map[string]time.Time{}
	}
	if m.since[id].IsZero() {
		m.since[id] = now
	}
	return now.Sub(m.since[id]) > most
}

// keep forgets sandboxes that are not there any more.
func (m *missed) keep(all []ledger.Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	still := map[string]time.Time{}
	for _, sb := range all {
		if since, ok := m.since[sb.ContainerID]; ok {
			still[sb.ContainerID] = since
		}
	}
	m.since = still
}

// collectForgotten takes down sandboxes that both API server and kubelet have been without a pod
// for, longer than any pod takes to end. While one of the two does not answer, nobody is missed.
func (s *Service) collectForgotten(ctx context.Context, all []ledger.Sandbox) error {
	s.missed.keep(all)
	kubelet := sync.OnceValues(func() (map[string]bool, error) { return s.Devices.Pods(ctx) })
	var errs []error
	away := false // one of the two, which is not asked again then
	for _, sb := range all {
		missing := false
		if !away {
			var err error
			if missing, err = s.isMissing(ctx, sb, kubelet); err != nil {
				away, errs = true, append(errs, err)
			}
		}
		if s.missed.check(sb.ContainerID, s.now(), missing, time.Duration(sb.GraceSeconds)*time.Second+forgottenAfter) {
			s.Log.Info("taking down a sandbox that the runtime has forgotten", "sandbox", sb.ContainerID, "namespace",
				sb.Pod.Namespace, "pod", sb.Pod.Name)
			errs = append(errs, s.forget(ctx, sb.ContainerID))
		}
	}
	return errors.Join(errs...)
}

// isMissing tells whether API server and kubelet are both without a sandbox's pod. Only what our
// meta plugin made for a pod counts: of other sandboxes nobody here knows who has them.
func (s *Service) isMissing(ctx context.Context, sb ledger.Sandbox, kubelet func() (map[string]bool, error)) (bool,
	error) {
	if sb.Pod.Name == "" || s.leftOver(sb) || sb.DefaultAttachment() == nil {
		return false, nil
	}
	gone, err := s.podGone(ctx, sb.Pod)
	if err != nil || !gone {
		return false, err
	}
	listed, err := kubelet()
	if err != nil {
		return false, fmt.Errorf("ask the kubelet for its pods: %w", err)
	}
	return !listed[sb.Pod.Namespace+"/"+sb.Pod.Name], nil
}

// podGone tells whether the API server has a pod no more, or another one of its name.
func (s *Service) podGone(ctx context.Context, p ledger.Pod) (bool, error) {
	pod, err := s.Pods.Cached(ctx, p.Namespace, p.Name)
	if err == nil && sameUID(pod, p.UID) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	pod, err = s.Pods.Live(ctx, p.Namespace, p.Name)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether pod %s/%s is still there: %w", p.Namespace, p.Name, err)
	}
	return !sameUID(pod, p.UID), nil
}
