// SPDX-License-Identifier: Apache-2.0

package source

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// repository is a clone with one commit, made at a time in another zone.
func repository(t *testing.T) (dir, commit string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "go.mod", "module "+ProductModule+"\n")
	run(t, dir, "init", "-q")
	run(t, dir, "add", ".")
	run(t, dir, "commit", "-q", "-m", "first")
	return dir, run(t, dir, "rev-parse", "HEAD")
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com"},
		args...)...)
	cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-01-02T05:04:05+02:00",
		"GIT_AUTHOR_DATE=2000-01-01T00:00:00Z",
		"GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The linker ignores names that it does not find: each has to be a variable of the product's package.
func TestLDFlagsNameVariables(t *testing.T) {
	text, err := os.ReadFile("../../internal/version/version.go")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "version.go", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]bool{}
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
			for _, spec := range g.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					variables[ProductModule+"/internal/version."+name.Name] = true
				}
			}
		}
	}
	flags := strings.Fields(Stamp{Version: "v1.2.3", Commit: "abc"}.LDFlags())
	stamped := 0
	for i, flag := range flags {
		if flag != "-X" {
			continue
		}
		stamped++
		if name, _, _ := strings.Cut(flags[i+1], "="); !variables[name] {
			t.Errorf("the linker is told to set %s, which is no variable of %v", name, variables)
		}
	}
	if stamped != 3 {
		t.Errorf("%q sets %d variables, expected 3", flags, stamped)
	}
}

func TestRead(t *testing.T) {
	dir, commit := repository(t)
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	check := func(step, version string, want Stamp) {
		t.Helper()
		got, err := Read(t.Context(), dir, version)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
	}
	check("no tag", "", Stamp{commit[:12], commit, when, false})
	run(t, dir, "tag", "nightly")
	check("a tag that is no version", "", Stamp{commit[:12], commit, when, false})
	run(t, dir, "tag", "v0.3.0")
	check("a tag", "", Stamp{"v0.3.0", commit, when, false})
	check("a version given", "v0.4.0", Stamp{"v0.4.0", commit, when, false})
	write(t, dir, "new.go", "package x\n") // compiled in, though git does not know it
	check("an unknown file", "", Stamp{"v0.3.0-dirty", commit + "-dirty", when, true})
	check("an unknown file, a version given", "v0.4.0", Stamp{"v0.4.0", commit + "-dirty", when, true})
	t.Setenv("GIT_DIR", "/nowhere")
	check("in a hook", "", Stamp{"v0.3.0-dirty", commit + "-dirty", when, true})
}

func TestReadOutsideAClone(t *testing.T) {
	for version, want := range map[string]string{"": "dev", "v1.0.0": "v1.0.0"} {
		got, err := Read(t.Context(), t.TempDir(), version)
		if err != nil || got != (Stamp{Version: want}) {
			t.Errorf("version %q: %+v, %v", version, got, err)
		}
	}
	broken := t.TempDir()
	write(t, broken, ".git", "gitdir: nowhere\n")
	if _, err := Read(t.Context(), broken, ""); err == nil || !strings.Contains(err.Error(), "asking git about") {
		t.Errorf("a broken clone: %v", err)
	}
}

func TestCheckRelease(t *testing.T) {
	clean := Stamp{Version: "v1.2.3", Commit: "abc"}
	dirty := Stamp{Version: "v1.2.3", Commit: "abc-dirty", Dirty: true}
	for name, test := range map[string]struct {
		stamp Stamp
		allow bool
		want  string
	}{
		"clean":         {clean, false, ""},
		"dirty":         {dirty, false, "has changes that are not committed"},
		"dirty allowed": {dirty, true, ""},
		"no clone":      {Stamp{Version: "v1.2.3"}, true, "not a git clone"},
		"no version":    {Stamp{Version: "dev", Commit: "abc"}, false, `it is "dev": expected a semantic version`},
	} {
		err := test.stamp.CheckRelease(test.allow)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for _, good := range []string{"v0.2.0", "v1.2.3-rc.1", "v1.2.3+build.5", "v1.2.3-a+b"} {
		if err := CheckVersion(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "0.2.0", "v1", "v1.2", "v1.2.3.4", "v01.2.3", "latest", "v1.2.3 ", "v1.2.3-",
		"v1.2.3\n"} {
		if err := CheckVersion(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if tag := (Stamp{Version: "v1.2.3+b"}).Tag(); tag != "v1.2.3_b" {
		t.Errorf("tag %s", tag)
	}
}

func TestFind(t *testing.T) {
	dir, _ := repository(t)
	deep := filepath.Join(dir, "a/b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, deep, "go.mod", "module "+ProductModule+"/release\n") // one of the other modules
	if got, err := Find(deep); err != nil || got != dir {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := Find(t.TempDir()); err == nil {
		t.Error("found a source where there is none")
	}
}
