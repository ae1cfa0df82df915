// SPDX-License-Identifier: Apache-2.0

package testapi

import (
	"context"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// Hook names a kind that has admission webhooks at controller-runtime's usual paths.
type Hook struct {
	Kind     schema.GroupVersionKind
	Resource string // plural
	Mutate   bool
	Validate bool
}

// WebhookServer returns the server that a manager must run so that the API server finds its webhooks.
func (a *API) WebhookServer() webhook.Server {
	o := a.env.WebhookInstallOptions
	return webhook.NewServer(webhook.Options{Host: o.LocalServingHost, Port: o.LocalServingPort,
		CertDir: o.LocalServingCertDir})
}

// InstallWebhooks points the API server at the webhooks until the test ends.
// The test starts a manager with WebhookServer first, or every write is refused.
func (a *API) InstallWebhooks(t testing.TB, hooks ...Hook) {
	t.Helper()
	for _, object := range a.configurations(hooks) {
		c := a.Client(t)
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatalf("testapi: install webhooks: %v", err)
		}
		t.Cleanup(func() {
			// The test's own context has ended by now.
			if err := c.Delete(context.Background(), object); client.IgnoreNotFound(err) != nil {
				t.Errorf("testapi: remove webhooks: %v", err)
			}
		})
	}
}

func (a *API) configurations(hooks []Hook) []client.Object {
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "testapi"}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "testapi"}}
	none, fail, versions := admissionv1.SideEffectClassNone, admissionv1.Fail, []string{"v1"}
	for _, h := range hooks {
		name := h.Resource + "." + h.Kind.Group
		if h.Mutate {
			mutating.Webhooks = append(mutating.Webhooks, admissionv1.MutatingWebhook{
				Name: name, ClientConfig: a.clientConfig("mutate", h), SideEffects: &none, FailurePolicy: &fail,
				AdmissionReviewVersions: versions, Rules: rules(h, admissionv1.Create, admissionv1.Update),
			})
		}
		if h.Validate {
			validating.Webhooks = append(validating.Webhooks, admissionv1.ValidatingWebhook{
				Name: name, ClientConfig: a.clientConfig("validate", h), SideEffects: &none, FailurePolicy: &fail,
				AdmissionReviewVersions: versions, Rules: rules(h, admissionv1.Create, admissionv1.Update,
					admissionv1.Delete),
			})
		}
	}
	return []client.Object{mutating, validating}
}

func rules(h Hook, operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{
		Operations: operations,
		Rule: admissionv1.Rule{
			APIGroups: []string{h.Kind.Group}, APIVersions: []string{h.Kind.Version}, Resources: []string{h.Resource},
		},
	}}
}

// clientConfig follows controller-runtime's path: /<verb>-<group with dashes>-<version>-<kind in lower case>.
func (a *API) clientConfig(verb string, h Hook) admissionv1.WebhookClientConfig {
	o := a.env.WebhookInstallOptions
	url := fmt.Sprintf("https://%s:%d/%s-%s-%s-%s", o.LocalServingHost, o.LocalServingPort, verb,
		strings.ReplaceAll(h.Kind.Group, ".", "-"), h.Kind.Version, strings.ToLower(h.Kind.Kind))
	return admissionv1.WebhookClientConfig{URL: &url, CABundle: o.LocalServingCAData}
}
