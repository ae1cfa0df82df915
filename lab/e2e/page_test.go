// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// pageFile is the page for newcomers. Its commands are what the tests install by and try.
const pageFile = "../../docs/try-it.md"

// pageVersion is the version that the page releases.
const pageVersion = "0.2.0-lab.1"

// The page's sections that tests run one by one, by their headings.
const (
	sectionCluster = "1. A cluster"
	sectionRelease = "2. A release"
	sectionInstall = "3. Install"
	sectionRDMA    = "5. RDMA between the pods"
)

// latencies is the line of ib_read_lat's table that shows that memory was read.
var latencies = regexp.MustCompile(`(?m)^ *2 +1000 +[\d.]+ +[\d.]+`)

// block is a shell script of a page.
type block struct{ section, script string }

// shellBlock is a fenced block of commands, or a heading of the second level.
var shellBlock = regexp.MustCompile("(?sm)^```sh\n(.*?)^```$|^## (.*?)$")

// page returns the scripts of docs/try-it.md, in order.
func page(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	section := ""
	for _, m := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		if m[2] != "" {
			section = m[2]
			continue
		}
		blocks = append(blocks, block{section: section, script: m[1]})
	}
	return blocks
}

// pageScript is the one script of a section, for the version that this run released.
func pageScript(t *testing.T, section string) string {
	t.Helper()
	var found []string
	for _, b := range page(t) {
		if b.section == section {
			found = append(found, b.script)
		}
	}
	if len(found) != 1 || (section != sectionCluster && !strings.Contains(found[0], pageVersion)) {
		t.Fatalf("docs/try-it.md has %d scripts in section %q, expected one, of version %s", len(found), section,
			pageVersion)
	}
	return strings.ReplaceAll(found[0], pageVersion, releaseVersion)
}

// TestTryIt runs the rest of the page for newcomers, on what TestGuide released and installed by
// it. The page's first and last commands, which start and end a lab, are TestMain's: an own life of
// the lab for them would cost minutes.
func TestTryIt(t *testing.T) {
	before := remember(t)
	t.Cleanup(func() {
		shell(t, "kubectl delete namespace examples --ignore-not-found --timeout=300s")
		eventually(t, configureLimit, func() string { return differs("left behind", look(t), before) })
	})
	instead := strings.NewReplacer("make up\n", "", "eval \"$(make -s env)\"\n", "", "make down\n", "")
	ran := 0
	for _, b := range page(t) {
		if b.section == sectionRelease || b.section == sectionInstall {
			continue
		}
		t.Run(b.section, func(t *testing.T) {
			out := shell(t, "set -e\n"+instead.Replace(b.script))
			t.Log(out)
			if b.section == sectionRDMA && (strings.Count(out, "link mlx5_") != 1 || !latencies.MatchString(out)) {
				t.Error("expected one RDMA device, and a line of latencies")
			}
		})
		ran++
	}
	if ran < 4 {
		t.Errorf("docs/try-it.md has %d scripts besides release and installation, expected four or more", ran)
	}
}
