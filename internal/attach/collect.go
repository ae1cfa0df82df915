// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"spidernet.io/spiderpool/internal/attach/results"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/spiderpool"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
)

// releaseTimeout bounds one address release.
var releaseTimeout = 10 * time.Second // a variable for the test

// wake has the collector pass soon.
func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Service) collectLoop(ctx context.Context) {
	tick := time.NewTicker(s.CollectEvery)
	defer tick.Stop()
	pass := s.Collect
	for {
		if err := pass(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("could not finish what earlier calls left", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			pass = s.Collect
		case <-s.kick:
			pass = s.finishCalls
		}
	}
}

// Collect makes one whole pass: it finishes sandboxes whose namespace has gone, whose call was
// interrupted, or whose pod is long gone, gives noted addresses back, removes what is of no record,
// looks after the runtime's results, and has missing network-status written. It leaves alone what a
// call is working on.
func (s *Service) Collect(ctx context.Context) error {
	all := s.Ledger.Sandboxes()
	var errs []error
	for _, sb := range all {
		if s.leftOver(sb) {
			errs = append(errs, s.collectSandbox(ctx, sb.ContainerID))
		} else if sb.StatusPending {
			s.status.enqueue(sb.ContainerID)
		}
	}
	return errors.Join(append(errs, s.release(ctx), s.collectForgotten(ctx, all), s.sweep(),
		results.Sweep(s.Root, s.now(), s.Log))...)
}

// finishCalls is the pass after a call: what the call noted or could not finish. It asks neither
// node nor API server about the sandboxes that are whole.
func (s *Service) finishCalls(ctx context.Context) error {
	var errs []error
	for _, sb := range s.Ledger.Sandboxes() {
		if slices.ContainsFunc(sb.Attachments, unfinished) {
			errs = append(errs, s.collectSandbox(ctx, sb.ContainerID))
		}
	}
	return errors.Join(append(errs, s.release(ctx))...)
}

// sweep has plugins put right what they made for attachments of which nothing is recorded: the
// ledger was lost.
func (s *Service) sweep() error {
	var errs []error
	for name, p := range s.runner.Plugins {
		sweeper, ok := p.(cni.Sweeper)
		if !ok {
			continue
		}
		swept, err := sweeper.Sweep(s.recorded)
		if len(swept) > 0 {
			s.Log.Info("put right what nothing is recorded of", "plugin", name, "links", swept)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Service) recorded() []cni.Recorded {
	var all []cni.Recorded
	for _, sb := range s.Ledger.Sandboxes() {
		for _, a := range sb.Attachments {
			all = append(all, cni.Recorded{AttachmentKey: cni.AttachmentKey{ContainerID: sb.ContainerID,
				IfName: a.IfName}, DeviceID: a.DeviceID})
		}
	}
	return all
}

// leftOver: no working pod can have it.
func (s *Service) leftOver(sb ledger.Sandbox) bool {
	return !s.Kernel.NSExists(host.NS(sb.NetNS)) || slices.ContainsFunc(sb.Attachments, unfinished)
}

func unfinished(a ledger.Attachment) bool { return a.Phase != ledger.Done }

// mayHaveAddresses: the plugin of the addresses was asked for some, or was perhaps, since the
// record of one that was interrupted may lack that.
func mayHaveAddresses(a ledger.Attachment) bool {
	return a.State[spiderpool.Type] != nil || unfinished(a)
}

// collectSandbox finishes one sandbox unless a call is at work on it.
func (s *Service) collectSandbox(ctx context.Context, containerID string) error {
	unlock, ok := s.locks.Collector(containerID)
	if !ok {
		return nil
	}
	defer unlock()
	sb, ok := s.Ledger.Sandbox(containerID) // again, now that nobody changes it
	if !ok || !s.leftOver(sb) {
		return nil
	}
	whole := !s.Kernel.NSExists(host.NS(sb.NetNS)) || slices.ContainsFunc(sb.Attachments,
		func(a ledger.Attachment) bool {
			return unfinished(a) && len(a.Direct) == 0 // all networks of our meta plugin or none
		})
	s.Log.Info("taking down a sandbox that no call will", "sandbox", containerID, "namespace", sb.Pod.Namespace, "pod",
		sb.Pod.Name, "whole", whole)
	if whole {
		return s.detachAll(ctx, containerID, nil)
	}
	var errs []error
	for _, a := range slices.Backward(sb.Attachments) {
		if unfinished(a) {
			errs = append(errs, s.detach(ctx, sb, a, nil))
		}
	}
	return errors.Join(errs...)
}

// release gives noted addresses back. It ends with one that takes too long: the API server is away,
// and each of the others would keep the collector from its work as long.
func (s *Service) release(ctx context.Context) error {
	all, err := s.Ledger.Releases()
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	var errs []error
	for _, r := range all {
		err := s.releaseOne(ctx, r)
		errs = append(errs, err)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return errors.Join(errs...)
}

func (s *Service) releaseOne(ctx context.Context, r ledger.Release) error {
	unlock, ok := s.locks.Collector(r.Sandbox)
	if !ok {
		return nil // a call is at work on the sandbox and wakes the collector when it ends
	}
	defer unlock()
	sb, _ := s.Ledger.Sandbox(r.Sandbox)
	for _, a := range sb.Attachments {
		if !mayHaveAddresses(a) || r.Interface != "" && a.IfName != r.Interface {
			continue
		}
		if a.Phase == ledger.Done { // attached again since
			return s.Ledger.DeleteRelease(r)
		}
		return nil // its detachment is not finished
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if err := s.Addresses.Release(ctx, r.PodUID, r.Sandbox, r.Interface); err != nil {
		return fmt.Errorf("give back the address of interface %q of sandbox %s: %w", r.Interface, r.Sandbox, err)
	}
	return s.Ledger.DeleteRelease(r)
}
