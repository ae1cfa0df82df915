// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"spidernet.io/spiderpool/release/archive"
)

// Index makes one multi-architecture image of the images, in their order.
func Index(images []v1.Image, annotations map[string]string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		f, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("building a multi-architecture image: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: f.OS, Architecture: f.Architecture}},
		})
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex), nil
}

// Size is how large an image of one platform is.
type Size struct {
	Platform string
	// Compressed is what a node downloads, Unpacked what the layer's tar file has.
	Compressed, Unpacked int64
}

// Sizes returns the size of each image of the index.
func Sizes(index v1.ImageIndex) ([]Size, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading a multi-architecture image: %w", err)
	}
	var sizes []Size
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("reading the image of %s: %w", d.Platform, err)
		}
		s := Size{Platform: d.Platform.String(), Compressed: d.Size}
		if err := s.add(img); err != nil {
			return nil, fmt.Errorf("reading the image of %s: %w", d.Platform, err)
		}
		sizes = append(sizes, s)
	}
	return sizes, nil
}

func (s *Size) add(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	s.Compressed += m.Config.Size
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		s.Compressed += m.Layers[i].Size
		n, err := unpacked(l)
		if err != nil {
			return err
		}
		s.Unpacked += n
	}
	return nil
}

func unpacked(l v1.Layer) (n int64, err error) {
	r, err := l.Uncompressed()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.Copy(io.Discard, r)
}

// CheckSizes refuses an image that is larger than limit on any platform, compressed or not.
func CheckSizes(sizes []Size, limit int64) error {
	var errs []error
	for _, s := range sizes {
		if larger := max(s.Compressed, s.Unpacked); larger >= limit {
			errs = append(errs, fmt.Errorf("building the image of %s: it has %s (%s compressed): expected less than %s",
				s.Platform, Megabytes(s.Unpacked), Megabytes(s.Compressed), Megabytes(limit)))
		}
	}
	return errors.Join(errs...)
}

// Table is the sizes for a person.
func Table(sizes []Size) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%-14s %12s %12s\n", "PLATFORM", "COMPRESSED", "UNPACKED")
	for _, s := range sizes {
		fmt.Fprintf(&out, "%-14s %12s %12s\n", s.Platform, Megabytes(s.Compressed), Megabytes(s.Unpacked))
	}
	return out.String()
}

// Megabytes prints n octets in units of a million.
func Megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// WriteLayout writes the index as an OCI image layout into the directory dir, whose former content
// goes, and the same as a tar file (an oci-archive). Both name it ref, for tools that read names
// from a layout.
func WriteLayout(index v1.ImageIndex, ref, dir, archiveFile string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the former image: %w", err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("writing the image to %s: %w", dir, err)
	}
	names := map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref}
	if err := path.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return fmt.Errorf("writing the image to %s: %w", dir, err)
	}
	return writeArchive(dir, archiveFile)
}

func writeArchive(dir, file string) error {
	entries, err := archive.Directory(dir)
	if err != nil {
		return err
	}
	for i := range entries {
		entries[i].Mode = modeOf(entries[i])
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("writing the image's archive: %w", err)
	}
	if err := errors.Join(archive.Tar(out, entries), out.Close()); err != nil {
		return fmt.Errorf("writing the image's archive %s: %w", file, err)
	}
	return nil
}

// modeOf ignores the umask under which the layout was written.
func modeOf(e archive.Entry) fs.FileMode {
	if e.Dir {
		return 0o755
	}
	return 0o644
}

// ReadLayout returns the index that WriteLayout wrote to dir.
func ReadLayout(dir string) (v1.ImageIndex, error) {
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the image in %s: %w", filepath.Clean(dir), err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the image in %s: %w", filepath.Clean(dir), err)
	}
	if len(m.Manifests) != 1 || !match.MediaTypes(string(types.OCIImageIndex))(m.Manifests[0]) {
		return nil, fmt.Errorf("reading the image in %s: it holds %d manifests: expected one index: run `make image`",
			filepath.Clean(dir), len(m.Manifests))
	}
	return top.ImageIndex(m.Manifests[0].Digest)
}
