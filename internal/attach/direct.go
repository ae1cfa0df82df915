// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/spiderpool"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/text"
)

// direct runs one plugin of ours that something else called by its name: another meta plugin,
// cnitool, or a plugin on disk that has its addresses managed by us. The last may happen inside a
// call of our meta plugin for the same sandbox and interface; then the attachment is recorded
// already and the plugin's state joins it.
func (s *Service) direct(ctx context.Context, c *call) ([]byte, error) {
	if s.runner.Plugins[c.plugin] == nil {
		return nil, cni.Errorf(cni.CodeInvalidConfig, "our plugins are "+strings.Join(s.pluginNames(), ", "),
			"the agent has no plugin %s", text.Quote(c.plugin))
	}
	c.networkType = c.plugin
	switch c.command {
	case "STATUS":
		return nil, nil // our plugins are as ready as this process
	case "GC":
		return nil, s.directGC(context.WithoutCancel(ctx), c)
	}
	unlock, err := s.locks.Direct(ctx, c.containerID, c.ifname+"/"+c.plugin, c.command == "ADD")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c.deviceID() != "" {
		defer s.DevicesMoved()
	}
	switch c.command {
	case "ADD":
		return s.directAdd(ctx, c)
	case "DEL":
		return nil, s.directDel(context.WithoutCancel(ctx), c)
	default:
		return s.runner.Direct(ctx, c.plugin, c.command, c.stdin, s.directCall(c))
	}
}

func (s *Service) pluginNames() []string {
	return append([]string{MetaPlugin}, slices.Sorted(maps.Keys(s.runner.Plugins))...)
}

func (s *Service) directCall(c *call) cni.Call {
	call := callFor(s, c.draft, c.pod(), c.netns, c.conf.Name, c.ifname, c.phases)
	call.Args, call.BinDirs = c.argsText, c.binDirs
	call.Pod = cni.Pod{Namespace: c.args["K8S_POD_NAMESPACE"], Name: c.args["K8S_POD_NAME"], UID: c.args["K8S_POD_UID"]}
	return call
}

func (s *Service) directAdd(ctx context.Context, c *call) ([]byte, error) {
	if err := c.checkNetNS(s.Kernel); err != nil {
		return nil, err
	}
	call := s.directCall(c)
	if call.Pod.Name != "" {
		pod, err := s.findPod(ctx, c)
		if err != nil {
			return nil, err
		}
		call.Pod = ipam.PodFrom(pod)
	}
	sb, _ := s.Ledger.Sandbox(c.containerID)
	a := sb.Attachment(c.conf.Name, c.ifname)
	if a == nil || len(a.Direct) > 0 {
		// its network-status is not ours, and says nothing of when the API server shows its
		// addresses
		call.Pod.Known = true
	}
	if a != nil {
		call.NAD = a.NAD
		// a call of our meta plugin, which recorded all; what something else attaches is recorded
		// one by one
		if len(a.Direct) == 0 {
			for _, other := range sb.Attachments {
				call.Interfaces = append(call.Interfaces, other.IfName)
			}
		}
		if i := indexDirect(a, c.plugin); i >= 0 {
			if a.Direct[i].Done {
				return a.Direct[i].Result, nil
			}
			if err := s.directDel(context.WithoutCancel(ctx), c); err != nil {
				return nil, fmt.Errorf("clear away what an interrupted ADD left: %w", err)
			}
		}
	}
	if err := s.runner.InstalledDirect(c.stdin, c.binDirs); err != nil {
		return nil, err
	}
	if err := s.recordDirect(c, call.Pod); err != nil {
		return nil, fmt.Errorf("record the attachment: %w", err)
	}
	out, err := s.runner.Direct(ctx, c.plugin, "ADD", c.stdin, call)
	if err == nil {
		err = s.directDone(c, out)
	}
	if err != nil {
		if undo := s.directDel(context.WithoutCancel(ctx), c); undo != nil {
			return nil, errors.Join(err, fmt.Errorf("and undoing it failed, which the agent will try again: %w", undo))
		}
		return nil, err
	}
	return out, nil
}

func indexDirect(a *ledger.Attachment, plugin string) int {
	return slices.IndexFunc(a.Direct, func(d ledger.DirectCall) bool { return d.Plugin == plugin })
}

// recordDirect notes the call before its first effect. Inside a call of our meta plugin the
// attachment is there.
func (s *Service) recordDirect(c *call, pod cni.Pod) error {
	return c.draft.write(func(sb *ledger.Sandbox) error {
		a := sb.Attachment(c.conf.Name, c.ifname)
		if a != nil && len(a.Direct) == 0 {
			return nil
		}
		if a == nil {
			sb.NetNS, sb.Pod = string(c.netns), ledger.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
			sb.Attachments = append(sb.Attachments, ledger.Attachment{Network: c.conf.Name, IfName: c.ifname,
				Args: c.argsText, BinDirs: c.binDirs})
			a = &sb.Attachments[len(sb.Attachments)-1]
		}
		a.Phase = ledger.Adding
		if id := c.deviceID(); id != "" {
			a.DeviceID = id
		}
		a.Direct = append(a.Direct, ledger.DirectCall{Plugin: c.plugin, Conf: c.stdin})
		return nil
	})
}

