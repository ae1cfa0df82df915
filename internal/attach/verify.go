package attach

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
)

// verifyEvery is how many times as long as from one pass of the collector to the next it is from one look at whole attachments to the next.
const verifyEvery = 5

// broken remembers what is wrong with attachments of running pods, so that it is told once. The zero value is ready.
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

// verify looks whether what is attached to running pods is still there: a driver's reset takes devices from pods, and other software on the node
// its routes. What a plugin can mend without the pod's noticing, it does; of the rest the pod's owner is told. A device is not put into a pod
// again: the processes in it that had it open have lost it, and only a new pod gets one that works.
func (s *Service) verify(ctx context.Context) {
	there := map[string]bool{}
	for _, sb := range s.Ledger.Sandboxes() {
		for _, a := range sb.Attachments {
			there[brokenKey(sb, a)] = true
		}
		s.verifySandbox(ctx, sb.ContainerID)
	}
	s.broken.keep(there)
}

func brokenKey(sb ledger.Sandbox, a ledger.Attachment) string { return sb.ContainerID + " " + a.IfName }

func (s *Service) verifySandbox(ctx context.Context, containerID string) {
	unlock, ok := s.locks.collector(containerID)
	if !ok {
		return
	}
	defer unlock()
	sb, ok := s.Ledger.Sandbox(containerID)
	if !ok || s.leftOver(sb) {
		return
	}
	for _, a := range sb.Attachments {
		if len(a.Direct) > 0 || ctx.Err() != nil {
			continue // its caller checks it
		}
		mended, err := s.verifyOne(ctx, sb, a)
		for _, wrong := range mended {
			s.Log.Warn("mended an attachment", "sandbox", containerID, "namespace", sb.Pod.Namespace, "pod", sb.Pod.Name, "ifname", a.IfName, "network", a.Network, "wrong", wrong)
		}
		if errors.Is(err, host.ErrNSGone) || ctx.Err() != nil {
			continue // it ends
		}
		s.tellBroken(sb, a, err)
	}
}

func (s *Service) verifyOne(ctx context.Context, sb ledger.Sandbox, a ledger.Attachment) (mended []error, err error) {
	list, err := cni.Parse(a.Config)
	if err != nil {
		return nil, fmt.Errorf("read the recorded configuration: %w", err)
	}
	call, err := s.recordedCall(sb, a, nil)
	if err != nil {
		return nil, err
	}
	prev, err := recordedResult(a)
	if err != nil {
		return nil, err
	}
	return s.runner.Verify(ctx, list, call, prev)
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
	s.Log.Error("an attachment of a running pod is broken", "sandbox", sb.ContainerID, "namespace", sb.Pod.Namespace, "pod", sb.Pod.Name, "ifname", a.IfName, "network", a.Network, "error", wrong)
	if sb.Pod.UID != "" {
		title := a.Network
		if a.NAD != "" {
			title = a.NAD
		}
		s.Events.Event(podObject(sb.Pod), corev1.EventTypeWarning, ReasonBroken, fmt.Sprintf("network %s as %s: %s", title, a.IfName, text))
	}
}
