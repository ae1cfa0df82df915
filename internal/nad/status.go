// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
)

// Attached is one network that a pod has.
type Attached struct {
	// Network is "namespace/name" of the NetworkAttachmentDefinition, or the CNI configuration's
	// name when there is none.
	Network string
	// Interface is the name in the pod.
	Interface string
	// Default marks the pod's default network, and the network that carries its default route.
	Default bool
	// Result is what the plugins returned, nil when they returned nothing.
	Result *types100.Result
	// Device is the device behind the interface, nil when there is none.
	Device *cncfv1.DeviceInfo
}

// Status is the content of the network-status annotation: one element per network, in the order given.
func Status(attached []Attached) []cncfv1.NetworkStatus {
	out := make([]cncfv1.NetworkStatus, 0, len(attached))
	for _, a := range attached {
		out = append(out, statusOf(a))
	}
	return out
}

func statusOf(a Attached) cncfv1.NetworkStatus {
	s := cncfv1.NetworkStatus{Name: a.Network, Interface: a.Interface, Default: a.Default, DeviceInfo: a.Device}
	r := a.Result
	if r == nil {
		return s
	}
	index := slices.IndexFunc(r.Interfaces, func(i *types100.Interface) bool {
		return i.Sandbox != "" &&
			i.Name == a.Interface
	})
	if index < 0 {
		index = slices.IndexFunc(r.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" })
	}
	if index >= 0 {
		s.Interface, s.Mac, s.Mtu = r.Interfaces[index].Name, r.Interfaces[index].Mac, r.Interfaces[index].Mtu
	}
	for _, ip := range r.IPs {
		if ip.Interface == nil || *ip.Interface == index {
			s.IPs = append(s.IPs, ip.Address.IP.String())
		}
	}
	s.DNS = cncfv1.DNS{Nameservers: r.DNS.Nameservers, Domain: r.DNS.Domain, Search: r.DNS.Search,
		Options: r.DNS.Options}
	s.Gateway = gateways(r)
	return s
}

// gateways are those of the default routes; a default route without one goes by its address's gateway.
func gateways(r *types100.Result) []string {
	var out []string
	add := func(gw net.IP) {
		if gw != nil && !slices.Contains(out, gw.String()) {
			out = append(out, gw.String())
		}
	}
	for _, route := range r.Routes {
		if ones, _ := route.Dst.Mask.Size(); ones != 0 || !route.Dst.IP.IsUnspecified() {
			continue
		}
		if route.GW != nil {
			add(route.GW)
			continue
		}
		for _, ip := range r.IPs {
			if (ip.Address.IP.To4() == nil) == (route.Dst.IP.To4() == nil) {
				add(ip.Gateway)
			}
		}
	}
	return out
}

// FormatStatus writes the annotation's value, indented as its other writers do and people read it.
func FormatStatus(status []cncfv1.NetworkStatus) (string, error) {
	text, err := json.MarshalIndent(status, "", "    ")
	if err != nil {
		return "", fmt.Errorf("writing annotation %s: %w", cncfv1.AnnotationNetworkStatus, err)
	}
	return string(text), nil
}
