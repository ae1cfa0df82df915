// SPDX-License-Identifier: Apache-2.0

// Command reference writes docs/reference: pages that list what the code defines.
//
//	go run ./test/reference    # from the root of the repository
//
// It reads the CRDs, the chart's values with their comments, and the registries of the processes.
// It owns the form of the pages and knows nothing of what the fields, values and metrics do: what a
// page lacks is added in the source.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const dir = "docs/reference"

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	all, err := pages(root)
	if err != nil {
		return err
	}
	for name, text := range all {
		path := filepath.Join(root, dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages returns the text of each page by its file name.
func pages(root string) (map[string]string, error) {
	api, err := apiPage()
	if err != nil {
		return nil, fmt.Errorf("reference of the API: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(root, "charts/spiderpool/values.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reference of the chart: %w", err)
	}
	values, err := valuesPage(text)
	if err != nil {
		return nil, fmt.Errorf("reference of the chart: %w", err)
	}
	metrics, err := metricsPage()
	if err != nil {
		return nil, fmt.Errorf("reference of the metrics: %w", err)
	}
	return map[string]string{"api.md": api, "values.md": values, "metrics.md": metrics}, nil
}

// title opens a page.
func title(name, source string) string {
	return "# " + name + "\n\n<!-- Generated from " + source + " by 'make docs'; do not edit. -->\n"
}

// cell makes text fit into a table.
func cell(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "{{", "{&#123;").Replace(text)
}

// row is one line of a table; a column without text stays empty.
func row(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// code marks text as such, if there is any.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(text, "|", `\|`) + "`"
}
