// Package image packs a directory as a container image, without a container engine and without a registry.
//
// The result is a docker-archive with one uncompressed layer: unpacking a compressed one under emulation takes far longer than
// reading a larger one. The same directory always gives the same bytes.
package image

import (
	"archive/tar"
	"bytes"
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
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("image name %q: %w", ref, err)
	}
	var layer bytes.Buffer
	if err := writeLayer(&layer, dir); err != nil {
		return fmt.Errorf("packing %s for image %s: %w", dir, ref, err)
	}
	img, err := build(layer.Bytes(), c)
	if err != nil {
		return fmt.Errorf("building image %s: %w", ref, err)
	}
	if err := tarball.WriteToFile(out, tag, img); err != nil {
		return fmt.Errorf("writing image %s: %w", ref, err)
	}
	return nil
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
