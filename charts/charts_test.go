// SPDX-License-Identifier: Apache-2.0

package charts_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/internal/settings"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

func TestMain(m *testing.M) { testapi.Main(m) }

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func directory(t *testing.T, path string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		files[e.Name()] = read(t, filepath.Join(path, e.Name()))
	}
	return files
}

func TestCopiesAreCurrent(t *testing.T) {
	const mend = "run go generate ./charts (-want +got):\n"
	if diff := cmp.Diff(directory(t, "../config/crd"), directory(t, "spiderpool/crds")); diff != "" {
		t.Error(mend + diff)
	}
	if diff := cmp.Diff(read(t, "spiderpool/values.yaml"), read(t, "spiderpool/defaults.yaml")); diff != "" {
		t.Error(mend + diff)
	}
}

// rules returns all rules that the chart gives to a service account, by way of roles of its name.
func rules(t *testing.T, account string) []rbacv1.PolicyRule {
	t.Helper()
	roles := map[string][]rbacv1.PolicyRule{}
	for _, o := range testchart.Objects(t, "sriov.yaml", "ClusterRole", "Role") {
		role := &rbacv1.ClusterRole{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role); err != nil {
			t.Fatal(err)
		}
		roles[o.GetKind()+"/"+o.GetName()] = role.Rules
	}
	var all []rbacv1.PolicyRule
	for _, o := range testchart.Objects(t, "sriov.yaml", "ClusterRoleBinding", "RoleBinding") {
		binding := &rbacv1.ClusterRoleBinding{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, binding); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(binding.Subjects, func(s rbacv1.Subject) bool { return s.Name == account }) {
			all = append(all, roles[binding.RoleRef.Kind+"/"+binding.RoleRef.Name]...)
		}
	}
	if len(all) == 0 {
		t.Fatalf("service account %s has no rights at all", account)
	}
	return all
}

// rights turns rules into "resource.group" -> verbs; a rule with resource names counts under
// "resource.group/name".
func rights(rules []rbacv1.PolicyRule) map[string][]string {
	set := map[string]map[string]bool{}
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, name := range names {
					key := resource
					if group != "" {
						key += "." + group
					}
					if name != "" {
						key += "/" + name
					}
					if set[key] == nil {
						set[key] = map[string]bool{}
					}
					for _, verb := range rule.Verbs {
						set[key][verb] = true
					}
				}
			}
		}
	}
	sorted := map[string][]string{}
	for key, verbs := range set {
		sorted[key] = slices.Sorted(maps.Keys(verbs))
	}
	return sorted
}

func TestNoRoleHasWildcards(t *testing.T) {
	for _, account := range []string{"spiderpool-agent", "spiderpool-controller", "spiderpool-sriov-operator"} {
		for _, rule := range rules(t, account) {
			for _, list := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs} {
				if slices.Contains(list, "*") {
					t.Errorf("%s: %v has a wildcard", account, rule)
				}
			}
		}
	}
}

// TestAgentRights holds down what a process on every node may do. Adding to it deserves a second thought.
func TestAgentRights(t *testing.T) {
	read := []string{"get", "list", "watch"}
	want := map[string][]string{
		"pods":                 read,
		"namespaces":           read,
		"nodes":                read,
		"pods/status":          {"patch"},
		"events":               {"create", "patch"},
		"events.events.k8s.io": {"create", "patch"},
		"network-attachment-definitions.k8s.cni.cncf.io": read,
		"spiderippools.spiderpool.spidernet.io":          read,
		"spiderreservedips.spiderpool.spidernet.io":      read,
		"spidercoordinators.spiderpool.spidernet.io":     read,
		"spideripleases.spiderpool.spidernet.io": {"create", "delete", "get", "list", "update",
			"watch"},
		"spiderendpoints.spiderpool.spidernet.io":                 {"create", "get", "update"},
		"sriovnetworknodestates.sriovnetwork.openshift.io":        read,
		"sriovnetworknodestates/status.sriovnetwork.openshift.io": {"get", "patch", "update"},
		"leases.coordination.k8s.io":                              {"create", "get", "patch", "update"},
	}
	if diff := cmp.Diff(want, rights(rules(t, "spiderpool-agent"))); diff != "" {
		t.Errorf("the rights of the agent (-want +got):\n%s", diff)
	}
}

// TestControllerTouchesOnlyItsOwn looks at the kinds that hold the keys of a cluster.
func TestControllerTouchesOnlyItsOwn(t *testing.T) {
	for _, account := range []string{"spiderpool-controller", "spiderpool-sriov-operator"} {
		for _, rule := range rules(t, account) {
			for _, resource := range rule.Resources {
				switch resource {
				case "secrets", "configmaps", "customresourcedefinitions", "validatingwebhookconfigurations",
					"mutatingwebhookconfigurations", "daemonsets", "deployments", "deployments/scale":
					if len(rule.ResourceNames) == 0 {
						t.Errorf("%s: %v is not limited to names", account, rule)
					}
				case "pods", "nodes", "namespaces":
					if len(rule.ResourceNames) > 0 {
						continue // the init pod
					}
					for _, verb := range rule.Verbs {
						if !slices.Contains([]string{"get", "list", "watch"}, verb) {
							t.Errorf("%s may %s %s", account, verb, resource)
						}
					}
				case "serviceaccounts", "serviceaccounts/token", "clusterroles", "roles", "pods/exec", "nodes/proxy":
					t.Errorf("%s: %v", account, rule)
				}
			}
		}
	}
}

// TestEveryObjectIsAccepted has a real API server look at every object, strictly: unknown and
// doubled fields are errors.
func TestEveryObjectIsAccepted(t *testing.T) {
	api := testapi.Start(t)
	c := api.Client(t)
	for _, golden := range []string{"default.yaml", "sriov.yaml", "everything.yaml"} {
		for _, o := range testchart.Objects(t, golden) {
			err := c.Create(t.Context(), o, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
			if err != nil && !apierrors.IsAlreadyExists(err) {
				t.Errorf("%s: %s %s: %v", golden, o.GetKind(), o.GetName(), err)
			}
		}
	}
}

// TestConfigMapHoldsTheDefaults sees to it that a node without the file behaves as one with the
// chart's own values.
func TestConfigMapHoldsTheDefaults(t *testing.T) {
	found := testchart.Objects(t, "default.yaml", "ConfigMap")
	if len(found) != 1 {
		t.Fatalf("%d ConfigMaps, want one", len(found))
	}
	text, _, err := unstructured.NestedString(found[0].Object, "data", "conf.yml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := settings.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(settings.Default(), got); diff != "" {
		t.Errorf("conf.yml (-default +chart):\n%s", diff)
	}
}
