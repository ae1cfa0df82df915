// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Media types of a chart in a registry, from https://helm.sh/docs/topics/registries/.
const (
	ConfigMediaType types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	LayerMediaType  types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// Artifact is the chart as what a registry stores and helm pulls. Helm itself would note the time
// of packaging in it; annotations are the caller's, so that the same chart has the same digest.
func (c Chart) Artifact(annotations map[string]string) (v1.Image, error) {
	layer := static.NewLayer(c.Archive, LayerMediaType)
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config:      descriptor(ConfigMediaType, c.Metadata),
		Layers:      []v1.Descriptor{descriptor(LayerMediaType, c.Archive)},
		Annotations: annotations,
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("making the chart's artifact: %w", err)
	}
	return partial.CompressedToImage(artifact{config: c.Metadata, manifest: raw, layer: layer})
}

func descriptor(t types.MediaType, content []byte) v1.Descriptor {
	hash, size, _ := v1.SHA256(bytes.NewReader(content)) // reading memory does not fail
	return v1.Descriptor{MediaType: t, Digest: hash, Size: size}
}

type artifact struct {
	config, manifest []byte
	layer            v1.Layer
}

func (a artifact) RawConfigFile() ([]byte, error)      { return a.config, nil }
func (a artifact) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (a artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	digest, err := a.layer.Digest()
	if err != nil || digest != h {
		return nil, fmt.Errorf("the chart's artifact has no layer %s (%w)", h, err)
	}
	return a.layer, nil
}

// Digest of the archive, as helm prints it.
func (c Chart) Digest() string { return fmt.Sprintf("sha256:%x", sha256.Sum256(c.Archive)) }
