// SPDX-License-Identifier: Apache-2.0

package gobuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseModules(t *testing.T) {
	const list = `{}
{"Module":{"Path":"a.test/main","Main":true}}
{"Module":{"Path":"b.test/x","Version":"v1.0.0","Sum":"h1:b"}}
{"Module":{"Path":"b.test/x","Version":"v1.0.0","Sum":"h1:b"}}
{"Module":{"Path":"c.test/y","Version":"v0.0.0","Replace":{"Path":"c.test/y","Version":"v0.36.3","Sum":"h1:c"}}}
`
	got, err := parseModules(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"b.test/x@v1.0.0 h1:b", "c.test/y@v0.36.3 h1:c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	if _, err := parseModules(strings.NewReader("{")); err == nil {
		t.Error("a cut list is no error")
	}
}

func TestVersionFlags(t *testing.T) {
	got := versionFlags("v1.36.3")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.36.3",
		"-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/component-base/version.gitMinor=36",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

func TestFindSource(t *testing.T) {
	repo := t.TempDir()
	deep := filepath.Join(repo, "internal/deep")
	lab := filepath.Join(repo, "lab")
	for _, d := range []string{deep, filepath.Join(lab, "cmd")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(lab, "go.mod"), []byte("module "+LabModule+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{repo, deep, lab, filepath.Join(lab, "cmd")} {
		s, err := FindSource(from)
		if err != nil || s.Lab != lab || s.Product() != repo {
			t.Errorf("from %s: %+v, %v", from, s, err)
		}
	}
	if _, err := FindSource(t.TempDir()); err == nil {
		t.Error("found sources where there are none")
	}
}

func TestBuildShowsWhatTheCompilerSays(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module broken.test\n",
		"main.go": "package main\nfunc main() { undefined() }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := Build(t.Context(), dir, ".", filepath.Join(dir, "out"), "")
	if err == nil || !strings.Contains(err.Error(), "undefined") {
		t.Errorf("error is %v", err)
	}
}
