// SPDX-License-Identifier: Apache-2.0

// Package examples holds manifests for users, and checks that the API server takes them as they
// are. It knows nothing of what they do on a cluster: lab/e2e shows that.
package examples

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

// documents are the objects of a manifest.
func documents(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// strictly creates an object without keeping it; unknown and doubled fields are errors.
func strictly(t *testing.T, c client.Client, o *unstructured.Unstructured) error {
	t.Helper()
	return client.WithFieldValidation(c, metav1.FieldValidationStrict).Create(t.Context(), o.DeepCopy(),
		client.DryRunAll)
}

func TestStrictly(t *testing.T) {
	c := testapi.Start(t).Client(t)
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "examples"}}); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			if !strings.Contains(string(readme), "("+file+")") {
				t.Error("README.md does not list it")
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range documents(t, text) {
				if err := strictly(t, c, o); err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
				if _, found := o.Object["spec"]; !found {
					t.Errorf("%s %s has no spec", o.GetKind(), o.GetName())
					continue
				}
				if err := unstructured.SetNestedField(o.Object, "x", "spec", "noSuchField"); err != nil {
					t.Fatal(err)
				}
				if strictly(t, c, o) == nil {
					t.Errorf("%s %s: an unknown field is accepted: this test shows nothing", o.GetKind(), o.GetName())
				}
			}
		})
	}
}
