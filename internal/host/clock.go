// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// NewClock returns a function that tells the time since NewClock. It counts what CLOCK_BOOTTIME
// counts, which includes the sleep of the machine (clock_gettime(2)), and what the time of day went
// forward: a virtual machine that was stopped and resumed finds out by the latter, if at all. A
// time of day that is set back is not believed.
func NewClock() (func() time.Duration, error) {
	boot, err := bootTime()
	if err != nil {
		return nil, err
	}
	day := time.Now().Round(0) // without the monotonic reading
	return func() time.Duration {
		slept := time.Now().Round(0).Sub(day)
		now, err := bootTime()
		if err != nil { // it worked once
			return slept
		}
		return max(now-boot, slept)
	}, nil
}

func bootTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
