// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/text"
)

// del takes a sandbox's networks down from the record alone.
func (s *Service) del(ctx context.Context, c *call) error {
	unlock, err := s.locks.Meta(ctx, c.containerID)
	if err != nil {
		return err
	}
	defer unlock()
	// Once begun, DEL goes to its end: a runtime that gave up would only ask again.
	ctx = context.WithoutCancel(ctx)
	sb, ok := s.Ledger.Sandbox(c.containerID)
	switch {
	case ok:
		c.networkType = typeOf(sb)
		err = s.detachAll(ctx, c.containerID, c.phases)
	case !s.gone.has(c.containerID):
		err = s.delUnknown(ctx, c)
	}
	if err == nil {
		s.gone.add(c.containerID)
		s.failures.Forget(cni.AttachmentKey{ContainerID: c.containerID, IfName: c.ifname})
	}
	return err
}

// refused reports whether a DEL goes on without a plugin on disk that failed, and who looks after
// the pod or the node gets to know what stays.
func (s *Service) refused(containerID string, pod ledger.Pod, network, ifname string, r cni.Refusal) bool {
	if !s.failures.Abandon(cni.AttachmentKey{ContainerID: containerID, IfName: ifname}, r, s.now()) {
		return false
	}
	s.Log.Warn("a plugin on disk did not undo its part of an attachment and is not called again", "plugin", r.Plugin,
		"network", network, "ifname", ifname, "sandbox", containerID, "namespace", pod.Namespace, "pod", pod.Name,
		"error", text.Limit(r.Err.Error(), text.MaxMessage))
	if pod.Name != "" {
		s.Events.Event(podObject(pod), corev1.EventTypeWarning, ReasonLeft, fmt.Sprintf(
			"plugin %s did not undo its part of %s and is not called again: %v; if it had set up anything on the "+
				"node, such as an address, remove that there", text.Quote(r.Plugin), describe(network, ifname), r.Err))
	}
	return true
}

// delUnknown is for a sandbox without a record: taken down already, or made before we were
// installed, on the cluster's default network.
func (s *Service) delUnknown(ctx context.Context, c *call) error {
	if uid := c.args["K8S_POD_UID"]; uid != "" {
		if err := s.Ledger.PutRelease(ledger.Release{PodUID: uid, Sandbox: c.containerID}); err != nil {
			return fmt.Errorf("note the release of the sandbox's addresses: %w", err)
		}
	}
	primary, err := s.primaryWithin(ctx, c, lookupTimeout)
	if err != nil {
		s.Log.Info("DEL of a sandbox without a record, and no default network to ask", "sandbox", c.containerID,
			"reason", err)
		return nil
	}
	p := planned{network: primary, ifname: c.ifname, capabilities: c.conf.RuntimeConfig}
	if err := p.parse(); err != nil {
		s.Log.Info("DEL of a sandbox without a record, and a default network that does not parse", "sandbox",
			c.containerID, "reason", err)
		return nil
	}
	call := callFor(s, c.draft, c.pod(), c.netns, p.list.Name, c.ifname, c.phases)
	call.Args, call.BinDirs, call.Capabilities = c.argsText, c.binDirs, p.capabilities
	return s.runner.Del(ctx, p.list, call, nil)
}

// lookupTimeout bounds the search for the default network: it may be an object that is asked of an
// API server that is away.
var lookupTimeout = 10 * time.Second // a variable for the test

func (s *Service) primaryWithin(ctx context.Context, c *call, limit time.Duration) (network, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.primary(ctx, c)
}

// detachAll undoes all attachments of a sandbox in reverse; the record ends with the last. Whatever
// fails stays recorded.
func (s *Service) detachAll(ctx context.Context, containerID string, phases *cni.Phases) error {
	sb, ok := s.Ledger.Sandbox(containerID)
	if !ok {
		return nil
	}
	var errs []error
	for _, a := range slices.Backward(sb.Attachments) {
		errs = append(errs, s.detach(ctx, sb, a, phases))
	}
	return errors.Join(errs...)
}