func (s *Service) directDone(c *call, out []byte) error {
	return c.draft.write(func(sb *ledger.Sandbox) error {
		a := sb.Attachment(c.conf.Name, c.ifname)
		if a == nil {
			return fmt.Errorf("the record of %s has gone", describe(c.conf.Name, c.ifname))
		}
		i := indexDirect(a, c.plugin)
		if i < 0 {
			return nil // inside a call of our meta plugin
		}
		a.Direct[i].Done, a.Direct[i].Result = true, out
		if !slices.ContainsFunc(a.Direct, func(d ledger.DirectCall) bool { return !d.Done }) {
			a.Phase = ledger.Done
		}
		return nil
	})
}

func (s *Service) directDel(ctx context.Context, c *call) error {
	if c.plugin == spiderpool.Type {
		if err := s.releaseUnrecorded(c); err != nil {
			return err
		}
	}
	if _, err := s.runner.Direct(ctx, c.plugin, "DEL", c.stdin, s.directCall(c)); err != nil {
		return err
	}
	s.failures.Forget(cni.AttachmentKey{ContainerID: c.containerID, IfName: c.ifname})
	if err := s.releaseInterrupted(c); err != nil {
		return err
	}
	return s.Ledger.UpdateSandbox(c.containerID, func(sb *ledger.Sandbox) error {
		a := sb.Attachment(c.conf.Name, c.ifname)
		if a == nil {
			return nil
		}
		delete(a.State, c.plugin)
		if i := indexDirect(a, c.plugin); i >= 0 {
			a.Direct = slices.Delete(a.Direct, i, i+1)
			if len(a.Direct) == 0 {
				sb.Remove(c.conf.Name, c.ifname)
			}
		}
		return nil
	})
}

// directGC takes down what one plugin has of a network for others than the valid attachments. A
// sandbox that a call is at work on is left alone.
func (s *Service) directGC(ctx context.Context, c *call) error {
	valid, err := c.conf.valid()
	if err != nil {
		return err
	}
	var errs []error
	for _, sb := range s.Ledger.Sandboxes() {
		for _, a := range sb.Attachments {
			if indexDirect(&a, c.plugin) >= 0 && a.Network == c.conf.Name &&
				!slices.Contains(valid, types.GCAttachment{ContainerID: sb.ContainerID, IfName: a.IfName}) {
				errs = append(errs, s.directForget(ctx, sb, a.IfName, c))
			}
		}
	}
	return errors.Join(errs...)
}

// directForget makes the DEL of a recorded call unless it has ended, or another one came, since it was seen.
func (s *Service) directForget(ctx context.Context, seen ledger.Sandbox, ifname string, gc *call) error {
	unlock, ok, err := s.locks.Next(ctx, seen.ContainerID)
	if err != nil || !ok {
		return err
	}
	defer unlock()
	sb, _ := s.Ledger.Sandbox(seen.ContainerID) // again, now that nobody changes it
	a := sb.Attachment(gc.conf.Name, ifname)
	if a == nil || sb.NetNS != seen.NetNS {
		return nil
	}
	i := indexDirect(a, gc.plugin)
	if i < 0 {
		return nil
	}
	c := &call{plugin: gc.plugin, command: "DEL", containerID: sb.ContainerID, ifname: ifname, netns: host.NS(sb.NetNS),
		argsText: a.Args, binDirs: a.BinDirs,
		stdin: a.Direct[i].Conf, conf: metaConf{Name: a.Network}, phases: &cni.Phases{}, draft: s.draft(sb.ContainerID)}
	if err := c.parseArgs(); err != nil {
		return err
	}
	if a.DeviceID != "" {
		defer s.DevicesMoved()
	}
	if err := s.directDel(ctx, c); err != nil {
		return fmt.Errorf("take down %s of sandbox %s: %w", describe(a.Network, a.IfName), sb.ContainerID, err)
	}
	return nil
}

// releaseInterrupted gives back what a call has that ended after its addresses were given and
// before that was written.
func (s *Service) releaseInterrupted(c *call) error {
	sb, _ := s.Ledger.Sandbox(c.containerID)
	a := sb.Attachment(c.conf.Name, c.ifname)
	if a == nil || a.State[spiderpool.Type] != nil || sb.Pod.UID == "" {
		return nil
	}
	if i := indexDirect(a, c.plugin); i < 0 || a.Direct[i].Done {
		return nil
	}
	return s.releaseLater(sb.Pod.UID, c.containerID, c.ifname)
}

// releaseUnrecorded gives back what an address request without a record may hold: the ledger was
// lost, or the addresses are of a time before it.
func (s *Service) releaseUnrecorded(c *call) error {
	ok, err := state{draft: c.draft, network: c.conf.Name, ifname: c.ifname, plugin: c.plugin}.Load(&struct{}{})
	if err != nil || ok || c.args["K8S_POD_UID"] == "" {
		return err
	}
	return s.releaseLater(c.args["K8S_POD_UID"], c.containerID, c.ifname)
}
