// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// mutateMultusConfigPath is where controller-runtime's builder would put this webhook.
const mutateMultusConfigPath = "/mutate-spiderpool-spidernet-io-v2beta1-spidermultusconfig"

func setupWebhooks(mgr ctrl.Manager) error {
	mgr.GetWebhookServer().Register(mutateMultusConfigPath, &admission.Webhook{
		Handler: multusDefaulter{decoder: admission.NewDecoder(mgr.GetScheme())},
	})
	err := ctrl.NewWebhookManagedBy(mgr, &v2beta1.SpiderMultusConfig{}).
		WithValidator(multusValidator{reader: mgr.GetClient()}).Complete()
	if err != nil {
		return err
	}
	return ctrl.NewWebhookManagedBy(mgr, &v2beta1.SpiderCoordinator{}).
		WithDefaulter(coordinatorAdmission{}).WithValidator(coordinatorAdmission{}).Complete()
}

// multusDefaulter is a handler of its own because the builder's defaulters
// cannot warn, and once cniType is put right the validator sees no contradiction.
type multusDefaulter struct{ decoder admission.Decoder }

func (d multusDefaulter) Handle(_ context.Context, req admission.Request) admission.Response {
	c := &v2beta1.SpiderMultusConfig{}
	// What does not decode is against the schema, which the API server checks next and explains by field.
	if err := d.decoder.Decode(req, c); err != nil || c.DeletionTimestamp != nil {
		return admission.Allowed("")
	}
	warnings := v2beta1.DefaultMultusConfig(c)
	defaulted, err := json.Marshal(c)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("encode the SpiderMultusConfig: %w", err))
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, defaulted).WithWarnings(warnings...)
}

// multusValidator reads NetworkAttachmentDefinitions, to keep one network from taking over another's.
type multusValidator struct{ reader client.Reader }

func (v multusValidator) ValidateCreate(ctx context.Context, c *v2beta1.SpiderMultusConfig) (admission.Warnings,
	error) {
	errs, warnings := v2beta1.ValidateMultusConfig(c)
	return v.conclude(ctx, c, errs, warnings)
}

// ValidateUpdate admits what changes nothing of the network, so that one that was stored before a
// rule existed can be labelled.
func (v multusValidator) ValidateUpdate(ctx context.Context, before,
	after *v2beta1.SpiderMultusConfig) (admission.Warnings, error) {
	same := equality.Semantic.DeepEqual(before.Spec, after.Spec) && maps.Equal(before.Annotations, after.Annotations)
	if same || after.DeletionTimestamp != nil {
		return nil, nil
	}
	errs, warnings := v2beta1.ValidateMultusConfig(after)
	return v.conclude(ctx, after, append(errs, v2beta1.ValidateMultusConfigUpdate(before, after)...), warnings)
}

func (v multusValidator) ValidateDelete(context.Context, *v2beta1.SpiderMultusConfig) (admission.Warnings, error) {
	return nil, nil
}

func (v multusValidator) conclude(ctx context.Context, c *v2beta1.SpiderMultusConfig, errs field.ErrorList,
	warnings []string) (admission.Warnings, error) {
	var existing cncfv1.NetworkAttachmentDefinition
	err := v.reader.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: c.NADName()}, &existing)
	if client.IgnoreNotFound(err) != nil {
		return warnings, fmt.Errorf("look for NetworkAttachmentDefinition %s/%s: %w", c.Namespace, c.NADName(), err)
	}
	if owner := foreignOwner(&existing, c); err == nil && owner != nil {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), ownedBy(c, owner)))
	}
	return warnings, invalid("SpiderMultusConfig", c.Name, errs)
}

// foreignOwner is the controlling owner of a NetworkAttachmentDefinition when that is
// not the configuration, nor a deleted one of the same name whose NAD is about to go.
func foreignOwner(n *cncfv1.NetworkAttachmentDefinition, c *v2beta1.SpiderMultusConfig) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(n)
	if owner == nil || owner.Kind == "SpiderMultusConfig" && owner.Name == c.Name {
		return nil
	}
	return owner
}

func ownedBy(c *v2beta1.SpiderMultusConfig, owner *metav1.OwnerReference) string {
	return fmt.Sprintf(
		"NetworkAttachmentDefinition %s/%s belongs to %s %s: want a free name; choose another with the annotation "+
			"%s, or another name of the object",
		c.Namespace, c.NADName(), owner.Kind, owner.Name, v2beta1.AnnotationMultusConfigNADName)
}

func invalid(kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(v2beta1.GroupVersion.WithKind(kind).GroupKind(), name, errs)
}

// coordinatorAdmission defaults and validates SpiderCoordinators.
type coordinatorAdmission struct{}

func (coordinatorAdmission) Default(_ context.Context, c *v2beta1.SpiderCoordinator) error {
	if c.DeletionTimestamp == nil {
		v2beta1.DefaultCoordinator(c)
	}
	return nil
}

func (coordinatorAdmission) ValidateCreate(_ context.Context, c *v2beta1.SpiderCoordinator) (admission.Warnings,
	error) {
	errs, warnings := v2beta1.ValidateCoordinator(c)
	return warnings, invalid("SpiderCoordinator", c.Name, errs)
}

func (a coordinatorAdmission) ValidateUpdate(ctx context.Context, before,
	after *v2beta1.SpiderCoordinator) (admission.Warnings, error) {
	if after.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, after.Spec) {
		return nil, nil
	}
	return a.ValidateCreate(ctx, after)
}

func (coordinatorAdmission) ValidateDelete(context.Context, *v2beta1.SpiderCoordinator) (admission.Warnings, error) {
	return nil, nil
}
