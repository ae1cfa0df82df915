// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
)

// cluster answers the chart's look-ups from a list of objects.
type cluster struct{ client dynamic.Interface }

func newCluster(objects ...runtime.Object) cluster {
	kinds := map[schema.GroupVersionResource]string{
		resource("ValidatingWebhookConfiguration"): "ValidatingWebhookConfigurationList",
		resource("MutatingWebhookConfiguration"):   "MutatingWebhookConfigurationList",
	}
	return cluster{fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, objects...)}
}

func resource(kind string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1",
		Resource: strings.ToLower(kind) + "s"}
}

// GetClientFor is what helm's engine asks for a look-up.
func (c cluster) GetClientFor(_, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return c.client.Resource(resource(kind)), false, nil
}

// webhooks returns a configuration with one rule.
func webhooks(kind, name, group string, annotations map[string]string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
		"webhooks": []any{map[string]any{"name": "x." + group,
			"rules": []any{map[string]any{"apiGroups": []any{group}, "resources": []any{"spiderippools"}}}}},
	}}
	o.SetName(name)
	o.SetAnnotations(annotations)
	return o
}

func releasedBy(name, namespace string) map[string]string {
	return map[string]string{"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace}
}

// TestSecondRelease renders release spiderpool in kube-system for clusters that have something already.
func TestSecondRelease(t *testing.T) {
	const validating, mutating, group = "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration",
		"spiderpool.spidernet.io"
	for name, tt := range map[string]struct {
		found runtime.Object
		want  string
	}{
		"its own, at an upgrade": {webhooks(validating, "spiderpool-controller", group,
			releasedBy("spiderpool", "kube-system")), ""},
		"another product's": {webhooks(validating, "others", "example.com", releasedBy("other", "default")), ""},
		"another release": {webhooks(validating, "ib-controller", group, releasedBy("ib", "network")),
			"ValidatingWebhookConfiguration ib-controller belongs to release ib in namespace network"},
		"the same name in another namespace": {webhooks(mutating, "spiderpool-controller", group,
			releasedBy("spiderpool", "default")),
			"MutatingWebhookConfiguration spiderpool-controller belongs to release spiderpool in namespace default"},
		"an installation without helm": {webhooks(mutating, "spiderpool-controller", group, nil),
			"belongs to another installation, which helm does not know"},
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t)
			all, err := util.ToRenderValues(c, map[string]any{},
				common.ReleaseOptions{Name: "spiderpool", Namespace: "kube-system", IsInstall: true},
				common.DefaultCapabilities)
			if err != nil {
				t.Fatal(err)
			}
			_, err = engine.RenderWithClientProvider(c, all, newCluster(tt.found))
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "Remedy: ") {
				t.Errorf("error %v, want one with %q and a remedy", err, tt.want)
			}
		})
	}
}

// TestOldKubernetesIsRefused installs, without a cluster, for two versions of Kubernetes.
func TestOldKubernetesIsRefused(t *testing.T) {
	install := func(version string) error {
		kubernetes, err := common.ParseKubeVersion(version)
		if err != nil {
			t.Fatal(err)
		}
		i := action.NewInstall(action.NewConfiguration())
		i.DryRunStrategy, i.ReleaseName, i.Namespace = action.DryRunClient, "spiderpool", "kube-system"
		i.KubeVersion = kubernetes
		_, err = i.Run(load(t), map[string]any{})
		return err
	}
	if err := install("v1.31.0"); err != nil {
		t.Errorf("the oldest supported version: %v", err)
	}
	err := install("v1.30.14")
	if err == nil {
		t.Fatal("Kubernetes 1.30 is accepted")
	}
	for _, want := range []string{">=1.31.0", "v1.30.14"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
