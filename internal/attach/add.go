// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/nad"
)

// Reasons of events at pods.
const (
	ReasonAdded    = "AddedInterface"
	ReasonFailed   = "FailedAttach"
	ReasonConflict = "AddressConflict"
	ReasonBroken   = "AttachmentBroken"
	ReasonIgnored  = "AnnotationIgnored"
	ReasonLeft     = "DetachIncomplete"
)

// add attaches all networks of a sandbox or none.
func (s *Service) add(ctx context.Context, c *call) ([]byte, error) {
	unlock, err := s.locks.Meta(ctx, c.containerID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.gone.forget(c.containerID)
	if err := c.checkNetNS(s.Kernel); err != nil {
		return nil, err
	}
	if res, err := s.again(ctx, c); err != nil || res != nil {
		return res, err
	}
	if err := s.checkNode(c); err != nil {
		return nil, err
	}
	end := c.phases.Start(cni.PhaseGather)
	g, err := s.gather(ctx, c)
	if err == nil {
		err = s.clearWay(ctx, c, g)
	}
	end()
	if err != nil {
		return nil, s.failed(g.pod, err)
	}
	c.networkType = g.list[0].list.Plugins[0].Network.Type
	results, out, err := s.attachAll(ctx, c, g)
	if err != nil {
		return nil, s.failed(g.pod, err)
	}
	s.added(c, g, results)
	return out, nil
}

// checkNode refuses what the meta plugin's configuration cannot have here, and looks for the file
// by which another product says that the node's network is up. The runtime asks again, so nobody
// waits here.
func (s *Service) checkNode(c *call) error {
	if len(c.conf.Delegates) > 0 {
		return cni.Errorf(cni.CodeInvalidConfig,
			"put each into a file of its own, and name that in clusterNetwork or defaultNetworks",
			`"delegates" of the meta plugin's configuration is not supported`)
	}
	file := c.conf.ReadinessFile
	if file == "" {
		return nil
	}
	if _, err := os.Stat(s.at(file)); err != nil {
		return cni.Errorf(cni.CodeTryAgainLater,
			"see what writes it; it is readinessindicatorfile of the meta plugin's configuration",
			"the node's network is not ready yet: %w", err)
	}
	return nil
}

// again answers a repeated ADD from the record, and clears away what an interrupted one left.
func (s *Service) again(ctx context.Context, c *call) ([]byte, error) {
	sb, ok := s.Ledger.Sandbox(c.containerID)
	if !ok {
		return nil, nil
	}
	var res types100.Result
	whole := false
	for _, a := range sb.Attachments {
		if a.Phase != ledger.Done {
			whole = false
			break
		}
		if a.Default && a.IfName == c.ifname {
			if err := json.Unmarshal(a.Result, &res); err != nil {
				return nil, fmt.Errorf("read the recorded result of %s: %w", describe(a.Network, a.IfName), err)
			}
			whole = true
		}
	}
	if whole {
		return cni.Encode(&res, c.conf.CNIVersion)
	}
	if err := s.detachAll(context.WithoutCancel(ctx), c.containerID, c.phases); err != nil {
		return nil, fmt.Errorf("clear away what an interrupted ADD left: %w", err)
	}
	return nil, nil
}

// attachAll makes all attachments, beside each other as far as they allow, and encodes what the
// runtime is told: the first one's. On failure it undoes all.
func (s *Service) attachAll(ctx context.Context, c *call, g gathered) (results []*types100.Result, out []byte,
	err error) {
	if err := s.record(c, g); err != nil {
		return nil, nil, fmt.Errorf("record the attachments: %w", err)
	}
	if slices.ContainsFunc(g.list, func(p planned) bool { return p.deviceID != "" }) {
		defer s.DevicesMoved()
	}
	results = make([]*types100.Result, len(g.list))
	order := newTurns(len(g.list))
	err = order.run(ctx, func(i int) (err error) {
		var phases cni.Phases // of this attachment: what runs beside another's adds up
		defer func() { c.phases.Add(phases.List()) }()
		results[i], err = s.attach(ctx, c, g, i, order, &phases)
		return err
	})
	if err == nil {
		err = s.defaultRoute(ctx, c, g, results)
	}
	if err == nil {
		// an old version cannot say everything, such as an address of IPv6 alone
		out, err = cni.Encode(results[0], c.conf.CNIVersion)
	}
	if err == nil && ctx.Err() != nil {
		err = fmt.Errorf("the runtime gave up: %w", ctx.Err())
	}
	if err != nil {
		return nil, nil, s.undo(ctx, c, err)
	}
	return results, out, nil
}

func (s *Service) undo(ctx context.Context, c *call, cause error) error {
	if err := s.detachAll(context.WithoutCancel(ctx), c.containerID, c.phases); err != nil {
		return errors.Join(cause, fmt.Errorf("and undoing it failed, which the agent will try again: %w", err))
	}
	return cause
}

// record notes every attachment: it is on disk before anything is done for the first, see cni.Recorder.
func (s *Service) record(c *call, g gathered) error {
	attachments := make([]ledger.Attachment, 0, len(g.list))
	for i := range g.list {
		p := &g.list[i]
		capabilities, err := json.Marshal(p.capabilities)
		if err != nil {
			return fmt.Errorf("network %s: encode the runtime configuration: %w", p.title(), err)
		}
		attachments = append(attachments, ledger.Attachment{Network: p.list.Name, IfName: p.ifname, NAD: p.nad,
			Default: i == 0, Config: p.config,
			RuntimeConfig: capabilities, Args: p.args, BinDirs: c.binDirs, Resource: p.resource,
			DeviceID: p.deviceID, Phase: ledger.Adding})
	}
	c.draft.note(func(sb *ledger.Sandbox) error {
		sb.NetNS, sb.Pod = string(c.netns), c.pod()
		if g.pod != nil {
			// else no kubelet started it, and an agent may write to its own node's pods alone
			sb.StatusPending = g.pod.Spec.NodeName != ""
			sb.Pod.UID = string(g.pod.UID)
			sb.GraceSeconds = ptr.Deref(g.pod.Spec.TerminationGracePeriodSeconds, 0)
		}
		for _, a := range attachments {
			sb.Remove(a.Network, a.IfName) // of a write that failed, and was written all the same
			sb.Attachments = append(sb.Attachments, a)
		}
		return nil
	})
	return nil
}

// attach runs one network and records its result.
func (s *Service) attach(ctx context.Context, c *call, g gathered, i int, order *turns,
	phases *cni.Phases) (*types100.Result, error) {
	p := &g.list[i]
	call := callFor(s, c.draft, c.pod(), c.netns, p.list.Name, p.ifname, phases)
	call.Args, call.BinDirs, call.Capabilities, call.NAD = p.args, c.binDirs, p.capabilities, p.nad
	if i > 0 {
		call.Turn = func(ctx context.Context) error { return order.wait(ctx, i) }
	}
	if g.pod != nil {
		call.Pod = ipam.PodFrom(g.pod)
	}
	for i := range g.list {
		call.Interfaces = append(call.Interfaces, g.list[i].ifname)
	}
	err := s.placeDeviceInfo(c.draft, p)
	var res *types100.Result
	if err == nil {
		res, err = s.runner.Add(ctx, p.list, call)
	}
	if err == nil {
		defer phases.Start(cni.PhaseRecord)()
		err = recordResult(c.draft, p, res)
	}
	if err != nil {
		return nil, fmt.Errorf("attach network %s as %s: %w", p.title(), p.ifname, err)
	}
	return res, nil
}

func recordResult(d *draft, p *planned, res *types100.Result) error {
	raw, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	err = d.write(func(sb *ledger.Sandbox) error {
		a := sb.Attachment(p.list.Name, p.ifname)
		if a == nil {
			return errors.New("its record has gone")
		}
		a.Result = raw
		if !p.carriesDefault() { // else it is done when the pod's routes are, see recordDefault
			a.Phase = ledger.Done
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the result: %w", err)
	}
	return nil
}

// callFor is what all of one attachment's plugins are called with.
func callFor(s *Service, d *draft, pod ledger.Pod, netns host.NS, network, ifname string,
	phases *cni.Phases) cni.Call {
	return cni.Call{ContainerID: d.containerID, NetNS: netns, IfName: ifname, Phases: phases, Recorded: d.recorded,
		Refused: func(r cni.Refusal) bool { return s.refused(d.containerID, pod, network, ifname, r) },
		State: func(plugin string) cni.State {
			return state{draft: d, network: network, ifname: ifname, plugin: plugin}
		}}
}

// clearWay looks at what the other sandboxes have that this one is to get.
func (s *Service) clearWay(ctx context.Context, c *call, g gathered) error {
	others := slices.DeleteFunc(s.Ledger.Sandboxes(),
		func(sb ledger.Sandbox) bool { return sb.ContainerID == c.containerID })
	if err := s.supersede(ctx, others, g.pod); err != nil {
		return err
	}
	for _, sb := range others {
		if err := s.claimDevice(ctx, sb, g); err != nil {
			return err
		}
	}
	return nil
}

// claimDevice makes sure that another sandbox has no device that this one is to get. The kubelet
// gives a device again as soon as its pod's containers have ended, which may be before the network
// was taken down.
func (s *Service) claimDevice(ctx context.Context, other ledger.Sandbox, g gathered) error {
	if g.wanted(other) == nil {
		return nil
	}
	if !s.Kernel.NSExists(host.NS(other.NetNS)) {
		s.collectSandbox(ctx, other.ContainerID)
	}
	now, _ := s.Ledger.Sandbox(other.ContainerID)
	if p := g.wanted(now); p != nil {
		return cni.Errorf(cni.CodeTryAgainLater, "the kubelet tries again; see that pod if this stays",
			"network %s: device %s is still attached to sandbox %s of pod %s/%s", p.title(), p.deviceID,
			now.ContainerID, now.Pod.Namespace, now.Pod.Name)
	}
	return nil
}

// wanted is a network of these whose device the sandbox has; nil when it has none.
func (g gathered) wanted(sb ledger.Sandbox) *planned {
	i := slices.IndexFunc(g.list, func(p planned) bool {
		return p.deviceID != "" && slices.ContainsFunc(sb.Attachments,
			func(a ledger.Attachment) bool { return strings.EqualFold(a.DeviceID, p.deviceID) })
	})
	if i < 0 {
		return nil
	}
	return &g.list[i]
}

// tellConflict tells the pod's owner that an address was passed over since somebody uses it.
func (s *Service) tellConflict(pod cni.Pod, message string) {
	s.Events.Event(podObject(ledger.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}),
		corev1.EventTypeWarning, ReasonConflict, message)
}

// podObject is as much of a pod as an event needs.
func podObject(p ledger.Pod) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID)}}
}

