// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"path/filepath"
)

// sysctlPath turns a key such as net/ipv4/conf/eth0/rp_filter into a path.
func (h *Host) sysctlPath(key string) (string, error) {
	if !filepath.IsLocal(key) {
		return "", fmt.Errorf("sysctl %q: want a path below /proc/sys such as net/ipv4/ip_forward: %w", key,
			ErrNotFound)
	}
	return filepath.Join(h.root, "proc/sys", key), nil
}

// Sysctl reads a value below /proc/sys without its final newline. ErrNotFound when there is no such key.
//
// What /proc/sys/net shows depends on the namespace of the thread that opens it, not on the mount.
func (h *Host) Sysctl(ns NS, key string) (string, error) {
	path, err := h.sysctlPath(key)
	if err != nil {
		return "", err
	}
	var value string
	err = h.in(ns, func() (err error) {
		value, err = read(path)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading sysctl %s in %s: %w", key, ns.where(), err)
	}
	return value, nil
}

// SetSysctl writes a value below /proc/sys. ErrNotFound when there is no such key.
func (h *Host) SetSysctl(ns NS, key, value string) error {
	path, err := h.sysctlPath(key)
	if err != nil {
		return err
	}
	if err := h.in(ns, func() error { return write(value, path) }); err != nil {
		return fmt.Errorf("writing %q to sysctl %s in %s: %w", value, key, ns.where(), err)
	}
	return nil
}

// ipv6Trust are the keys by which a link believes what others on it say of routers (ip-sysctl). The
// kernel reads each when a message arrives (ndisc_router_discovery, addrconf_prefix_rcv,
// ndisc_redirect_rcv).
var ipv6Trust = []string{"accept_ra", "autoconf", "accept_redirects"}

// distrust makes a link believe no router.
func (h *Host) distrust(ns NS, name string) error {
	for _, key := range ipv6Trust {
		err := h.SetSysctl(ns, "net/ipv6/conf/"+name+"/"+key, "0")
		if errors.Is(err, ErrNotFound) {
			return nil // there is no IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}
