// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/host"
)

// CheckKernel is what CheckConfigured needs of the kernel.
type CheckKernel interface {
	Addresses(ns host.NS, index int) ([]netip.Prefix, error)
	Routes(ns host.NS, table int) ([]host.Route, error)
	Rules(ns host.NS) ([]host.Rule, error)
}

// CheckConfigured tells what Configure gave a link and is not there any more; nil when all is, or
// when there is no result.
func CheckConfigured(k CheckKernel, link host.Link, res *types100.Result) error {
	if res == nil {
		return nil
	}
	have, err := k.Addresses(link.NS, link.Index)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", link.Name, err)
	}
	for _, ip := range res.IPs {
		if !belongs(ip, res, link.Name) {
			continue
		}
		want, err := prefix(ip.Address)
		if err != nil {
			return err
		}
		if !slices.Contains(have, want) {
			return Errorf(CodeFailed, "delete the pod, so that it starts anew", "%s does not have its address %s",
				link.Name, want)
		}
	}
	return checkRoutes(k, link, res)
}

// belongs tells whether an address of a result is the link's. One of no interface is.
func belongs(ip *types100.IPConfig, res *types100.Result, name string) bool {
	i := ip.Interface
	return i == nil || *i < 0 || *i >= len(res.Interfaces) || res.Interfaces[*i].Name == name
}

// checkRoutes looks for the destinations alone, in every table that is in use: the coordinator
// moves routes to tables of their interfaces, and of two networks' default routes the first one's
// stays.
func checkRoutes(k CheckKernel, link host.Link, res *types100.Result) error {
	if len(res.Routes) == 0 {
		return nil
	}
	rules, err := k.Rules(link.NS)
	if err != nil {
		return fmt.Errorf("list the pod's rules: %w", err)
	}
	tables := []int{0}
	for _, r := range rules {
		tables = append(tables, r.Table)
	}
	for _, r := range res.Routes {
		if r.Table != nil {
			tables = append(tables, *r.Table)
		}
	}
	have := map[netip.Prefix]bool{}
	slices.Sort(tables)
	for _, table := range slices.Compact(tables) {
		routes, err := k.Routes(link.NS, table)
		if err != nil {
			return fmt.Errorf("list the pod's routes of table %d: %w", table, err)
		}
		for _, r := range routes {
			have[r.Dst] = true
		}
	}
	for _, r := range res.Routes {
		dst, err := prefix(r.Dst)
		if err != nil {
			return err
		}
		if !have[dst.Masked()] {
			return Errorf(CodeFailed, "delete the pod, so that it starts anew",
				"the pod has no route to %s, which came with %s", dst.Masked(), link.Name)
		}
	}
	return nil
}
