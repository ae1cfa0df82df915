// SPDX-License-Identifier: Apache-2.0

package v1

import "strings"

// DefaultPriority is the weakest priority, which a policy without one has.
const DefaultPriority = 99

// Default fills in what a policy leaves open: priority 99, deviceType
// netdevice, and RDMA for InfiniBand VFs that keep the kernel's driver.
func (p *SriovNetworkNodePolicy) Default() {
	s := &p.Spec
	if s.Priority == nil {
		priority := DefaultPriority
		s.Priority = &priority
	}
	if s.DeviceType == "" {
		s.DeviceType = DeviceTypeNetDevice
	}
	if s.DeviceType != DeviceTypeVfioPci && strings.EqualFold(s.LinkType, LinkTypeIB) {
		s.IsRdma = true
	}
}

// PriorityOrDefault is the policy's priority, 99 when it has none; the smaller number is the stronger.
func (s *SriovNetworkNodePolicySpec) PriorityOrDefault() int {
	if s.Priority == nil {
		return DefaultPriority
	}
	return *s.Priority
}
