// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// SetupWebhooks adds the admission of policies and networks to the controller process.
//
// RBAC, in all: nodes list. In the product's namespace: sriovnetworknodepolicies,
// sriovnetworknodestates list.
func SetupWebhooks(mgr ctrl.Manager, o Options) error {
	a := &admitter{Options: o, reader: mgr.GetAPIReader()} // the cache may not have the policy applied a moment ago
	if err := ctrl.NewWebhookManagedBy(mgr, &v1.SriovNetworkNodePolicy{}).WithDefaulter(a).WithValidator(
		a).Complete(); err != nil {
		return fmt.Errorf("set up the webhooks of SriovNetworkNodePolicy: %w", err)
	}
	if err := ctrl.NewWebhookManagedBy(mgr,
		&v1.SriovIBNetwork{}).WithValidator(&networkAdmitter{o}).Complete(); err != nil {
		return fmt.Errorf("set up the webhook of SriovIBNetwork: %w", err)
	}
	if err := ctrl.NewWebhookManagedBy(mgr,
		&v1.SriovOperatorConfig{}).WithValidator(configAdmitter{}).Complete(); err != nil {
		return fmt.Errorf("set up the webhook of SriovOperatorConfig: %w", err)
	}
	return nil
}

// admitter defaults and judges policies.
type admitter struct {
	Options
	reader client.Reader
}

// Default implements admission.Defaulter.
func (a *admitter) Default(_ context.Context, p *v1.SriovNetworkNodePolicy) error {
	p.Default()
	return nil
}

// ValidateCreate implements admission.Validator.
func (a *admitter) ValidateCreate(ctx context.Context, p *v1.SriovNetworkNodePolicy) (admission.Warnings, error) {
	if p.Namespace != a.Namespace { // another product of the same kinds may be at work there, by rules of its own
		return admission.Warnings{
			fmt.Sprintf("metadata.namespace: %s: policies count only in namespace %s; this one has no effect here",
				p.Namespace, a.Namespace)}, nil
	}
	warnings, errs := p.Validate()
	if len(errs) == 0 {
		more, conflicts := a.compare(ctx, p)
		warnings, errs = append(warnings, more...), append(errs, conflicts...)
	}
	if len(errs) == 0 {
		return warnings, nil
	}
	return warnings, apierrors.NewInvalid(v1.GroupVersion.WithKind("SriovNetworkNodePolicy").GroupKind(), p.Name, errs)
}

// ValidateUpdate implements admission.Validator. What was admitted once can be labelled and deleted for ever.
func (a *admitter) ValidateUpdate(ctx context.Context, before, p *v1.SriovNetworkNodePolicy) (admission.Warnings,
	error) {
	if p.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, p.Spec) {
		return nil, nil
	}
	return a.ValidateCreate(ctx, p)
}

// ValidateDelete implements admission.Validator.
func (a *admitter) ValidateDelete(context.Context, *v1.SriovNetworkNodePolicy) (admission.Warnings, error) {
	return nil, nil
}

// compare judges a policy beside the others and the nodes. When these cannot be read it is admitted
// with a warning: the operator and the agents judge again, and nothing is done to a card that is in
// use.
func (a *admitter) compare(ctx context.Context, p *v1.SriovNetworkNodePolicy) ([]string, field.ErrorList) {
	var others v1.SriovNetworkNodePolicyList
	err := a.reader.List(ctx, &others, client.InNamespace(a.Namespace))
	var known []v1.NodeCards
	if err == nil {
		known, _, err = readNodes(ctx, a.reader, a.Namespace)
	}
	if err != nil {
		return []string{fmt.Sprintf("the policy was not compared with other policies and with the nodes' cards: %v",
			err)}, nil
	}
	return p.ValidateAgainst(others.Items, known)
}

// networkAdmitter judges networks, each by itself.
type networkAdmitter struct{ Options }

// ValidateCreate implements admission.Validator.
func (a *networkAdmitter) ValidateCreate(_ context.Context, n *v1.SriovIBNetwork) (admission.Warnings, error) {
	if n.Namespace != a.Namespace { // another product of the same kinds may be at work there, by rules of its own
		return admission.Warnings{
			fmt.Sprintf("metadata.namespace: %s: networks count only in namespace %s; this one has no effect here",
				n.Namespace, a.Namespace)}, nil
	}
	if _, errs := n.Validate(); len(errs) > 0 {
		return nil, apierrors.NewInvalid(v1.GroupVersion.WithKind("SriovIBNetwork").GroupKind(), n.Name, errs)
	}
	return nil, nil
}

// ValidateUpdate implements admission.Validator. What was admitted once can be labelled and deleted for ever.
func (a *networkAdmitter) ValidateUpdate(ctx context.Context, before, n *v1.SriovIBNetwork) (admission.Warnings,
	error) {
	if n.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, n.Spec) {
		return nil, nil
	}
	return a.ValidateCreate(ctx, n)
}

// ValidateDelete implements admission.Validator.
func (a *networkAdmitter) ValidateDelete(context.Context, *v1.SriovIBNetwork) (admission.Warnings, error) {
	return nil, nil
}

// configAdmitter warns of settings without effect, and refuses none.
type configAdmitter struct{}

// ValidateCreate implements admission.Validator.
func (configAdmitter) ValidateCreate(_ context.Context, c *v1.SriovOperatorConfig) (admission.Warnings, error) {
	return c.Spec.WithoutEffect(), nil
}

// ValidateUpdate implements admission.Validator.
func (a configAdmitter) ValidateUpdate(ctx context.Context, _, c *v1.SriovOperatorConfig) (admission.Warnings, error) {
	return a.ValidateCreate(ctx, c)
}

// ValidateDelete implements admission.Validator.
func (configAdmitter) ValidateDelete(context.Context, *v1.SriovOperatorConfig) (admission.Warnings, error) {
	return nil, nil
}
