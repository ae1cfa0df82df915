// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/sriov"
	"spidernet.io/spiderpool/internal/text"
)

// Reasons of a node's condition GuidsUnique.
const (
	reasonGuidClash   = "GuidClash"
	reasonGuidsUnique = "GuidsUnique"
)

// guids tells nodes whose InfiniBand functions bear a GUID that another one in the cluster bears
// too. No agent can see that: each knows its own node.
type guids struct {
	Options
	client client.Client
	events events.EventRecorder
}

func setupGuids(mgr ctrl.Manager, o Options) error {
	r := &guids{Options: o, client: mgr.GetClient(), events: mgr.GetEventRecorder("spiderpool-sriov-operator")}
	here := inNamespace(o.Namespace)
	return ctrl.NewControllerManagedBy(mgr).Named("sriov-guids").
		Watches(&v1.SriovNetworkNodeState{}, everything, builder.WithPredicates(here)).
		Complete(r)
}

// Reconcile compares the GUIDs of all nodes and writes their conditions.
func (r *guids) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var states v1.SriovNetworkNodeStateList
	if err := r.client.List(ctx, &states, client.InNamespace(r.Namespace)); err != nil {
		return reconcile.Result{}, fmt.Errorf("list SriovNetworkNodeStates: %w", err)
	}
	cards := map[string]v1.InterfaceExts{}
	for i := range states.Items {
		cards[states.Items[i].Name] = states.Items[i].Status.Interfaces
	}
	clashes := sriov.Clashes(cards)
	var errs []error
	for i := range states.Items {
		if err := r.tell(ctx, &states.Items[i], clashes); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return reconcile.Result{}, errors.Join(errs...)
}

// tell writes one node's condition, and records events on the node and its state when the clashes
// are new ones. A node without InfiniBand functions is not bothered.
func (r *guids) tell(ctx context.Context, state *v1.SriovNetworkNodeState, clashes []sriov.Clash) error {
	old := meta.FindStatusCondition(state.Status.Conditions, v1.ConditionGuidsUnique)
	if old != nil {
		old = old.DeepCopy()
	}
	c := metav1.Condition{Type: v1.ConditionGuidsUnique, Status: metav1.ConditionTrue, Reason: reasonGuidsUnique,
		Message: "no GUID of this node's InfiniBand functions is borne by another function in the cluster"}
	message := clashesOn(state.Name, clashes)
	switch {
	case message != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, reasonGuidClash, message
	case old == nil && !slices.ContainsFunc(state.Status.Interfaces,
		func(i v1.InterfaceExt) bool { return i.LinkType == v1.LinkTypeIB && i.Guid != "" }):
		return nil
	}
	if err := applyCondition(ctx, r.client, state, "spiderpool-guids", c); err != nil {
		return err
	}
	if message == "" || old != nil && old.Message == message {
		return nil
	}
	node := &corev1.Node{}
	// its events are worth no failure
	if err := r.client.Get(ctx, client.ObjectKey{Name: state.Name}, node); err == nil {
		r.events.Eventf(node, state, corev1.EventTypeWarning, reasonGuidClash, "Compare", "%s", text.Note(message))
	}
	r.events.Eventf(state, nil, corev1.EventTypeWarning, reasonGuidClash, "Compare", "%s", text.Note(message))
	return nil
}

// clashesOn says which GUIDs of a node clash with whose, and how to mend it; "" when none does.
func clashesOn(node string, clashes []sriov.Clash) string {
	pfs := map[sriov.Bearer]bool{} // cards that clash themselves
	for _, c := range clashes {
		for _, b := range c.Bearers {
			if !b.VF {
				pfs[sriov.Bearer{Node: b.Node, PCI: b.PCI}] = true
			}
		}
	}
	var lines, remedies []string
	for _, c := range clashes {
		if !slices.ContainsFunc(c.Bearers, func(b sriov.Bearer) bool { return b.Node == node }) {
			continue
		}
		var who []string
		for _, b := range c.Bearers {
			who = append(who, fmt.Sprintf("node %s %s", b.Node, b.PCI))
			if text := mend(b, pfs); !slices.Contains(remedies, text) {
				remedies = append(remedies, text)
			}
		}
		lines = append(lines, fmt.Sprintf("GUID %s is borne by %s", c.GUID, strings.Join(who, " and ")))
	}
	if len(lines) == 0 {
		return ""
	}
	slices.Sort(remedies) // what concerns cards comes before what concerns VFs
	return strings.Join(cut(lines), "; ") + "; a subnet manager serves only one of them. " +
		strings.Join(remedies, ". ")
}

// mend is what helps against a clash of a function.
func mend(b sriov.Bearer, pfs map[sriov.Bearer]bool) string {
	switch {
	case !b.VF:
		return "A card: `mstflint -d PCI-ADDRESS query` shows its GUIDs, compare them with its label; `mstflint -d " +
			"PCI-ADDRESS -guid GUID sg` gives one of them its own back, then reboot"
	case pfs[sriov.Bearer{Node: b.Node, PCI: b.PF}]:
		return "A VF of such a card has its GUID from the card's: mend the card first"
	}
	return "A VF has its GUID from the card's, or keeps the one that another tool gave it: the troubleshooting page " +
		"says under GuidClash how it gets another"
}
