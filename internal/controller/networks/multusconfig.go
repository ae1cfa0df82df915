// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/nad"
	"spidernet.io/spiderpool/internal/text"
)

// ConditionReady of a SpiderMultusConfig: its NetworkAttachmentDefinition is there and says what
// the configuration says.
const ConditionReady = "Ready"

// Reasons of ConditionReady.
const (
	ReasonApplied      = "Applied"
	ReasonCannotRender = "CannotRender"
	ReasonNameTaken    = "NameTaken"
	ReasonTerminating  = "Terminating"
	ReasonRefused      = "Refused"
)

// retryTerminating is how soon we look again whether an old NetworkAttachmentDefinition has gone:
// it may have no owner whose events would tell.
const retryTerminating = 2 * time.Second

type multusReconciler struct {
	client client.Client
	events events.EventRecorder
}

func setupMultusConfig(mgr ctrl.Manager) error {
	r := &multusReconciler{client: mgr.GetClient(), events: mgr.GetEventRecorder("spiderpool-controller")}
	return ctrl.NewControllerManagedBy(mgr).
		Named("spidermultusconfig").
		For(&v2beta1.SpiderMultusConfig{}).
		Owns(&cncfv1.NetworkAttachmentDefinition{}).
		Complete(r)
}

// Reconcile makes the NetworkAttachmentDefinition say what the configuration
// says, also after somebody edited or deleted it, and reports in the status.
func (r *multusReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var c v2beta1.SpiderMultusConfig
	if err := r.client.Get(ctx, req.NamespacedName, &c); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if c.DeletionTimestamp != nil {
		return ctrl.Result{}, nil // the NAD follows by its owner reference
	}
	out, err := r.place(ctx, &c)
	if statusErr := r.report(ctx, &c, out); err == nil {
		err = statusErr
	}
	return ctrl.Result{RequeueAfter: out.again}, err
}

// outcome is what the status and an event tell.
type outcome struct {
	reason, message string
	// again is when to look once more; zero waits for an event.
	again time.Duration
	// changed tells that the NetworkAttachmentDefinition was written.
	changed bool
}

// place applies the NetworkAttachmentDefinition. An error is one that a later try may mend.
func (r *multusReconciler) place(ctx context.Context, c *v2beta1.SpiderMultusConfig) (outcome, error) {
	wanted, err := nad.Render(c)
	if err != nil {
		return outcome{reason: ReasonCannotRender, message: err.Error()}, nil
	}
	name := wanted.Namespace + "/" + wanted.Name
	var existing cncfv1.NetworkAttachmentDefinition
	if err := r.client.Get(ctx, client.ObjectKeyFromObject(wanted), &existing); client.IgnoreNotFound(err) != nil {
		return outcome{reason: ReasonRefused, message: err.Error()},
			fmt.Errorf("read NetworkAttachmentDefinition %s: %w", name, err)
	}
	if owner := foreignOwner(&existing, c); owner != nil {
		return outcome{reason: ReasonNameTaken, message: ownedBy(c, owner), again: time.Minute}, nil
	}
	if owner := metav1.GetControllerOf(&existing); existing.DeletionTimestamp != nil || owner != nil &&
		owner.UID != c.UID {
		return outcome{reason: ReasonTerminating, message: "an older NetworkAttachmentDefinition " + name +
			" is being deleted; a new one follows", again: retryTerminating}, nil
	}
	desired, err := applyConfiguration(wanted, c)
	if err != nil {
		return outcome{reason: ReasonCannotRender, message: err.Error()}, nil
	}
	if err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(desired), client.FieldOwner(fieldManager),
		client.ForceOwnership); err != nil {
		return outcome{reason: ReasonRefused, message: err.Error()},
			fmt.Errorf("apply NetworkAttachmentDefinition %s: %w", name, err)
	}
	return outcome{
		reason: ReasonApplied, message: "NetworkAttachmentDefinition " + name + " is in place",
		changed: desired.GetResourceVersion() != existing.ResourceVersion,
	}, nil
}

// applyConfiguration holds only what we own of the NetworkAttachmentDefinition, so that server-side
// apply leaves the rest, such as others' annotations, alone, and takes away what we once set and no
// longer do.
func applyConfiguration(n *cncfv1.NetworkAttachmentDefinition,
	c *v2beta1.SpiderMultusConfig) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(n.APIVersion)
	u.SetKind(n.Kind)
	u.SetNamespace(n.Namespace)
	u.SetName(n.Name)
	if len(n.Annotations) > 0 {
		// An empty map is applied but not stored: each Apply would write the object anew, and each
		// write call for the next.
		u.SetAnnotations(n.Annotations)
	}
	u.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(c,
		v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))})
	spec := map[string]any{}
	if n.Spec.Config != "" {
		spec["config"] = n.Spec.Config
	}
	if err := unstructured.SetNestedMap(u.Object, spec, "spec"); err != nil {
		return nil, fmt.Errorf("make the spec of NetworkAttachmentDefinition %s/%s: %w", n.Namespace, n.Name, err)
	}
	return u, nil
}

func (r *multusReconciler) report(ctx context.Context, c *v2beta1.SpiderMultusConfig, out outcome) error {
	before := c.DeepCopy()
	ready := metav1.ConditionFalse
	if out.reason == ReasonApplied {
		ready = metav1.ConditionTrue
		c.Status.NetworkAttachmentDefinition = c.Namespace + "/" + c.NADName()
	}
	c.Status.ObservedGeneration = c.Generation
	transition := meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type: ConditionReady, Status: ready, Reason: out.reason, Message: out.message, ObservedGeneration: c.Generation,
	})
	if out.changed || transition && ready == metav1.ConditionFalse {
		eventType := corev1.EventTypeNormal
		if ready == metav1.ConditionFalse && out.reason != ReasonTerminating {
			eventType = corev1.EventTypeWarning
		}
		r.events.Eventf(c, nil, eventType, out.reason, "Apply", "%s", text.Note(out.message))
	}
	if equality.Semantic.DeepEqual(before.Status, c.Status) {
		return nil
	}
	if err := r.client.Status().Patch(ctx, c, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("write the status of SpiderMultusConfig %s/%s: %w", c.Namespace, c.Name,
			client.IgnoreNotFound(err))
	}
	return nil
}
