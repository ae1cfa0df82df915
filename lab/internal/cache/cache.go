// SPDX-License-Identifier: Apache-2.0

// Package cache keeps what is costly to make under a name that is a digest of everything it was
// made from, so that it is made once per machine and never stale.
//
// An entry is a directory. It appears under its final name only when complete; two processes that
// want the same one make it once. The package does not know what is in an entry.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// keep is how many entries of one kind stay: the current one and the one before, for switching
// between two branches.
const keep = 2

// Dir is a cache directory.
type Dir string

// Default is $XDG_CACHE_HOME/spiderpool-lab, or the same under ~/.cache.
func Default() (Dir, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache directory: %w", err)
	}
	return Dir(filepath.Join(base, "spiderpool-lab")), nil
}

// Get returns the path of the entry of that kind (a short word) made from key. If there is none,
// fill is called with an empty directory to fill; when it fails, nothing is kept.
func (d Dir) Get(kind string, key *Key, fill func(dir string) error) (string, error) {
	name := kind + "-" + key.sum()
	if err := key.Err(); err != nil {
		return "", err
	}
	final := filepath.Join(string(d), name)
	if exists(final) {
		return final, touch(final)
	}
	locks := filepath.Join(string(d), "locks")
	if err := os.MkdirAll(locks, 0o755); err != nil {
		return "", fmt.Errorf("making the cache directory: %w", err)
	}
	unlock, err := lock(filepath.Join(locks, name))
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(final) { // another process made it while we waited
		return final, nil
	}
	if err := d.build(final, fill); err != nil {
		return "", err
	}
	return final, d.prune(kind)
}

func (d Dir) build(final string, fill func(dir string) error) error {
	partial := final + ".partial" // ours alone while the lock is held; left over only by a process that was killed
	if err := removeAll(partial); err != nil {
		return err
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return fmt.Errorf("making a cache entry: %w", err)
	}
	if err := fill(partial); err != nil {
		return errors.Join(err, removeAll(partial))
	}
	if err := os.Rename(partial, final); err != nil {
		return fmt.Errorf("completing a cache entry: %w", err)
	}
	return nil
}

// prune removes the entries of a kind that were used longest ago, beyond those to keep.
func (d Dir) prune(kind string) error {
	all, err := filepath.Glob(filepath.Join(string(d), kind+"-????????????????"))
	if err != nil {
		return fmt.Errorf("listing cache entries: %w", err)
	}
	slices.SortFunc(all, func(a, b string) int { return modified(b).Compare(modified(a)) })
	for i := keep; i < len(all); i++ {
		if err := removeAll(all[i]); err != nil {
			return err
		}
	}
	return nil
}

// Clean removes the whole cache.
func (d Dir) Clean() error { return removeAll(string(d)) }

func touch(path string) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return fmt.Errorf("marking a cache entry as used: %w", err)
	}
	return nil
}

func modified(path string) time.Time {
	fi, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removeAll is os.RemoveAll that also gets through directories without write permission, which
// packages contain.
func removeAll(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(p string, e fs.DirEntry, _ error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return nil
}

// lock takes an advisory lock on a file, waiting for its holder.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of a cache entry: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// Key collects what an entry is made from. The zero value is not usable; see NewKey.
type Key struct {
	h   hash.Hash
	err error
}

// NewKey starts a key with words: versions, options, names.
func NewKey(words ...string) *Key {
	k := &Key{h: sha256.New()}
	return k.Words(words...)
}

// Words adds words; their boundaries count.
func (k *Key) Words(words ...string) *Key {
	for _, w := range words {
		fmt.Fprintf(k.h, "%d:%s", len(w), w)
	}
	return k
}

// Tree adds the names, modes and content of files. A path may be a file or a directory, which is
// walked; names count relative to it.
func (k *Key) Tree(paths ...string) *Key {
	for _, p := range paths {
		if err := k.tree(p); err != nil && k.err == nil {
			k.err = err
		}
	}
	return k
}

func (k *Key) tree(root string) error {
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		k.Words(rel, fi.Mode().String())
		if fi.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(p)
			k.Words(target)
			return err
		}
		return k.content(p)
	})
}

func (k *Key) content(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(k.h, f)
	return err
}

// Err tells whether everything could be read.
func (k *Key) Err() error {
	if k.err != nil {
		return fmt.Errorf("reading what a cache entry is made from: %w", k.err)
	}
	return nil
}

func (k *Key) sum() string {
	s := hex.EncodeToString(k.h.Sum(nil))
	return strings.ToLower(s[:16])
}
