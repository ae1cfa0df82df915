// SPDX-License-Identifier: Apache-2.0

// Package chart stamps the Helm chart with a release's version and image, and packages it as `helm
// package` and `helm push` do, without helm. It knows the chart's keys for them and nothing else of
// the chart.
package chart

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"spidernet.io/spiderpool/release/archive"
)

// Image is what the packaged chart runs.
type Image struct {
	// Registry is the host, which global.imageRegistryOverride replaces; Repository is the path in it.
	Registry, Repository string
	// Digest of the multi-architecture image, such as sha256:....
	Digest string
	Tag    string
}

// Chart is a packaged chart.
type Chart struct {
	Name, Version string
	// Metadata is Chart.yaml as JSON, the configuration of the chart's OCI artifact.
	Metadata []byte
	// Archive is the .tgz file.
	Archive []byte

	stamped bool // the image
}

// FileName is the archive's, as helm names it.
func (c Chart) FileName() string { return c.Name + "-" + c.Version + ".tgz" }

// Tag is the version as the tag of an OCI artifact: helm replaces the plus sign, which a tag cannot have.
func (c Chart) Tag() string { return strings.ReplaceAll(c.Version, "+", "_") }

// releaseFile names the image. It is no part of the values, which "helm upgrade --reuse-values"
// takes from the release before.
const releaseFile = "release.yaml"

// Package packs the chart in dir for a release, such as v0.2.0.
func Package(dir, version string, img Image) (Chart, error) {
	entries, err := archive.Directory(dir)
	if err != nil {
		return Chart{}, fmt.Errorf("packaging the chart: %w", err)
	}
	c := Chart{Version: strings.TrimPrefix(version, "v")}
	var files []archive.Entry
	for _, e := range entries {
		if e.Dir {
			continue // helm's archives have none
		}
		if e.Link != "" {
			return Chart{}, fmt.Errorf("packaging the chart: %s is a symbolic link: expected a file", e.Name)
		}
		text, err := os.ReadFile(e.Path)
		if err != nil {
			return Chart{}, fmt.Errorf("packaging the chart: %w", err)
		}
		if text, err = c.stamp(e.Name, text, version, img); err != nil {
			return Chart{}, fmt.Errorf("packaging the chart: stamping %s: %w", filepath.Join(dir, e.Name), err)
		}
		files = append(files, archive.Entry{Name: e.Name, Mode: fs.FileMode(0o644), Content: text})
	}
	if c.Name == "" {
		return Chart{}, fmt.Errorf("packaging the chart: %s has no Chart.yaml: expected a chart", dir)
	}
	if !c.stamped {
		return Chart{}, fmt.Errorf("packaging the chart: %s has no %s: expected one, to name the image in", dir,
			releaseFile)
	}
	for i := range files {
		files[i].Name = c.Name + "/" + files[i].Name
	}
	c.Archive, err = archive.TarGz(files)
	return c, err
}

// stamp returns the file's text for the release.
func (c *Chart) stamp(name string, text []byte, version string, img Image) ([]byte, error) {
	switch {
	case name == "Chart.yaml":
		text, err := Set(text, map[string]string{"version": c.Version, "appVersion": version})
		if err != nil {
			return nil, err
		}
		var metadata map[string]any
		if err := yaml.Unmarshal(text, &metadata); err != nil {
			return nil, err
		}
		c.Name, _ = metadata["name"].(string)
		c.Metadata, err = json.Marshal(metadata)
		return text, err
	case name == releaseFile:
		c.stamped = true
		return Set(text, map[string]string{
			"registry": img.Registry, "repository": img.Repository, "digest": img.Digest, "tag": img.Tag,
		})
	}
	return text, nil
}
