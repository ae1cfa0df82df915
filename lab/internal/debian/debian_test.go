// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseKernel(t *testing.T) {
	got, err := parseKernel([]byte("linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Conflicts: other\n"))
	if err != nil || got != "6.1.0-56-amd64" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := parseKernel([]byte("linux-image-amd64\n")); err == nil {
		t.Error("no dependency is no error")
	}
}

func TestPlanned(t *testing.T) {
	plan := "NOTE: something\n" +
		"'http://mirror.test/pool/r/runc/runc_1.1.5%2bds1_amd64.deb' runc_1.1.5+ds1_amd64.deb 2709960 SHA256:00\n" +
		"'http://mirror.test/pool/j/jq/jq_1.6_amd64.deb' jq_1.6_amd64.deb 64432 MD5Sum:00\n"
	want := []string{"/a/runc_1.1.5+ds1_amd64.deb", "/a/jq_1.6_amd64.deb"}
	if diff := cmp.Diff(want, planned("/a", []byte(plan))); diff != "" {
		t.Errorf("planned files (-want +got):\n%s", diff)
	}
}
