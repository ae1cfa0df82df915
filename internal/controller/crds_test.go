// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	for range 2 { // it runs at every start
		if err := applyCRDs(t.Context(), c, slog.New(slog.DiscardHandler)); err != nil {
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
}
