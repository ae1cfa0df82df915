// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestAQuickStepSaysNothing(t *testing.T) {
	var out bytes.Buffer
	if err := New(&out).Step("a step", func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if out.Len() != 0 {
		t.Errorf("said %q", out.String())
	}
}

func TestAFailedStepIsNamedAndItsErrorKept(t *testing.T) {
	var out bytes.Buffer
	boom := errors.New("boom")
	if err := New(&out).Step("a step", func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("error is %v", err)
	}
	if !strings.Contains(out.String(), "a step: failed") {
		t.Errorf("said %q", out.String())
	}
}

func TestClock(t *testing.T) {
	cases := map[time.Duration]string{
		0:                        " 0:00.0",
		1234 * time.Millisecond:  " 0:01.2",
		59960 * time.Millisecond: " 1:00.0",
		754 * time.Second:        "12:34.0",
	}
	for d, want := range cases {
		if got := clock(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
