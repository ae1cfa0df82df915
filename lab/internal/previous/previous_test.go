// SPDX-License-Identifier: Apache-2.0

package previous

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/internal/cache"
)

// TestSource takes the pinned commit out of this clone: its chart and programs are there, and
// nothing of git.
func TestSource(t *testing.T) {
	c := cache.Dir(t.TempDir())
	var dirs []string
	for range 2 {
		dir, err := Source(t.Context(), c, "../../..")
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	if dirs[0] != dirs[1] {
		t.Errorf("two calls gave %q, expected one directory", dirs)
	}
	for _, file := range []string{"charts/spiderpool/Chart.yaml", "cmd/spiderpool/main.go", "go.mod"} {
		if _, err := os.Stat(filepath.Join(dirs[0], file)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dirs[0], ".git")); !os.IsNotExist(err) {
		t.Errorf("the previous version's directory has a .git: %v", err)
	}
}

// TestShallowClone has a clone without the history: its user is told how to get it.
func TestShallowClone(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := Source(t.Context(), cache.Dir(t.TempDir()), dir)
	if err == nil || !strings.Contains(err.Error(), "git fetch --unshallow") || !strings.Contains(err.Error(), Commit) {
		t.Errorf("error is %v; expected one with the commit and the remedy", err)
	}
}
