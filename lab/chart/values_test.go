// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// upstreamValue is a line of upstream-values.yaml.
type upstreamValue struct {
	Value  string `json:"value"`
	Quiet  []any  `json:"quiet"`
	Answer string `json:"answer"`
	Text   string `json:"text"`
}

func readYAML[T any](t *testing.T, path string) T {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func upstreamValues(t *testing.T) []upstreamValue {
	t.Helper()
	table := readYAML[struct {
		Values []upstreamValue `json:"values"`
	}](t, filepath.Join(chartDirectory, "upstream-values.yaml"))
	return table.Values
}

func asYAML(t *testing.T, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// set sets one more key in values.
func set(values map[string]any, key string, value any) {
	parts := strings.Split(key, ".")
	for _, part := range parts[:len(parts)-1] {
		below, ok := values[part].(map[string]any)
		if !ok {
			below = map[string]any{}
			values[part] = below
		}
		values = below
	}
	values[parts[len(parts)-1]] = value
}

// notes returns what helm prints after it has installed the chart with these values.
func notes(t *testing.T, values map[string]any) string {
	t.Helper()
	c := load(t)
	all, err := util.ToRenderValues(c, values,
		common.ReleaseOptions{Name: "spiderpool", Namespace: "kube-system", IsInstall: true},
		common.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, all)
	if err != nil {
		t.Fatal(err)
	}
	return files["spiderpool/templates/NOTES.txt"]
}

// TestUpstreamValuesAreAnswered sets each line of the table to something that is not quiet, and looks
// for its answer. All lines with one kind of answer are set together, since a rendering takes a second.
func TestUpstreamValuesAreAnswered(t *testing.T) {
	refused, accepted := map[string]any{}, map[string]any{}
	quiet := []map[string]any{{}, {}}
	for _, v := range upstreamValues(t) {
		for i, q := range v.Quiet {
			set(quiet[i], v.Value, q)
		}
		switch v.Answer {
		case "refuse":
			set(refused, v.Value, loudFor(v))
		case "warn", "ignore":
			set(accepted, v.Value, loudFor(v))
		default:
			t.Errorf("%s: answer %q: must be refuse, warn or ignore", v.Value, v.Answer)
		}
	}
	for _, values := range quiet {
		if got := notes(t, values); strings.Contains(got, "no effect") {
			t.Errorf("settings that ask for nothing are answered by\n%s", got)
		}
	}
	_, err := render(load(t), asYAML(t, refused))
	if err == nil {
		t.Fatal("everything that is to be refused is accepted")
	}
	printed := notes(t, accepted)
	for _, v := range upstreamValues(t) {
		answer := v.Value + ": " + v.Text
		if v.Answer == "refuse" {
			given, failed := json.Marshal(loudFor(v))
			if failed != nil {
				t.Fatal(failed)
			}
			answer = fmt.Sprintf("%s: %s is not implemented: %s", v.Value, given, v.Text)
		}
		if got := strings.Contains(err.Error(), answer); got != (v.Answer == "refuse") {
			t.Errorf("%s is refused: %t, want %t", v.Value, got, !got)
		}
		if got := strings.Contains(printed, answer); got != (v.Answer == "warn") {
			t.Errorf("%s is warned about: %t, want %t", v.Value, got, !got)
		}
	}
}

// loudFor returns a setting that is not quiet, of the type of a quiet one.
func loudFor(v upstreamValue) any {
	if len(v.Quiet) == 0 {
		return map[string]any{"tag": "v1"}
	}
	switch quiet := v.Quiet[0].(type) {
	case bool:
		return !quiet
	case []any:
		return append(quiet, "x")
	case map[string]any:
		return map[string]any{"x": "y"}
	default:
		return "other"
	}
}

// TestEveryUpstreamDefaultIsAccepted gives the chart all of Spiderpool's own defaults, as "helm upgrade
// --reuse-values" from there does.
func TestEveryUpstreamDefaultIsAccepted(t *testing.T) {
	values := map[string]any{}
	for key, value := range readYAML[map[string]any](t, "testdata/spiderpool-1.2.1-values.yaml") {
		set(values, key, value)
	}
	mustRender(t, load(t), asYAML(t, values))
}

// TestPreviousValuesAreAccepted merges values as "helm upgrade --reuse-values" from release 0.1.0 does.
func TestPreviousValuesAreAccepted(t *testing.T) {
	c := load(t)
	c.Values = readYAML[map[string]any](t, "testdata/values-0.1.0.yaml")
	got := mustRender(t, c, "sriov: {install: true}")
	if diff := cmp.Diff(mustRender(t, load(t), "sriov: {install: true}"), got); diff != "" {
		t.Errorf("the values of 0.1.0 change what is installed (-new values +old values):\n%s", diff)
	}
}

// TestUnknownValuesAreRefused puts an unknown key into every mapping that is ours.
func TestUnknownValuesAreRefused(t *testing.T) {
	var at func(path []string, values map[string]any)
	open := []string{"commonAnnotations", "commonLabels", "nodeSelector", "configDaemonNodeSelector", "podAnnotations",
		"podLabels", "limits", "requests", "affinity", "updateStrategy"} // what is in them is the user's or Kubernetes'
	at = func(path []string, values map[string]any) {
		where := strings.Join(append(slices.Clone(path), "replicsa"), ".")
		unknown := map[string]any{}
		set(unknown, where, 2)
		place := "at '/" + strings.Join(path, "/") + "': additional properties 'replicsa' not allowed"
		if len(path) == 0 {
			place = "at '': additional properties 'replicsa' not allowed"
		}
		_, err := render(load(t), asYAML(t, unknown))
		if err == nil || !strings.Contains(err.Error(), place) {
			t.Errorf("%s: error %v, want one that names the key and where it is", where, err)
		}
		for key, value := range values {
			if below, ok := value.(map[string]any); ok && !slices.Contains(open, key) {
				at(append(slices.Clone(path), key), below)
			}
		}
	}
	at(nil, readYAML[map[string]any](t, filepath.Join(chartDirectory, "values.yaml")))
}

// TestValuesPage keeps the page of values that are not implemented.
func TestValuesPage(t *testing.T) {
	var page strings.Builder
	page.WriteString(`# Values of Spiderpool's chart that have no effect here

Written from charts/spiderpool/upstream-values.yaml by ` + "`go test -update ./chart`" + ` in lab; do not edit.

All other values of Spiderpool's chart 1.2.1 work as they do there: [reference/values](reference/values.md) lists them.
Keys that are in neither list are refused.

- **refused**: helm reports an error, and nothing is installed.
- **warned**: helm prints the text after it has installed.
- **ignored**: nothing is lost, and nothing is printed.

"Except" lists the settings that ask for nothing that is missing: they are accepted without a word.

| Value | Answer | Except | What holds instead |
|---|---|---|---|
`)
	names := map[string]string{"refuse": "refused", "warn": "warned", "ignore": "ignored"}
	for _, v := range upstreamValues(t) {
		var quiet []string
		for _, q := range v.Quiet {
			text, err := json.Marshal(q)
			if err != nil {
				t.Fatal(err)
			}
			quiet = append(quiet, "`"+string(text)+"`")
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", v.Value, names[v.Answer], strings.Join(quiet, ", "), v.Text)
	}
	const path = "../../docs/compatibility-values.md"
	if *update {
		if err := os.WriteFile(path, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page.String(), string(got)); diff != "" {
		t.Errorf("run go test -update in lab/chart after checking (-want +got):\n%s", diff)
	}
}