// detach undoes one attachment and forgets it, or notes why it could not.
func (s *Service) detach(ctx context.Context, sb ledger.Sandbox, a ledger.Attachment, phases *cni.Phases) error {
	if a.DeviceID != "" {
		defer s.DevicesMoved()
	}
	failure := s.runDel(ctx, sb, a, phases)
	if failure == nil {
		s.removeDeviceInfo(a)
		s.failures.Forget(cni.AttachmentKey{ContainerID: sb.ContainerID, IfName: a.IfName})
	}
	if failure == nil && mayHaveAddresses(a) && sb.Pod.UID != "" {
		// A plugin on disk that had its addresses from us may have gone without saying so.
		failure = s.releaseLater(sb.Pod.UID, sb.ContainerID, a.IfName)
	}
	defer phases.Start(cni.PhaseRecord)()
	err := s.Ledger.UpdateSandbox(sb.ContainerID, func(sb *ledger.Sandbox) error {
		if failure == nil {
			sb.Remove(a.Network, a.IfName)
			return nil
		}
		if now := sb.Attachment(a.Network, a.IfName); now != nil {
			now.Phase, now.Error = ledger.Deleting, text.Limit(failure.Error(), text.MaxMessage)
		}
		return nil
	})
	if failure != nil {
		return fmt.Errorf("detach %s: %w", describe(a.Network, a.IfName), failure)
	}
	return err
}

func (s *Service) runDel(ctx context.Context, sb ledger.Sandbox, a ledger.Attachment, phases *cni.Phases) error {
	if len(a.Direct) > 0 {
		call, err := s.recordedCall(sb, a, phases)
		if err != nil {
			return err
		}
		var errs []error
		for _, d := range slices.Backward(a.Direct) {
			_, err := s.runner.Direct(ctx, d.Plugin, "DEL", d.Conf, call)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	run, err := s.recordedRun(sb, a, phases)
	if err != nil {
		return err
	}
	return s.runner.Del(ctx, run.list, run.call, run.prev)
}

// recordedRun is what an attachment's plugins are run with again, from the record.
type recordedRun struct {
	list *libcni.NetworkConfigList
	call cni.Call
	prev *types100.Result // nil when there is none
}

func (s *Service) recordedRun(sb ledger.Sandbox, a ledger.Attachment, phases *cni.Phases) (r recordedRun, err error) {
	if r.list, err = cni.Parse(a.Config); err != nil {
		return r, fmt.Errorf("read the recorded configuration: %w", err)
	}
	if r.call, err = s.recordedCall(sb, a, phases); err != nil {
		return r, err
	}
	r.prev, err = recordedResult(a)
	return r, err
}

// recordedCall is the call that an attachment was made with, from the record.
func (s *Service) recordedCall(sb ledger.Sandbox, a ledger.Attachment, phases *cni.Phases) (cni.Call, error) {
	call := callFor(s, s.draft(sb.ContainerID), sb.Pod, host.NS(sb.NetNS), a.Network, a.IfName, phases)
	call.Args, call.BinDirs, call.NAD = a.Args, a.BinDirs, a.NAD
	call.Pod = cni.Pod{Namespace: sb.Pod.Namespace, Name: sb.Pod.Name, UID: sb.Pod.UID}
	for _, other := range sb.Attachments {
		call.Interfaces = append(call.Interfaces, other.IfName)
	}
	if len(a.RuntimeConfig) > 0 {
		if err := json.Unmarshal(a.RuntimeConfig, &call.Capabilities); err != nil {
			return call, fmt.Errorf("read the recorded runtime configuration: %w", err)
		}
	}
	return call, nil
}

func recordedResult(a ledger.Attachment) (*types100.Result, error) {
	if len(a.Result) == 0 {
		return nil, nil
	}
	var res types100.Result
	if err := json.Unmarshal(a.Result, &res); err != nil {
		return nil, fmt.Errorf("read the recorded result: %w", err)
	}
	return &res, nil
}

// releaseLater notes an address to be given back; the collector does it right after the call.
func (s *Service) releaseLater(podUID, sandbox, ifname string) error {
	return s.Ledger.PutRelease(ledger.Release{PodUID: podUID, Sandbox: sandbox, Interface: ifname})
}

// typeOf is the main plugin of a sandbox's default network.
func typeOf(sb ledger.Sandbox) string {
	for _, a := range sb.Attachments {
		if !a.Default {
			continue
		}
		if list, err := cni.Parse(a.Config); err == nil {
			return list.Plugins[0].Network.Type
		}
	}
	return ""
}
