// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := Write(path, 0o644, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLinkedTreesDoNotChangeTheirSource(t *testing.T) {
	src, over, dst := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "dst")
	put(t, filepath.Join(src, "etc/a"), "old")
	put(t, filepath.Join(over, "etc/a"), "new")
	if err := Link(src, dst); err != nil {
		t.Fatal(err)
	}
	if err := Copy(over, dst); err != nil {
		t.Fatal(err)
	}
	if got := content(t, filepath.Join(dst, "etc/a")); got != "new" {
		t.Errorf("the copy has %q", got)
	}
	if got := content(t, filepath.Join(src, "etc/a")); got != "old" {
		t.Errorf("the source has %q: it was written through a link", got)
	}
}

func TestCopyKeepsModesAndLinks(t *testing.T) {
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "dst")
	if err := Write(filepath.Join(src, "bin/tool"), 0o755, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := Symlink("tool", filepath.Join(src, "bin/link")); err != nil {
		t.Fatal(err)
	}
	if err := Copy(src, dst); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(filepath.Join(dst, "bin/tool"))
	if err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("mode is %v, %v", fi.Mode(), err)
	}
	if target, err := os.Readlink(filepath.Join(dst, "bin/link")); err != nil || target != "tool" {
		t.Errorf("link leads to %q, %v", target, err)
	}
}

func TestResolveStaysInsideTheRoot(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "usr/lib/real.so"), "")
	for path, target := range map[string]string{"lib": "usr/lib", "usr/lib/abs.so": "/lib/real.so",
		"usr/lib/rel.so": "../lib/real.so", "loop": "loop"} {
		if err := Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/usr/lib/real.so", "/lib/real.so", "/lib/abs.so", "/lib/rel.so"} {
		if got, err := Resolve(root, path); err != nil || got != "/usr/lib/real.so" {
			t.Errorf("%s is %s, %v", path, got, err)
		}
	}
	for _, path := range []string{"/loop", "/none"} {
		if _, err := Resolve(root, path); err == nil {
			t.Errorf("%s resolves", path)
		}
	}
}

func TestCopyProgramsBringsLibrariesAlong(t *testing.T) {
	ls, err := exec.LookPath("ls")
	if err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	if err := CopyPrograms("/", dst, ls); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dst, "lib*/x86_64-linux-gnu/libc.so.6"))
	if err != nil || len(found) == 0 {
		t.Errorf("ls came without its C library (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(dst, "lib64/ld-linux-x86-64.so.2")); err != nil {
		t.Errorf("ls came without its loader: %v", err)
	}
}

func TestCopyProgramsTellsAMissingOne(t *testing.T) {
	if err := CopyPrograms(t.TempDir(), t.TempDir(), "/usr/bin/none"); err == nil || !strings.Contains(err.Error(),
		"/usr/bin/none") {
		t.Errorf("error is %v", err)
	}
}

func TestRemove(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "usr/share/doc/x"), "")
	put(t, filepath.Join(root, "usr/share/perl5/x"), "")
	put(t, filepath.Join(root, "usr/share/keep"), "")
	if err := Remove(root, "usr/share/doc", "usr/share/perl*", "not/there"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(root, "usr/share"))
	if err != nil || len(left) != 1 || left[0].Name() != "keep" {
		t.Errorf("left: %v, %v", left, err)
	}
}
