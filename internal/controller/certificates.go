// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spidernet.io/spiderpool/internal/webhookcert"
)

// certificates keeps the webhook server's certificates good: the Secret that all replicas share,
// the certificate that this one serves, and the trust in both webhook configurations. It runs in
// every replica; whoever writes the Secret first wins, and the others see it at once, because
// nothing is mounted.
type certificates struct {
	client   client.Client
	secret   types.NamespacedName
	webhooks string // name of both configurations
	policy   webhookcert.Policy
	now      func() time.Time

	serving atomic.Pointer[tls.Certificate]
	// trusted is set once API servers can call the webhook server; fault is why they cannot yet. A
	// later failure to look after the certificates does not make those that are served bad.
	trusted atomic.Bool
	fault   atomic.Pointer[error]
}

func newCertificates(c client.Client, o Options, now func() time.Time) *certificates {
	return &certificates{
		client: c, secret: types.NamespacedName{Namespace: o.Namespace, Name: o.CertificateSecret},
		webhooks: o.Name, policy: webhookcert.NewPolicy(o.Name, o.Namespace), now: now,
	}
}

func (c *certificates) setupWithManager(mgr ctrl.Manager) error {
	toSecret := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: c.secret}}
	})
	named := func(name string) builder.Predicates {
		return builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return o.GetName() ==
				name
		}))
	}
	return ctrl.NewControllerManagedBy(mgr).Named("certificates").
		For(&corev1.Secret{}, named(c.secret.Name)).
		Watches(&admissionv1.ValidatingWebhookConfiguration{}, toSecret, named(c.webhooks)).
		Watches(&admissionv1.MutatingWebhookConfiguration{}, toSecret, named(c.webhooks)).
		WithOptions(controller.Options{NeedLeaderElection: ptr.To(false)}).
		Complete(c)
}

// Reconcile renews what is due, serves it, and has it trusted.
func (c *certificates) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	result, err := c.reconcile(ctx)
	if apierrors.IsConflict(err) {
		// Another replica was faster; what it wrote comes with the watch.
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if err == nil {
		c.trusted.Store(true)
	}
	c.fault.Store(&err)
	return result, err
}

func (c *certificates) reconcile(ctx context.Context) (reconcile.Result, error) {
	material, err := c.renew(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	serving, err := material.Serving()
	if err != nil {
		return reconcile.Result{}, err
	}
	c.serving.Store(serving)
	owner, err := c.namespaceReference(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := errors.Join(c.trustValidating(ctx, material.Bundle(), owner), c.trustMutating(ctx, material.Bundle(),
		owner)); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: c.policy.NextCheck(material, c.now())}, nil
}

func (c *certificates) renew(ctx context.Context) (webhookcert.Material, error) {
	secret := &corev1.Secret{}
	if err := c.client.Get(ctx, c.secret, secret); err != nil {
		return webhookcert.Material{}, fmt.Errorf("reading Secret %s, which the chart makes: %w", c.secret, err)
	}
	material, reason, err := c.policy.Renew(webhookcert.FromSecret(secret.Data), c.now())
	if err != nil || reason == "" {
		return material, err
	}
	secret = secret.DeepCopy()
	secret.Data = material.SecretData()
	if err := c.client.Update(ctx, secret); err != nil {
		return webhookcert.Material{}, fmt.Errorf("writing Secret %s: %w", c.secret, err)
	}
	log.FromContext(ctx).Info("renewed the webhook server's certificates", "reason", reason)
	return material, nil
}

// namespaceReference makes the webhook configurations go when the namespace is deleted: without the
// controller they would refuse every write of our kinds.
func (c *certificates) namespaceReference(ctx context.Context) (metav1.OwnerReference, error) {
	namespace := &corev1.Namespace{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: c.secret.Namespace}, namespace); err != nil {
		return metav1.OwnerReference{}, fmt.Errorf("reading namespace %s: %w", c.secret.Namespace, err)
	}
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: namespace.Name, UID: namespace.UID}, nil
}

func (c *certificates) trustValidating(ctx context.Context, bundle []byte, owner metav1.OwnerReference) error {
	found := &admissionv1.ValidatingWebhookConfiguration{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: c.webhooks}, found); err != nil {
		return fmt.Errorf("reading ValidatingWebhookConfiguration %s, which the chart makes: %w", c.webhooks, err)
	}
	wanted := found.DeepCopy()
	wanted.OwnerReferences = []metav1.OwnerReference{owner}
	changed := len(found.OwnerReferences) != 1 || found.OwnerReferences[0] != owner
	for i := range wanted.Webhooks {
		changed = setBundle(&wanted.Webhooks[i].ClientConfig, bundle) || changed
	}
	return c.patch(ctx, "ValidatingWebhookConfiguration", changed, wanted, found)
}

func (c *certificates) trustMutating(ctx context.Context, bundle []byte, owner metav1.OwnerReference) error {
	found := &admissionv1.MutatingWebhookConfiguration{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: c.webhooks}, found); err != nil {
		return fmt.Errorf("reading MutatingWebhookConfiguration %s, which the chart makes: %w", c.webhooks, err)
	}
	wanted := found.DeepCopy()
	wanted.OwnerReferences = []metav1.OwnerReference{owner}
	changed := len(found.OwnerReferences) != 1 || found.OwnerReferences[0] != owner
	for i := range wanted.Webhooks {
		changed = setBundle(&wanted.Webhooks[i].ClientConfig, bundle) || changed
	}
	return c.patch(ctx, "MutatingWebhookConfiguration", changed, wanted, found)
}

func setBundle(config *admissionv1.WebhookClientConfig, bundle []byte) bool {
	if bytes.Equal(config.CABundle, bundle) {
		return false
	}
	config.CABundle = bundle
	return true
}

func (c *certificates) patch(ctx context.Context, kind string, changed bool, wanted, found client.Object) error {
	if !changed {
		return nil
	}
	err := c.client.Patch(ctx, wanted, client.MergeFromWithOptions(found, client.MergeFromWithOptimisticLock{}),
		client.FieldOwner(fieldOwner))
	if err != nil {
		return fmt.Errorf("writing the trusted certificates into %s %s: %w", kind, c.webhooks, err)
	}
	return nil
}

// get is the webhook server's tls.Config.GetCertificate.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c.serving.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("there is no certificate yet")
}

// ready tells whether API servers can call the webhook server.
func (c *certificates) ready() error {
	if c.trusted.Load() {
		return nil
	}
	if fault := c.fault.Load(); fault != nil {
		return *fault
	}
	return errors.New("the certificates have not been looked at yet")
}
