// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/sriov"
	"spidernet.io/spiderpool/internal/text"
)

// announce shows a plan before it is carried out. It is not essential: a failure is logged.
func (r *reconciler) announce(ctx context.Context, state *v1.SriovNetworkNodeState, out outcome) {
	before := state.DeepCopy()
	s := &state.Status
	s.Interfaces, s.Plan = sriov.Status(&state.Spec, *out.node), sriov.Planned(out.plan)
	s.SyncStatus, s.LastSyncError = v1.SyncStatusInProgress, ""
	setCondition(state, v1.ConditionReady, false, "Configuring",
		fmt.Sprintf("%d steps are being taken, see status.plan", len(out.plan)))
	if err := r.patch(ctx, before, state); err != nil {
		log.FromContext(ctx).Info("cannot show the plan", "node", r.Node, "error", err)
		state.Status = before.Status // what is not shown yet is still to be shown at the end
	}
}

// report writes the status and tells what changed since the pass began.
func (r *reconciler) report(ctx context.Context, first, state *v1.SriovNetworkNodeState, out outcome) error {
	before := state.DeepCopy()
	s := &state.Status
	if out.node != nil {
		s.Interfaces, s.Plan = sriov.Status(&state.Spec, *out.node), sriov.Planned(out.plan)
	}
	s.ObservedGeneration = state.Generation
	v := judge(state, out)
	if v.ready && r.wait >= patience {
		v.message += sleepingPorts(state)
	}
	s.SyncStatus, s.LastSyncError = v.sync, v.problem
	setCondition(state, v1.ConditionReady, v.ready, v.reason, v.message)
	r.judgeRdmaMode(state)
	if err := r.patch(ctx, before, state); err != nil {
		return err
	}
	r.tellConditions(first, state)
	r.tellPorts(first, state)
	return nil
}

