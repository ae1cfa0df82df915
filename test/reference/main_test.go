// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPages fails when a page is not what the code says now: run 'make docs'.
func TestPages(t *testing.T) {
	want, err := pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join("../..", dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text, string(got)); diff != "" {
			t.Errorf("%s is stale, run 'make docs' (-now +file):\n%s", name, diff)
		}
	}
}

func TestValuesPage(t *testing.T) {
	got, err := valuesPage(
		[]byte(
			"# Of the file.\n\n# Of a.\na:\n  # Of b,\n  # in two lines: x | y.\n  b: 1 # and behind\n  c: [{d: " +
				"e}]\nf: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := title("Values of the chart", "charts/spiderpool/values.yaml") + `
| Value | Default | Description |
| --- | --- | --- |
| ` + "`a`" + ` |  | Of a. |
| ` + "`a.b`" + ` | ` + "`1`" + ` | Of b, in two lines: x \| y. and behind |
| ` + "`a.c`" + ` | ` + "`[{\"d\":\"e\"}]`" + ` |  |
| ` + "`f`" + ` | ` + "`{}`" + ` |  |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
	if _, err := valuesPage([]byte("- a\n")); err == nil {
		t.Error("a list was accepted as values")
	}
}
