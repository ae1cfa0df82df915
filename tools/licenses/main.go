// SPDX-License-Identifier: Apache-2.0

// Command licenses checks the licences of everything that is linked into the project's programs,
// and keeps the file that goes out with them.
//
//	licenses -C ../.. -out THIRD_PARTY_LICENSES ./cmd/...         # check, and compare the file
//	licenses -C ../.. -out THIRD_PARTY_LICENSES -write ./cmd/...  # check, and write it
//	licenses -C ../../lab -also MPL-2.0 ./...                     # check alone: nothing of the lab is distributed
//
// For each package that the go command would link, for every architecture of the release, it takes
// the licence files of the nearest folder that has any, up to the root of the package's module,
// names the licences in them, and refuses what is not in the list of allowed ones. It is a module
// of its own so that the product's module graph stays free of the classifier. It knows nothing of
// the project but the packages that it is given.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are the licences under which code may be linked: permissive ones, whose only condition is
// that their text and notices are passed on. MPL-2.0 and the GPL family are not among them.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "Unlicense", "0BSD", "CC0-1.0"}

// architectures are those of the release.
var architectures = []string{"amd64", "arm64"}

// certain is the share of a text that has to be that of a licence.
const certain = 0.9

func main() {
	dir := flag.String("C", ".", "folder of the `module` whose packages are checked")
	out := flag.String("out", "", "`file` with all licences, below -C, that must be up to date; empty: none")
	also := flag.String("also", "", "further allowed `licences`, separated by commas: for what is not distributed")
	write := flag.Bool("write", false, "write the file of -out")
	flag.Parse()
	if *also != "" {
		allowed = append(allowed, strings.Split(*also, ",")...)
	}
	if err := run(*dir, flag.Args(), *out, *write); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(dir string, patterns []string, out string, write bool) error {
	c, err := assets.DefaultClassifier()
	if err != nil {
		return fmt.Errorf("load the classifier: %w", err)
	}
	linked, err := linkedPackages(dir, patterns)
	if err != nil {
		return err
	}
	all, err := collect(linked)
	if err != nil {
		return err
	}
	if err := all.classify(c); err != nil {
		return err
	}
	text := all.text(strings.Join(patterns, " "))
	path := filepath.Join(dir, out)
	switch old, err := os.ReadFile(path); {
	case out == "":
		fmt.Printf("%d modules linked into %s, all under allowed licences\n", len(all), strings.Join(patterns, " "))
		return nil
	case write:
		return os.WriteFile(path, []byte(text), 0o644)
	case err != nil:
		return fmt.Errorf("compare %s: %w: run 'make licenses'", out, err)
	case string(old) != text:
		return fmt.Errorf("compare %s: it differs from what is linked now: run 'make licenses' and commit the file",
			out)
	}
	return nil
}

// goPackage is what 'go list' says of a package.
type goPackage struct {
	ImportPath, Dir string
	Standard        bool
	Module          *struct {
		Path, Version, Dir string
		Main               bool
	}
}

// linkedPackages are all that the programs and what they import consist of.
func linkedPackages(dir string, patterns []string) ([]goPackage, error) {
	var all []goPackage
	for _, arch := range architectures {
		list := exec.Command("go", append([]string{"list", "-deps", "-json=ImportPath,Dir,Standard,Module"},
			patterns...)...)
		list.Dir, list.Stderr = dir, os.Stderr
		list.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOWORK=off")
		stdout, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("list the packages of %s: %w", strings.Join(patterns, " "), err)
		}
		for d := json.NewDecoder(bytes.NewReader(stdout)); ; {
			var p goPackage
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("list the packages of %s: %w", strings.Join(patterns, " "), err)
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// licenceFile matches the names of the files whose text has to be passed on.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)([.-].*)?$`)

// notice matches those that hold no licence but what the Apache License calls a notice.
var notice = regexp.MustCompile(`(?i)^notice`)

// document is one licence file, with the licences found in it.
type document struct {
	path, text string
	licences   []string
}

// modules maps a module, "path version", to its licence files by path.
type modules map[string]map[string]*document

func collect(packages []goPackage) (modules, error) {
	all := modules{}
	add := func(name, dir, root string) error {
		files, err := nearest(dir, root)
		if err != nil {
			return fmt.Errorf("licence of %s: %w", name, err)
		}
		if all[name] == nil {
			all[name] = map[string]*document{}
		}
		for _, f := range files {
			all[name][f.path] = f
		}
		return nil
	}
	for _, p := range packages {
		if p.Standard || p.Module == nil || p.Module.Main || strings.HasPrefix(p.Module.Path, "spidernet.io/") {
			continue
		}
		if err := add(p.Module.Path+" "+p.Module.Version, p.Dir, p.Module.Dir); err != nil {
			return nil, err
		}
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find the Go distribution: %w", err)
	}
	root := strings.TrimSpace(string(goroot))
	// Without a version: the notice does not change with each release of Go, and the file should not either.
	return all, add("Go standard library", root, root)
}

// nearest reads the licence files and notices of the first folder from dir up to root that has a licence.
func nearest(dir, root string) ([]*document, error) {
	for at := dir; ; at = filepath.Dir(at) {
		entries, err := os.ReadDir(at)
		if err != nil {
			return nil, err
		}
		var out []*document
		found := false
		for _, e := range entries {
			if e.IsDir() || !licenceFile.MatchString(e.Name()) || filepath.Ext(e.Name()) == ".go" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(at, e.Name()))
			if err != nil {
				return nil, err
			}
			rel, err := filepath.Rel(root, filepath.Join(at, e.Name()))
			if err != nil {
				return nil, err
			}
			found = found || !notice.MatchString(e.Name())
			out = append(out, &document{path: rel, text: tidy(string(text))})
		}
		if found {
			return out, nil
		}
		if at == root || len(at) <= len(root) {
			return nil, fmt.Errorf("no file LICENSE or COPYING from %s up to %s", dir, root)
		}
	}
}

// tidy takes out what differs between copies of one text without meaning anything.
func tidy(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight(line, " \t\r\n") + "\n")
	}
	return strings.Trim(b.String(), "\n") + "\n"
}

