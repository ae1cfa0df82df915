// SPDX-License-Identifier: Apache-2.0

// Package previous gets the product's previous version out of the clone's own history, for tests of
// upgrade and downgrade.
//
// It owns which version that is. It must not know how the product is built or installed.
package previous

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"spidernet.io/spiderpool/lab/internal/cache"
)

// Commit is the previous version: what users run who have not upgraded. A release moves it to the
// commit of the release before.
const Commit = "45c8b2ea213be060068976d71f63a11dfe023aa4"

// Source returns a directory with the sources of Commit, taken from the clone whose root is given.
func Source(ctx context.Context, c cache.Dir, clone string) (string, error) {
	if err := git(ctx, clone, "cat-file", "-e", Commit+"^{commit}"); err != nil {
		return "",
			fmt.Errorf("reading the previous version: the history of %s has no commit %s: expected all commits, "+
				"as `git fetch --unshallow` brings them: %w", clone, Commit, err)
	}
	entry, err := c.Get("previous", cache.NewKey("1", Commit), func(dir string) error {
		archive := filepath.Join(dir, "source.tar")
		if err := git(ctx, clone, "archive", "--format=tar", "--output="+archive, Commit); err != nil {
			return fmt.Errorf("reading the previous version: %w", err)
		}
		return run(exec.CommandContext(ctx, "tar", "-x", "-C", dir, "-f", archive))
	})
	if err != nil {
		return "", fmt.Errorf("keeping the sources of the previous version: %w", err)
	}
	return entry, nil
}

func git(ctx context.Context, dir string, args ...string) error {
	return run(exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...))
}

func run(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}
