// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"spidernet.io/spiderpool/config"
)

// apiPage lists every field of every kind, as the API server knows them.
func apiPage() (string, error) {
	crds, err := config.CRDs()
	if err != nil {
		return "", err
	}
	slices.SortFunc(crds, func(a, b *apiextensionsv1.CustomResourceDefinition) int {
		return strings.Compare(a.Spec.Group+a.Spec.Names.Kind, b.Spec.Group+b.Spec.Names.Kind)
	})
	var b strings.Builder
	b.WriteString(title("API", "config/crd"))
	b.WriteString("\nDefaults here are those of the API server; the admission webhooks add others. " +
		"A required field is marked with *.\n")
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
				return "", fmt.Errorf("%s has no schema", crd.Name)
			}
			schema := v.Schema.OpenAPIV3Schema
			fmt.Fprintf(&b, "\n## %s\n\n", crd.Spec.Names.Kind)
			fmt.Fprintf(&b, "`%s/%s`, %s", crd.Spec.Group, v.Name, strings.ToLower(string(crd.Spec.Scope)))
			if names := crd.Spec.Names.ShortNames; len(names) > 0 {
				b.WriteString(", short name `" + strings.Join(names, "`, `") + "`")
			}
			b.WriteString("\n\n" + wrap(strings.Join(strings.Fields(schema.Description), " ")) + "\n\n")
			b.WriteString(row("Field", "Type", "Default", "Description") + row("---", "---", "---", "---"))
			for _, part := range []string{"spec", "status"} {
				if p, ok := schema.Properties[part]; ok {
					fields(&b, part, p)
				}
			}
		}
	}
	return b.String(), nil
}

// fields writes a row for each field below a path, nested ones behind their parent.
func fields(b *strings.Builder, path string, schema apiextensionsv1.JSONSchemaProps) {
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		p := schema.Properties[name]
		at, mark := path+"."+name, ""
		if slices.Contains(schema.Required, name) {
			mark = "*"
		}
		value := ""
		if p.Default != nil {
			value = string(p.Default.Raw)
		}
		b.WriteString(row(code(at)+mark, kindOf(p), code(value), strings.TrimSpace(cell(p.Description)+" "+limits(p))))
		switch {
		case p.Items != nil && p.Items.Schema != nil:
			fields(b, at+"[]", *p.Items.Schema)
		case p.AdditionalProperties != nil && p.AdditionalProperties.Schema != nil:
			fields(b, at+"{}", *p.AdditionalProperties.Schema)
		default:
			fields(b, at, p)
		}
	}
}

func kindOf(p apiextensionsv1.JSONSchemaProps) string {
	switch {
	case p.XIntOrString:
		return "integer or string"
	case p.Items != nil && p.Items.Schema != nil:
		return "list of " + kindOf(*p.Items.Schema)
	case p.AdditionalProperties != nil && p.AdditionalProperties.Schema != nil:
		return "map of " + kindOf(*p.AdditionalProperties.Schema)
	case p.Type == "":
		return "any"
	}
	return p.Type
}

// limits says what the API server refuses.
func limits(p apiextensionsv1.JSONSchemaProps) string {
	var all []string
	if len(p.Enum) > 0 {
		values := make([]string, len(p.Enum))
		for i, e := range p.Enum {
			values[i] = code(string(e.Raw))
		}
		all = append(all, "One of "+strings.Join(values, ", ")+".")
	}
	if p.Minimum != nil {
		all = append(all, fmt.Sprintf("At least %v.", *p.Minimum))
	}
	if p.Maximum != nil {
		all = append(all, fmt.Sprintf("At most %v.", *p.Maximum))
	}
	if p.MinLength != nil && *p.MinLength == 1 {
		all = append(all, "Not empty.")
	}
	if p.Pattern != "" {
		all = append(all, "Must match "+code(p.Pattern)+".")
	}
	for _, r := range p.XValidations {
		if r.Message != "" {
			all = append(all, "Rule: "+cell(r.Message)+".")
		}
	}
	return strings.Join(all, " ")
}

// wrap breaks a paragraph at 100 columns.
func wrap(text string) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
		case column+1+len(word) > 100:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
