// SPDX-License-Identifier: Apache-2.0

// Package netstatus keeps what the network-status of a pod says true: it compares
// what is recorded of a sandbox's networks with what the kernel shows of them.
//
// It neither writes the annotation nor decides when that is done.
package netstatus

import (
	"encoding/json"
	"fmt"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/nad"
)

// Kernel finds the interfaces of a pod.
type Kernel interface {
	LinkByName(ns host.NS, name string) (host.Link, error)
}

// Observe has an attachment's result say what the kernel shows of the interface now. An IPoIB
// interface has its MTU when it has carrier: the kernel lowers it to the multicast group's as it
// joins that (ipoib_mcast_carrier_on_task in drivers/infiniband/ulp/ipoib/ipoib_multicast.c), some
// time after it was set up. settled is false until then. What cannot be seen stays as recorded.
func Observe(k Kernel, sb ledger.Sandbox, a ledger.Attachment, res *types100.Result) (changed, settled bool) {
	if res == nil {
		return false, true
	}
	link, err := k.LinkByName(host.NS(sb.NetNS), a.IfName)
	if err != nil {
		return false, true
	}
	for _, i := range res.Interfaces {
		if i.Name == a.IfName && i.Sandbox != "" && i.Mtu != link.MTU {
			i.Mtu, changed = link.MTU, true
		}
	}
	return changed, link.LinkLayer != host.InfiniBand || link.Carrier || !link.Up
}

// Settled reports whether what the status of a sandbox will say is final.
func Settled(k Kernel, sb ledger.Sandbox) bool {
	return !slices.ContainsFunc(sb.Attachments, func(a ledger.Attachment) bool {
		res, err := resultOf(a)
		_, settled := Observe(k, sb, a, res)
		return err == nil && !settled // what is unreadable, writing the status says
	})
}

// Stale reports whether a status that was written says something else than the kernel shows now.
func Stale(k Kernel, sb ledger.Sandbox) (bool, error) {
	for _, a := range sb.Attachments {
		if len(a.Direct) > 0 || a.Phase != ledger.Done {
			continue
		}
		res, err := resultOf(a)
		if err != nil {
			return false, err
		}
		if changed, settled := Observe(k, sb, a, res); changed && settled {
			return true, nil
		}
	}
	return false, nil
}

// Record keeps what was written, so that Stale sees when it changes.
func Record(sb *ledger.Sandbox, written []nad.Attached) error {
	for i := range sb.Attachments {
		a := &sb.Attachments[i]
		j := slices.IndexFunc(written, func(w nad.Attached) bool { return w.Interface == a.IfName && w.Result != nil })
		if j < 0 || len(a.Direct) > 0 {
			continue
		}
		raw, err := json.Marshal(written[j].Result)
		if err != nil {
			return fmt.Errorf("encode the result of network %s as %s: %w", a.Network, a.IfName, err)
		}
		a.Result = raw
	}
	return nil
}

func resultOf(a ledger.Attachment) (*types100.Result, error) {
	if len(a.Result) == 0 {
		return nil, nil
	}
	var res types100.Result
	if err := json.Unmarshal(a.Result, &res); err != nil {
		return nil, fmt.Errorf("read the recorded result of network %s as %s: %w", a.Network, a.IfName, err)
	}
	return &res, nil
}
