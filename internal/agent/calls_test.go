// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		want := func(when string, busy bool) {
			t.Helper()
			if c.busy() != busy {
				t.Errorf("%s: busy is %t", when, !busy)
			}
		}
		want("before any call", false)
		first, second := c.begin(), c.begin()
		time.Sleep(time.Minute)
		first()
		time.Sleep(time.Minute)
		want("during the second call", true)
		second()
		want("right after it", true)
		time.Sleep(callsLinger)
		want("a moment later", false)
	})
}
