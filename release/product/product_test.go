// SPDX-License-Identifier: Apache-2.0

package product

import (
	"slices"
	"strings"
	"testing"
)

func TestParsePlatforms(t *testing.T) {
	amd, arm := Platforms[0], Platforms[1]
	for in, want := range map[string][]Platform{
		"": {amd, arm}, " ": {amd, arm}, "linux/arm64": {arm}, "linux/arm64,linux/amd64": {arm, amd},
		"linux/amd64 linux/amd64": {amd},
	} {
		if got, err := ParsePlatforms(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"amd64", "linux/ppc64le", "darwin/arm64"} {
		if _, err := ParsePlatforms(in); err == nil || !strings.Contains(err.Error(),
			"expected some of [linux/amd64 linux/arm64]") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// A program with a dynamic loader does not start in an image that has none.
func TestCheckStatic(t *testing.T) {
	if err := checkStatic("/bin/sh"); err == nil || !strings.Contains(err.Error(), "expected a static program") {
		t.Errorf("/bin/sh: %v", err)
	}
	if err := checkStatic("product_test.go"); err == nil {
		t.Error("a text is no program")
	}
}
