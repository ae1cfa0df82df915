// SPDX-License-Identifier: Apache-2.0

package ib

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// PCIAddressPattern is the form in which the kernel names a PCI function, "%04x:%02x:%02x.%d"
// (pci_setup_device in drivers/pci/probe.c): the domain has four digits, and more only when it is
// above ffff, as behind Intel's VMD; a bus has 32 devices and a device 8 functions (PCI_SLOT and
// PCI_FUNC in include/uapi/linux/pci.h). The CRDs repeat the pattern for both cases of the digits;
// a test in api/sriovnetwork/v1 compares them.
const PCIAddressPattern = `([0-9a-f]{4}|[1-9a-f][0-9a-f]{4,7}):[0-9a-f]{2}:[01][0-9a-f]\.[0-7]`

var (
	pciAddress  = regexp.MustCompile(`^` + PCIAddressPattern + `$`)
	pciNoDomain = regexp.MustCompile(`^[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
)

// IsPCIAddress reports whether the text is a PCI address exactly as the kernel writes it.
func IsPCIAddress(s string) bool { return pciAddress.MatchString(s) }

// ParsePCIAddress reads a PCI address as a user writes it, in either case, and returns it as the
// kernel writes it, so that the result can be compared and made part of a sysfs path. The error
// says what is wrong with the text without repeating it: the caller names the field and the value.
func ParsePCIAddress(s string) (string, error) {
	switch lower := strings.ToLower(s); {
	case IsPCIAddress(lower):
		return lower, nil
	case pciNoDomain.MatchString(lower):
		return "", fmt.Errorf("the PCI domain is missing: want 0000:%s (`lspci -D` prints it)", s)
	}
	return "", errors.New("want a PCI address with its domain, such as 0000:86:00.0 (`lspci -D` prints it)")
}
