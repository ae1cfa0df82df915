// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// placeholder is a line of a page that somebody meant to replace by what a command printed.
var placeholder = regexp.MustCompile(`(?m)^ *(?:[A-Z]+-OUTPUT|TODO|TBD|FIXME)\b.*$`)

// TestPagesAreFinished looks for placeholders in the pages for users.
func TestPagesAreFinished(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) < 5 {
		t.Fatalf("found %d pages, %v", len(pages), err)
	}
	for _, page := range append(pages, "../README.md", "../CHANGELOG.md", "../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range placeholder.FindAllString(string(text), -1) {
			t.Errorf("%s has a placeholder: %s", page, line)
		}
	}
}
