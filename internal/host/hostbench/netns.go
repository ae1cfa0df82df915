package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/host"
)

// newNamespace makes a network namespace that lives until it is closed, so that it never outlives this process.
func newNamespace() (ns host.NS, closeNS func() error, err error) {
	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made, 1)
	go func() {
		f, err := unshare()
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		return "", nil, fmt.Errorf("making a network namespace: %w", m.err)
	}
	return host.NS(fmt.Sprintf("/proc/self/fd/%d", m.file.Fd())), m.file.Close, nil
}

// unshare makes the namespace on this goroutine's thread and leaves it again. A thread that cannot leave stays locked and
// ends with the goroutine.
func unshare() (*os.File, error) {
	runtime.LockOSThread()
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer origin.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return f, err
}
