// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func directory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/bin/tool"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("usr/bin", filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func layer(t *testing.T, dir string) Layer {
	t.Helper()
	l, err := FromDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func pack(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := Pack(layer(t, dir), "example.test/tool:1", Config{Entrypoint: []string{"/usr/bin/tool"}},
		out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPackIsDeterministic(t *testing.T) {
	first, second := directory(t), directory(t)
	old := time.Unix(0, 0)
	if err := os.Chtimes(filepath.Join(second, "usr/bin/tool"), old, old); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(pack(t, first))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pack(t, second))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two directories with the same content give different images")
	}
}

func TestPackKeepsWhatWasAsked(t *testing.T) {
	img, err := tarball.ImageFromPath(pack(t, directory(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Config.Entrypoint) != 1 || c.Config.Entrypoint[0] != "/usr/bin/tool" || c.OS != "linux" {
		t.Errorf("config is %+v on %s", c.Config, c.OS)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
}

func TestPackRefusesABadName(t *testing.T) {
	if err := Pack(layer(t, t.TempDir()), "No Such:Name", Config{}, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("no error")
	}
}

func TestSplit(t *testing.T) {
	dir := t.TempDir()
	layerFile, rest := filepath.Join(dir, "layer"), filepath.Join(dir, "rest")
	digest, err := Split(layer(t, directory(t)), "example.test/tool:1", Config{Entrypoint: []string{"/usr/bin/tool"}},
		layerFile, rest)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(layerFile)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(b)); digest != want {
		t.Errorf("digest is %s, want %s", digest, want)
	}
	files := entries(t, rest)
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	named := index.Manifests[0]
	if named.Annotations["io.containerd.image.name"] != "example.test/tool:1" {
		t.Errorf("the image is named by %v", named.Annotations)
	}
	var manifest struct{ Config struct{ Digest string } }
	if err := json.Unmarshal(files[blob(named.Digest)], &manifest); err != nil {
		t.Fatalf("the index's manifest: %v", err)
	}
	if files[blob(manifest.Config.Digest)] == nil {
		t.Error("the manifest's configuration is missing")
	}
	if files[blob(digest)] != nil {
		t.Error("the layer came along")
	}
}

func blob(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

func entries(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
