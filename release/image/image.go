// SPDX-License-Identifier: Apache-2.0

// Package image builds container images from files, without a container engine, a base image or a
// registry. The same files always give the same bytes. It knows nothing of what an image is for:
// package product has the product's.
//
// A release is one OCI index with an image for each platform, whose layer is compressed (Build,
// Index, WriteLayout). The lab loads images into machines that it emulates, where to decompress a
// layer takes far longer than to read a larger one; for it an image is a docker-archive with an
// uncompressed layer (Pack), or that in two parts (Split).
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"spidernet.io/spiderpool/release/archive"
)

// Config is what a container of the image starts with, and what the image says of itself.
type Config struct {
	Entrypoint []string
	Cmd        []string
	// Architecture is amd64 when it is empty. The operating system is always Linux.
	Architecture string
	// Created is zero for an image that does not say when it was made.
	Created time.Time
	Labels  map[string]string
}

// Layer is the uncompressed tar file of an image's files.
type Layer []byte

// FromDirectory packs what is below dir with the modes that it has there. Every file belongs to root.
func FromDirectory(dir string) (Layer, error) {
	entries, err := archive.Directory(dir)
	if err != nil {
		return nil, err
	}
	return FromEntries(entries)
}

// FromEntries packs the entries. A directory comes before what is in it.
func FromEntries(entries []archive.Entry) (Layer, error) {
	var out bytes.Buffer
	if err := archive.Tar(&out, entries); err != nil {
		return nil, fmt.Errorf("packing an image's layer: %w", err)
	}
	return out.Bytes(), nil
}

// Build returns an OCI image with the layer compressed.
func Build(l Layer, c Config) (v1.Image, error) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil }
	compressed, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compressing an image's layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return build(base, compressed, c)
}

// Pack writes the image under the name ref to the file out, as a docker-archive with an uncompressed layer.
func Pack(l Layer, ref string, c Config, out string) error {
	tag, img, err := uncompressed(l, ref, c)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(out, tag, img); err != nil {
		return fmt.Errorf("writing image %s: %w", ref, err)
	}
	return nil
}

// Split writes the same image in two parts: its layer, a plain tar file, and an OCI archive of all
// but the layer. A machine that lays the layer's files into a snapshot named by the returned
// digest, and imports the rest, has what containerd has after it unpacked an image and discarded
// its layers; but it need not digest the layer twice, which takes an emulated machine most of a
// minute.
func Split(l Layer, ref string, c Config, layerFile, restFile string) (digest string, err error) {
	tag, img, err := uncompressed(l, ref, c)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(layerFile, l, 0o644); err != nil {
		return "", fmt.Errorf("writing the layer of image %s: %w", ref, err)
	}
	if err := writeRest(restFile, tag, img); err != nil {
		return "", fmt.Errorf("writing image %s without its layer: %w", ref, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("reading the configuration of image %s: %w", ref, err)
	}
	return config.RootFS.DiffIDs[0].String(), nil // a single layer's chain is the layer itself
}

func uncompressed(l Layer, ref string, c Config) (name.Tag, v1.Image, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return tag, nil, fmt.Errorf("image name %q: %w", ref, err)
	}
	img, err := build(empty.Image, static.NewLayer(l, types.DockerUncompressedLayer), c)
	return tag, img, err
}

func build(base v1.Image, l v1.Layer, c Config) (v1.Image, error) {
	img, err := mutate.AppendLayers(base, l)
	if err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", "amd64"
	if c.Architecture != "" {
		f.Architecture = c.Architecture
	}
	f.Created = v1.Time{Time: c.Created}
	for i := range f.History {
		f.History[i].Created = f.Created
	}
	f.Config.Entrypoint, f.Config.Cmd, f.Config.Labels = c.Entrypoint, c.Cmd, c.Labels
	f.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return mutate.ConfigFile(img, f)
}

// writeRest writes an OCI image layout (image-spec, image-layout.md) as a tar file, without the
// layers' blobs.
func writeRest(file string, tag name.Tag, img v1.Image) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	index, err := imageIndex(tag, img)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", index},
		{blobName(manifest), manifest},
		{blobName(config), config},
	} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644,
			Size: int64(len(f.content))}); err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func blobName(b []byte) string { return fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(b)) }

// imageIndex names the image in containerd's own annotation.
func imageIndex(tag name.Tag, img v1.Image) ([]byte, error) {
	descriptor, err := partial.Descriptor(img)
	if err != nil {
		return nil, err
	}
	descriptor.Annotations = map[string]string{"io.containerd.image.name": tag.String()}
	return json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{*descriptor}})
}
