// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/host/hosttest"
)

// TestSweepResults: what a power failure leaves of the runtime's results goes, and nothing else.
func TestSweepResults(t *testing.T) {
	s := &Service{Options: Options{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	if err := s.sweepResults(time.Now()); err != nil {
		t.Fatalf("without a directory: %v", err)
	}
	dir := filepath.Join(s.Root, resultsDir)
	if err := os.MkdirAll(filepath.Join(dir, "a-directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, text := range map[string]string{
		"multus-cni-network-good-eth0":    `{"kind":"cniCacheV1","result":{}}`,
		"multus-cni-network-empty-eth0":   "",
		"cni-loopback-cut-lo":             `{"kind":"cniCacheV1","resu`,
		"multus-cni-network-zeros-eth0":   strings.Repeat("\x00", 1447),
		"multus-cni-network-written-eth0": "",
	} {
		age := time.Hour
		if strings.Contains(name, "written") {
			age = time.Second
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sweepResults(now); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"a-directory", "multus-cni-network-good-eth0", "multus-cni-network-written-eth0"},
		left); diff != "" {
		t.Errorf("left: %s", diff)
	}
}

// An agent that starts after a power failure looks after them.
func TestSweepResultsAtStart(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	path := filepath.Join(n.service.Root, resultsDir, "multus-cni-network-empty-eth0")
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
