// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"fmt"
	"slices"
	"strings"
)

// DeviceWish is one network of a pod with regard to devices.
type DeviceWish struct {
	// Network is "namespace/name", for messages.
	Network string
	// Resource is the extended resource of the network, "" when it needs no device.
	Resource string
	// DeviceID is the device that the pod's annotation asks for, "" when any will do.
	DeviceID string
}

// AssignDevices gives every network of a pod its device, "" where it needs
// none, in the order of the wishes. allocated is what the kubelet gave to the
// pod: resource to device IDs, in order. One device serves one network: the
// n-th network of a resource takes the n-th device, whether it is the pod's
// default network or another. A device that an annotation names must be one
// of the pod's own.
func AssignDevices(wishes []DeviceWish, allocated map[string][]string) ([]string, error) {
	devices := make([]string, len(wishes))
	holder := map[string]string{}
	for i, w := range wishes {
		if w.DeviceID == "" {
			continue
		}
		if err := checkNamedDevice(w, allocated, holder); err != nil {
			return nil, err
		}
		devices[i], holder[w.DeviceID] = w.DeviceID, w.Network
	}
	for i, w := range wishes {
		if w.DeviceID != "" || w.Resource == "" {
			continue
		}
		free := slices.IndexFunc(allocated[w.Resource], func(id string) bool { return holder[id] == "" })
		if free < 0 {
			return nil, noDeviceLeft(w, wishes, len(allocated[w.Resource]))
		}
		devices[i] = allocated[w.Resource][free]
		holder[devices[i]] = w.Network
	}
	return devices, nil
}

func checkNamedDevice(w DeviceWish, allocated map[string][]string, holder map[string]string) error {
	if other := holder[w.DeviceID]; other != "" {
		return fmt.Errorf(
			"network %s asks for device %s, which network %s asks for as well: name another device, or none", w.Network,
			w.DeviceID, other)
	}
	if w.Resource != "" {
		if !slices.Contains(allocated[w.Resource], w.DeviceID) {
			return fmt.Errorf(
				"network %s asks for device %s, which is not among the devices of %s allocated to the pod (%s): "+
					"leave deviceID out, one of the pod's devices is taken then",
				w.Network, w.DeviceID, w.Resource, listOrNone(allocated[w.Resource]))
		}
		return nil
	}
	for _, ids := range allocated {
		if slices.Contains(ids, w.DeviceID) {
			return nil
		}
	}
	return fmt.Errorf(
		"network %s asks for device %s, which is not among the devices allocated to the pod: request its resource "+
			"under resources.limits of a container", w.Network, w.DeviceID)
}

func listOrNone(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ", ")
}

func noDeviceLeft(w DeviceWish, wishes []DeviceWish, have int) error {
	need := 0
	for _, other := range wishes {
		if other.Resource == w.Resource {
			need++
		}
	}
	return fmt.Errorf(
		`network %s needs a device of %s: the pod's networks need %d and it was allocated %d; add "resources: {limits: {%s: %d}}" to a container of the pod`,
		w.Network, w.Resource, need, have, w.Resource, need)
}
