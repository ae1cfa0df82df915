// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// Set returns the YAML text with the scalars at the dotted paths replaced. Everything else of the
// text, its comments and layout too, stays as it is: the values file is the chart's manual, which
// encoding it again would spoil. It checks its work by reading the result.
func Set(text []byte, values map[string]string) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	for _, path := range slices.Sorted(maps.Keys(values)) {
		node, err := find(&doc, path)
		if err != nil {
			return nil, err
		}
		line := &lines[node.Line-1]
		if *line, err = replace(*line, node, values[path]); err != nil {
			return nil, fmt.Errorf("%s in line %d: %w", path, node.Line, err)
		}
	}
	out := []byte(strings.Join(lines, "\n"))
	return out, check(text, out, values)
}

func find(doc *yaml.Node, path string) (*yaml.Node, error) {
	if doc.Kind != yaml.DocumentNode {
		return nil, fmt.Errorf("the text is empty: expected the key %s", path)
	}
	node := doc.Content[0]
	for _, key := range strings.Split(path, ".") {
		next := child(node, key)
		if next == nil {
			return nil, fmt.Errorf("there is no key %s: expected it, to hold a release's value", path)
		}
		node = next
	}
	if node.Kind != yaml.ScalarNode || node.Anchor != "" || strings.ContainsAny(node.Value, "\n\\") {
		return nil, fmt.Errorf("%s is not a plain value on one line: expected one, to be replaced", path)
	}
	return node, nil
}

func child(node *yaml.Node, key string) *yaml.Node {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// replace puts the value where the node is in its line.
func replace(line string, node *yaml.Node, value string) (string, error) {
	old := node.Value
	switch node.Style {
	case yaml.DoubleQuotedStyle:
		old = `"` + old + `"`
	case yaml.SingleQuotedStyle:
		old = "'" + old + "'"
	}
	before, after := line[:min(node.Column-1, len(line))], line[min(node.Column-1, len(line)):]
	rest, found := strings.CutPrefix(after, old)
	if !found {
		return "", fmt.Errorf("the value is written as %q: expected %s", after, old)
	}
	if old == "" && !strings.HasSuffix(before, " ") {
		before += " " // "key:" alone
	}
	return before + strconv.Quote(value) + rest, nil
}

// check compares what the two texts mean: they must differ in the values only.
func check(before, after []byte, values map[string]string) error {
	var want, got map[string]any
	if err := yaml.Unmarshal(before, &want); err != nil {
		return err
	}
	if err := yaml.Unmarshal(after, &got); err != nil {
		return fmt.Errorf("reading the stamped text: %w", err)
	}
	for path, value := range values {
		keys := strings.Split(path, ".")
		m := want
		for _, key := range keys[:len(keys)-1] {
			m = m[key].(map[string]any) // find went the same way
		}
		m[keys[len(keys)-1]] = value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("stamping changed something else (-want +got):\n%s", diff)
	}
	return nil
}
