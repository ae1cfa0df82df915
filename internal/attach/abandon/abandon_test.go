// SPDX-License-Identifier: Apache-2.0

package abandon

import (
	"errors"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/cni"
)

func TestAbandon(t *testing.T) {
	a := cni.AttachmentKey{ContainerID: "c", IfName: "net1"}
	refusal := func(command, text string) cni.Refusal {
		return cni.Refusal{Command: command, Plugin: "p", Err: errors.New(text)}
	}
	type step struct {
		cni.Refusal
		after   time.Duration
		abandon bool
	}
	permanent, temporary := refusal("DEL", "x"), refusal("DEL", "x")
	permanent.Permanent, temporary.Temporary = true, true
	elsewhere := refusal("ADD", "x")
	elsewhere.Plugin = "q"
	for name, steps := range map[string][]step{
		"permanent":         {{permanent, 0, true}},
		"unknown":           {{refusal("DEL", "x"), 0, false}, {refusal("DEL", "x"), After - 1, false}},
		"unknown, for long": {{refusal("DEL", "x"), 0, false}, {refusal("DEL", "y"), After, true}},
		"temporary, for long": {{temporary, 0, false}, {temporary, After - 1, false},
			{temporary, 1, true}},
		"as ADD":                  {{refusal("ADD", "x"), 0, false}, {refusal("DEL", "x"), 0, true}},
		"as ADD, but temporary":   {{refusal("ADD", "x"), 0, false}, {temporary, 0, false}},
		"otherwise than ADD":      {{refusal("ADD", "x"), 0, false}, {refusal("DEL", "y"), 0, false}},
		"as another plugin's ADD": {{elsewhere, 0, false}, {refusal("DEL", "x"), 0, false}},
		"an ADD in between begins the time": {{refusal("DEL", "x"), 0, false},
			{refusal("ADD", "y"), After, false}, {refusal("DEL", "x"), 0, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var tracker Tracker
			now := time.Unix(1, 0)
			for i, s := range steps {
				now = now.Add(s.after)
				if got := tracker.Abandon(a, s.Refusal, now); got != s.abandon {
					t.Errorf("step %d: %t", i, got)
				}
			}
			tracker.Forget(a)
			if tracker.Abandon(a, refusal("DEL", "x"), now.Add(After)) {
				t.Error("the time goes on for another attachment of this name")
			}
		})
	}
}
