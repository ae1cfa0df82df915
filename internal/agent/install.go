// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"spidernet.io/spiderpool/internal/cniinstall"
)

// Install says what the agent puts on the node for the container runtime.
type Install struct {
	// Shim is the shim's file in the image.
	Shim string
	// BinDir and ConfDir are the node's CNI directories.
	BinDir, ConfDir string
	// Plugins are the names under which the shim is installed, our meta plugin's among them when it
	// is to serve.
	Plugins []string
	// Meta installs the meta plugin's configuration.
	Meta bool
	// RemoveOnStop takes everything away when the agent stops.
	RemoveOnStop bool
}

// lookAgain is how often the CNI configuration directory is looked at: the
// primary network may be installed after us, or change its name.
const lookAgain = 5 * time.Second

// installer keeps our CNI configuration right.
type installer struct {
	Install
	conf cniinstall.ConfOptions
	log  *slog.Logger
	// problem is why pods cannot be served yet, "" when they can.
	problem atomic.Pointer[string]
	// binaries: they are in place. Of Start's goroutine.
	binaries bool
}

func newInstaller(i Install, conf cniinstall.ConfOptions, log *slog.Logger) *installer {
	in := &installer{Install: i, conf: conf, log: log}
	in.report("the CNI configuration has not been written yet")
	return in
}

// Start implements manager.Runnable. It runs once the socket answers, so that the runtime never
// finds a configuration without an agent. A full disk makes the agent unready, not end: pods that
// run still have to be taken down.
func (in *installer) Start(ctx context.Context) error {
	for {
		in.install()
		select {
		case <-ctx.Done():
			return in.stop()
		case <-time.After(lookAgain):
		}
	}
}

// NeedLeaderElection tells the manager to run Start everywhere.
func (in *installer) NeedLeaderElection() bool { return false }

// install puts in place what is not there yet, the plugins before the configuration that names them.
func (in *installer) install() {
	if !in.binaries {
		if err := cniinstall.InstallBinaries(in.Shim, in.BinDir, in.Plugins); err != nil {
			in.report(err.Error())
			return
		}
		in.binaries = true
	}
	in.write()
}

func (in *installer) write() {
	if !in.Meta {
		in.report("")
		return
	}
	primary, err := cniinstall.WriteConf(in.conf)
	if err != nil {
		in.report(err.Error())
		return
	}
	if in.report("") {
		in.log.Info("pods that name no network get the primary one", "network", primary.Name, "file", primary.File)
	}
}

// report keeps the problem and logs it when it changes; it returns whether it did.
func (in *installer) report(problem string) bool {
	old := in.problem.Swap(&problem)
	changed := old == nil || *old != problem
	if changed && problem != "" {
		in.log.Warn("what the container runtime needs is not in place", "reason", problem)
	}
	return changed
}

func (in *installer) ready() error {
	if p := *in.problem.Load(); p != "" {
		return errors.New(p)
	}
	return nil
}

func (in *installer) stop() error {
	if !in.RemoveOnStop {
		return nil
	}
	if err := errors.Join(cniinstall.RemoveConf(in.ConfDir), cniinstall.RemoveBinaries(in.BinDir,
		in.Plugins)); err != nil {
		return fmt.Errorf("removing what was installed on the node: %w", err)
	}
	return nil
}
