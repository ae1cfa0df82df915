// SPDX-License-Identifier: Apache-2.0

package initjob

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// webhookAnswers asks the API server what it would say to a new object of ours. Whatever the
// webhook answers, it answers.
func (o Options) webhookAnswers(ctx context.Context) (string, error) {
	probe := &v2beta1.SpiderCoordinator{ObjectMeta: objectMeta("spiderpool-init-probe"),
		Spec: v2beta1.CoordinatorSpec{Mode: ptr.To(v2beta1.CoordinatorAuto)}}
	err := o.Client.Create(ctx, probe, client.DryRunAll)
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) || deniedByWebhook(err) {
		return "yes", nil
	}
	return "", asFinal(err)
}

func deniedByWebhook(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "admission webhook")
}

// asFinal marks the answers that will be the same next time: the object is wrong, or the service
// account lacks a right.
func asFinal(err error) error {
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) {
		return finalError{err}
	}
	return err
}

func (o Options) applyCoordinator(ctx context.Context) (string, error) {
	d := o.Defaults.Coordinator
	return o.apply(ctx, v2beta1.GroupVersion.WithKind("SpiderCoordinator"), metav1.ObjectMeta{Name: d.Name}, d.Spec)
}

func (o Options) applySriovOperatorConfig(ctx context.Context) (string, error) {
	meta := metav1.ObjectMeta{Name: sriovv1.DefaultOperatorConfigName, Namespace: o.Namespace}
	return o.apply(ctx, sriovv1.GroupVersion.WithKind("SriovOperatorConfig"), meta, o.Defaults.SriovOperatorConfig.Spec)
}

// apply creates or updates an object by server-side apply. When somebody has changed a field of it,
// it stays as it is.
func (o Options) apply(ctx context.Context, kind schema.GroupVersionKind, meta metav1.ObjectMeta,
	spec map[string]any) (string, error) {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetGroupVersionKind(kind)
	object.SetName(meta.Name)
	object.SetNamespace(meta.Namespace)
	object.SetLabels(objectMeta("").Labels)
	err := o.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldOwner))
	if apierrors.IsConflict(err) {
		return fmt.Sprintf("kept as it is, because it was changed after the installation (%s)", conflicts(err)), nil
	}
	if err != nil {
		return "", asFinal(err)
	}
	return "as the values say", nil
}

// conflicts lists who has changed which fields.
func conflicts(err error) string {
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Details == nil {
		return err.Error()
	}
	var fields []string
	for _, cause := range status.Status().Details.Causes {
		fields = append(fields, fmt.Sprintf("%s %s", cause.Field, cause.Message))
	}
	return strings.Join(fields, "; ")
}

func (o Options) createPool(ctx context.Context, p Pool) (string, error) {
	// A pool that is there would be judged by admission before the API server sees that it is
	// there, and people change pools.
	err := o.Client.Get(ctx, client.ObjectKey{Name: p.Name}, &v2beta1.SpiderIPPool{})
	if err == nil {
		return "kept as it is", nil
	}
	if !apierrors.IsNotFound(err) {
		return "", asFinal(err)
	}
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: objectMeta(p.Name),
		Spec:       v2beta1.IPPoolSpec{Subnet: p.Subnet, IPs: p.IPs, Default: ptr.To(true)},
	}
	if p.Gateway != "" {
		pool.Spec.Gateway = ptr.To(p.Gateway)
	}
	err = o.Client.Create(ctx, pool)
	if apierrors.IsAlreadyExists(err) {
		return "kept as it is", nil
	}
	if err != nil {
		return "", asFinal(err)
	}
	return "created", nil
}
