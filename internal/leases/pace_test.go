// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// entered returns how many of those who queued have their turn.
func (p *paces) entered(turns []<-chan struct{}) int {
	n := 0
	for _, turn := range turns {
		select {
		case <-turn:
			n++
		default:
		}
	}
	return n
}

func TestPaces(t *testing.T) {
	var p paces
	var turns []<-chan struct{}
	for range 20 {
		turns = append(turns, p.queue("pool"))
	}
	expect := func(what string, want int) {
		t.Helper()
		if got := p.entered(turns); got != want {
			t.Fatalf("%s: %d have had their turn, want %d", what, got, want)
		}
	}
	end := func(collided bool) {
		p.tell("pool", collided)
		p.leave("pool")
	}
	expect("at first", 2)
	end(false)
	expect("three at once", 4)
	end(true) // two are left
	expect("after a collision", 4)
	end(false)
	expect("one is left", 4)
	end(false)
	expect("one by one", 5)
	for range calmCreates - 3 {
		end(false)
	}
	expect("one by one, still", 5+calmCreates-3)
	end(false)
	expect("two at once, after as many calm creates as it takes", 5+calmCreates-3+2)
	if p.queue("other"); p.entered([]<-chan struct{}{p.queue("other")}) != 1 {
		t.Error("another pool waits for this one")
	}
}

// Who gives up waiting takes no turn from others, also when it comes at that moment.
func TestPacesGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paces
		for range firstCreates {
			if err := p.enter(t.Context(), "pool"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.enter(ctx, "pool") }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		for range firstCreates {
			p.leave("pool")
		}
		late := p.queue("pool")
		p.giveUp("pool", late)
		if p.used("pool") {
			t.Error("the lane is not empty")
		}
	})
}
