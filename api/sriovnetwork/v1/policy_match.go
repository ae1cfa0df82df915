// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// VFRange is a range of VF indexes, both ends included.
type VFRange struct{ First, Last int }

// String writes "0-11".
func (r VFRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Contains tells whether a VF index lies in the range.
func (r VFRange) Contains(index int) bool { return r.First <= index && index <= r.Last }

// Overlaps tells whether two ranges share an index.
func (r VFRange) Overlaps(o VFRange) bool { return r.First <= o.Last && o.First <= r.Last }

// ParseVFRange reads "first-last", as in "0-11".
func ParseVFRange(s string) (VFRange, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return VFRange{}, fmt.Errorf("range %q: want first-last, such as 0-11", s)
	}
	f, err1 := parseIndex(first)
	l, err2 := parseIndex(last)
	if err1 != nil || err2 != nil {
		return VFRange{}, fmt.Errorf("range %q: want two numbers from 0 to %d, such as 0-11", s, maxIndex)
	}
	if f > l {
		return VFRange{}, fmt.Errorf("range %q runs backwards: want the smaller number first, %d-%d", s, l, f)
	}
	return VFRange{First: f, Last: l}, nil
}

// maxIndex is the highest VF index: TotalVFs of the SR-IOV capability has 16 bits (PCIe base
// specification 9.3.3.6).
const maxIndex = 1<<16 - 2

func parseIndex(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n > maxIndex || strings.HasPrefix(s, "+") {
		return 0, fmt.Errorf("%q is not a VF index", s)
	}
	return int(n), nil
}

// ParsePFName reads an entry of nicSelector.pfNames: a netdev name, or "name#first-last". The range
// is nil without one. Errors leave it to the caller to name the entry.
func ParsePFName(s string) (name string, r *VFRange, err error) {
	name, text, ranged := strings.Cut(s, "#")
	if name == "" || strings.ContainsAny(name, " \t\n/") {
		return "", nil,
			errors.New(
				"want the name of a network device, optionally with a range of VFs, such as ibs5f0 or ibs5f0#0-7")
	}
	if !ranged {
		return name, nil, nil
	}
	parsed, err := ParseVFRange(text)
	if err != nil {
		return "", nil, err
	}
	return name, &parsed, nil
}

// Selects tells whether the policy selects a physical function; if not, why says what differs.
func (s *SriovNetworkNodePolicySpec) Selects(pf *InterfaceExt) (ok bool, why string) {
	if why := s.NicSelector.mismatch(pf); why != "" {
		return false, why
	}
	if pf.TotalVfs == 0 {
		return false,
			"it allows no VFs (sriov_totalvfs is 0): enable SR-IOV in its firmware, for an NVIDIA card with " +
				fmt.Sprintf("`mstconfig -d %s set SRIOV_EN=True NUM_OF_VFS=%d` and a reboot", pf.PciAddress, s.NumVfs)
	}
	return true, ""
}

// mismatch says which field of the selector does not fit the function; "" when all do.
func (n *SriovNetworkNicSelector) mismatch(pf *InterfaceExt) string {
	fold := func(s string) func(string) bool { return func(o string) bool { return strings.EqualFold(s, o) } }
	switch {
	case n.NetFilter != "":
		return "netFilter selects virtual cards of clouds, which are not supported"
	case n.Vendor != "" && !strings.EqualFold(n.Vendor, pf.Vendor):
		return fmt.Sprintf("its vendor is %s, not %s", orNone(pf.Vendor), n.Vendor)
	case n.DeviceID != "" && !strings.EqualFold(n.DeviceID, pf.DeviceID):
		return fmt.Sprintf("its deviceID is %s, not %s", orNone(pf.DeviceID), n.DeviceID)
	case len(n.RootDevices) > 0 && !slices.ContainsFunc(n.RootDevices, fold(pf.PciAddress)):
		return fmt.Sprintf("its PCI address is not in rootDevices (%s)", strings.Join(n.RootDevices, ", "))
	case len(n.PfNames) > 0 && !n.names(pf):
		return fmt.Sprintf("its name is %s, which is not in pfNames (%s)", orNone(pf.Name),
			strings.Join(n.PfNames, ", "))
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (n *SriovNetworkNicSelector) names(pf *InterfaceExt) bool {
	return slices.ContainsFunc(n.PfNames, func(entry string) bool {
		name, _, err := ParsePFName(entry)
		return err == nil && pf.HasName(name)
	})
}

// HasName tells whether the function's netdev has the name, as its name or an alternative one.
func (pf *InterfaceExt) HasName(name string) bool {
	return name != "" && (pf.Name == name || slices.Contains(pf.AltNames, name))
}

// RangeOn is the range of VFs that the policy claims on a function it selects: the range in pfNames, or all.
func (s *SriovNetworkNodePolicySpec) RangeOn(pf *InterfaceExt) VFRange {
	for _, entry := range s.NicSelector.PfNames {
		if name, r, err := ParsePFName(entry); err == nil && r != nil && pf.HasName(name) {
			return *r
		}
	}
	return VFRange{First: 0, Last: s.NumVfs - 1}
}

// SelectsNode tells whether a node with these labels is selected.
func (s *SriovNetworkNodePolicySpec) SelectsNode(labels map[string]string) bool {
	for k, v := range s.NodeSelector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Describe is one line that a person can compare with a nicSelector, such as "0000:86:00.0 (ibs5f0,
// 15b3:1017, at most 16 VFs)".
func (pf *InterfaceExt) Describe() string {
	name := pf.Name
	if name == "" {
		name = "no netdev"
	}
	return fmt.Sprintf("%s (%s, %s:%s, at most %d VFs)", pf.PciAddress, name, pf.Vendor, pf.DeviceID, pf.TotalVfs)
}
