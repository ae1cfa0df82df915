// SPDX-License-Identifier: Apache-2.0

// Package archive writes tar and gzip files that depend on their content alone: no times, no
// owners, no order of a directory, no umask of the machine. It knows nothing of what is packed.
package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Entry is one file, directory or symbolic link of an archive. It belongs to root.
type Entry struct {
	// Name is relative to the archive's root and has no trailing slash.
	Name string
	// Mode is a file's or directory's permissions, with the bits of fs.ModePerm and fs.ModeSticky.
	Mode fs.FileMode
	Dir  bool
	// Link is the target of a symbolic link.
	Link string
	// Content is a regular file's, unless Path names a file to read it from.
	Content []byte
	Path    string
}

// Tar writes the entries in the order given.
func Tar(out io.Writer, entries []Entry) error {
	w := tar.NewWriter(out)
	for _, e := range entries {
		if err := writeEntry(w, e); err != nil {
			return fmt.Errorf("archiving %s: %w", e.Name, err)
		}
	}
	return w.Close()
}

func writeEntry(w *tar.Writer, e Entry) error {
	h := &tar.Header{Name: e.Name, Mode: int64(e.Mode.Perm()), Format: tar.FormatPAX}
	if e.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case e.Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Name+"/"
		return w.WriteHeader(h)
	case e.Link != "":
		h.Typeflag, h.Mode, h.Linkname = tar.TypeSymlink, 0o777, e.Link
		return w.WriteHeader(h)
	case e.Path == "":
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.Content))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(e.Content)
		return err
	}
	return writeFile(w, h, e.Path)
}

func writeFile(w *tar.Writer, h *tar.Header, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, fi.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// TarGz is the entries' archive, compressed.
func TarGz(entries []Entry) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression) // its header has no time and no name
	if err != nil {
		return nil, err
	}
	if err := Tar(z, entries); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Directory lists what is below dir, in the order of names, with the modes that it has there.
func Directory(dir string) ([]Entry, error) {
	var entries []Entry
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		entry, err := fromFile(dir, p, e)
		entries = append(entries, entry)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	return entries, nil
}

func fromFile(dir, p string, e fs.DirEntry) (Entry, error) {
	fi, err := e.Info()
	if err != nil {
		return Entry{}, err
	}
	rel, err := filepath.Rel(dir, p)
	if err != nil {
		return Entry{}, err
	}
	out := Entry{Name: rel, Mode: fi.Mode() & (fs.ModePerm | fs.ModeSticky)}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		out.Dir = true
	case fs.ModeSymlink:
		out.Link, err = os.Readlink(p)
	case 0:
		out.Path = p
	default:
		kind := strings.ToLower(fi.Mode().Type().String())
		return Entry{}, fmt.Errorf("%s is a %s: expected files, directories and symbolic links only", rel, kind)
	}
	return out, err
}