// failed tells the pod's owner and passes the error on to the runtime.
func (s *Service) failed(pod *corev1.Pod, err error) error {
	if pod != nil {
		s.Events.Event(pod, corev1.EventTypeWarning, ReasonFailed, err.Error())
	}
	return err
}

// added tells the pod's owner and has the network-status written; nobody waits for either.
func (s *Service) added(c *call, g gathered, results []*types100.Result) {
	if g.pod == nil {
		return
	}
	for i := range g.list {
		var ips []string
		for _, ip := range results[i].IPs {
			ips = append(ips, ip.Address.String())
		}
		s.Events.Event(g.pod, corev1.EventTypeNormal, ReasonAdded, fmt.Sprintf("Add %s [%s] from %s", g.list[i].ifname,
			strings.Join(ips, " "), g.list[i].title()))
	}
	for _, message := range slices.Concat(s.ignored(g.pod), ignoredKeys(g.list)) {
		s.Events.Event(g.pod, corev1.EventTypeWarning, ReasonIgnored, message)
	}
	s.status.enqueue(c.containerID)
}

// ignored lists what annotations of the pod and its namespace ask for in vain, and what happens instead.
func (s *Service) ignored(pod *corev1.Pod) []string {
	const noInjection = "%s has no effect: networks and resources are not injected into pods; the pod has the " +
		"networks that it names itself"
	var messages []string
	for _, key := range slices.Sorted(maps.Keys(ipam.IgnoredAnnotations)) {
		if _, ok := pod.Annotations[key]; ok {
			messages = append(messages, fmt.Sprintf("annotation %s has no effect: %s", key,
				ipam.IgnoredAnnotations[key]))
		}
	}
	if key := nad.Injection(pod.Annotations); key != "" {
		messages = append(messages, fmt.Sprintf("annotation "+noInjection, key))
	} else if s.NamespaceAnnotations != nil {
		if key := nad.Injection(s.NamespaceAnnotations(pod.Namespace)); key != "" {
			messages = append(messages, fmt.Sprintf("annotation "+noInjection, key+" of namespace "+pod.Namespace))
		}
	}
	return messages
}

// ignoredKeys lists what the networks' configurations ask for in vain.
func ignoredKeys(list []planned) []string {
	var messages []string
	for _, p := range list {
		if p.selection != nil && p.selection.IPAMClaimReference != "" {
			messages = append(messages, "network "+p.title()+
				`: "ipam-claim-reference" of the pod's annotation has no effect: the address comes from a pool`)
		}
		for _, plugin := range p.list.Plugins {
			for _, message := range nad.Ignored(plugin.Bytes) {
				messages = append(messages, "network "+p.title()+": "+message)
			}
		}
	}
	return messages
}
