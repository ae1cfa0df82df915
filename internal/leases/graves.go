// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// graves are objects that the API server has told this process have ended, before the watch shows
// that, and when. What the watch still has to tell of them is over; a version does not show that,
// because the answer to a delete has none.
type graves map[types.UID]time.Time

const (
	// graveAge is longer than any watch lags. A watch that starts anew may never show an object
	// that began and ended meanwhile.
	graveAge = 30 * time.Minute
	// gravesFew is how many are added between two looks for old ones.
	gravesFew = 1024
)

func (g graves) add(uid types.UID) {
	if uid == "" {
		return
	}
	if len(g)%gravesFew == gravesFew-1 {
		maps.DeleteFunc(g, func(_ types.UID, since time.Time) bool { return time.Since(since) > graveAge })
	}
	g[uid] = time.Now()
}

func (g graves) has(uid types.UID) bool {
	_, ok := g[uid]
	return ok
}

// close forgets an object, and tells whether it was known to have ended: the watch says no more of it.
func (g graves) close(uid types.UID) bool {
	known := g.has(uid)
	delete(g, uid)
	return known
}
