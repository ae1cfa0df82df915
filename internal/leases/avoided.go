// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"net/netip"
	"sync"
	"time"
)

// avoidFor is how long an address is left alone that somebody was found to use.
const avoidFor = 10 * time.Minute

// avoided are addresses that the network says are somebody's. They are this node's own observation:
// another node makes its own.
type avoided struct {
	mu    sync.Mutex
	until map[netip.Addr]time.Time
}

func (v *avoided) add(ip netip.Addr, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.until == nil {
		v.until = map[netip.Addr]time.Time{}
	}
	v.until[ip] = now.Add(avoidFor)
}

func (v *avoided) list() []netip.Addr {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []netip.Addr
	for ip, until := range v.until {
		if time.Now().After(until) {
			delete(v.until, ip)
			continue
		}
		out = append(out, ip)
	}
	return out
}

// Avoid has an address that somebody was found to use not be given out on this node for ten
// minutes. What is given out already stays.
func (a *Allocator) Avoid(ip netip.Addr) { a.avoided.add(ip, time.Now()) }
