// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

func setupWebhooks(mgr ctrl.Manager, o Options) error {
	pools := poolWebhook{live: mgr.GetAPIReader(), cached: mgr.GetClient(), families: o.Families}
	reserved := reservedWebhook{families: o.Families}
	return errors.Join(
		ctrl.NewWebhookManagedBy(mgr, &v2beta1.SpiderIPPool{}).WithDefaulter(pools).WithValidator(pools).Complete(),
		ctrl.NewWebhookManagedBy(mgr, &v2beta1.SpiderReservedIP{}).WithDefaulter(reserved).WithValidator(
			reserved).Complete(),
	)
}

// poolWebhook admits pools.
type poolWebhook struct {
	live     client.Reader // other pools, as they are now
	cached   client.Reader // leases, of which there may be many, and what warnings look at
	families v2beta1.Families
}

func (w poolWebhook) Default(_ context.Context, p *v2beta1.SpiderIPPool) error {
	v2beta1.DefaultIPPool(p)
	return nil
}

func (w poolWebhook) ValidateCreate(ctx context.Context, p *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	others, err := w.others(ctx)
	if err != nil {
		return nil, err
	}
	if err := invalid("SpiderIPPool", p.Name, v2beta1.ValidateIPPool(p, w.families, others)); err != nil {
		return nil, err
	}
	return poolWarnings(ctx, w.cached, p), nil
}

func (w poolWebhook) ValidateUpdate(ctx context.Context, old, p *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	others, err := w.others(ctx)
	if err != nil {
		return nil, err
	}
	var leases []v2beta1.SpiderIPLease
	if !slices.Equal(old.Spec.IPs, p.Spec.IPs) || !slices.Equal(old.Spec.ExcludeIPs, p.Spec.ExcludeIPs) {
		if leases, err = leasesBy(ctx, w.cached, indexPool, p.Name); err != nil {
			return nil, err
		}
	}
	if err := invalid("SpiderIPPool", p.Name, v2beta1.ValidateIPPoolUpdate(old, p, w.families, others,
		leases)); err != nil {
		return nil, err
	}
	if equality.Semantic.DeepEqual(old.Spec, p.Spec) { // ours, such as a finalizer's: nobody reads the answer
		return nil, nil
	}
	return poolWarnings(ctx, w.cached, p), nil
}

// ValidateDelete admits: the finalizer keeps a pool until its addresses are given back.
func (w poolWebhook) ValidateDelete(context.Context, *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	return nil, nil
}

func (w poolWebhook) others(ctx context.Context) ([]v2beta1.SpiderIPPool, error) {
	var list v2beta1.SpiderIPPoolList
	if err := w.live.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list the other pools: %w", err)
	}
	return list.Items, nil
}

// reservedWebhook admits reserved addresses.
type reservedWebhook struct{ families v2beta1.Families }

func (w reservedWebhook) Default(_ context.Context, r *v2beta1.SpiderReservedIP) error {
	v2beta1.DefaultReservedIP(r)
	return nil
}

func (w reservedWebhook) ValidateCreate(_ context.Context, r *v2beta1.SpiderReservedIP) (admission.Warnings, error) {
	return nil, invalid("SpiderReservedIP", r.Name, v2beta1.ValidateReservedIP(r, w.families))
}

func (w reservedWebhook) ValidateUpdate(_ context.Context, old, r *v2beta1.SpiderReservedIP) (admission.Warnings,
	error) {
	return nil, invalid("SpiderReservedIP", r.Name, v2beta1.ValidateReservedIPUpdate(old, r, w.families))
}

func (w reservedWebhook) ValidateDelete(context.Context, *v2beta1.SpiderReservedIP) (admission.Warnings, error) {
	return nil, nil
}

// invalid makes the API error of a list of field errors; nil for none.
func invalid(kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: v2beta1.GroupVersion.Group, Kind: kind}, name, errs)
}
