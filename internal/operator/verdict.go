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
	maxCardsNamed        int = 8
)

// urgency orders reasons: what needs a person comes first.
var urgency = []string{reasonBlocked, reasonFailed, reasonOverruled, reasonWaiting, reasonConfiguring}

// verdict is what became of a policy.
type verdict struct {
	ready           bool
	reason, message string
}

// card is what became of a policy on one card: the number of its VFs that are ready, or a reason why not all are.
type card struct {
	where        string
	ready        int
	reason, text string
}

// judge looks at every card that a policy selects. It is in force when each has all its VFs ready.
func judge(p *v1.SriovNetworkNodePolicy, nodes []v1.NodeCards, states map[string]*v1.SriovNetworkNodeState) verdict {
	var cards []card
	p.EachSelected(nodes, func(node *v1.NodeCards, pf *v1.InterfaceExt) {
		c := judgeCard(p, states[node.Name], pf)
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
		return verdict{ready: true, reason: reasonInForce, message: fmt.Sprintf("%d VFs ready: %s", total, strings.Join(cut(good), ", "))}
	}
	return verdict{reason: worst, message: fmt.Sprintf("%d of %d cards are not as wanted: %s", len(bad), len(cards), strings.Join(cut(bad), "; "))}
}

func cut(lines []string) []string {
	if len(lines) <= maxCardsNamed {
		return lines
	}
	return append(lines[:maxCardsNamed:maxCardsNamed], fmt.Sprintf("and %d more", len(lines)-maxCardsNamed))
}

func judgeCard(p *v1.SriovNetworkNodePolicy, state *v1.SriovNetworkNodeState, pf *v1.InterfaceExt) card {
	group, by := groupOf(p, state, pf.PciAddress)
	switch {
	case by != "":
		return card{reason: reasonOverruled, text: fmt.Sprintf("policy %s has the same VFs and wins (a smaller priority, or a later name)", by)}
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

// blockReason tells by whom a blocked change of a node can be freed: pods, while the node's synchronisation is in progress, else a person.
func blockReason(state *v1.SriovNetworkNodeState) string {
	if state.Status.SyncStatus == v1.SyncStatusFailed {
		return reasonBlocked
	}
	return reasonWaiting
}

// groupOf finds the policy's group in a node's spec; when there is none, by is the policy that has its VFs.
func groupOf(p *v1.SriovNetworkNodePolicy, state *v1.SriovNetworkNodeState, pci string) (group *v1.VfGroup, by string) {
	if state == nil {
		return nil, ""
	}
	for i := range state.Spec.Interfaces {
		w := &state.Spec.Interfaces[i]
		if !strings.EqualFold(w.PciAddress, pci) {
			continue
		}
		for g := range w.VfGroups {
			if w.VfGroups[g].PolicyName == p.Name {
				return &w.VfGroups[g], ""
			}
			by = w.VfGroups[g].PolicyName
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
