// SPDX-License-Identifier: Apache-2.0

// Package source says what is being built: where the product's module is, and which version and
// commit git calls it. It knows nothing of compilers and images.
package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// ProductModule is the path of the product's Go module.
const ProductModule = "spidernet.io/spiderpool"

// Find returns the root of the product's module: dir or the nearest directory above it.
func Find(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module "+ProductModule+"\n")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("finding the product's source: no go.mod of module %s in %s or above: "+
				"run the command inside a clone of the project", ProductModule, dir)
		}
	}
}

// Stamp is what a build says of itself.
type Stamp struct {
	// Version is a release's such as v0.2.0, or what `git describe` says.
	Version string
	// Commit is the full hash, with -dirty when the tree differs from it; empty outside a clone.
	Commit string
	// Time is the commit's, so that two builds of one commit are equal; zero outside a clone.
	Time  time.Time
	Dirty bool
}

// Read asks git about the clone at root. A version that is not empty counts instead of what git describes.
// Outside a clone, as in a source archive, there is no commit, and the version is "dev" unless it is given.
func Read(ctx context.Context, root, version string) (Stamp, error) {
	if _, err := os.Stat(filepath.Join(root, ".git")); errors.Is(err, os.ErrNotExist) {
		return Stamp{Version: cmp.Or(version, "dev")}, nil
	}
	commit, err := git(ctx, root, "show", "--no-patch", "--no-show-signature", "--format=%H %cI", "HEAD")
	if err != nil {
		return Stamp{}, err
	}
	hash, at, _ := strings.Cut(commit, " ")
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return Stamp{}, fmt.Errorf("reading the time of commit %s: %w", hash, err)
	}
	changes, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return Stamp{}, err
	}
	s := Stamp{Version: version, Commit: hash, Time: when.UTC(), Dirty: changes != ""}
	if s.Version == "" {
		// A fixed length: git's own choice depends on how much history the clone has. Tags that are
		// no versions do not count.
		if s.Version, err = git(ctx, root, "describe", "--tags", "--always", "--abbrev=12",
			"--match=v[0-9]*"); err != nil {
			return Stamp{}, err
		}
	}
	if s.Dirty {
		s.Commit += "-dirty"
		if version == "" {
			s.Version += "-dirty"
		}
	}
	return s, nil
}

// Built is the time in the form in which programs print it; empty when it is unknown.
func (s Stamp) Built() string {
	if s.Time.IsZero() {
		return ""
	}
	return s.Time.Format(time.RFC3339)
}

// LDFlags make the linker stamp a program of the product.
func (s Stamp) LDFlags() string {
	const vars = ProductModule + "/internal/version."
	return fmt.Sprintf("-X %sversion=%s -X %scommit=%s -X %sbuilt=%s", vars, s.Version, vars, s.Commit, vars, s.Built())
}

// Tag is the version as the tag of an image; a tag cannot have the plus sign of a semantic version.
func (s Stamp) Tag() string { return strings.ReplaceAll(s.Version, "+", "_") }

// CheckRelease refuses what must not become a release.
func (s Stamp) CheckRelease(allowDirty bool) error {
	if s.Commit == "" {
		return errors.New(
			"releasing: the source is not a git clone: expected a clone, so that the release says its commit")
	}
	if err := CheckVersion(s.Version); err != nil {
		return err
	}
	if s.Dirty && !allowDirty {
		return fmt.Errorf(
			"releasing %s: the working tree has changes that are not committed: expected the tree of a commit: "+
				"commit them (see `git status`), or set ALLOW_DIRTY=1 for a release that says so", s.Version)
	}
	return nil
}

// CheckVersion accepts a semantic version with a leading v and all three numbers.
func CheckVersion(version string) error {
	if version == "" {
		return errors.New("reading the version: it is empty: expected VERSION=v<major>.<minor>.<patch>, such as v0.2.0")
	}
	if !semver.IsValid(version) || semver.Canonical(version)+semver.Build(version) != version {
		return fmt.Errorf(
			"reading the version: it is %q: expected a semantic version with a leading v, such as v0.2.0 or "+
				"v0.2.0-rc.1",
			version)
	}
	return nil
}

// git runs git on the clone at root, whatever repository the caller's environment names (as a hook's does).
func git(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_DIR=") && !strings.HasPrefix(v, "GIT_WORK_TREE=") &&
			!strings.HasPrefix(v, "GIT_INDEX_FILE=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking git about %s: git %s: %w: %s", root, args[0], err, bytes.TrimSpace(said.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
