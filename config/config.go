// SPDX-License-Identifier: Apache-2.0

// Package config holds the generated CustomResourceDefinitions and gives them to the programs that
// install them.
//
// It knows the files and their form, and no client.
package config

import (
	"embed"
	"fmt"
	"io/fs"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

//go:embed crd/*.yaml
var files embed.FS

// LabelPartOf is on every CRD of ours, with the value PartOf.
const (
	LabelPartOf = "app.kubernetes.io/part-of"
	PartOf      = "spiderpool"
)

// CRDs returns the CustomResourceDefinitions in order of their file names. An error means that the
// program was built from a broken file.
func CRDs() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	names, err := fs.Glob(files, "crd/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing the embedded CRDs: %w", err)
	}
	crds := make([]*apiextensionsv1.CustomResourceDefinition, 0, len(names))
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading the embedded %s: %w", name, err)
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(text, crd); err != nil {
			return nil, fmt.Errorf("parsing the embedded %s: %w", name, err)
		}
		crds = append(crds, crd)
	}
	return crds, nil
}
