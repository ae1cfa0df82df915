// SPDX-License-Identifier: Apache-2.0

package sbom

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func TestJSON(t *testing.T) {
	self := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", self,
		"./testdata/program").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := Subject{Name: "product", Version: "v1.2.3", Platform: "linux/arm64", Time: time.Date(2026, 1, 2, 3, 4, 5, 0,
		time.UTC)}
	text, err := JSON(s, []string{self})
	if err != nil {
		t.Fatal(err)
	}
	again, err := JSON(s, []string{self})
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("two documents of one program differ (%v)", err)
	}
	var bom cdx.BOM
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if bom.BOMFormat != "CycloneDX" || bom.Metadata.Component.Version != "v1.2.3" ||
		bom.Metadata.Timestamp != "2026-01-02T03:04:05Z" {
		t.Errorf("head: %+v", bom.Metadata)
	}
	found := map[string]cdx.Component{}
	for _, c := range *bom.Components {
		found[c.BOMRef] = c
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := found["program:"+filepath.Base(self)]
	if program.Hashes == nil || (*program.Hashes)[0].Value != fmt.Sprintf("%x", sha256.Sum256(content)) {
		t.Errorf("the program is %+v", program)
	}
	library := found["pkg:golang/golang.org/x/mod@v0.35.0"]
	if library.Name != "golang.org/x/mod" || library.Properties == nil || library.Licenses != nil {
		t.Errorf("the library is %+v; a program records no licence of it", library)
	}
	if _, ok := found["pkg:golang/stdlib@"+strings.TrimPrefix(runtime.Version(), "go")]; !ok {
		t.Error("the standard library is missing")
	}
	refs := map[string]bool{"product": true}
	for ref := range found {
		refs[ref] = true
	}
	for _, d := range *bom.Dependencies {
		for _, ref := range append(*d.Dependencies, d.Ref) {
			if !refs[ref] {
				t.Errorf("a dependency names %s, which is no component", ref)
			}
		}
	}
}

func TestJSONRefusesWhatIsNoProgram(t *testing.T) {
	if _, err := JSON(Subject{}, []string{"sbom.go"}); err == nil || !strings.Contains(err.Error(),
		"expected a program compiled by Go") {
		t.Errorf("a text: %v", err)
	}
	if _, err := JSON(Subject{}, []string{"none"}); err == nil {
		t.Error("a missing file is no error")
	}
}
