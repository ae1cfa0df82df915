// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/cniinstall"
)

// A binary directory that cannot be written to makes the agent unready and nothing else; it is tried again.
func TestInstallerTriesAgain(t *testing.T) {
	dir := t.TempDir()
	shim, bin, conf := filepath.Join(dir, "shim"), filepath.Join(dir, "bin"), filepath.Join(dir, "conf")
	for path, text := range map[string]string{shim: "#!/bin/sh",
		filepath.Join(conf, "10-primary.conf"): `{"cniVersion":"1.0.0","name":"primary","type":"bridge"}`} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	in := newInstaller(Install{Shim: shim, BinDir: bin, ConfDir: conf, Plugins: []string{"multus"}, Meta: true},
		cniinstall.ConfOptions{Dir: conf, Namespace: "kube-system", Socket: "/run/socket"},
		slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- in.Start(t.Context()) }()
	wait := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
			select {
			case err := <-ended:
				t.Fatalf("%s: the agent would end: %v", what, err)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within a minute: %v", what, in.ready())
			}
		}
	}
	wait("without the directory", func() bool {
		err := in.ready()
		return err != nil && strings.Contains(err.Error(), "installing the CNI shim")
	})
	if _, err := os.Stat(filepath.Join(conf, cniinstall.ConfName)); err == nil {
		t.Error("the configuration names plugins that are not there")
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	wait("with the directory", func() bool { return in.ready() == nil })
	if !cniinstall.Ours(bin, "multus") {
		t.Error("the plugin is not installed")
	}
}
