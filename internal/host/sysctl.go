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

// IPv6Trust are the keys by which a link believes what others on it say of routers (ip-sysctl): by
// advertisements the first two, by redirects the last. The kernel reads each when a message arrives
// (ndisc_router_discovery, addrconf_prefix_rcv, ndisc_redirect_rcv).
var IPv6Trust = []string{"accept_ra", "autoconf", "accept_redirects"}

// IPv6TrustKey is one of IPv6Trust of a link, as SetSysctl takes it.
func IPv6TrustKey(ifname, key string) string { return "net/ipv6/conf/" + ifname + "/" + key }

// Distrust makes a link believe no router in the ways that keys name, of IPv6Trust; set is SetSysctl.
// Without IPv6 there is nothing to do.
func Distrust(set func(ns NS, key, value string) error, ns NS, ifname string, keys []string) error {
	for _, key := range keys {
		if err := set(ns, IPv6TrustKey(ifname, key), "0"); err != nil {
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		}
	}
	return nil
}
