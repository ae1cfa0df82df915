// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// cgroups is where control groups of version 2 are, cgroups(7).
var cgroups = "/sys/fs/cgroup" // a variable for the test

// takePlace puts this process into the control group of another one, which then has the same share
// of the processor, and stops the other: an agent looks at the node's cards when their links
// change, and would take of that share. back undoes both. Process 0 is none.
func takePlace(pid int) (back func() error, err error) {
	if pid == 0 {
		return func() error { return nil }, nil
	}
	theirs, err := groupOf(pid)
	if err != nil {
		return nil, err
	}
	own, err := groupOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	if err := join(theirs); err != nil {
		return nil, err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return nil, errors.Join(fmt.Errorf("stopping process %d for a while: %w", pid, err), join(own))
	}
	return func() error {
		err := syscall.Kill(pid, syscall.SIGCONT)
		if err != nil {
			err = fmt.Errorf("having process %d go on: %w", pid, err)
		}
		return errors.Join(err, join(own))
	}, nil
}

// groupOf is the folder of a process's control group.
func groupOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("looking for the control group of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(cgroups, path), nil
		}
	}
	return "", fmt.Errorf("process %d has no control group of version 2: %q", pid, text)
}

// join moves this process into a control group.
func join(group string) error {
	f, err := os.OpenFile(filepath.Join(group, "cgroup.procs"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(os.Getpid()))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("joining a control group: %w", err)
	}
	return nil
}
