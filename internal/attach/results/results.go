// SPDX-License-Identifier: Apache-2.0

// Package results looks after the files in which container runtimes keep the
// result of each ADD: what cannot be read keeps a sandbox from being deleted.
package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Dir is where libcni in the container runtimes keeps the result of each ADD for the DEL
// (CacheDir in libcni/api.go).
const Dir = "var/lib/cni/results"

// beingWritten: libcni writes its file in place, right after an ADD.
const beingWritten = time.Minute

// Sweep removes results that the runtime cannot read. A node whose power failed, or whose
// disk was full, has empty ones, and libcni refuses the DEL of such a sandbox without asking any
// plugin, for ever ("failed to get network ... cached result"): the pod stays, and its address and
// VF with it. Without the file it goes on, and our record has all that a DEL needs. This goes for
// networks that are not ours as well, since the runtime takes a sandbox down as a whole.
func Sweep(root string, now time.Time, log *slog.Logger) error {
	dir := filepath.Join(root, Dir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the runtime's results: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		bad, err := unreadable(path, e, now)
		if err == nil && bad {
			if err = os.Remove(path); err == nil {
				log.Warn(
					"removed a result that the container runtime cannot read and would refuse to delete its sandbox "+
						"for; was there a power failure, or a full disk?",
					"file", "/"+Dir+"/"+e.Name())
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the runtime deleted it meanwhile
			errs = append(errs, fmt.Errorf("look at the runtime's results: %w", err))
		}
	}
	return errors.Join(errs...)
}

// unreadable tells whether a file has been there for a while and is not JSON.
func unreadable(path string, e fs.DirEntry, now time.Time) (bool, error) {
	info, err := e.Info()
	if err != nil || !info.Mode().IsRegular() || now.Sub(info.ModTime()) < beingWritten {
		return false, err
	}
	text, err := os.ReadFile(path)
	return err == nil && !json.Valid(text), err
}
