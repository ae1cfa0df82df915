// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file is the only one that may dump a kernel table (forbidigo in .golangci.yml): a dump that
// a concurrent change interrupted is incomplete, and has to be repeated.

func listLinks() ([][]byte, error) {
	return retryDump(func() ([][]byte, error) {
		return linkRequest(unix.NLM_F_DUMP, 0).Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
}

// listAddresses lists the addresses of one link, or of every link if link is nil.
func listAddresses(link netlink.Link, family int) ([]netlink.Addr, error) {
	return retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}

func listRoutes(family int, filter *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return retryDump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, filter, mask)
	})
}

func listRules(family int) ([]netlink.Rule, error) {
	return retryDump(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
}

func listRDMALinks() ([]*netlink.RdmaLink, error) {
	return retryDump(netlink.RdmaLinkList)
}

// retryDump repeats a dump that a change interrupted (the kernel sets NLM_F_DUMP_INTR), or that a
// signal or another dump prevented. It gives up after 20 attempts.
func retryDump[T any](dump func() (T, error)) (found T, err error) {
	for range 20 {
		found, err = dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EBUSY) {
			return found, err
		}
	}
	return found, err
}
