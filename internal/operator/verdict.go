// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"slices"
	"strings"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// Reasons of a policy's condition Ready.
const (
	reasonInForce            = "InForce"
	reasonSelectsNothing     = "SelectsNothing"
	reasonConfiguring        = "Configuring"
	reasonWaiting            = "WaitingForPods"
	reasonBlocked            = "Blocked"
	reasonFailed             = "Failed"
	reasonOverruled          = "Overruled"
	reasonConflict           = "Conflict" // overruled by an equal, which nobody has meant
	maxCardsNamed        int = 8
)

// urgency orders reasons: what needs a person comes first.
var urgency = []string{reasonBlocked, reasonFailed, reasonConflict, reasonOverruled, reasonWaiting, reasonConfiguring}

// verdict is what became of a policy.
type verdict struct {
	ready           bool
	reason, message string
}

// card is what became of a policy on one card: the number of its VFs that are ready, or a reason
// why not all are.
type card struct {
	where        string
	ready        int
	reason, text string
}

// judge looks at every card that a policy selects. It is in force when each has all its VFs ready.
// all are the policies of the namespace.
func judge(p *v1.SriovNetworkNodePolicy, all []v1.SriovNetworkNodePolicy, nodes []v1.NodeCards,
	states map[string]*v1.SriovNetworkNodeState) verdict {
	var cards []card
	p.EachSelected(nodes, func(node *v1.NodeCards, pf *v1.InterfaceExt) {
		c := judgeCard(p, all, states[node.Name], pf)
		c.where = fmt.Sprintf("node %s card %s", node.Name, pf.PciAddress)
		cards = append(cards, c)
	})
	if len(cards) == 0 {
		return verdict{reason: reasonSelectsNothing, message: strings.Join(p.WhyNothing(nodes), "; ")}
	}
	var good, bad []string
	total, worst := 0, ""
	for _, c := range cards {
		if c.reason == "" {
			total += c.ready
			good = append(good, fmt.Sprintf("%s: %d", c.where, c.ready))
			continue
		}
		bad = append(bad, c.where+": "+c.text)
		if worst == "" || slices.Index(urgency, c.reason) < slices.Index(urgency, worst) {
			worst = c.reason
		}
	}
	if worst == "" {
		return verdict{ready: true, reason: reasonInForce, message: fmt.Sprintf("%d VFs ready: %s", total,
			strings.Join(cut(good), ", "))}
	}
	return verdict{reason: worst, message: fmt.Sprintf("%d of %d cards are not as wanted: %s", len(bad), len(cards),
		strings.Join(cut(bad), "; "))}
}

func cut(lines []string) []string {
	if len(lines) <= maxCardsNamed {
		return lines
	}
	return append(lines[:maxCardsNamed:maxCardsNamed], fmt.Sprintf("and %d more", len(lines)-maxCardsNamed))
}

func judgeCard(p *v1.SriovNetworkNodePolicy, all []v1.SriovNetworkNodePolicy, state *v1.SriovNetworkNodeState,
	pf *v1.InterfaceExt) card {
	group, by := groupOf(p, state, pf)
	switch {
	case by != "":
		return overruled(p, all, by)
	case group == nil || state.Status.ObservedGeneration != state.Generation:
		return card{reason: reasonConfiguring, text: "the agent has not taken it up yet"}
	}
	for _, change := range state.Status.Plan {
		if strings.EqualFold(change.PciAddress, pf.PciAddress) && change.Blocked != "" {
			return card{reason: blockReason(state), text: change.Change + ": " + change.Blocked}
		}
	}
	return judgeVFs(group, state, pf)
}

// blockReason tells by whom a blocked change of a node can be freed: pods, while the node's
// synchronisation is in progress, else a person.
func blockReason(state *v1.SriovNetworkNodeState) string {
	if state.Status.SyncStatus == v1.SyncStatusFailed {
		return reasonBlocked
	}
	return reasonWaiting
}

// overruled says why another policy has the VFs that this one claims as well.
func overruled(p *v1.SriovNetworkNodePolicy, all []v1.SriovNetworkNodePolicy, by string) card {
	i := slices.IndexFunc(all, func(o v1.SriovNetworkNodePolicy) bool { return o.Name == by })
	if i >= 0 && all[i].Spec.PriorityOrDefault() == p.Spec.PriorityOrDefault() {
		return card{reason: reasonConflict,
			text: fmt.Sprintf(
				"policy %s claims the same VFs at the same priority %d, and has them because its name is the "+
					"later one: "+
					"give each policy its own range in pfNames (such as ibs5f0#0-5 and ibs5f0#6-11), other cards or "+
					"nodes, or another priority (the smaller number wins)",
				by, p.Spec.PriorityOrDefault())}
	}
	return card{reason: reasonOverruled,
		text: fmt.Sprintf("policy %s has the same VFs and wins: its priority is a smaller number", by)}
}

// groupOf finds the policy's group in a node's spec; when there is none, by is the policy that has
// its VFs, or some of them.
func groupOf(p *v1.SriovNetworkNodePolicy, state *v1.SriovNetworkNodeState, pf *v1.InterfaceExt) (group *v1.VfGroup,
	by string) {
	if state == nil {
		return nil, ""
	}
	claimed := p.Spec.RangeOn(pf)
	for i := range state.Spec.Interfaces {
		w := &state.Spec.Interfaces[i]
		if !strings.EqualFold(w.PciAddress, pf.PciAddress) {
			continue
		}
		for g := range w.VfGroups {
			if w.VfGroups[g].PolicyName == p.Name {
				return &w.VfGroups[g], ""
			}
			if r, err := v1.ParseVFRange(w.VfGroups[g].VfRange); err == nil && r.Overlaps(claimed) {
				by = w.VfGroups[g].PolicyName
			}
		}
	}
	return nil, by
}

func judgeVFs(group *v1.VfGroup, state *v1.SriovNetworkNodeState, pf *v1.InterfaceExt) card {
	r, err := v1.ParseVFRange(group.VfRange)
	if err != nil {
		return card{reason: reasonFailed, text: err.Error()}
	}
	ready, why := 0, ""
	for i := range pf.VFs {
		vf := &pf.VFs[i]
		switch {
		case !r.Contains(vf.VfID):
		case vf.Resource == group.ResourceName:
			ready++
		case why == "" && vf.NotReady != "":
			why = fmt.Sprintf("VF %s is not offered: %s", vf.PciAddress, vf.NotReady)
		}
	}
	wanted := r.Last - r.First + 1
	switch {
	case ready == wanted:
		return card{ready: ready}
	case state.Status.SyncStatus == v1.SyncStatusFailed:
		if why == "" {
			why = state.Status.LastSyncError
		}
		return card{reason: reasonFailed, text: fmt.Sprintf("%d of %d VFs ready: %s", ready, wanted, why)}
	}
	return card{reason: reasonConfiguring, text: fmt.Sprintf("%d of %d VFs ready", ready, wanted)}
}
