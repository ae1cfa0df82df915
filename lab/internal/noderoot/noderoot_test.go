// SPDX-License-Identifier: Apache-2.0

package noderoot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
)

func TestKernelPackages(t *testing.T) {
	want := []string{"linux-image-6.1.0-56-amd64", "linux-headers-6.1.0-56-amd64", "linux-headers-6.1.0-56-common",
		"linux-kbuild-6.1"}
	if diff := cmp.Diff(want, kernelPackages("6.1.0-56-amd64")); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}

func TestArchiveKeepsTheFirstError(t *testing.T) {
	a := archive{w: cpio.NewWriter(io.Discard)}
	a.copy("x", filepath.Join(t.TempDir(), "none"))
	a.dir("bin")
	if !errors.Is(a.err, os.ErrNotExist) {
		t.Errorf("error is %v", a.err)
	}
}

func TestArchiveCanBeReadBack(t *testing.T) {
	var out bytes.Buffer
	a := archive{w: cpio.NewWriter(&out)}
	a.dir("bin")
	a.file("init", 0o755, []byte("#!"))
	if a.err != nil || a.w.Close() != nil {
		t.Fatal(a.err)
	}
	r := cpio.NewReader(&out)
	dir, err := r.Next()
	if err != nil || dir.Name != "bin" || !dir.Mode.IsDir() {
		t.Errorf("first entry is %+v, %v", dir, err)
	}
	file, err := r.Next()
	if err != nil || file.Name != "init" || file.Mode.Perm() != 0o755 {
		t.Errorf("second entry is %+v, %v", file, err)
	}
}
