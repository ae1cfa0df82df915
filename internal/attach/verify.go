// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
)

// verifyLoop looks at once and then now and then. What could not be judged is looked at again soon:
// an agent that has just started does not know its pods yet, and a node's routes that went with the
// agent before it are not to be away for minutes.
func (s *Service) verifyLoop(ctx context.Context) {
	look := time.NewTicker(verifyEvery * s.CollectEvery)
	defer look.Stop()
	missed, pause := s.verify(ctx), verifySoon
	for {
		var again <-chan time.Time
		if len(missed) > 0 {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			missed, pause = s.verify(ctx), verifySoon
		case <-again:
			missed, pause = s.verifyThese(ctx, missed), min(2*pause, s.CollectEvery)
		}
	}
}

// verifySoon is the time until the first look at what could not be judged; it doubles.
const verifySoon = time.Second

// verifyEvery is how many times as long as from one pass of the collector to the next it is from
// one look at whole attachments to the next.
const verifyEvery = 5

// broken remembers what is wrong with attachments of running pods, so that it is told once. The
// zero value is ready.
type broken struct {
	mu   sync.Mutex
	told map[string]string // by sandbox and interface
}

// news notes what is wrong now, "" when nothing is, and tells whether that is something to say.
func (b *broken) news(key, wrong string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wrong == "" {
		delete(b.told, key)
		return false
	}
	if b.told == nil {
		b.told = map[string]string{}
	}
	isNew := b.told[key] != wrong
	b.told[key] = wrong
	return isNew
}

// keep forgets attachments that are no more.
func (b *broken) keep(keys map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.told {
		if !keys[key] {
			delete(b.told, key)
		}
	}
}

// verify looks whether what is attached to running pods is still there: a driver's reset takes
// devices from pods, and other software on the node its routes. What a plugin can mend without the
// pod's noticing, it does; of the rest the pod's owner is told. A device is not put into a pod
// again: the processes in it that had it open have lost it, and only a new pod gets one that works.
//
// It looks beside the collector, which must not wait for it: a driver's reset, which is what it is
// for, can keep a look waiting for long. It returns the sandboxes that could not be judged.
func (s *Service) verify(ctx context.Context) (missed []string) {
	there := map[string]bool{}
	var all []string
	for _, sb := range s.Ledger.Sandboxes() {
		for _, a := range sb.Attachments {
			there[brokenKey(sb, a)] = true
		}
		all = append(all, sb.ContainerID)
	}
	missed = s.verifyThese(ctx, all)
	s.broken.keep(there)
	return missed
}

func (s *Service) verifyThese(ctx context.Context, sandboxes []string) (missed []string) {
	for _, id := range sandboxes {
		if !s.verifySandbox(ctx, id) {
			missed = append(missed, id)
		}
	}
	return missed
}

func brokenKey(sb ledger.Sandbox, a ledger.Attachment) string { return sb.ContainerID + " " + a.IfName }

// verifySandbox returns false if it could not judge all of the sandbox's attachments.
func (s *Service) verifySandbox(ctx context.Context, containerID string) (judged bool) {
	unlock, ok := s.locks.Collector(containerID)
	if !ok {
		return false // a call is at work on it, or the collector
	}
	defer unlock()
	sb, ok := s.Ledger.Sandbox(containerID)
	if !ok || s.leftOver(sb) {
		return true // nothing is to be there
	}
	if goesOn, err := s.runs(ctx, sb); err != nil || !goesOn {
		return err == nil
	}
	if err := s.correctStatus(sb); err != nil {
		s.Log.Warn("could not compare a pod's network-status", "sandbox", containerID, "error", err)
	}
	judged = true
	for _, a := range sb.Attachments {
		if len(a.Direct) > 0 || ctx.Err() != nil {
			continue // its caller checks it
		}
		mended, err := s.verifyOne(ctx, sb, a)
		for _, wrong := range mended {
			s.Log.Warn("mended an attachment", "sandbox", containerID, "namespace", sb.Pod.Namespace, "pod",
				sb.Pod.Name, "ifname", a.IfName, "network", a.Network, "wrong", wrong)
		}
		if errors.Is(err, host.ErrNSGone) || ctx.Err() != nil {
			continue // it ends
		}
		if err != nil && !seenBroken(err) {
			s.Log.Warn("could not look at an attachment", "sandbox", containerID, "namespace", sb.Pod.Namespace, "pod",
				sb.Pod.Name, "ifname", a.IfName, "network", a.Network, "error", err)
			judged = false
			continue
		}
		s.tellBroken(sb, a, err)
	}
	return judged
}

// seenBroken tells whether a plugin saw that something is not as it should be. All else, such as
// too few file descriptors, says nothing of the pod.
func seenBroken(err error) bool {
	var said *cni.Error
	return errors.As(err, &said) || errors.Is(err, host.ErrNotFound)
}

// runs tells whether the sandbox's pod is to go on. A DEL that was interrupted leaves a record that
// looks whole, of a pod that ends. The error says that the node's pods are not known yet.
func (s *Service) runs(ctx context.Context, sb ledger.Sandbox) (bool, error) {
	pod, err := s.Pods.Cached(ctx, sb.Pod.Namespace, sb.Pod.Name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && sameUID(pod, sb.Pod.UID) && pod.DeletionTimestamp.IsZero(), err
}

func (s *Service) verifyOne(ctx context.Context, sb ledger.Sandbox, a ledger.Attachment) (mended []error, err error) {
	run, err := s.recordedRun(sb, a, nil)
	if err != nil || run.list.DisableCheck {
		return nil, err
	}
	return s.runner.Verify(ctx, run.list, run.call, run.prev)
}

// tellBroken says at the pod, and in the log, what is wrong with an attachment, when that is new.
func (s *Service) tellBroken(sb ledger.Sandbox, a ledger.Attachment, wrong error) {
	text := ""
	if wrong != nil {
		text = wrong.Error()
	}
	if !s.broken.news(brokenKey(sb, a), text) {
		return
	}
	s.Log.Error("an attachment of a running pod is broken", "sandbox", sb.ContainerID, "namespace", sb.Pod.Namespace,
		"pod", sb.Pod.Name, "ifname", a.IfName, "network", a.Network, "error", wrong)
	if sb.Pod.UID != "" {
		s.Events.Event(podObject(sb.Pod), corev1.EventTypeWarning, ReasonBroken,
			fmt.Sprintf("network %s as %s: %s; a new pod has it again", cmp.Or(a.NAD, a.Network), a.IfName, text))
	}
}
