// SPDX-License-Identifier: Apache-2.0

package noderoot

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"strings"
)

// moduleDeps is a kernel's modules.dep: each module's file and the files it depends on, relative to
// the modules directory.
type moduleDeps struct {
	order  []string
	depend map[string][]string
}

// parseModuleDeps reads modules.dep, whose lines are "path: dependency…", the last dependency to be
// loaded first.
func parseModuleDeps(b []byte) (moduleDeps, error) {
	d := moduleDeps{depend: map[string][]string{}}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, deps, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return d, fmt.Errorf("modules.dep: line %q, expected \"file: dependencies\"", lines.Text())
		}
		d.order = append(d.order, file)
		d.depend[file] = strings.Fields(deps)
	}
	return d, lines.Err()
}

// closure returns the files of the modules that match the patterns and of all they depend on, in an
// order in which they can be loaded. A pattern without a wildcard must match, or be among the
// kernel's builtin modules.
func (d moduleDeps) closure(builtin []byte, patterns ...string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	add := func(f string) {
		if !seen[f] {
			seen[f] = true
			files = append(files, f)
		}
	}
	for _, p := range patterns {
		found := d.match(p)
		if len(found) == 0 && !strings.Contains(p, "*") && !isBuiltin(builtin, p) {
			return nil, fmt.Errorf("the kernel has no module %s", p)
		}
		for _, f := range found {
			deps := d.depend[f]
			for i := len(deps) - 1; i >= 0; i-- {
				add(deps[i])
			}
			add(f)
		}
	}
	return files, nil
}

func (d moduleDeps) match(pattern string) []string {
	var found []string
	for _, f := range d.order {
		if ok, _ := path.Match(pattern, moduleName(f)); ok {
			found = append(found, f)
		}
	}
	return found
}

func isBuiltin(builtin []byte, name string) bool {
	for line := range strings.Lines(string(builtin)) {
		if moduleName(strings.TrimSpace(line)) == name {
			return true
		}
	}
	return false
}

// moduleName turns kernel/net/foo-bar.ko or foo-bar.ko.xz into foo_bar, as the kernel calls it.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}