// patch writes what changed of the status. It is refused when the object has changed since it was
// read: conditions are one list to a merge patch, and the operator's must not be overwritten by old
// ones.
func (r *reconciler) patch(ctx context.Context, before, after *v1.SriovNetworkNodeState) error {
	if equality.Semantic.DeepEqual(before.Status, after.Status) {
		return nil
	}
	if err := r.client.Status().Patch(ctx, after, client.MergeFromWithOptions(before,
		client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write the status of SriovNetworkNodeState %s: %w", r.Node, err)
	}
	return nil
}

func eventType(good bool) string {
	if good {
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}

func setCondition(state *v1.SriovNetworkNodeState, kind string, good bool, reason, message string) {
	status := metav1.ConditionFalse
	if good {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&state.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: state.Generation,
	})
}

// verdict is a pass in a person's words.
type verdict struct {
	ready                          bool
	sync, problem, reason, message string
}

func judge(state *v1.SriovNetworkNodeState, out outcome) verdict {
	if problem := out.problem(); problem != "" {
		return verdict{sync: v1.SyncStatusFailed, problem: problem, reason: "Failed", message: problem}
	}
	person, pods := blocks(out.plan)
	switch {
	case len(person) > 0:
		text := strings.Join(append(person, pods...), "; ")
		return verdict{sync: v1.SyncStatusFailed, problem: text, reason: "Blocked", message: text}
	case len(pods) > 0:
		text := strings.Join(pods, "; ")
		return verdict{sync: v1.SyncStatusInProgress, reason: "WaitingForPods", message: text}
	case sriov.Doable(out.plan):
		return verdict{sync: v1.SyncStatusInProgress, reason: "Configuring",
			message: "steps are left to be taken, see status.plan"}
	}
	text, unready := readiness(state)
	if unready {
		return verdict{sync: v1.SyncStatusFailed, problem: text, reason: "NotReady", message: text}
	}
	return verdict{ready: true, sync: v1.SyncStatusSucceeded, reason: "Configured", message: text}
}

func (o *outcome) problem() string {
	if o.err != nil {
		return o.err.Error()
	}
	var errs []error
	for _, f := range o.errs {
		errs = append(errs, f.err)
	}
	if err := errors.Join(errs...); err != nil {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}

// blocks sorts what is blocked by who can free it.
func blocks(plan []sriov.Change) (person, pods []string) {
	for _, c := range plan {
		line := fmt.Sprintf("%s on %s: %s", c, c.PF, c.Blocked)
		switch {
		case c.InUse:
			pods = append(pods, line)
		case c.Blocked != "":
			person = append(person, line)
		}
	}
	return person, pods
}

// readiness counts the VFs of each resource, and names those that are not ready.
func readiness(state *v1.SriovNetworkNodeState) (text string, unready bool) {
	ready, reasons := map[string]int{}, []string(nil)
	for _, pf := range state.Status.Interfaces {
		for _, vf := range pf.VFs {
			if vf.Resource != "" {
				ready[vf.Resource]++
			}
			if vf.NotReady != "" {
				reasons = append(reasons, fmt.Sprintf("VF %s is not offered: %s", vf.PciAddress, vf.NotReady))
			}
		}
	}
	if len(reasons) > 0 {
		return strings.Join(reasons, "; "), true
	}
	var parts []string
	for resource, n := range ready {
		parts = append(parts, fmt.Sprintf("%s: %d VFs ready", resource, n))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return "no policy asks for VFs on this node", false
	}
	return strings.Join(parts, ", "), false
}

// patience is the wait after which ports that are still not ACTIVE are worth a word; a subnet
// manager takes a moment.
const patience = 4 * firstWait

// sleepingPorts names cards whose free VFs have ports that are not ACTIVE, and says where to look.
func sleepingPorts(state *v1.SriovNetworkNodeState) string {
	var parts []string
	for _, pf := range state.Status.Interfaces {
		states := map[string]int{}
		for _, vf := range pf.VFs {
			if pf.LinkType == v1.LinkTypeIB && vf.Resource != "" && vf.Pod == "" && vf.PortState != "ACTIVE" &&
				vf.PortState != "" {
				states[vf.PortState]++
			}
		}
		for _, s := range slices.Sorted(maps.Keys(states)) {
			advice := fmt.Sprintf("the PF's is %s: check the cable, the switch and the subnet manager (`ibstat %s`)",
				pf.PortState, pf.RdmaDevice)
			if pf.PortState == "ACTIVE" {
				advice = "the PF's is ACTIVE: does the subnet manager support virtual ports (OpenSM: virt_enabled 2)?"
			}
			parts = append(parts,
				fmt.Sprintf("; the ports of %d free VFs of %s are %s, so they are not given to pods; %s", states[s],
					pf.PciAddress, s, advice))
		}
	}
	return strings.Join(parts, "")
}

// tellConditions records an event for each condition that says something new.
func (r *reconciler) tellConditions(before, after *v1.SriovNetworkNodeState) {
	for _, c := range after.Status.Conditions {
		old := meta.FindStatusCondition(before.Status.Conditions, c.Type)
		if old != nil && old.Reason == c.Reason && old.Message == c.Message {
			continue
		}
		r.events.Eventf(after, nil, eventType(c.Status == metav1.ConditionTrue), c.Reason, "Configure", "%s",
			text.Note(c.Message))
	}
}

// tellPorts records events of ports that went down or came up.
func (r *reconciler) tellPorts(before, after *v1.SriovNetworkNodeState) {
	for _, pf := range after.Status.Interfaces {
		i := slices.IndexFunc(before.Status.Interfaces,
			func(o v1.InterfaceExt) bool { return o.PciAddress == pf.PciAddress })
		if i < 0 || pf.PortState == "" || pf.LinkType != v1.LinkTypeIB {
			continue
		}
		was, is := before.Status.Interfaces[i].PortState == "ACTIVE", pf.PortState == "ACTIVE"
		switch {
		case was && !is:
			r.events.Eventf(after, nil, corev1.EventTypeWarning, "PortDown", "Observe",
				"the port of %s (%s) is %s: its free VFs are unhealthy and not given to pods. Check the cable, the "+
					"switch and the subnet manager (`ibstat %s`)",
				pf.PciAddress, pf.RdmaDevice, pf.PortState, pf.RdmaDevice)
		case !was && is && before.Status.Interfaces[i].PortState != "":
			r.events.Eventf(after, nil, corev1.EventTypeNormal, "PortActive", "Observe",
				"the port of %s (%s) is ACTIVE", pf.PciAddress, pf.RdmaDevice)
		}
	}
}

// judgeRdmaMode compares the mode of the RDMA subsystem with the wanted one. It tries once to set
// it, which succeeds only on a node without pods.
func (r *reconciler) judgeRdmaMode(state *v1.SriovNetworkNodeState) {
	mode, err := r.Kernel.RDMAMode()
	wanted := state.Spec.System.RdmaMode
	if err == nil && wanted != "" && wanted != string(mode) && r.triedMode != wanted {
		r.triedMode = wanted
		if r.Kernel.SetRDMAMode(host.RDMAMode(wanted)) == nil {
			mode = host.RDMAMode(wanted)
		}
	}
	state.Status.System.RdmaMode = string(mode)
	ok, reason, message := sriov.JudgeRdmaMode(wanted, string(mode))
	setCondition(state, v1.ConditionRdmaMode, ok, reason, message)
}
