// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type header struct {
	Name, Link string
	Type       byte
	Mode       int64
	Content    string
}

func list(t *testing.T, b []byte) []header {
	t.Helper()
	var out []header
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(time.Unix(0, 0)) ||
			!h.AccessTime.IsZero() {
			t.Errorf("%s has an owner or a time: %+v", h.Name, h)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, header{h.Name, h.Linkname, h.Typeflag, h.Mode, string(content)})
	}
}

func TestTar(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Tar(&out, []Entry{
		{Name: "tmp", Dir: true, Mode: 0o777 | fs.ModeSticky}, {Name: "a", Mode: 0o640, Content: []byte("x")},
		{Name: "b", Mode: 0o755, Path: file}, {Name: "l", Link: "a"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []header{
		{"tmp/", "", tar.TypeDir, 0o1777, ""}, {"a", "", tar.TypeReg, 0o640, "x"},
		{"b", "", tar.TypeReg, 0o755, "from a file"}, {"l", "a", tar.TypeSymlink, 0o777, ""},
	}
	if diff := cmp.Diff(want, list(t, out.Bytes())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := Tar(io.Discard, []Entry{{Name: "gone", Path: filepath.Join(dir, "gone")}}); !errors.Is(err,
		fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "d/f"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("d", filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	got, err := Directory(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{{Name: "c", Mode: 0o777, Link: "d"}, {Name: "d", Dir: true, Mode: 0o755},
		{Name: "d/f", Mode: 0o755, Path: filepath.Join(dir, "d/f")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Directory(dir); err == nil || !strings.Contains(err.Error(),
		"expected files, directories and symbolic links") {
		t.Errorf("a socket: %v", err)
	}
}
