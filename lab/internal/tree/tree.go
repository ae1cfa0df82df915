// SPDX-License-Identifier: Apache-2.0

// Package tree has the few operations on directory trees from which machine roots and images are
// put together.
//
// Trees in the cache are shared: a tree made by Link has its files in common with its source, so
// nothing here ever writes into an existing file, it replaces it.
package tree

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Link makes dst a copy of src in which files are hard links. Both must be on one file system.
func Link(src, dst string) error {
	return walk(src, dst, func(from, to string, _ fs.FileInfo) error { return os.Link(from, to) })
}

// Copy copies src over dst, replacing files that exist.
func Copy(src, dst string) error { return walk(src, dst, copyFile) }

// walk recreates directories and symbolic links and calls file for every regular file. Other kinds
// are passed over.
func walk(src, dst string, file func(from, to string, fi fs.FileInfo) error) error {
	err := filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		switch fi.Mode().Type() {
		case fs.ModeDir:
			return os.MkdirAll(to, fi.Mode().Perm()|0o700)
		case fs.ModeSymlink:
			return copyLink(p, to)
		case 0:
			return file(p, to, fi)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("copying %s to %s: %w", src, dst, err)
	}
	return nil
}

func copyLink(from, to string) error {
	target, err := os.Readlink(from)
	if err != nil {
		return err
	}
	return Symlink(target, to)
}

// Symlink makes path a symbolic link to target, in place of whatever file was there.
func Symlink(target, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// CopyFile copies one file with its mode, following links at its source.
func CopyFile(from, to string) error {
	fi, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("copying a file: %w", err)
	}
	if err := copyFile(from, to, fi); err != nil {
		return fmt.Errorf("copying %s to %s: %w", from, to, err)
	}
	return nil
}

func copyFile(from, to string, fi fs.FileInfo) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return write(to, fi.Mode().Perm(), in)
}

// Write makes a file with that content, in place of whatever file was there.
func Write(path string, mode fs.FileMode, content io.Reader) error {
	if err := write(path, mode, content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func write(path string, mode fs.FileMode, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, content); err != nil {
		out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil { // whatever the umask
		out.Close()
		return err
	}
	return out.Close()
}

// Remove deletes what the patterns (of filepath.Glob, relative to root) match.
func Remove(root string, patterns ...string) error {
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(root, p))
		if err != nil {
			return fmt.Errorf("pattern %s: %w", p, err)
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return fmt.Errorf("removing %s: %w", f, err)
			}
		}
	}
	return nil
}

// Resolve follows symbolic links of path inside root, where an absolute link starts again at root,
// and returns the real file's path within root.
func Resolve(root, path string) (string, error) {
	for range 40 {
		next, done, err := resolveOnce(root, path)
		if err != nil || done {
			return next, err
		}
		path = next
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

// resolveOnce follows the first symbolic link among path's components.
func resolveOnce(root, path string) (string, bool, error) {
	path = filepath.Clean("/" + path)
	at := "/"
	for rest := path[1:]; rest != ""; {
		name, tail, _ := cut(rest)
		fi, err := os.Lstat(filepath.Join(root, at, name))
		if err != nil {
			return "", false, err
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(filepath.Join(root, at, name))
			if err != nil {
				return "", false, err
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(at, target)
			}
			return filepath.Join(target, tail), false, nil
		}
		at, rest = filepath.Join(at, name), tail
	}
	return path, true, nil
}

func cut(path string) (first, rest string, found bool) {
	for i := range len(path) {
		if path[i] == '/' {
			return path[:i], path[i+1:], true
		}
	}
	return path, "", false
}

// libraryPath is where Debian's dynamic loader looks without a cache.
var libraryPath = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/lib", "/usr/lib"}

// CopyPrograms copies files of root (programs or libraries, by absolute path within it) to the same
// paths in dst, with every shared library that they need.
func CopyPrograms(root, dst string, paths ...string) error {
	c := copier{root: root, dst: dst, done: map[string]bool{}}
	for _, p := range paths {
		if err := c.add(p); err != nil {
			return fmt.Errorf("copying %s with its libraries: %w", p, err)
		}
	}
	return nil
}

type copier struct {
	root, dst string
	done      map[string]bool
}

func (c *copier) add(path string) error {
	if c.done[path] {
		return nil
	}
	c.done[path] = true
	target, err := Resolve(c.root, path)
	if err != nil {
		return err
	}
	if err := CopyFile(filepath.Join(c.root, target), filepath.Join(c.dst, path)); err != nil {
		return err
	}
	needed, err := needs(filepath.Join(c.root, target))
	if err != nil {
		return err
	}
	for _, lib := range needed {
		found, err := c.find(lib)
		if err != nil {
			return err
		}
		if err := c.add(found); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) find(lib string) (string, error) {
	if filepath.IsAbs(lib) {
		return lib, nil
	}
	for _, dir := range libraryPath {
		p := filepath.Join(dir, lib)
		if _, err := Resolve(c.root, p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("library %s is not in the tree", lib)
}

// needs lists the shared libraries and the loader that a file names; none for what is not ELF, such
// as a script.
func needs(path string) ([]string, error) {
	f, err := elf.Open(path)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, err
			}
			libs = append(libs, string(b[:len(b)-1]))
		}
	}
	return libs, nil
}
