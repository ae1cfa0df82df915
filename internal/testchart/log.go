// SPDX-License-Identifier: Apache-2.0

package testchart

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// Log keeps what a process logs. The zero value is ready.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// RequireNoRefusals fails the test for every line that tells of a right that the chart does not give.
func (l *Log) RequireNoRefusals(t testing.TB) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, "forbidden") {
			t.Errorf("a right is missing in the chart: %s", line)
		}
	}
}
