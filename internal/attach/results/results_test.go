// SPDX-License-Identifier: Apache-2.0

package results

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSweep: what a power failure leaves of the runtime's results goes, and nothing else.
func TestSweep(t *testing.T) {
	root, log := t.TempDir(), slog.New(slog.DiscardHandler)
	if err := Sweep(root, time.Now(), log); err != nil {
		t.Fatalf("without a directory: %v", err)
	}
	dir := filepath.Join(root, Dir)
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
	if err := Sweep(root, now, log); err != nil {
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
