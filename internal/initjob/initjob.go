// SPDX-License-Identifier: Apache-2.0

// Package initjob is what runs once after an installation or upgrade, and once before an uninstallation.
//
// After: it waits for the controller's webhook, creates the objects that the values ask for, and
// waits until all is rolled out. Every wait is bounded, every line says what is waited for and why.
// It can be repeated; what people have changed stays theirs. Before: it takes away what would block
// others once the controller is gone.
package initjob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldOwner is the name under which the default objects are applied. Fields that somebody else has
// changed stay.
const fieldOwner = "spiderpool-init"

// Defaults are the objects to create and the workloads to wait for; the chart writes them as JSON.
type Defaults struct {
	// Agents is the DaemonSet to wait for, and Deployments the others; none when empty.
	Agents      string   `json:"agents,omitempty"`
	Deployments []string `json:"deployments,omitempty"`
	// Coordinator and SriovOperatorConfig are applied when present.
	Coordinator         *Coordinator         `json:"coordinator,omitempty"`
	SriovOperatorConfig *SriovOperatorConfig `json:"sriovOperatorConfig,omitempty"`
	// Pools are created when they do not exist.
	Pools []Pool `json:"pools,omitempty"`
}

// Coordinator is a SpiderCoordinator; its spec is checked by the API server.
type Coordinator struct {
	Name string         `json:"name"`
	Spec map[string]any `json:"spec"`
}

// SriovOperatorConfig is the one named default; its spec is checked by the API server.
type SriovOperatorConfig struct {
	Spec map[string]any `json:"spec"`
}

// Pool is a SpiderIPPool of the default set.
type Pool struct {
	Name    string   `json:"name"`
	Subnet  string   `json:"subnet"`
	IPs     []string `json:"ips"`
	Gateway string   `json:"gateway"`
}

// ParseDefaults reads the JSON that the chart writes.
func ParseDefaults(text string) (Defaults, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	var defaults *Defaults
	err := d.Decode(&defaults)
	if err == nil && defaults == nil {
		err = errors.New("it is null")
	}
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind the end of the object")
		}
	}
	if err != nil {
		return Defaults{}, fmt.Errorf("reading the default objects %q, want the JSON that the chart writes: %w", text,
			err)
	}
	return *defaults, nil
}

// Options of a run.
type Options struct {
	// Client reads and writes the API server directly.
	Client client.Client
	// Namespace is the release's.
	Namespace string
	Defaults  Defaults
	// Timeout bounds the whole run; Interval is between attempts.
	Timeout, Interval time.Duration
	// Out takes one line for each step and each new reason to wait.
	Out io.Writer
}

// step is one thing to bring about. do returns a note for people when it is done. Its errors are
// tried again, unless they are final.
type step struct {
	name string
	do   func(context.Context) (note string, err error)
}

// finalError is one that will be the same at the next attempt.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// Run takes the steps in order. An error names the step that did not come about in time, and its reason.
func Run(ctx context.Context, o Options) error {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("gave up after %s", o.Timeout))
	defer cancel()
	for _, s := range o.steps() {
		if err := o.take(ctx, start, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Fprintf(o.Out, "%4.0fs  all done\n", time.Since(start).Seconds())
	return nil
}

func (o Options) steps() []step {
	steps := []step{{"the controller's webhook answers", o.webhookAnswers}}
	if d := o.Defaults.Coordinator; d != nil {
		steps = append(steps, step{"SpiderCoordinator " + d.Name, o.applyCoordinator})
	}
	if o.Defaults.SriovOperatorConfig != nil {
		steps = append(steps, step{"SriovOperatorConfig default", o.applySriovOperatorConfig})
	}
	for _, pool := range o.Defaults.Pools {
		steps = append(steps, step{"SpiderIPPool " + pool.Name, func(ctx context.Context) (string,
			error) {
			return o.createPool(ctx, pool)
		}})
	}
	for _, name := range o.Defaults.Deployments {
		steps = append(steps, step{"Deployment " + name, func(ctx context.Context) (string,
			error) {
			return o.deploymentRolledOut(ctx, name)
		}})
	}
	if o.Defaults.Agents != "" {
		steps = append(steps, step{"DaemonSet " + o.Defaults.Agents, o.agentsRolledOut})
	}
	return steps
}

// take tries a step until it is done, its error is final, or the time is up. Then a rollout that
// goes on without us is as good as done.
func (o Options) take(ctx context.Context, start time.Time, s step) error {
	said := ""
	say := func(format string, args ...any) {
		line := s.name + ": " + fmt.Sprintf(format, args...)
		if line != said {
			fmt.Fprintf(o.Out, "%4.0fs  %s\n", time.Since(start).Seconds(), line)
			said = line
		}
	}
	var reason error
	for {
		note, err := s.do(ctx)
		if err == nil {
			say("%s", note)
			return nil
		}
		if final := (finalError{}); errors.As(err, &final) {
			return err
		}
		if reason == nil || ctx.Err() == nil {
			reason = err // not the "deadline exceeded" of the last attempt
		}
		say("waiting: %v", reason)
		select {
		case <-time.After(o.Interval):
		case <-ctx.Done():
			if rolling := (rollingError{}); errors.As(reason, &rolling) {
				say("goes on without us: %v", reason)
				return nil
			}
			return fmt.Errorf("%w: %w", context.Cause(ctx), reason)
		}
	}
}

// objectMeta is what the objects that we create have in common.
func objectMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": fieldOwner}}
}
