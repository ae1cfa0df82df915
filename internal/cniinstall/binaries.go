// SPDX-License-Identifier: Apache-2.0

// Package cniinstall owns the files that make a node's container runtime call
// us: the shim under each plugin's name in the CNI binary directory, and the
// configuration that names our meta plugin in the CNI configuration directory.
//
// Every file appears whole or not at all, and stays when the agent stops, so
// that pods never start on another network in the meantime. It knows nothing
// of networks, pods or the API server.
package cniinstall

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ShimName is the name of the shim's file in the binary directory; the plugins' names are links to it.
const ShimName = "spiderpool-cni"

// ForeignSuffix is added to the name of another product's plugin that ours takes the place of.
const ForeignSuffix = ".before-spiderpool"

// InstallBinaries copies the shim at source to dir and makes a link to it for
// each name. Another product's file of such a name is kept beside it with
// ForeignSuffix. It may be repeated.
func InstallBinaries(source, dir string, names []string) error {
	if err := copyFile(source, filepath.Join(dir, ShimName)); err != nil {
		return fmt.Errorf("installing the CNI shim: %w", err)
	}
	for _, name := range names {
		if err := linkPlugin(dir, name); err != nil {
			return fmt.Errorf("installing CNI plugin %s: %w", name, err)
		}
	}
	return nil
}

// RemoveBinaries undoes InstallBinaries and puts back what it had set aside.
func RemoveBinaries(dir string, names []string) error {
	var errs []error
	for _, name := range names {
		path := filepath.Join(dir, name)
		if !Ours(dir, name) {
			continue
		}
		errs = append(errs, remove(path))
		if err := os.Rename(path+ForeignSuffix, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, remove(filepath.Join(dir, ShimName)))...)
}

// Installed lists what of ours is in dir: the shim, and of the names those that are links to it.
func Installed(dir string, names []string) (found []string) {
	for _, name := range names {
		if Ours(dir, name) {
			found = append(found, name)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, ShimName)); err == nil {
		found = append(found, ShimName)
	}
	return found
}

// Ours tells whether the plugin of that name in dir is a link to our shim.
func Ours(dir, name string) bool {
	target, err := os.Readlink(filepath.Join(dir, name))
	return err == nil && target == ShimName
}

func linkPlugin(dir, name string) error {
	if Ours(dir, name) {
		return nil
	}
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		if err := os.Rename(path, path+ForeignSuffix); err != nil {
			return err
		}
	}
	temp := path + ".new"
	if err := remove(temp); err != nil {
		return err
	}
	if err := os.Symlink(ShimName, temp); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// copyFile replaces to by a copy of from in one step, so that a runtime never executes half a file.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return replaceFile(to, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}

func replaceFile(path string, mode os.FileMode, write func(io.Writer) error) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	err = errors.Join(write(temp), temp.Chmod(mode), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
