// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"

	"spidernet.io/spiderpool/internal/host"
)

// SysctlKernel writes below /proc/sys.
type SysctlKernel interface {
	SetSysctl(ns host.NS, key, value string) error
}

// SysctlReader reads below /proc/sys.
type SysctlReader interface {
	Sysctl(ns host.NS, key string) (string, error)
}

// fabricTrust are the keys of advertisements, without redirects.
var fabricTrust = host.IPv6Trust[:2]

// IgnoreRouters keeps an interface whose addresses are ours from taking routes and further addresses
// from IPv6 router advertisements. On a fabric that pods share anybody may send them (RFC 4861,
// section 11.2; CAP_NET_RAW is enough), and a pod without IPv6 addresses would get a default route
// as well. Call it before the link goes up: the kernel asks for routers then. Without IPv6 there is
// nothing to do.
//
// accept is the configuration's acceptRA, for fabrics on which a router is wanted.
func IgnoreRouters(k SysctlKernel, ns host.NS, ifname string, accept bool) error {
	if accept {
		return nil
	}
	return distrust(k, ns, ifname, fabricTrust)
}

// DistrustPod keeps the node's end of a pair from taking anything that the pod says of routers.
func DistrustPod(k SysctlKernel, nodeEnd string) error {
	return distrust(k, host.NodeNS, nodeEnd, host.IPv6Trust)
}

func distrust(k SysctlKernel, ns host.NS, ifname string, keys []string) error {
	if err := host.Distrust(k.SetSysctl, ns, ifname, keys); err != nil {
		return fmt.Errorf("have %s ignore router advertisements: %w", ifname, err)
	}
	return nil
}

// TrustsPod says which key of the node's end of a pair lets the pod give the node routes; "" when
// none does. A pair that an earlier version made has them.
func TrustsPod(k SysctlReader, nodeEnd string) (string, error) {
	for _, key := range host.IPv6Trust {
		value, err := k.Sysctl(host.NodeNS, host.IPv6TrustKey(nodeEnd, key))
		if errors.Is(err, host.ErrNotFound) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("read whether %s ignores router advertisements: %w", nodeEnd, err)
		}
		if value != "0" {
			return fmt.Sprintf("the node takes IPv6 routes from the pod: %s of %s is %s, want 0", key, nodeEnd,
				value), nil
		}
	}
	return "", nil
}
