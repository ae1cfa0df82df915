// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/nad"
	"spidernet.io/spiderpool/internal/text"
)

// Reasons of a network's condition Ready.
const (
	reasonApplied     = "Applied"
	reasonInvalid     = "Invalid"
	reasonNameTaken   = "NameTaken"
	reasonTerminating = "Terminating"
	reasonNoNamespace = "NoNamespace"
)

// networks makes a NetworkAttachmentDefinition of each SriovIBNetwork.
type networks struct {
	Options
	client client.Client
	live   client.Reader // for what is to be removed: the cache may not have what was made a moment ago
	events events.EventRecorder
}

func setupNetworks(mgr ctrl.Manager, o Options) error {
	r := &networks{Options: o, client: mgr.GetClient(), live: mgr.GetAPIReader(),
		events: mgr.GetEventRecorder("spiderpool-sriov-operator")}
	here := inNamespace(o.Namespace)
	return ctrl.NewControllerManagedBy(mgr).Named("sriov-networks").
		For(&v1.SriovIBNetwork{}, builder.WithPredicates(here)).
		Watches(&cncfv1.NetworkAttachmentDefinition{}, handler.EnqueueRequestsFromMapFunc(r.ownerOf)).
		Complete(r)
}

// ownerOf is the network that a NetworkAttachmentDefinition is made of, or one that would like to be.
func (r *networks) ownerOf(_ context.Context, object client.Object) []reconcile.Request {
	name := object.GetName()
	if owner := object.GetAnnotations()[v1.AnnotationOwner]; strings.HasPrefix(owner, "SriovIBNetwork.") {
		name = owner[strings.LastIndex(owner, "/")+1:]
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: r.Namespace, Name: name}}}
}

// Reconcile makes the NetworkAttachmentDefinition what the network says, also after somebody
// changed or deleted it.
func (r *networks) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	network := &v1.SriovIBNetwork{}
	if err := r.client.Get(ctx, req.NamespacedName, network); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if network.DeletionTimestamp != nil {
		return reconcile.Result{}, r.end(ctx, network)
	}
	wanted, err := nad.RenderIBNetwork(network, r.ResourcePrefix)
	if err != nil { // what there is stays as it is
		return reconcile.Result{}, r.report(ctx, network, made{reason: reasonInvalid, message: err.Error()})
	}
	m, err := r.place(ctx, network, wanted)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: m.again}, r.report(ctx, network, m)
}

// end takes the NetworkAttachmentDefinition away when no owner reference does.
func (r *networks) end(ctx context.Context, network *v1.SriovIBNetwork) error {
	if !controllerutil.ContainsFinalizer(network, v1.FinalizerNetwork) {
		return nil
	}
	if err := r.remove(ctx, network, network.Status.NetworkAttachmentDefinition); err != nil {
		return err
	}
	return client.IgnoreNotFound(r.guard(ctx, network, false))
}

// made is what became of a network.
type made struct {
	reason, message string
	again           time.Duration // the next look; 0 waits for an event
}

// place puts the NetworkAttachmentDefinition where it belongs and takes it from where it was. Where
// it is going to be is written down before it is made, so that none is ever forgotten.
func (r *networks) place(ctx context.Context, network *v1.SriovIBNetwork,
	wanted *cncfv1.NetworkAttachmentDefinition) (made, error) {
	key := wanted.Namespace + "/" + wanted.Name
	existing := &cncfv1.NetworkAttachmentDefinition{}
	err := r.client.Get(ctx, client.ObjectKeyFromObject(wanted), existing)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return made{}, fmt.Errorf("read NetworkAttachmentDefinition %s: %w", key, err)
	case err == nil && !ours(network, existing):
		return r.taken(network, existing), nil
	case err == nil && existing.DeletionTimestamp != nil:
		return made{reason: reasonTerminating, message: "an older NetworkAttachmentDefinition " + key +
			" is being deleted; a new one follows", again: 2 * time.Second}, nil
	}
	absent := err != nil
	elsewhere := wanted.Namespace != network.Namespace
	if elsewhere {
		if err := r.guard(ctx, network, true); err != nil {
			return made{}, err
		}
	}
	if old := network.Status.NetworkAttachmentDefinition; old != key {
		if err := r.remove(ctx, network, old); err != nil {
			return made{}, err
		}
		before := network.DeepCopy()
		network.Status.NetworkAttachmentDefinition = key
		if err := r.client.Status().Patch(ctx, network, client.MergeFrom(before)); err != nil {
			return made{},
				fmt.Errorf("write down that SriovIBNetwork %s is going to have NetworkAttachmentDefinition %s: %w",
					network.Name, key, err)
		}
	}
	if !elsewhere {
		wanted.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(network,
			v1.GroupVersion.WithKind("SriovIBNetwork"))}
		if err := r.guard(ctx, network, false); err != nil {
			return made{}, err
		}
	}
	return r.write(ctx, wanted, existing, absent)
}

// ours tells whether a NetworkAttachmentDefinition is this network's.
func ours(network *v1.SriovIBNetwork, n *cncfv1.NetworkAttachmentDefinition) bool {
	owner := metav1.GetControllerOf(n)
	return n.Annotations[v1.AnnotationOwner] == network.OwnerKey() && (owner == nil || owner.UID == network.UID)
}

