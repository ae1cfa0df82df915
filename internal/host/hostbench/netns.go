// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/nodebench"
)

// newNamespace makes a network namespace that lives until it is closed, so that it never outlives
// this process.
func newNamespace() (ns host.NS, closeNS func() error, err error) {
	var f *os.File
	err = nodebench.NewNamespace(func(path string) (err error) {
		f, err = os.Open(path)
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return host.NS(fmt.Sprintf("/proc/self/fd/%d", f.Fd())), f.Close, nil
}
