// SPDX-License-Identifier: Apache-2.0

// Package testchart gives tests the objects of the chart, as its golden files have them, and the
// identities that the chart's service accounts have. It renders nothing: lab/chart keeps the golden
// files true. Product code never imports it.
package testchart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Namespace is the release's in the golden files.
const Namespace = "kube-system"

// Objects returns the objects of a golden file, such as "sriov.yaml", of the given kinds; all when
// none is given.
func Objects(t testing.TB, golden string, kinds ...string) []*unstructured.Unstructured {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatalf("testchart: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(root, "charts/testdata", golden))
	if err != nil {
		t.Fatalf("testchart: %v", err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	var objects []*unstructured.Unstructured
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("testchart: reading %s: %v", golden, err)
		}
		if len(o.Object) > 0 && (len(kinds) == 0 || slices.Contains(kinds, o.GetKind())) {
			objects = append(objects, o)
		}
	}
}

// moduleRoot is the folder of go.mod: tests run in their package's folder, somewhere below it.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the test's folder: %w", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("there is no go.mod in %s or above it", start)
		}
	}
}

// RBACKinds are what Install needs for the service accounts to have their rights.
var RBACKinds = []string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}

// Install creates objects, or leaves those that exist as they are, but for rights, which it replaces.
func Install(t testing.TB, c client.Client, objects []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range objects {
		err := c.Create(t.Context(), o.DeepCopy())
		if apierrors.IsAlreadyExists(err) && o.GroupVersionKind().Group == rbacv1.GroupName {
			err = replace(t.Context(), c, o.DeepCopy())
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("testchart: installing %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// replace gives the rights of one rendering in place of those of another, as an upgrade does.
func replace(ctx context.Context, c client.Client, o *unstructured.Unstructured) error {
	old := &unstructured.Unstructured{}
	old.SetGroupVersionKind(o.GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(o), old); err != nil {
		return err
	}
	o.SetResourceVersion(old.GetResourceVersion())
	return c.Update(ctx, o)
}

// As returns a configuration that acts as a service account of the release, with a token that names
// a node unless that is empty.
func As(config *rest.Config, serviceAccount, node string) *rest.Config {
	config = rest.CopyConfig(config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + Namespace + ":" + serviceAccount,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + Namespace, "system:authenticated"},
	}
	if node != "" {
		config.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
	}
	return config
}