func (r *networks) taken(network *v1.SriovIBNetwork, n *cncfv1.NetworkAttachmentDefinition) made {
	by := "nobody that is named in it"
	if owner := metav1.GetControllerOf(n); owner != nil {
		by = owner.Kind + " " + owner.Name
	} else if owner := n.Annotations[v1.AnnotationOwner]; owner != "" {
		by = owner
	}
	if owner := metav1.GetControllerOf(n); owner != nil && owner.Kind == "SriovIBNetwork" &&
		owner.Name == network.Name && n.Namespace == network.Namespace {
		return made{reason: reasonTerminating,
			message: "the NetworkAttachmentDefinition of an older object of this name is going to be deleted; a new " +
				"one follows", again: 2 * time.Second}
	}
	return made{
		reason: reasonNameTaken, again: time.Minute,
		message: fmt.Sprintf(
			"NetworkAttachmentDefinition %s/%s is there already and belongs to %s, so it is left alone: delete it, "+
				"or give the SriovIBNetwork another name or networkNamespace",
			n.Namespace, n.Name, by),
	}
}

// write creates or corrects the NetworkAttachmentDefinition. What others have put beside ours stays.
func (r *networks) write(ctx context.Context, wanted, existing *cncfv1.NetworkAttachmentDefinition, absent bool) (made,
	error) {
	key := wanted.Namespace + "/" + wanted.Name
	good := made{reason: reasonApplied, message: "NetworkAttachmentDefinition " + key + " is in place"}
	if absent {
		err := r.client.Create(ctx, wanted) // refused when somebody else was faster, which the next look sees
		if apierrors.IsNotFound(err) {
			return made{reason: reasonNoNamespace,
				message: fmt.Sprintf("namespace %s does not exist: create it, or correct spec.networkNamespace",
					wanted.Namespace), again: time.Minute}, nil
		}
		if err != nil {
			return made{}, fmt.Errorf("create NetworkAttachmentDefinition %s: %w", key, err)
		}
		return good, nil
	}
	after := existing.DeepCopy()
	if after.Annotations == nil {
		after.Annotations = map[string]string{}
	}
	maps.Copy(after.Annotations, wanted.Annotations)
	after.Spec = wanted.Spec
	if metav1.GetControllerOf(after) == nil {
		after.OwnerReferences = append(after.OwnerReferences, wanted.OwnerReferences...)
	}
	if equality.Semantic.DeepEqual(existing, after) {
		return good, nil
	}
	if err := r.client.Patch(ctx, after, client.MergeFromWithOptions(existing,
		client.MergeFromWithOptimisticLock{})); err != nil {
		return made{}, fmt.Errorf("correct NetworkAttachmentDefinition %s: %w", key, err)
	}
	return good, nil
}

// remove deletes the network's NetworkAttachmentDefinition at "namespace/name"; one that is not its
// is left alone.
func (r *networks) remove(ctx context.Context, network *v1.SriovIBNetwork, at string) error {
	namespace, name, ok := strings.Cut(at, "/")
	if !ok {
		return nil
	}
	old := &cncfv1.NetworkAttachmentDefinition{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, old)
	if apierrors.IsNotFound(err) || err == nil && !ours(network, old) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read NetworkAttachmentDefinition %s: %w", at, err)
	}
	if err := r.client.Delete(ctx, old, client.Preconditions{UID: &old.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete NetworkAttachmentDefinition %s of SriovIBNetwork %s: %w", at, network.Name, err)
	}
	return nil
}

// guard sets or removes the finalizer.
func (r *networks) guard(ctx context.Context, network *v1.SriovIBNetwork, on bool) error {
	before := network.DeepCopy()
	change := controllerutil.RemoveFinalizer
	if on {
		change = controllerutil.AddFinalizer
	}
	if !change(network, v1.FinalizerNetwork) {
		return nil
	}
	if err := r.client.Patch(ctx, network, client.MergeFromWithOptions(before,
		client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write the finalizers of SriovIBNetwork %s: %w", network.Name, err)
	}
	return nil
}

func (r *networks) report(ctx context.Context, network *v1.SriovIBNetwork, m made) error {
	before := network.DeepCopy()
	status, kind := metav1.ConditionFalse, corev1.EventTypeWarning
	if m.reason == reasonApplied {
		status, kind = metav1.ConditionTrue, corev1.EventTypeNormal
	}
	old := meta.FindStatusCondition(before.Status.Conditions, v1.ConditionReady)
	meta.SetStatusCondition(&network.Status.Conditions, metav1.Condition{
		Type: v1.ConditionReady, Status: status, Reason: m.reason, Message: m.message,
		ObservedGeneration: network.Generation,
	})
	if equality.Semantic.DeepEqual(before.Status, network.Status) {
		return nil
	}
	if err := r.client.Status().Patch(ctx, network, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("write the status of SriovIBNetwork %s: %w", network.Name, err)
	}
	if m.reason != reasonTerminating && (old == nil || old.Reason != m.reason || old.Message != m.message) {
		r.events.Eventf(network, nil, kind, m.reason, "Apply", "%s", text.Note(m.message))
	}
	return nil
}
