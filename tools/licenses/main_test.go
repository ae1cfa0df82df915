// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/licenseclassifier/v2/assets"
)

// file is a licence text that the repository has.
func file(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestClassify(t *testing.T) {
	c, err := assets.DefaultClassifier()
	if err != nil {
		t.Fatal(err)
	}
	apache, gpl := file(t, "LICENSE"), file(t, "lab/vhca/LICENSE")
	for _, test := range []struct{ name, text, want string }{
		{"allowed", apache, ""},
		{"not allowed", gpl, "licence of example.com/m v1: LICENSE: GPL-2.0"},
		{"one of two not allowed", apache + "\n\n" + gpl, "GPL-2.0"},
		{"unknown", "You may do with this as your neighbour likes.\n", "no known licence in it"},
		{"empty", "", "no known licence in it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := modules{"example.com/m v1": {"LICENSE": {path: "LICENSE", text: tidy(test.text)}}}
			err := m.classify(c)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, expected one with %q", err, test.want)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"LICENSE.txt": "of the module", "NOTICE": "of the module", "license.go": "package x",
		"forked/COPYING": "of the fork", "forked/deep/x.go": "package deep", "own/x.go": "package own",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]string{
		"": "LICENSE.txt NOTICE", "own": "LICENSE.txt NOTICE", "forked/deep": "forked/COPYING",
	} {
		var got []string
		files, err := nearest(filepath.Join(root, dir), root)
		for _, f := range files {
			got = append(got, f.path)
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("nearest of %q: %v, %v; expected %s", dir, got, err, want)
		}
	}
	if _, err := nearest(filepath.Join(root, "own"), filepath.Join(root, "own")); err == nil {
		t.Error("a module without a licence was accepted")
	}
}
