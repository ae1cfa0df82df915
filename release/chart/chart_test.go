// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func TestSet(t *testing.T) {
	for name, test := range map[string]struct{ in, path, want string }{
		"plain":         {"a:\n  b: old # why\n  c: 1\n", "a.b", "a:\n  b: \"new\" # why\n  c: 1\n"},
		"double quotes": {"a: \"\"\n", "a", "a: \"new\"\n"},
		"single quotes": {"a: 'old' # why\n", "a", "a: \"new\" # why\n"},
		"nothing":       {"a:\nb: 1\n", "a", "a: \"new\"\nb: 1\n"},
		"flow":          {"a: {b: old, c: 1}\n", "a.b", "a: {b: \"new\", c: 1}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Set([]byte(test.in), map[string]string{test.path: "new"})
			if err != nil || string(got) != test.want {
				t.Errorf("%q, %v; want %q", got, err, test.want)
			}
		})
	}
	for name, test := range map[string]struct{ in, path, want string }{
		"no key":      {"a: 1\n", "b", "there is no key b"},
		"mapping":     {"a: {b: 1}\n", "a", "not a plain value"},
		"block":       {"a: |\n  x\n  y\n", "a", "not a plain value"},
		"anchor used": {"a: &x old\nb: *x\n", "a", "not a plain value"},
		"empty":       {"", "a", "the text is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Set([]byte(test.in), map[string]string{test.path: "new"}); err == nil ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("%q, %v; want an error with %q", got, err, test.want)
			}
		})
	}
}

const ourChart = "../../charts/spiderpool"

func TestPackage(t *testing.T) {
	img := Image{Registry: "registry.example.com:5000", Repository: "me/spiderpool",
		Digest: "sha256:" + strings.Repeat("a", 64), Tag: "v1.2.3"}
	c, err := Package(ourChart, "v1.2.3", img)
	if err != nil {
		t.Fatal(err)
	}
	if c.FileName() != "spiderpool-1.2.3.tgz" {
		t.Errorf("the file is %s", c.FileName())
	}
	files := map[string][]byte{}
	z, err := gzip.NewReader(bytes.NewReader(c.Archive))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("the gzip header has %v, %q", z.ModTime, z.Name)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o644 || h.Uid != 0 || h.Uname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: mode %o, owner %d %q, time %v", h.Name, h.Mode, h.Uid, h.Uname, h.ModTime)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, found := files["spiderpool/crds/spiderpool.spidernet.io_spiderippools.yaml"]; !found {
		t.Error("the archive has no CRDs")
	}
	var stamped map[string]any
	if err := yaml.Unmarshal(files["spiderpool/release.yaml"], &stamped); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"registry": img.Registry, "repository": img.Repository, "digest": img.Digest, "tag": img.Tag}
	if diff := cmp.Diff(want, stamped); diff != "" {
		t.Errorf("release.yaml (-want +got):\n%s", diff)
	}
	for _, name := range []string{"values.yaml", "defaults.yaml"} { // what --reuse-values brings along names no image
		text, err := os.ReadFile(filepath.Join(ourChart, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(files["spiderpool/"+name], text) {
			t.Errorf("%s differs from the source tree's", name)
		}
	}
	var metadata map[string]any
	if err := json.Unmarshal(c.Metadata, &metadata); err != nil || metadata["version"] != "1.2.3" ||
		metadata["appVersion"] != "v1.2.3" {
		t.Errorf("%v, %v", metadata, err)
	}
	again, err := Package(copyOf(t, ourChart), "v1.2.3", img)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != c.Digest() {
		t.Error("the chart in another directory, with other times and modes, gives another archive")
	}
}

func TestPackageWithoutReleaseFile(t *testing.T) {
	dir := copyOf(t, ourChart)
	if err := os.Remove(filepath.Join(dir, "release.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := Package(dir, "v1.2.3", Image{}); err == nil || !strings.Contains(err.Error(), "has no release.yaml") {
		t.Errorf("error is %v", err)
	}
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(to, "Chart.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
