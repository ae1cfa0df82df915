// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"fmt"
	"io"
	"sync"
	"time"

	"spidernet.io/spiderpool/release/image"
)

const (
	// quiet is how long a step may take without a line.
	quiet = 2 * time.Second
	// reminder is how often a long step says that it still runs.
	reminder = 20 * time.Second
)

// Progress writes lines about steps that take longer than two seconds.
type Progress struct {
	mu  sync.Mutex
	out io.Writer
}

// NewProgress returns a Progress that writes to out.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out} }

func (p *Progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Step runs do under name. The error is do's own.
func (p *Progress) Step(name string, do func() error) error {
	begin, ended := time.Now(), make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for next := quiet; ; next = reminder {
			select {
			case <-ended:
				return
			case <-time.After(next):
				p.say("%s ... (%s)", name, time.Since(begin).Round(time.Second))
			}
		}
	})
	err := do()
	close(ended)
	wait.Wait()
	if took := time.Since(begin); err == nil && took > quiet {
		p.say("%s: done in %s", name, took.Round(time.Second))
	}
	return err
}

// Octets returns a function that reports how much was written, at most every two seconds.
func (p *Progress) Octets(name string) func(done, total int64) {
	last := time.Now()
	return func(done, total int64) {
		if time.Since(last) >= quiet {
			last = time.Now()
			p.say("%s: %s of %s", name, image.Megabytes(done), image.Megabytes(total))
		}
	}
}
