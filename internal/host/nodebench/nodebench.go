// SPDX-License-Identifier: Apache-2.0

// Package nodebench is what the programs share that measure on one node: they
// end early in good order, and work in network namespaces of their own. It knows
// nothing of what is measured.
package nodebench

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Context ends at a signal. A closed output ends nothing: whoever started the program may be gone
// before all is given back.
func Context() (ctx context.Context, stop context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE)
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

// UntilEOF is a context that ends with ctx or when nothing more comes from r.
func UntilEOF(ctx context.Context, r io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, r) // an error is an end too
	}()
	return ctx
}

// Rest waits before a round, and tells whether ctx still goes on.
func Rest(ctx context.Context, quiet time.Duration) bool {
	select {
	case <-ctx.Done():
	case <-time.After(quiet):
	}
	return ctx.Err() == nil
}

// ownNS is the network namespace of the thread that asks.
const ownNS = "/proc/thread-self/ns/net"

// NewNamespace makes a network namespace and runs keep on a thread that is in it; what keep does
// not open or bind at the path is gone after that.
func NewNamespace(keep func(path string) error) error {
	done := make(chan error, 1)
	go func() { done <- unshare(keep) }()
	return <-done
}

// unshare makes the namespace on this goroutine's thread and leaves it again. A thread that cannot
// leave stays locked and ends with the goroutine.
func unshare(keep func(path string) error) error {
	runtime.LockOSThread()
	origin, err := os.Open(ownNS)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer origin.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = keep(ownNS)
	if unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
