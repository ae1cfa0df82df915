// SPDX-License-Identifier: Apache-2.0

// Package workflows checks what actionlint does not know of the workflows: that they do nothing but
// call targets of the Makefile, so that a developer can run whatever failed, and that they have no
// more rights than they need. It knows nothing of what the targets do.
package workflows

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

type workflow struct {
	Permissions map[string]string `json:"permissions"`
	Jobs        map[string]struct {
		Permissions map[string]string `json:"permissions"`
		Timeout     int               `json:"timeout-minutes"`
		Steps       []struct {
			Run, Uses string
		} `json:"steps"`
	} `json:"jobs"`
}

var (
	call    = regexp.MustCompile(`^make ([a-z0-9-]+)$`)
	target  = regexp.MustCompile(`(?m)^([a-z0-9][a-z0-9 -]*):`)
	actions = []string{"actions/checkout@v4", "actions/setup-go@v5", "docker/login-action@v3"}
)

// faults are what is wrong with a workflow in view of the targets that there are.
func faults(text []byte, targets []string) (all []string) {
	var w workflow
	if err := yaml.Unmarshal(text, &w); err != nil {
		return []string{err.Error()}
	}
	if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
		all = append(all, fmt.Sprintf("permissions %v: must be contents: read", w.Permissions))
	}
	for name, job := range w.Jobs {
		if job.Permissions != nil || job.Timeout == 0 {
			all = append(all, "job "+name+": must have a timeout and no permissions of its own")
		}
		for _, step := range job.Steps {
			switch m := call.FindStringSubmatch(step.Run); {
			case step.Uses != "":
				if !slices.Contains(actions, step.Uses) {
					all = append(all, fmt.Sprintf("job %s: action %s: must be one of %v", name, step.Uses, actions))
				}
			case m == nil:
				all = append(all, fmt.Sprintf("job %s: step %q: must be 'make TARGET'", name, step.Run))
			case !slices.Contains(targets, m[1]):
				all = append(all, fmt.Sprintf("job %s: the Makefile has no target %s", name, m[1]))
			}
		}
	}
	return all
}

func TestWorkflows(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range target.FindAllSubmatch(makefile, -1) {
		for _, name := range bytes.Fields(m[1]) {
			targets = append(targets, string(name))
		}
	}
	files, err := filepath.Glob("../../.github/workflows/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range faults(text, targets) {
			t.Errorf("%s: %s", filepath.Base(file), fault)
		}
	}
}

func TestFaults(t *testing.T) {
	const head = "permissions: {contents: read}\njobs:\n  a:\n    timeout-minutes: 1\n    steps: "
	for text, want := range map[string]int{
		head + "[{run: make check}]\n":                                                 0,
		head + "[{run: make chekc}]\n":                                                 1,
		head + "[{run: go test ./...}]\n":                                              1,
		head + "[{uses: other/thing@v1}]\n":                                            1,
		"permissions: {contents: write}\njobs: {}\n":                                   1,
		"permissions: {contents: read}\njobs: {a: {steps: []}}\n":                      1,
		"jobs: {a: {timeout-minutes: 1, permissions: {packages: write}, steps: []}}\n": 2,
	} {
		if got := faults([]byte(text), []string{"check"}); len(got) != want {
			t.Errorf("%q: faults %q, expected %d", text, got, want)
		}
	}
}
