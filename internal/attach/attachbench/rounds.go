// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"time"

	"spidernet.io/spiderpool/internal/host/nodebench"
)

// pod is a pod as its caller names it.
type pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// sample is one call of the shim, as printed.
type sample struct {
	Pod       string        `json:"pod"` // "namespace/name"
	Container string        `json:"container"`
	Round     int           `json:"round"`
	Verb      string        `json:"verb"` // "ADD" or "DEL"
	Duration  time.Duration `json:"ns"`
	// Done is the time from the moment at which the round's calls began until this one ended.
	Done  time.Duration `json:"doneNs"`
	Error string        `json:"error,omitempty"`
}

// sandbox is what a runtime has of a pod that is to be attached.
type sandbox struct {
	pod
	container, netns string
	remove           func() error // the namespace
}

// bench collects samples.
type bench struct {
	quiet   time.Duration // before each round
	shim    string
	conf    []byte
	newNS   func(name string) (path string, remove func() error, err error)
	samples []sample
}

var errInterrupted = errors.New("interrupted; what was attached has been detached")

// rounds attaches and detaches so many pods at once, and then the next ones.
func (b *bench) rounds(ctx context.Context, pods []pod, atOnce int) error {
	round := 0
	for some := range slices.Chunk(pods, atOnce) {
		if !nodebench.Rest(ctx, b.quiet) {
			return errInterrupted
		}
		if err := b.round(round, some); err != nil {
			return err
		}
		round++
	}
	return nil
}

// round is not interrupted half way: a call that has begun ends by itself, and the agent then knows
// what there is to undo.
func (b *bench) round(round int, pods []pod) (err error) {
	boxes, err := b.sandboxes(pods)
	defer func() { err = errors.Join(err, removeAll(boxes)) }()
	if err != nil {
		return err
	}
	b.all(round, "ADD", boxes)
	return b.detach(round, boxes)
}

// hold attaches all pods, so many at once, runs a command while they are there, and detaches them.
func (b *bench) hold(ctx context.Context, pods []pod, atOnce int, command string) (out string, err error) {
	var made [][]sandbox
	defer func() {
		for i, boxes := range slices.Backward(made) {
			err = errors.Join(err, b.detach(i, boxes), removeAll(boxes))
		}
	}()
	for some := range slices.Chunk(pods, atOnce) {
		if ctx.Err() != nil {
			return "", errInterrupted
		}
		boxes, err := b.sandboxes(some)
		if err != nil {
			return "", errors.Join(err, removeAll(boxes))
		}
		made = append(made, boxes)
		b.all(len(made)-1, "ADD", boxes)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.WaitDelay = time.Second // what the shell started and left behind must not keep us from detaching
	text, err := cmd.Output()
	if ctx.Err() != nil {
		return "", errInterrupted
	}
	if err != nil {
		return "", fmt.Errorf("running %q while the pods were attached: %w", command, err)
	}
	return string(text), nil
}

// sandboxes makes a namespace for each pod. With an error it returns those that it made.
func (b *bench) sandboxes(pods []pod) (boxes []sandbox, err error) {
	for _, p := range pods {
		id := containerID()
		netns, remove, err := b.newNS("attachbench-" + id[:16])
		if err != nil {
			return boxes, fmt.Errorf("making a network namespace for pod %s/%s: %w", p.Namespace, p.Name, err)
		}
		boxes = append(boxes, sandbox{p, id, netns, remove})
	}
	return boxes, nil
}

// containerID is one that no other has, in the form that runtimes give.
func containerID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails, as documented
	return hex.EncodeToString(id)
}

func removeAll(boxes []sandbox) error {
	var errs []error
	for _, s := range boxes {
		if err := s.remove(); err != nil {
			errs = append(errs, fmt.Errorf("removing the network namespace %s: %w", s.netns, err))
		}
	}
	return errors.Join(errs...)
}

// detach measures the DEL of all, also of those whose ADD failed, as a runtime does, and repeats
// once what failed: the node is to be left as it was.
func (b *bench) detach(round int, boxes []sandbox) error {
	var errs []error
	for i, s := range b.all(round, "DEL", boxes) {
		if s.Error == "" {
			continue
		}
		if err := b.call("DEL", boxes[i]); err != nil {
			errs = append(errs, fmt.Errorf("detaching pod %s, twice: %w", s.Pod, err))
		}
	}
	return errors.Join(errs...)
}

// all makes one call for each sandbox. They begin at the same moment.
func (b *bench) all(round int, verb string, boxes []sandbox) []sample {
	var began time.Time
	gate := make(chan struct{})
	samples := make([]sample, len(boxes))
	var waiting, calls sync.WaitGroup
	for i, box := range boxes {
		waiting.Add(1)
		calls.Go(func() {
			waiting.Done()
			<-gate
			samples[i] = b.timed(round, verb, box, began)
		})
	}
	waiting.Wait()
	began = time.Now()
	close(gate)
	calls.Wait()
	b.samples = append(b.samples, samples...)
	return samples
}

func (b *bench) timed(round int, verb string, box sandbox, gate time.Time) sample {
	s := sample{Pod: box.Namespace + "/" + box.Name, Container: box.container, Round: round, Verb: verb}
	began := time.Now()
	err := b.call(verb, box)
	s.Duration, s.Done = time.Since(began), time.Since(gate)
	if err != nil {
		s.Error = err.Error()
	}
	return s
}
