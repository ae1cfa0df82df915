// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// inert are values that are accepted although nothing depends on them, with the reason.
var inert = map[string]string{
	"spiderpoolController.tls.method": "the schema knows one value",
	"global.clusterDnsDomain":         "API servers reach the webhooks by a name without it; values.yaml says so",
}

// effectBases are settings that between them turn everything on that a value may need to show.
var effectBases = []string{
	"sriov: {install: true}",
	"",
	"sriov: {install: true, prometheus: {enabled: true}}",
	`
ipam: {enableIPv6: true}
sriov: {install: true, replicas: 2, hostnetwork: false, prometheus: {enabled: true}}
spiderpoolController: {replicas: 2, hostnetwork: false, prometheus: {enabled: true}}
spiderpoolAgent: {prometheus: {enabled: true}}
multus: {multusCNI: {install: true, uninstall: true, namespaceIsolation: true, defaultCniCRName: macvlan}}
clusterDefaultPool: {installIPv4IPPool: true, ipv4Subnet: 10.6.0.0/16, ipv4IPRanges: [10.6.0.10-10.6.0.20],
  ipv4Gateway: 10.6.0.1,
  installIPv6IPPool: true, ipv6Subnet: "fd00::/64", ipv6IPRanges: ["fd00::10-fd00::20"], ipv6Gateway: "fd00::1"}
`}

// TestEveryValueCounts changes each value of the chart by itself: what is rendered changes with one
// of the bases, or rendering refuses the other value. A value that nothing reads is as bad as one
// that is unknown: whoever sets it believes that it holds.
func TestEveryValueCounts(t *testing.T) {
	c := load(t)
	before := map[string]string{}
	for _, base := range effectBases {
		before[base] = mustRender(t, c, base)
	}
	leaves := map[string]any{}
	collectLeaves("", source(t).Values, leaves)
	if len(leaves) < 50 {
		t.Fatalf("the chart has %d values: they are not read right", len(leaves))
	}
	for _, path := range slices.Sorted(maps.Keys(leaves)) {
		counts := slices.ContainsFunc(effectBases, func(base string) bool {
			got, err := renderUnchecked(t, c, base, path, another(leaves[path]))
			return err != nil || got != before[base]
		})
		if reason := inert[path]; counts == (reason != "") {
			t.Errorf("%s has an effect: %t; the list of those without one says %q", path, counts, reason)
		}
		delete(inert, path)
	}
	for path := range inert {
		t.Errorf("%s is listed and no value of the chart", path)
	}
}

// collectLeaves flattens values; a list and an empty mapping are leaves.
func collectLeaves(path string, values, leaves map[string]any) {
	for key, value := range values {
		at := strings.TrimPrefix(path+"."+key, ".")
		if inner, ok := value.(map[string]any); ok && len(inner) > 0 {
			collectLeaves(at, inner, leaves)
			continue
		}
		leaves[at] = value
	}
}

// another is a value of the same kind that nobody would write.
func another(value any) any {
	switch v := value.(type) {
	case bool:
		return !v
	case float64:
		return v + 1
	case int, int64:
		return 77
	case []any:
		return append(slices.Clone(v), map[string]any{"name": "effect"})
	case map[string]any:
		return map[string]any{"effect": "effect"}
	default:
		return "effect"
	}
}

// renderUnchecked leaves the schema out: its refusal of a value would say nothing of the templates.
func renderUnchecked(t *testing.T, c *chart.Chart, base, path string, value any) (string, error) {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(base), &values); err != nil {
		t.Fatal(err)
	}
	set(values, path, value)
	release := common.ReleaseOptions{Name: "spiderpool", Namespace: "kube-system", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValuesWithSchemaValidation(c, values, release, common.DefaultCapabilities, true)
	if err != nil {
		return "", fmt.Errorf("merge values: %w", err)
	}
	files, err := engine.Render(c, all)
	return text(files), err
}
