// Package image packs a directory as a container image, without a container engine and without a registry.
//
// The result is a docker-archive with one uncompressed layer: unpacking a compressed one under emulation takes far longer than
// reading a larger one. The same directory always gives the same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Config is what a container of the image starts with.
type Config struct {
	Entrypoint []string
	Cmd        []string
}

// Pack writes the image of dir under the name ref to the file out. Every file belongs to root.
func Pack(dir, ref string, c Config, out string) error {
	tag, _, img, err := fromDir(dir, ref, c)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(out, tag, img); err != nil {
		return fmt.Errorf("writing image %s: %w", ref, err)
	}
	return nil
}

// Split writes the same image in two parts: its layer, a plain tar file, and an OCI archive of all but the layer. A machine that lays the
// layer's files into a snapshot named by the returned digest, and imports the rest, has what containerd has after it unpacked an image and
// discarded its layers; but it need not digest the layer twice, which takes an emulated machine most of a minute.
func Split(dir, ref string, c Config, layerFile, restFile string) (digest string, err error) {
	tag, layer, img, err := fromDir(dir, ref, c)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(layerFile, layer, 0o644); err != nil {
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

func fromDir(dir, ref string, c Config) (name.Tag, []byte, v1.Image, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return tag, nil, nil, fmt.Errorf("image name %q: %w", ref, err)
	}
	var layer bytes.Buffer
	if err := writeLayer(&layer, dir); err != nil {
		return tag, nil, nil, fmt.Errorf("packing %s for image %s: %w", dir, ref, err)
	}
	img, err := build(layer.Bytes(), c)
	if err != nil {
		return tag, nil, nil, fmt.Errorf("building image %s: %w", ref, err)
	}
	return tag, layer.Bytes(), img, nil
}

// writeRest writes an OCI image layout (image-spec, image-layout.md) as a tar file, without the layers' blobs.
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
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
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
	return json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*descriptor}})
}

func build(layer []byte, c Config) (v1.Image, error) {
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.DockerUncompressedLayer))
	if err != nil {
		return nil, err
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", "amd64"
	f.Config.Entrypoint, f.Config.Cmd = c.Entrypoint, c.Cmd
	f.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return mutate.ConfigFile(img, f)
}

// writeLayer archives dir without times, owners or anything else that differs between two machines. WalkDir gives the order of names.
func writeLayer(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		return writeEntry(w, dir, p, e)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func writeEntry(w *tar.Writer, dir, p string, e fs.DirEntry) error {
	fi, err := e.Info()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(dir, p)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: rel, Mode: int64(fi.Mode().Perm()), Format: tar.FormatPAX}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, rel+"/"
	case fs.ModeSymlink:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		if h.Linkname, err = os.Readlink(p); err != nil {
			return err
		}
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, fi.Size()
	default:
		return fmt.Errorf("%s is a %s; an image holds files, directories and links", rel, strings.ToLower(fi.Mode().Type().String()))
	}
	if err := w.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
