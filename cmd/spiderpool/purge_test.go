// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"
)

// The Job of the guide to uninstallation is one, and its arguments are known.
func TestUninstallGuidesJob(t *testing.T) {
	text, err := os.ReadFile("../../docs/uninstall.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "```yaml\n")
	manifest, _, found := strings.Cut(after, "```")
	var job batchv1.Job
	if err := yaml.UnmarshalStrict([]byte(manifest), &job); err != nil || !found {
		t.Fatalf("manifest found: %t, %v", found, err)
	}
	args := job.Spec.Template.Spec.Containers[0].Args
	root := newRoot()
	cmd, rest, err := root.Find(args)
	if err != nil || cmd.Name() != "purge" {
		t.Fatalf("args %v: %v", args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil || !slices.Contains(args, "--yes") {
		t.Errorf("args %v: %v", args, err)
	}
	mount := job.Spec.Template.Spec.Containers[0].VolumeMounts[0].MountPath
	if want := cmd.Flags().Lookup("root").DefValue; mount != want {
		t.Errorf("the node's root is mounted at %s, expected at %s", mount, want)
	}
}

// What does not look like a node is not touched.
func TestPurgeWantsTheNodesRoot(t *testing.T) {
	root := newRoot()
	root.SetArgs([]string{"purge", "--yes", "--root", t.TempDir()})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "(--root)") {
		t.Errorf("error %v", err)
	}
}
