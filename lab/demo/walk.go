// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Lab is what the demo needs of the lab.
type Lab interface {
	// Node runs a shell script on a node and returns what it prints on standard output.
	Node(ctx context.Context, node, script string) (string, error)
	// Shell runs a shell script where kubectl and helm speak to the lab's cluster.
	Shell(ctx context.Context, script string) (string, error)
}

// Step is one thing that the guide has its reader do or see.
type Step struct {
	Title string
	// Command is what a person would type; it is shown, and may be what Do runs.
	Command string
	// Promise is what the guide prints or says will happen.
	Promise string
	// Do does it and returns what happened, for people to compare. An error says which promise was not kept.
	Do func(ctx context.Context, w *Walk) (string, error)
}

// Result is the outcome of a step.
type Result struct {
	Step Step
	Here string
	Took time.Duration
	Err  error
}

// Walk runs steps and tells what happens.
type Walk struct {
	Lab
	out   io.Writer
	now   func() time.Time
	since time.Time // when the step began
	told  time.Time // when it was last said what is waited for
	said  string    // what was said then
	// memory between steps
	before map[string]string   // node -> devices before the first pod
	pods   map[string][]podRef // application -> its pods, sorted by node
}

type podRef struct{ Name, IP, Node string }

// New returns a walk through the lab that writes to out.
func New(lab Lab, out io.Writer) *Walk {
	return &Walk{Lab: lab, out: out, now: time.Now, before: map[string]string{}, pods: map[string][]podRef{}}
}

// stepLimit bounds one step: nothing in the guide may take longer.
const stepLimit = 5 * time.Minute

// ErrBroken means that at least one promise was not kept.
var ErrBroken = errors.New("the guide's promises were not all kept")

// Run runs all steps, also after one that failed, and returns their results. The error is ErrBroken
// when one of them failed.
func (w *Walk) Run(ctx context.Context, steps []Step) ([]Result, error) {
	var results []Result
	var err error
	for i, s := range steps {
		r := w.step(ctx, fmt.Sprintf("%2d/%d", i+1, len(steps)), s)
		results = append(results, r)
		if r.Err != nil {
			err = ErrBroken
		}
		if ctx.Err() != nil {
			return results, fmt.Errorf("the demo was interrupted: %w", ctx.Err())
		}
	}
	return results, err
}

func (w *Walk) step(ctx context.Context, number string, s Step) Result {
	fmt.Fprintf(w.out, "\n%s  %s\n", number, s.Title)
	w.block("run  ", s.Command)
	w.block("guide", s.Promise)
	w.since, w.told, w.said = w.now(), w.now(), ""
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	here, err := s.Do(ctx, w)
	r := Result{Step: s, Here: here, Took: w.now().Sub(w.since), Err: err}
	w.block("here ", here)
	if err != nil {
		w.block("BROKEN", err.Error())
	} else {
		fmt.Fprintf(w.out, "       %-6s %s\n", "kept", seconds(r.Took))
	}
	return r
}

const shownLines = 12 // of one block; the rest is counted

func (w *Walk) block(label, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if text == "" {
		return
	}
	for i, line := range lines {
		if i == shownLines && len(lines) > shownLines+1 {
			fmt.Fprintf(w.out, "       %-6s | … %d more lines\n", "", len(lines)-i)
			return
		}
		fmt.Fprintf(w.out, "       %-6s | %s\n", label, line)
		label = ""
	}
}

// tellEvery is the time between two words about what is waited for.
const tellEvery = 3 * time.Second

// poll calls f until it is done, and says what it waits for when that changes.
func (w *Walk) poll(ctx context.Context, f func() (done bool, state string, err error)) (string, error) {
	var state string
	for {
		done, s, err := f()
		if done && err == nil {
			return s, nil
		}
		if s != "" {
			state = s
		}
		if err != nil {
			state = err.Error()
		}
		w.waiting(state)
		select {
		case <-ctx.Done():
			return state, fmt.Errorf("still not so after %s: %s", seconds(w.now().Sub(w.since)), state)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (w *Walk) waiting(state string) {
	state, _, _ = strings.Cut(state, "\n")
	if now := w.now(); state != w.said && now.Sub(w.told) > tellEvery {
		fmt.Fprintf(w.out, "       %-6s | %s: %s\n", "…", seconds(now.Sub(w.since)), state)
		w.said, w.told = state, now
	}
}

// Summary writes a table of the results.
func Summary(out io.Writer, results []Result) {
	width := 0
	for _, r := range results {
		width = max(width, len([]rune(r.Step.Title)))
	}
	line := strings.Repeat("─", width+22)
	fmt.Fprintf(out, "\n%s\n %-*s  promise     time\n%s\n", line, width, "step", line)
	var total time.Duration
	kept := 0
	for _, r := range results {
		word := "kept  "
		if r.Err != nil {
			word = "BROKEN"
		} else {
			kept++
		}
		total += r.Took
		fmt.Fprintf(out, " %s%s  %s  %8s\n", r.Step.Title, strings.Repeat(" ", width-len([]rune(r.Step.Title))), word,
			seconds(r.Took))
	}
	fmt.Fprintf(out, "%s\n %d of %d promises kept in %s\n", line, kept, len(results), seconds(total))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
