// SPDX-License-Identifier: Apache-2.0

// Package charts holds the Helm chart and what is generated for it: its copy of the CRDs, and its
// copy of the default values, by which templates complete the values of releases that are older
// than a key.
package charts

//go:generate sh -c "rm -f spiderpool/crds/*.yaml && cp ../config/crd/*.yaml spiderpool/crds/ && cp spiderpool/values.yaml spiderpool/defaults.yaml"
