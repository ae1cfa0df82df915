// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/attach/results"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// An agent that starts after a power failure looks after them.
func TestSweepResultsAtStart(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	path := filepath.Join(n.service.Root, results.Dir, "multus-cni-network-empty-eth0")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600),
		os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.service.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the empty result is still there")
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
