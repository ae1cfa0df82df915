// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/host/nodebench"
)

// namespaces is where runtimes bind network namespaces; the agent sees this directory of the node.
const namespaces = "/var/run/netns"

// newNamespace makes a network namespace and binds it to a name, so that the agent can open it by a
// path, until it is removed.
func newNamespace(name string) (path string, remove func() error, err error) {
	path = filepath.Join(namespaces, name)
	if err := os.MkdirAll(namespaces, 0o755); err != nil {
		return "", nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return "", nil, err
	}
	f.Close()
	err = nodebench.NewNamespace(func(own string) error {
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding it to %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(path))
	}
	return path, func() error { return removeNamespace(path) }, nil
}

// removeNamespace ends the namespace. The agent may have it open for a moment still, so the mount
// goes lazily.
func removeNamespace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting it: %w", err)
	}
	return os.Remove(path)
}
