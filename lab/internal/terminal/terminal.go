// SPDX-License-Identifier: Apache-2.0

// Package terminal runs the commands that a person would type: on a node of
// the lab, or on this host with kubectl and helm that speak to the lab's cluster.
//
// The demo and the end-to-end tests see the lab through it alone, so whatever
// they do a person can repeat.
package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/guest"
)

// Terminal is a place to type commands in.
type Terminal struct {
	lab  cluster.Lab
	path string // directories of the lab's kubectl and helm
}

// Open prepares kubectl and helm for a lab that is up.
func Open(ctx context.Context, l cluster.Lab) (*Terminal, error) {
	var helm string
	err := l.Say.Step("compiling helm (once per machine)", func() (err error) {
		helm, err = gobuild.Helm(ctx, l.Cache, l.Source)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("preparing helm: %w", err)
	}
	return &Terminal{lab: l, path: filepath.Dir(l.Layout.Kubectl()) + ":" + filepath.Dir(helm)}, nil
}

// Node runs a shell script on a node as root and returns its standard output.
func (t *Terminal) Node(ctx context.Context, node, script string) (string, error) {
	m, err := t.lab.Dial(ctx, node)
	if err != nil {
		return "", fmt.Errorf("reaching node %s: %w", node, err)
	}
	defer m.Close()
	return m.Output(ctx, script)
}

// Feed is Node with a standard input for the script.
func (t *Terminal) Feed(ctx context.Context, node, script string, in io.Reader) (string, error) {
	m, err := t.lab.Dial(ctx, node)
	if err != nil {
		return "", fmt.Errorf("reaching node %s: %w", node, err)
	}
	defer m.Close()
	var out, errs bytes.Buffer
	if err := m.Run(ctx, script, guest.Stdio{In: in, Out: &out, Err: &errs}); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Environment is what has programs of this host use the lab's kubectl, helm and cluster, as
// NAME=value.
func (t *Terminal) Environment() []string {
	return []string{"PATH=" + t.path + ":" + os.Getenv("PATH"), "KUBECONFIG=" + t.lab.Layout.Kubeconfig()}
}

// Shell runs a bash script in the repository's root. It returns standard output, and with an error
// what was written to standard error.
func (t *Terminal) Shell(ctx context.Context, script string) (string, error) {
	out, errs, err := t.ShellBoth(ctx, script)
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs))
	}
	return out, nil
}

// ShellBoth is Shell that returns both outputs, for those who look at warnings and refusals.
func (t *Terminal) ShellBoth(ctx context.Context, script string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = t.lab.Source.Product()
	cmd.Env = append(os.Environ(), t.Environment()...)
	cmd.WaitDelay = 5 * time.Second // a command that a script left in the background must not hold us
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), errs.String(), err
}
