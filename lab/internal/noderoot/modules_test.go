// SPDX-License-Identifier: Apache-2.0

package noderoot

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const deps = `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/net/netfilter/nf-a.ko: kernel/lib/crc16.ko
kernel/net/netfilter/nf_b.ko:
`

func TestClosure(t *testing.T) {
	d, err := parseModuleDeps([]byte(deps))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name     string
		patterns []string
		want     []string
	}{
		{"dependencies come first, last of the line before the others", []string{"ext4"},
			[]string{"kernel/fs/mbcache.ko", "kernel/lib/crc16.ko", "kernel/fs/ext4/ext4.ko"}},
		{"wildcards, and each file once", []string{"nf_*", "crc16"},
			[]string{"kernel/lib/crc16.ko", "kernel/net/netfilter/nf-a.ko", "kernel/net/netfilter/nf_b.ko"}},
		{"a wildcard may match nothing", []string{"xt_*"}, nil},
		{"builtin modules need no file", []string{"af_packet"}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := d.closure([]byte("kernel/net/packet/af_packet.ko\n"), c.patterns...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := d.closure(nil, "missing"); err == nil {
		t.Error("a module that does not exist is no error")
	}
	if _, err := parseModuleDeps([]byte("nonsense\n")); err == nil {
		t.Error("a line without a colon is no error")
	}
}
