// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// The API server refuses an event whose note is longer than 1024 octets.
func TestEventsFit(t *testing.T) {
	const limit = 1024
	long := "no IPv4 address from annotation x: " + strings.Repeat("pool € is full; ", 5000) + "enlarge a pool"
	fake := events.NewFakeRecorder(2)
	r := recorder{fake}
	r.Event(&corev1.Pod{}, corev1.EventTypeWarning, "FailedAttach", long)
	r.lost(v2beta1.LeasePod{Namespace: "n", Name: "p", UID: "u"}, long)
	for range 2 {
		got := <-fake.Events // "Warning FailedAttach <note>"
		note := strings.SplitN(got, " ", 3)[2]
		if len(note) > limit || len(note) < limit/2 || strings.ContainsRune(note, '\uFFFD') ||
			!strings.HasPrefix(note, "no IPv4 address from annotation x: pool") ||
			!strings.HasSuffix(note, "enlarge a pool") {
			t.Errorf("a note of %d octets: %s", len(note), note)
		}
	}
}
