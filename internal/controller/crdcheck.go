// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/config"
)

// annotationVersion is on every CRD that the controller has applied: the version of the program.
const annotationVersion = "spiderpool.spidernet.io/crd-version"

// ownCRD reports whether a CRD of the cluster belongs to this product: all of its CRDs have had the
// label since the first release, and those of other products with the same names do not.
func ownCRD(found *apiextensionsv1.CustomResourceDefinition) bool {
	return found.Labels[config.LabelPartOf] == config.PartOf
}

// newerThan reports whether version a is a later release than b. What follows the patch number is
// left out: `git describe` puts v0.2.0-3-gabc after v0.2.0, where semantic versioning puts it
// before. A version that is none, such as "dev", is not newer than any.
func newerThan(a, b string) bool {
	first, errA := apiversion.ParseGeneric(a)
	second, errB := apiversion.ParseGeneric(b)
	return errA == nil && errB == nil && second.LessThan(first)
}

// crdOwner names who installed a CRD, by what tools leave on it; at least by the product that is
// known for its group.
func crdOwner(found *apiextensionsv1.CustomResourceDefinition) string {
	product := map[string]string{
		v2beta1.GroupVersion.Group: "Spiderpool",
		sriovv1.GroupVersion.Group: "the SR-IOV Network Operator",
	}[found.Spec.Group]
	owner := cmp.Or(product, "Multus or another product")
	var signs []string
	if release := found.Annotations["meta.helm.sh/release-name"]; release != "" {
		signs = append(signs, fmt.Sprintf("helm release %s in namespace %s", release,
			found.Annotations["meta.helm.sh/release-namespace"]))
	}
	for _, key := range slices.Sorted(maps.Keys(found.Labels)) {
		switch {
		case strings.HasPrefix(key, "operators.coreos.com/"):
			signs = append(signs, "operator "+strings.TrimPrefix(key, "operators.coreos.com/"))
		case key == "app.kubernetes.io/managed-by" || key == config.LabelPartOf:
			signs = append(signs, fmt.Sprintf("label %s=%s", key, found.Labels[key]))
		}
	}
	var managers []string
	for _, m := range found.ManagedFields {
		// The API server's own writes, of the status and of names, say nothing about the owner.
		if m.Subresource == "" && m.Manager != "" {
			managers = append(managers, m.Manager)
		}
	}
	if len(managers) > 0 {
		slices.Sort(managers)
		signs = append(signs, "written by "+strings.Join(slices.Compact(managers), ", "))
	}
	if len(signs) == 0 {
		return owner
	}
	return owner + " (" + strings.Join(signs, "; ") + ")"
}

// crdFaults returns what a CRD of the cluster lacks for this version to work with it; none when it
// has every version and field that ours has.
func crdFaults(found, want *apiextensionsv1.CustomResourceDefinition) []string {
	var faults []string
	if found.Spec.Scope != want.Spec.Scope {
		faults = append(faults, fmt.Sprintf("its scope is %s, not %s", found.Spec.Scope, want.Spec.Scope))
	}
	if found.Spec.Names.Kind != want.Spec.Names.Kind {
		faults = append(faults, fmt.Sprintf("its kind is %s, not %s", found.Spec.Names.Kind, want.Spec.Names.Kind))
	}
	for _, w := range want.Spec.Versions {
		i := slices.IndexFunc(found.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
			return v.Name == w.Name && v.Served
		})
		if i < 0 {
			faults = append(faults, fmt.Sprintf("it does not serve version %s", w.Name))
			continue
		}
		faults = append(faults, versionFaults(found.Spec.Versions[i], w)...)
	}
	return faults
}

func versionFaults(found, want apiextensionsv1.CustomResourceDefinitionVersion) []string {
	var faults []string
	hasStatus := func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return v.Subresources != nil && v.Subresources.Status != nil
	}
	if hasStatus(want) && !hasStatus(found) {
		faults = append(faults, fmt.Sprintf("version %s has no status subresource", want.Name))
	}
	for _, field := range want.SelectableFields {
		if !slices.Contains(found.SelectableFields, field) {
			faults = append(faults, fmt.Sprintf("version %s cannot be selected by %s", want.Name, field.JSONPath))
		}
	}
	if want.Schema == nil || want.Schema.OpenAPIV3Schema == nil {
		return faults
	}
	if found.Schema == nil || found.Schema.OpenAPIV3Schema == nil {
		return append(faults, fmt.Sprintf("version %s has no schema", want.Name))
	}
	return append(faults, schemaFaults("", found.Schema.OpenAPIV3Schema, want.Schema.OpenAPIV3Schema)...)
}

// schemaFaults compares fields. A field of ours that theirs lacks is lost at every write, since the
// API server prunes it; a field that theirs requires and ours lacks makes our writes fail.
func schemaFaults(at string, found, want *apiextensionsv1.JSONSchemaProps) []string {
	if found.XPreserveUnknownFields != nil && *found.XPreserveUnknownFields && len(found.Properties) == 0 {
		return nil
	}
	var faults []string
	if found.Type != want.Type && found.XIntOrString == want.XIntOrString {
		return []string{fmt.Sprintf("field %s is of type %q, not %q", at, found.Type, want.Type)}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Properties)) {
		if at == "" && (name == "apiVersion" || name == "kind" || name == "metadata") {
			continue // every object has them
		}
		theirs, ok := found.Properties[name]
		if !ok {
			faults = append(faults, fmt.Sprintf("field %s.%s is missing", at, name))
			continue
		}
		ours := want.Properties[name]
		faults = append(faults, schemaFaults(at+"."+name, &theirs, &ours)...)
	}
	for _, name := range found.Required {
		if _, ok := want.Properties[name]; !ok {
			faults = append(faults, fmt.Sprintf("field %s.%s is required", at, name))
		}
	}
	return append(faults, elementFaults(at, found, want)...)
}

// elementFaults compares what a list or a map holds.
func elementFaults(at string, found, want *apiextensionsv1.JSONSchemaProps) []string {
	var faults []string
	if want.Items != nil && want.Items.Schema != nil && found.Items != nil && found.Items.Schema != nil {
		faults = append(faults, schemaFaults(at+"[]", found.Items.Schema, want.Items.Schema)...)
	}
	if want.AdditionalProperties == nil || want.AdditionalProperties.Schema == nil {
		return faults
	}
	if found.AdditionalProperties == nil {
		return append(faults, fmt.Sprintf("field %s does not take keys of its users", at))
	}
	if found.AdditionalProperties.Schema != nil {
		faults = append(faults, schemaFaults(at+"{}", found.AdditionalProperties.Schema,
			want.AdditionalProperties.Schema)...)
	}
	return faults
}
