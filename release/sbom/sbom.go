// SPDX-License-Identifier: Apache-2.0

// Package sbom lists what compiled programs are made of as a CycloneDX document: from what the
// linker recorded in the programs themselves, so that it is a list of what was linked and not of
// what go.mod allows. It states no licence of a component, because a program does not record any.
package sbom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// Subject is what the document is about.
type Subject struct {
	Name, Version string
	// Platform is such as linux/arm64.
	Platform string
	// Time is that of the commit, so that two documents of one commit are equal; zero is left out.
	Time time.Time
}

// JSON returns the document of the programs in the files.
func JSON(s Subject, files []string) ([]byte, error) {
	root := cdx.Component{
		BOMRef: s.Name, Type: cdx.ComponentTypeApplication, Name: s.Name, Version: s.Version,
		Licenses:   &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		Properties: &[]cdx.Property{{Name: "platform", Value: s.Platform}},
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &root}
	if !s.Time.IsZero() {
		bom.Metadata.Timestamp = s.Time.UTC().Format(time.RFC3339)
	}
	var programs []cdx.Component
	modules := map[string]cdx.Component{}
	dependencies := []cdx.Dependency{}
	for _, file := range files {
		program, used, err := read(file, s.Version)
		if err != nil {
			return nil, err
		}
		programs = append(programs, program)
		maps.Copy(modules, used)
		refs := slices.Sorted(maps.Keys(used))
		dependencies = append(dependencies, cdx.Dependency{Ref: program.BOMRef, Dependencies: &refs})
	}
	contained := make([]string, len(programs))
	for i := range programs {
		contained[i] = programs[i].BOMRef
	}
	dependencies = append([]cdx.Dependency{{Ref: root.BOMRef, Dependencies: &contained}}, dependencies...)
	for _, ref := range slices.Sorted(maps.Keys(modules)) {
		programs = append(programs, modules[ref])
	}
	bom.Components, bom.Dependencies = &programs, &dependencies
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return nil, fmt.Errorf("writing the list of components: %w", err)
	}
	return out.Bytes(), nil
}

// read returns a program's component and those that it links, by their references.
func read(file, version string) (cdx.Component, map[string]cdx.Component, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return cdx.Component{}, nil, fmt.Errorf("listing what a program is made of: %w", err)
	}
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return cdx.Component{}, nil, fmt.Errorf("listing what %s is made of: %w: expected a program compiled by Go",
			file, err)
	}
	name := filepath.Base(file)
	program := cdx.Component{
		BOMRef: "program:" + name, Type: cdx.ComponentTypeApplication, Name: name, Version: version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: fmt.Sprintf("%x", sha256.Sum256(content))}},
	}
	used := map[string]cdx.Component{}
	for _, m := range append(info.Deps, standardLibrary(info)) {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component(m)
		used[c.BOMRef] = c
	}
	return program, used, nil
}

// standardLibrary is linked too, and has vulnerabilities of its own.
func standardLibrary(info *debug.BuildInfo) *debug.Module {
	return &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
}

func component(m *debug.Module) cdx.Component {
	url := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
	c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: url}
	if m.Sum != "" {
		// Not a hash of any one file, so it is no entry of hashes.
		c.Properties = &[]cdx.Property{{Name: "go.sum", Value: m.Sum}}
	}
	return c
}
