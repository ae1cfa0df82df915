// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestHeader(t *testing.T) {
	const apache, gpl = "SPDX-License-Identifier: Apache-2.0", "SPDX-License-Identifier: GPL-2.0"
	for _, test := range []struct{ name, file, text, want, fault string }{
		{"go", "a.go", "// Package a …\npackage a\n", "// " + apache + "\n\n// Package a …\npackage a\n", "no"},
		{"go with it", "a.go", "// " + apache + "\n\npackage a\n", "", ""},
		{"generated go", "z.go", "//go:build x\n\n// " + apache + "\n\npackage a\n", "", ""},
		{"go with another", "a.go", "// " + gpl + "\n\npackage a\n", "", "wrong"},
		{"build constraint", "a.go", "//go:build x\n\npackage a\n", "// " + apache + "\n\n//go:build x\n\npackage a\n",
			"no"},
		{"module", "lab/vhca/module/a.c", "int a;\n", "// " + gpl + "\n\nint a;\n", "no"},
		{"header", "lab/vhca/module/a.h", "/* " + gpl + " */\nint a;\n", "", ""},
		{"header of another", "lab/vhca/module/a.h", "/* " + apache + " */\nint a;\n", "", "wrong"},
		{"check of the module", "lab/vhca/a_test.go", "package a\n", "// " + apache + "\n\npackage a\n", "no"},
		{"script", "lab/setup", "#!/bin/bash\n# Why.\n", "#!/bin/bash\n# " + apache + "\n\n# Why.\n", "no"},
		{"make", "Makefile", "all:\n", "# " + apache + "\n\nall:\n", "no"},
		{"workflow", ".github/workflows/a.yaml", "name: a\n", "# " + apache + "\n\nname: a\n", "no"},
		{"template", "charts/x/templates/a.yaml", "a: b\n", "", ""},
		{"test data", "x/testdata/a.go", "package a\n", "", ""},
		{"prose", "README.md", "a\n", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			fixed, fault := header(test.file, []byte(test.text))
			if string(fixed) != test.want || (fault == "") != (test.fault == "") {
				t.Fatalf("got %q, fault %q; expected %q", fixed, fault, test.want)
			}
			if fixed == nil {
				return
			}
			if _, fault := header(test.file, fixed); fault != "" {
				t.Errorf("the file that was put right is refused: %s", fault)
			}
		})
	}
}

// TestFix runs the whole on a repository: a fixed one passes, keeps its modes, and is not changed again.
func TestFix(t *testing.T) {
	root := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", root).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, out)
	}
	script := filepath.Join(root, "run")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if bad, err := check(root, false); err != nil || len(bad) != 1 {
		t.Fatalf("check before: %q, %v; expected one file at fault", bad, err)
	}
	if bad, err := check(root, true); err != nil || len(bad) != 0 {
		t.Fatalf("fix: %q, %v", bad, err)
	}
	if bad, err := check(root, false); err != nil || len(bad) != 0 {
		t.Fatalf("check after: %q, %v", bad, err)
	}
	if out, err := exec.Command(script).CombinedOutput(); err != nil {
		t.Errorf("the script does not run any more: %v\n%s", err, out)
	}
}
