// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/ledger"
)

// check looks at every attachment of a sandbox.
func (s *Service) check(ctx context.Context, c *call) error {
	unlock, err := s.locks.Meta(ctx, c.containerID)
	if err != nil {
		return err
	}
	defer unlock()
	sb, ok := s.Ledger.Sandbox(c.containerID)
	if !ok {
		return cni.Errorf(cni.CodeUnknownContainer, "the runtime makes a new sandbox",
			"sandbox %s is not known to this node's agent", c.containerID)
	}
	c.networkType = typeOf(sb)
	for _, a := range sb.Attachments {
		if err := s.checkOne(ctx, sb, a, c.phases); err != nil {
			return fmt.Errorf("check %s: %w", describe(a.Network, a.IfName), err)
		}
	}
	return nil
}

func (s *Service) checkOne(ctx context.Context, sb ledger.Sandbox, a ledger.Attachment, phases *cni.Phases) error {
	if a.Phase != ledger.Done {
		return cni.Errorf(cni.CodeFailed, "the runtime makes a new sandbox", "the attachment is not complete (%s)",
			a.Phase)
	}
	if len(a.Direct) > 0 {
		return nil // its caller checks it
	}
	run, err := s.recordedRun(sb, a, phases)
	if err != nil || run.list.DisableCheck {
		return err
	}
	return s.runner.Check(ctx, run.list, run.call, run.prev)
}

// statusVerb tells the runtime whether pods can be attached now: there is a default network and its
// plugins are ready.
func (s *Service) statusVerb(ctx context.Context, c *call) error {
	primary, err := s.primary(ctx, c)
	if err != nil {
		return &cni.Error{Code: types.ErrPluginNotAvailable, Msg: err.Error(), Err: err}
	}
	p := planned{network: primary}
	if err := p.parse(); err != nil {
		return &cni.Error{Code: types.ErrPluginNotAvailable, Msg: err.Error(), Err: err}
	}
	return s.runner.Status(ctx, p.list, cni.Call{BinDirs: c.binDirs, Phases: c.phases})
}

// gc takes down every sandbox of ours that the runtime does not list, and passes the list on to the
// default network.
func (s *Service) gc(ctx context.Context, c *call) error {
	valid, err := c.conf.valid()
	if err != nil {
		return err
	}
	for _, sb := range s.Ledger.Sandboxes() {
		a := sb.DefaultAttachment()
		if a == nil || slices.Contains(valid, types.GCAttachment{ContainerID: sb.ContainerID, IfName: a.IfName}) {
			continue
		}
		if err := s.forget(ctx, sb.ContainerID); err != nil { // the collector goes on with it
			s.Log.Error("could not take down a sandbox that the runtime has forgotten", "sandbox", sb.ContainerID,
				"error", err)
		}
	}
	primary, err := s.primary(ctx, c)
	if err != nil {
		return nil // no default network, nothing to pass on
	}
	p := planned{network: primary}
	if err := p.parse(); err != nil || p.list.DisableGC {
		return err
	}
	return s.runner.GC(ctx, p.list, cni.Call{BinDirs: c.binDirs, Phases: c.phases}, s.validOf(p.list.Name, valid))
}

// validOf adds to the runtime's list the attachments of a network that the runtime does not know:
// the further networks of pods.
func (s *Service) validOf(network string, valid []types.GCAttachment) []types.GCAttachment {
	for _, sb := range s.Ledger.Sandboxes() {
		for _, a := range sb.Attachments {
			if one := (types.GCAttachment{ContainerID: sb.ContainerID, IfName: a.IfName}); a.Network == network &&
				!slices.Contains(valid, one) {
				valid = append(valid, one)
			}
		}
	}
	return valid
}

// forget takes a sandbox down unless a call is at work on it.
func (s *Service) forget(ctx context.Context, containerID string) error {
	unlock, ok, err := s.locks.Next(ctx, containerID)
	if err != nil || !ok {
		return err
	}
	defer unlock()
	return s.detachAll(ctx, containerID, nil)
}
