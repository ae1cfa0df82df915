// SPDX-License-Identifier: Apache-2.0

package deviceplugin

import (
	"context"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"spidernet.io/spiderpool/internal/sriov"
)

// GetPreferredAllocation implements the device-plugin API. The kubelet asks at a pod's admission;
// what it lists is what it would give, with NUMA nodes narrowed down already if the pod's policy
// says so. An error would refuse the pod, so there is none.
func (s *server) GetPreferredAllocation(_ context.Context,
	req *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	out := &pluginapi.PreferredAllocationResponse{}
	for _, r := range req.ContainerRequests {
		ids := s.plugin.opts.Prefer.Choose(s.candidates(r.AvailableDeviceIDs), r.MustIncludeDeviceIDs,
			int(r.AllocationSize))
		out.ContainerResponses = append(out.ContainerResponses,
			&pluginapi.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

// Classes of candidates, the best first.
const (
	ready     = iota
	returning // free for the kubelet, while its last pod has not quite given it back
	unhealthy
)

// candidates describes devices that the kubelet lists. One that is offered no more is left out:
// Allocate would refuse it.
func (s *server) candidates(ids []string) (out []sriov.Candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := map[string]bool{}
	for _, id := range ids {
		listed[id] = true
	}
	for _, d := range s.devices {
		if listed[d.PCI] {
			out = append(out, sriov.Candidate{PCI: d.PCI, PF: d.PF, Index: d.Index, NUMANode: d.NUMANode,
				Class: s.class(d)})
		}
	}
	return out
}

func (s *server) class(d sriov.Device) int {
	switch {
	case s.health[d.PCI] != pluginapi.Healthy:
		return unhealthy
	case d.Pod != "":
		return returning
	}
	return ready
}