// classify names the licences of every document, and fails on each that is not allowed or not known.
func (m modules) classify(c *classifier.Classifier) error {
	known := map[string][]string{} // text -> licences: most texts are the same
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		for _, path := range slices.Sorted(maps.Keys(m[name])) {
			d := m[name][path]
			if notice.MatchString(filepath.Base(path)) {
				continue
			}
			if _, ok := known[d.text]; !ok {
				known[d.text] = licencesIn(c, d.text)
			}
			d.licences = known[d.text]
			if err := judge(d.licences); err != nil {
				faults = append(faults, fmt.Errorf("licence of %s: %s: %w", name, path, err))
			}
		}
	}
	return errors.Join(faults...)
}

// judge refuses a document with no licence in it, and one with a licence that is not allowed.
func judge(licences []string) error {
	if len(licences) == 0 {
		return errors.New("no known licence in it: read it and replace the module, or teach this program the text")
	}
	for _, l := range licences {
		if !slices.Contains(allowed, l) {
			return fmt.Errorf("%s found: must be one of %s: replace the module", l, strings.Join(allowed, ", "))
		}
	}
	return nil
}

func licencesIn(c *classifier.Classifier, text string) []string {
	found := map[string]bool{}
	for _, match := range c.Match([]byte(text)).Matches {
		if (match.MatchType == "License" || match.MatchType == "Header") && match.Confidence >= certain {
			found[match.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// text is the file: which modules under which licences, then each text once with those that it is of.
func (m modules) text(of string) string {
	var b strings.Builder
	b.WriteString("Licences of the software that is linked into " + of + ".\n")
	b.WriteString("Generated by 'make licenses'; do not edit.\n\n")
	names := slices.Sorted(maps.Keys(m))
	users := map[string][]string{} // text -> "module: file"
	for _, name := range names {
		found := map[string]bool{}
		for path, d := range m[name] {
			users[d.text] = append(users[d.text], name+": "+path)
			for _, l := range d.licences {
				found[l] = true
			}
		}
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(slices.Sorted(maps.Keys(found)), ", "))
	}
	for _, list := range users {
		slices.Sort(list)
	}
	texts := slices.SortedFunc(maps.Keys(users), func(a, b string) int { return cmp.Compare(users[a][0], users[b][0]) })
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n%s\n\n%s", rule, strings.Join(users[text], "\n"), rule, text)
	}
	return b.String()
}

var rule = strings.Repeat("=", 80)
