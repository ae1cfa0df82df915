// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"
)

// callsLinger is how long after a call the next one is likely: a runtime starts and ends pods in waves.
const callsLinger = time.Second

// calls knows whether calls of the runtime that attach or detach are under way. The zero value is ready.
type calls struct {
	mu    sync.Mutex
	n     int
	ended time.Time // of the last that ended
}

// begin counts a call; the function that it returns ends it.
func (c *calls) begin() (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.n--
		c.ended = time.Now()
	}
}

// busy tells whether a call is under way or one ended a moment ago.
func (c *calls) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n > 0 || time.Since(c.ended) < callsLinger
}
