// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/version"
)

func TestVersionCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(&out)
		err := root.Execute()
		return out.String(), err
	}
	want := version.Get()
	if text, err := run("version"); err != nil || text != want.Text("spiderpool") {
		t.Errorf("version: %v, %q", err, text)
	}
	if text, err := run("--version"); err != nil || text != "spiderpool "+want.String()+"\n" {
		t.Errorf("--version: %v, %q", err, text)
	}
	text, err := run("version", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got version.Info
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("version -o json (-want +got):\n%s", diff)
	}
	if _, err := run("version", "-o", "xml"); err == nil || !strings.Contains(err.Error(),
		`--output is "xml": expected text or json`) {
		t.Errorf("version -o xml: %v", err)
	}
}

// Every process says first which build it is, whatever its log level is and however it ends.
func TestEveryProcessSaysItsVersionFirst(t *testing.T) {
	for process, args := range map[string][]string{
		"controller": {"--log-level=none"}, "agent": {"--node=n", "--log-level=none"},
		"sriov-operator": {"--log-level=none"},
		"init":           {"--log-level=none"}, "clean": {"--log-level=none"}, "purge": {"--root=" + t.TempDir()},
	} {
		t.Run(process, func(t *testing.T) {
			var log bytes.Buffer
			root := newRoot()
			root.SetArgs(append([]string{process}, args...))
			root.SetErr(&log)
			if err := root.Execute(); err == nil {
				t.Fatal("the process ran")
			}
			var line map[string]string
			if err := json.Unmarshal(bytes.SplitN(log.Bytes(), []byte("\n"), 2)[0], &line); err != nil {
				t.Fatalf("first line of %q: %v", log.String(), err)
			}
			delete(line, "time")
			i := version.Get()
			want := map[string]string{
				"level": "INFO", "msg": "starting", "process": process, "version": i.Version, "commit": i.Commit,
				"built": i.Built, "go": i.Go, "platform": i.Platform,
			}
			if diff := cmp.Diff(want, line); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	commands := 0
	for _, c := range newRoot().Commands() {
		if c.Name() != "version" {
			commands++
		}
	}
	if commands != 6 {
		t.Errorf("%d processes, and this test knows of 6", commands)
	}
}
