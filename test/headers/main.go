// SPDX-License-Identifier: Apache-2.0

// Command headers checks that every source file says its licence in an SPDX line, and adds the missing ones:
//
//	go run ./test/headers        # lists the files without the line, and fails if there is one
//	go run ./test/headers -fix   # adds it
//
// Source files are those that git knows and that are written in Go, C, shell or make, and
// workflows. Left out are test data, templates of the chart (the comment would be in every rendered
// object) and configuration of the lab's nodes. It owns the rule which licence holds where; it
// knows nothing of what the files do.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	fix := flag.Bool("fix", false, "add the missing lines")
	root := flag.String("C", ".", "root of the `repository`")
	flag.Parse()
	bad, err := check(*root, *fix)
	for _, line := range bad {
		fmt.Fprintln(os.Stderr, "headers:", line)
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "headers:", err)
		os.Exit(1)
	case len(bad) > 0:
		fmt.Fprintln(os.Stderr, "headers: run 'go run ./test/headers -fix' and commit what it changed")
		os.Exit(1)
	}
}

// check returns a line for each file at fault; with fix, it adds missing lines and returns what it cannot do.
func check(root string, fix bool) ([]string, error) {
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w", root, err)
	}
	var bad []string
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		file := filepath.Join(root, name)
		info, err := os.Lstat(file)
		if err != nil || !info.Mode().IsRegular() {
			continue // deleted in the work tree, or a link to what is checked itself
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", name, err)
		}
		fixed, fault := header(name, text)
		switch {
		case fault == "":
		case fix && fixed != nil:
			if err := os.WriteFile(file, fixed, info.Mode().Perm()); err != nil {
				return nil, fmt.Errorf("add the licence to %s: %w", name, err)
			}
		default:
			bad = append(bad, name+": "+fault)
		}
	}
	return bad, nil
}

const tag = "SPDX-License-Identifier:"

// header returns what is wrong with a file's licence line, if anything, and the file with the right
// one, if that can be had by adding it.
func header(name string, text []byte) ([]byte, string) {
	before, after := comment(name, text)
	if before == "" || len(text) == 0 {
		return nil, ""
	}
	want := licence(name)
	for line := range bytes.Lines(text[:min(len(text), 1024)]) {
		_, said, found := strings.Cut(string(line), tag)
		if !found {
			continue
		}
		if got := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(said), "*/")); got != want {
			return nil, fmt.Sprintf("licence %s found in its SPDX line: must be %s", got, want)
		}
		return nil, ""
	}
	return insert(text, before+tag+" "+want+after), fmt.Sprintf("no SPDX line found: must be %s", want)
}

// insert puts a line first, or behind the line that names the interpreter. A blank line keeps it
// apart from a comment that documents what follows.
func insert(text []byte, line string) []byte {
	first := ""
	if bytes.HasPrefix(text, []byte("#!")) {
		end := bytes.IndexByte(text, '\n') + 1
		first, text = string(text[:end]), text[end:]
	}
	apart := "\n\n"
	if strings.HasPrefix(line, "#") && bytes.HasPrefix(text, []byte("\n")) {
		apart = "\n"
	}
	return []byte(first + line + apart + string(text))
}

// comment is what stands before and after the line in a file's language; empty for what needs none.
func comment(name string, text []byte) (before, after string) {
	if strings.Contains("/"+name, "/testdata/") {
		return "", ""
	}
	base := path.Base(name)
	switch ext := path.Ext(name); {
	case ext == ".go", ext == ".c":
		return "// ", ""
	case ext == ".h":
		return "/* ", " */"
	case ext == ".sh", ext == ".mk", slices.Contains([]string{"Makefile", "Kbuild"}, base), isScript(text):
		return "# ", ""
	case strings.HasPrefix(name, ".github/workflows/"):
		return "# ", ""
	}
	return "", ""
}

// isScript reports whether a shell, or another interpreter with this kind of comments, runs the file.
func isScript(text []byte) bool {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	return bytes.HasPrefix(first, []byte("#!/"))
}

// licence is the one of a file: the kernel module, and what builds and checks it, is under the
// kernel's. The Go files there are programs of their own, linked with the rest of the lab and never
// with the module.
func licence(name string) string {
	if strings.HasPrefix(name, "lab/vhca/") && path.Ext(name) != ".go" {
		return "GPL-2.0"
	}
	return "Apache-2.0"
}
