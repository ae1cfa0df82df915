// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/config"
	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

// TestApplyCRDs has the controller, with its own rights, meet CRDs of an older version, a missing
// one, and one that another product has installed.
func TestApplyCRDs(t *testing.T) {
	api := testapi.Start(t)
	admin, err := client.New(api.Config, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	testchart.Install(t, admin, testchart.Objects(t, "default.yaml", testchart.RBACKinds...))
	const (
		old     = "spiderippools.spiderpool.spidernet.io"
		missing = "sriovibnetworks.sriovnetwork.openshift.io"
		foreign = "network-attachment-definitions.k8s.cni.cncf.io"
	)
	get := func(name string) *apiextensionsv1.CustomResourceDefinition {
		t.Helper()
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := admin.Get(t.Context(), client.ObjectKey{Name: name}, crd); err != nil {
			t.Fatal(err)
		}
		return crd
	}
	change := func(name string, change func(*apiextensionsv1.CustomResourceDefinition)) {
		t.Helper()
		crd := get(name)
		before := crd.DeepCopy()
		change(crd)
		if err := admin.Patch(t.Context(), crd, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	columns := len(get(old).Spec.Versions[0].AdditionalPrinterColumns)
	change(old, func(c *apiextensionsv1.CustomResourceDefinition) {
		c.Spec.Versions[0].AdditionalPrinterColumns = nil
		c.Labels["cluster"] = "own"
		// What this version has no more: a field that was required, and a rule that would refuse
		// what is right today.
		spec := c.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		spec.Properties["retired"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
		spec.XValidations = append(spec.XValidations, apiextensionsv1.ValidationRule{Rule: "!has(self.gateway)",
			Message: "retired"})
		c.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = spec
	})
	if err := admin.Delete(t.Context(), get(missing)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of "+missing, func(ctx context.Context) error {
		err := admin.Get(ctx, client.ObjectKey{Name: missing}, &apiextensionsv1.CustomResourceDefinition{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there: %v", err)
		}
		return nil
	})
	change(foreign, func(c *apiextensionsv1.CustomResourceDefinition) {
		delete(c.Labels, config.LabelPartOf)
		c.Spec.Names.ShortNames = []string{"theirs"}
	})

	c, err := client.New(testchart.As(api.Config, "spiderpool-controller", ""), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	output := &testchart.Log{}
	installer := crdInstaller{
		client: c, log: slog.New(slog.NewTextHandler(output, nil)), version: "v0.2.0", sriov: true,
	}
	for range 2 { // it runs at every start
		if err := installer.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(get(old).Spec.Versions[0].AdditionalPrinterColumns); got != columns {
		t.Errorf("the older CRD has %d printer columns, want %d", got, columns)
	}
	spec := get(old).Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	if _, ok := spec.Properties["retired"]; ok {
		t.Error("a field that this version does not have is still in the schema")
	}
	for _, rule := range spec.XValidations {
		if rule.Message == "retired" {
			t.Errorf("a rule that this version does not have is still in force: %s", rule.Rule)
		}
	}
	if label := get(old).Labels["cluster"]; label != "own" {
		t.Errorf("label cluster %q, want own: what others put on the object is theirs", label)
	}
	get(missing)
	if got := get(foreign).Spec.Names.ShortNames; len(got) != 1 || got[0] != "theirs" {
		t.Errorf("the CRD of another product was changed: short names %v", got)
	}
	if got := get(missing).Annotations[annotationVersion]; got != "v0.2.0" {
		t.Errorf("annotation %s is %q, want v0.2.0", annotationVersion, got)
	}
	if !strings.Contains(output.String(), "left alone the CRD of another product") {
		t.Errorf("the log does not say that a CRD was left alone:\n%s", output)
	}

	t.Run("newer of ours", func(t *testing.T) {
		change(old, func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Annotations[annotationVersion] = "v0.3.0"
			c.Spec.Names.ShortNames = []string{"newer"}
		})
		if err := installer.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := get(old).Spec.Names.ShortNames; len(got) != 1 || got[0] != "newer" {
			t.Errorf("the CRD of a newer version was changed: short names %v", got)
		}
		if got := get(old).Annotations[annotationVersion]; got != "v0.3.0" {
			t.Errorf("version %s, want v0.3.0", got)
		}
	})

	// Every group can have another product's CRDs, Spiderpool's own too.
	for _, tt := range []struct{ name, owner string }{
		{foreign, "Multus or another product"},
		{old, "Spiderpool (helm release upstream in namespace kube-system"},
		{missing, "the SR-IOV Network Operator"},
	} {
		t.Run("foreign without a field: "+tt.name, func(t *testing.T) {
			change(tt.name, func(c *apiextensionsv1.CustomResourceDefinition) {
				delete(c.Labels, config.LabelPartOf)
				if tt.name == old {
					metav1.SetMetaDataAnnotation(&c.ObjectMeta, "meta.helm.sh/release-name", "upstream")
					metav1.SetMetaDataAnnotation(&c.ObjectMeta, "meta.helm.sh/release-namespace", "kube-system")
				}
				s := c.Spec.Versions[0].Schema.OpenAPIV3Schema
				s.Properties["spec"] = apiextensionsv1.JSONSchemaProps{Type: "object",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{"theirs": {Type: "string"}}}
			})
			before := get(tt.name)
			err := installer.apply(t.Context())
			for _, want := range []string{tt.name, "belongs to " + tt.owner, "is missing", "crds.takeOver=true"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
			if diff := cmp.Diff(before.Spec, get(tt.name).Spec); diff != "" {
				t.Errorf("it was changed (-before +after):\n%s", diff)
			}
			taking := installer
			taking.takeOver = true
			if tt.name == missing {
				off := installer
				off.sriov = false
				if err := off.apply(t.Context()); err != nil {
					t.Errorf("without SR-IOV: %v", err)
				}
			}
			if err := taking.apply(t.Context()); err != nil {
				t.Fatal(err)
			}
			if faults := crdFaults(get(tt.name), before); len(faults) == 0 {
				t.Error("the other product's CRD was not replaced")
			}
			if !ownCRD(get(tt.name)) {
				t.Error("it is not marked as ours")
			}
			if err := installer.apply(t.Context()); err != nil {
				t.Errorf("the next start: %v", err)
			}
		})
	}
}

func TestNewerThan(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"v0.3.0", "v0.2.0", true},
		{"v0.2.0", "v0.3.0", false},
		{"v0.10.0", "v0.9.0", true},
		{"v0.2.0", "v0.2.0", false},
		{"v0.2.0", "v0.2.0-3-gabc", false},
		{"v0.2.0-3-gabc", "v0.2.0", false},
		{"dev", "v0.2.0", false},
		{"v0.2.0", "dev", false},
		{"", "v0.2.0", false},
	} {
		if got := newerThan(tt.a, tt.b); got != tt.want {
			t.Errorf("newerThan(%q, %q) is %t, want %t", tt.a, tt.b, got, tt.want)
		}
	}
}

// TestOwnCRDsAreWithoutFaults guards the comparison against faults that are none.
func TestOwnCRDsAreWithoutFaults(t *testing.T) {
	crds, err := config.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		if faults := crdFaults(crd, crd); len(faults) > 0 {
			t.Errorf("%s: %v", crd.Name, faults)
		}
	}
}
