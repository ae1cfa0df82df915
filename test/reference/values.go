// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// valuesPage lists every value of the chart with the comment that stands above or behind it.
func valuesPage(text []byte) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return "", fmt.Errorf("parse the values: %w", err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return "", fmt.Errorf("parse the values: no mapping found: must be one")
	}
	var b strings.Builder
	b.WriteString(title("Values of the chart", "charts/spiderpool/values.yaml"))
	b.WriteString("\n" + row("Value", "Default", "Description") + row("---", "---", "---"))
	err := values(&b, "", doc.Content[0])
	return b.String(), err
}

// values writes the rows of a mapping. A mapping that holds settings has a row only if it has a comment.
func values(b *strings.Builder, path string, mapping *yaml.Node) error {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		about := cell(comment(key.HeadComment) + " " + comment(key.LineComment) + " " + comment(value.LineComment))
		if value.Kind == yaml.MappingNode && value.Style&yaml.FlowStyle == 0 && len(value.Content) > 0 {
			if about != "" {
				b.WriteString(row(code(at), "", about))
			}
			if err := values(b, at, value); err != nil {
				return err
			}
			continue
		}
		text, err := inline(value)
		if err != nil {
			return fmt.Errorf("value %s: %w", at, err)
		}
		b.WriteString(row(code(at), code(text), about))
	}
	return nil
}

// inline is a default in one line.
func inline(node *yaml.Node) (string, error) {
	var v any
	if err := node.Decode(&v); err != nil {
		return "", err
	}
	text, err := json.Marshal(v)
	return string(text), err
}

// comment takes the marks out of a comment. A blank line ends it: what stands above that is not of the key.
func comment(text string) string {
	if i := strings.LastIndex(text, "\n\n"); i >= 0 {
		text = text[i:]
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimPrefix(strings.TrimSpace(line), "#") + " ")
	}
	return strings.TrimSpace(b.String())
}
