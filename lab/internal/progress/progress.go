// SPDX-License-Identifier: Apache-2.0

// Package progress tells the person at the terminal what is being done and how long it took.
//
// A step that ends within Quiet says nothing; a longer one names itself while it runs, and its
// duration when it ends. It knows nothing about what the steps do.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Quiet is how long a step may take without a word.
const Quiet = 2 * time.Second

// reminder is how often a long step says that it is still running.
const reminder = 30 * time.Second

// Printer writes lines headed by the time since it was made. Safe for use by several goroutines.
type Printer struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

// New returns a Printer that writes to out.
func New(out io.Writer) *Printer { return &Printer{out: out, start: time.Now()} }

// Say prints one line.
func (p *Printer) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%s  %s\n", clock(time.Since(p.start)), fmt.Sprintf(format, args...))
}

// Step runs do and reports it under name if it takes longer than Quiet. The error is do's own.
func (p *Printer) Step(name string, do func() error) error {
	begin := time.Now()
	ended := make(chan struct{})
	var told sync.WaitGroup
	told.Go(func() { p.remind(name, begin, ended) })
	err := do()
	close(ended)
	told.Wait()
	took := time.Since(begin)
	switch {
	case err != nil:
		p.Say("%s: failed after %s", name, short(took))
	case took > Quiet:
		p.Say("%s: done in %s", name, short(took))
	}
	return err
}

func (p *Printer) remind(name string, begin time.Time, ended <-chan struct{}) {
	wait := Quiet
	for {
		select {
		case <-ended:
			return
		case <-time.After(wait):
		}
		if wait == Quiet {
			p.Say("%s ...", name)
		} else {
			p.Say("%s ... still at it after %s", name, short(time.Since(begin)))
		}
		wait = reminder
	}
}

// clock prints a duration as m:ss.t, right-aligned.
func clock(d time.Duration) string {
	d = d.Round(100 * time.Millisecond)
	return fmt.Sprintf("%2d:%04.1f", int(d.Minutes()), d.Seconds()-60*float64(int(d.Minutes())))
}

func short(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}
