// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"fmt"
	"slices"
	"time"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// twinAge is how long a lease must have been known before it counts as a twin.
const twinAge = 10 * time.Second

// endTwins gives back addresses that are held for sandboxes that have gone, of pods that have
// another one for the same interface. They come about when a create ends without an answer, is
// found not to have happened, and happens after all.
func (a *Allocator) endTwins(ctx context.Context) {
	if a.Sandboxes == nil {
		return
	}
	for _, uid := range a.index.twins(twinAge) {
		if err := a.endTwinsOf(ctx, uid); err != nil && ctx.Err() == nil {
			a.Log.Warn("give back a second address of one interface", "pod_uid", uid, "error", err)
		}
	}
}

func (a *Allocator) endTwinsOf(ctx context.Context, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	unlock, err := a.locks.lock(ctx, uid)
	if err != nil {
		return err
	}
	defer unlock()
	known := a.Sandboxes(uid)
	all := a.index.ofPod(uid)
	for _, h := range all {
		current := slices.ContainsFunc(all, func(o held) bool {
			return o.name != h.name && o.slot() == h.slot() && slices.Contains(known, o.pod.Sandbox)
		})
		if h.handedOut || !current || slices.Contains(known, h.pod.Sandbox) {
			continue
		}
		gone := h.pod.Sandbox
		err := a.remove(ctx, h.lease, func(l *v2beta1.SpiderIPLease) bool {
			return l.Spec.Pod != nil && l.Spec.Pod.UID == uid && l.Spec.Pod.Sandbox == gone
		})
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return nil
}

// slot is what a pod has one address for.
type slot struct {
	iface   string
	version int64
}

func (h held) slot() slot { return slot{h.pod.Interface, h.version} }

// twins returns the UIDs of pods that have two addresses of one family on one interface, and have
// had them for so long.
func (x *index) twins(age time.Duration) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var uids []string
	for uid, names := range x.ofPods {
		if len(names) < 2 {
			continue
		}
		seen := map[slot]bool{}
		for name := range names {
			e := x.entries[name]
			s := slot{e.pod().Interface, ipam.VersionOf(e.ip)}
			if seen[s] && time.Since(e.since) >= age {
				uids = append(uids, uid)
				break
			}
			seen[s] = true
		}
	}
	slices.Sort(uids)
	return uids
}
