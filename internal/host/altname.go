// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAltName gives a link an alternative name. ErrExists when another link of the namespace has it
// as either; ErrUnsupported before Linux 5.5.
func (h *Host) AddAltName(ns NS, index int, name string) error {
	l, err := h.LinkByIndex(ns, index)
	if err != nil || l.Name == name || slices.Contains(l.AltNames, name) {
		return err
	}
	return h.onLink(ns, index, fmt.Sprintf("adding the alternative name %q", name),
		func(l netlink.Link) error { return netlink.LinkAddAltName(l, name) })
}

// DeleteAltName takes an alternative name off a link.
func (h *Host) DeleteAltName(ns NS, index int, name string) error {
	l, err := h.LinkByIndex(ns, index)
	if err != nil || !slices.Contains(l.AltNames, name) {
		return err
	}
	return h.onLink(ns, index, fmt.Sprintf("dropping the alternative name %q", name), func(l netlink.Link) error {
		err := netlink.LinkDelAltName(l, name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // it went since the look
			return nil
		}
		return err
	})
}

// dropAltNames drops alternative names that would clash with the new name, and the old name, which
// udev would put among them.
func dropAltNames(l Link, names ...string) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: l.Index}}
	for _, alt := range l.AltNames {
		if !slices.Contains(names, alt) {
			continue
		}
		if err := netlink.LinkDelAltName(link, alt); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("dropping the alternative name %s: %w", alt, err)
		}
	}
	return nil
}
