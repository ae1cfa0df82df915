// SPDX-License-Identifier: Apache-2.0

package ib

import (
	"fmt"
	"strings"
	"testing"
)

func TestParsePCIAddress(t *testing.T) {
	const noAddress, noDomain = "want a PCI address with its domain", "the PCI domain is missing: want 0000:"
	for _, tt := range []struct{ text, want, err string }{
		{text: "0000:86:00.0", want: "0000:86:00.0"},
		{text: "0000:AF:1F.7", want: "0000:af:1f.7"},
		{text: "0001:00:00.0", want: "0001:00:00.0"},
		{text: "ffff:ff:1f.7", want: "ffff:ff:1f.7"},
		{text: "10000:e1:00.0", want: "10000:e1:00.0"},
		{text: "7fffffff:00:00.0", want: "7fffffff:00:00.0"},
		{text: "86:00.0", err: noDomain + "86:00.0"},
		{text: "AF:00.0", err: noDomain + "AF:00.0"},
		{text: "00000:86:00.0", err: noAddress},
		{text: "00010000:86:00.0", err: noAddress},
		{text: "100000000:86:00.0", err: noAddress},
		{text: "000:86:00.0", err: noAddress},
		{text: "0000:86:20.0", err: noAddress},
		{text: "0000:86:00.8", err: noAddress},
		{text: "0000:86:0.0", err: noAddress},
		{text: "0000:086:00.0", err: noAddress},
		{text: "0000:86:00", err: noAddress},
		{text: "0000-86-00.0", err: noAddress},
		{text: " 0000:86:00.0", err: noAddress},
		{text: "0000:86:00.0\n", err: noAddress},
		{text: "0000:86:00.0/..", err: noAddress},
		{text: "../0000:86:00.0", err: noAddress},
		{text: "0x0000:86:00.0", err: noAddress},
		// KELVIN SIGN and other characters whose lower case is ASCII are no digits.
		{text: "0000:8\u212a:00.0", err: noAddress},
		{text: "", err: noAddress},
	} {
		got, err := ParsePCIAddress(tt.text)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("ParsePCIAddress(%q) = %q, %v; want %q, %q", tt.text, got, err, tt.want, tt.err)
		}
		if kernel := IsPCIAddress(tt.text); kernel != (err == nil && tt.text == got) {
			t.Errorf("IsPCIAddress(%q) = %t", tt.text, kernel)
		}
	}
}

// FuzzParsePCIAddress compares the rule with the kernel's format: what is accepted is what
// "%04x:%02x:%02x.%d" writes of the numbers in it, and what the kernel can write is accepted.
func FuzzParsePCIAddress(f *testing.F) {
	f.Add("0000:86:00.0", uint32(0), uint8(0x86), uint8(0))
	f.Add("10000:e1:1f.7", uint32(0x10000), uint8(0xe1), uint8(0xff))
	f.Add("0000:AF:20.8", uint32(0xffff), uint8(1), uint8(9))
	f.Fuzz(func(t *testing.T, text string, domain uint32, bus, devfn uint8) {
		written := fmt.Sprintf("%04x:%02x:%02x.%d", domain, bus, devfn>>3, devfn&7)
		if got, err := ParsePCIAddress(strings.ToUpper(written)); err != nil || got != written ||
			!IsPCIAddress(written) {
			t.Errorf("%s is read as %q, %v", written, got, err)
		}
		got, err := ParsePCIAddress(text)
		if err != nil {
			return
		}
		var d, b, s, fn uint64
		if _, err := fmt.Sscanf(got, "%x:%x:%x.%d", &d, &b, &s, &fn); err != nil {
			t.Fatalf("%q is taken for %q, which does not scan: %v", text, got, err)
		}
		if again := fmt.Sprintf("%04x:%02x:%02x.%d", d, b, s, fn); again != got || s > 0x1f || fn > 7 ||
			!strings.EqualFold(text, got) {
			t.Errorf("%q is taken for %q, which the kernel writes as %q", text, got, again)
		}
	})
}
