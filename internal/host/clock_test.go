// SPDX-License-Identifier: Apache-2.0

package host

import (
	"testing"
	"time"
)

func TestClockRuns(t *testing.T) {
	clock, err := NewClock()
	if err != nil {
		t.Fatal(err)
	}
	before := clock()
	time.Sleep(10 * time.Millisecond)
	if passed := clock() - before; before < 0 || passed < 10*time.Millisecond {
		t.Errorf("the clock went from %v by %v in 10 ms", before, passed)
	}
}
