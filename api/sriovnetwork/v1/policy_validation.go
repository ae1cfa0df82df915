// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"regexp"
	"strings"

	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"spidernet.io/spiderpool/internal/ib"
)

var (
	resourceNameRule = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	pciIDRule        = regexp.MustCompile(`^[0-9a-fA-F]{4}$`)
)

// Validate judges a policy by itself. Warnings name what is admitted without effect.
func (p *SriovNetworkNodePolicy) Validate() (warnings []string, errs field.ErrorList) {
	s, spec := &p.Spec, field.NewPath("spec")
	if !resourceNameRule.MatchString(s.ResourceName) {
		errs = append(errs, field.Invalid(spec.Child("resourceName"), s.ResourceName,
			"want 1 to 63 letters, digits, '-' and '_', beginning and ending with a letter or digit, such as "+
				"mellanoxibsriov; the prefix is added by the agent"))
	}
	errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, spec.Child("nodeSelector"))...)
	if priority := s.PriorityOrDefault(); priority < 0 || priority > DefaultPriority {
		errs = append(errs, field.Invalid(spec.Child("priority"), priority, "want 0 (strongest) to 99 (weakest)"))
	}
	if s.NumVfs < 1 {
		errs = append(errs, field.Invalid(spec.Child("numVfs"), s.NumVfs,
			"want 1 or more; to remove the VFs, delete the policy"))
	}
	if s.Mtu < 0 {
		errs = append(errs, field.Invalid(spec.Child("mtu"), s.Mtu,
			"want a positive number of octets, or leave the field out to keep the card's MTU"))
	}
	errs = append(errs, s.validateDevice(spec)...)
	errs = append(errs, s.NicSelector.validate(spec.Child("nicSelector"), s.NumVfs)...)
	return s.withoutEffect(), errs
}

func (s *SriovNetworkNodePolicySpec) validateDevice(spec *field.Path) (errs field.ErrorList) {
	switch s.DeviceType {
	case "", DeviceTypeNetDevice, DeviceTypeVfioPci:
	default:
		errs = append(errs, field.NotSupported(spec.Child("deviceType"), s.DeviceType,
			[]string{DeviceTypeNetDevice, DeviceTypeVfioPci}))
	}
	ib := strings.EqualFold(s.LinkType, LinkTypeIB)
	if s.LinkType != "" && !ib && !strings.EqualFold(s.LinkType, LinkTypeETH) {
		errs = append(errs, field.NotSupported(spec.Child("linkType"), s.LinkType, []string{LinkTypeIB, LinkTypeETH}))
	}
	if s.DeviceType == DeviceTypeVfioPci && s.IsRdma {
		errs = append(errs, field.Invalid(spec.Child("isRdma"), true,
			"a VF bound to vfio-pci has no RDMA device: set deviceType: netdevice, or isRdma: false"))
	}
	if ib && s.ESwitchMode == "switchdev" {
		errs = append(errs, field.Invalid(spec.Child("eSwitchMode"), s.ESwitchMode,
			"InfiniBand cards have no switchdev mode: leave the field out"))
	}
	if ib && s.VdpaType != "" {
		errs = append(errs, field.Invalid(spec.Child("vdpaType"), s.VdpaType,
			"InfiniBand VFs have no vDPA device: leave the field out"))
	}
	return errs
}

func (n *SriovNetworkNicSelector) validate(path *field.Path, numVfs int) (errs field.ErrorList) {
	others := n.Vendor != "" || n.DeviceID != "" || len(n.RootDevices) > 0 || len(n.PfNames) > 0
	switch {
	case !others && n.NetFilter == "":
		errs = append(errs, field.Required(path,
			"found no field: want one or more of vendor, deviceID, rootDevices, pfNames; the first two are in "+
				"`lspci -nn` as [vendor:deviceID]"))
	case others && n.NetFilter != "":
		errs = append(errs, field.Invalid(path.Child("netFilter"), n.NetFilter,
			"excludes the other fields of nicSelector: remove it or them"))
	}
	if n.Vendor != "" && !pciIDRule.MatchString(n.Vendor) {
		errs = append(errs, field.Invalid(path.Child("vendor"), n.Vendor,
			"want four hexadecimal digits as in `lspci -nn`, such as 15b3"))
	}
	if n.DeviceID != "" && !pciIDRule.MatchString(n.DeviceID) {
		errs = append(errs, field.Invalid(path.Child("deviceID"), n.DeviceID,
			"want the four hexadecimal digits of the physical function as in `lspci -nn`, such as 1017"))
	}
	for i, address := range n.RootDevices {
		if _, err := ib.ParsePCIAddress(address); err != nil {
			errs = append(errs, field.Invalid(path.Child("rootDevices").Index(i), address, err.Error()))
		}
	}
	return append(errs, n.validateNames(path.Child("pfNames"), numVfs)...)
}

func (n *SriovNetworkNicSelector) validateNames(path *field.Path, numVfs int) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i, entry := range n.PfNames {
		name, r, err := ParsePFName(entry)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(path.Index(i), entry, err.Error()))
			continue
		case r != nil && r.Last >= numVfs:
			errs = append(errs, field.Invalid(path.Index(i), entry,
				fmt.Sprintf(
					"the range ends at VF %d, but numVfs is %d, so the last VF is %d: shorten the range or "+
						"raise numVfs", r.Last, numVfs, numVfs-1)))
		case seen[name]:
			errs = append(errs, field.Invalid(path.Index(i), entry,
				name+" is named twice: want one range for each name; use a second policy for a second range"))
		}
		seen[name] = true
	}
	return errs
}

// withoutEffect warns of fields that are part of the API and do nothing here.
func (s *SriovNetworkNodePolicySpec) withoutEffect() (warnings []string) {
	warn := func(set bool, text string) {
		if set {
			warnings = append(warnings, text)
		}
	}
	warn(s.DeviceType == DeviceTypeVfioPci,
		"spec.deviceType vfio-pci: VFs are made, but not bound to vfio-pci and not advertised")
	warn(s.ESwitchMode == "switchdev", "spec.eSwitchMode switchdev: not applied; the card keeps its mode")
	warn(s.VdpaType != "", "spec.vdpaType: not applied")
	warn(s.NeedVhostNet, "spec.needVhostNet: not applied; pods do not get /dev/vhost-net")
	warn(s.NicSelector.NetFilter != "",
		"spec.nicSelector.netFilter: selects virtual cards of clouds, which are not supported; the policy "+
			"selects nothing")
	return warnings
}
