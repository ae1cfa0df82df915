// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"spidernet.io/spiderpool/internal/host"
)

// shim measures the CNI shim's start alone, and its start with one question to the agent, which
// refuses it at once.
func (b *bench) shim(ctx context.Context, program string, round int) error {
	call := func(command, want string) func() error {
		return func() error {
			cmd := exec.CommandContext(ctx, program)
			cmd.Env = []string{"CNI_COMMAND=" + command}
			cmd.Stdin = strings.NewReader("{}")
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return err
			}
			if !bytes.Contains(out, []byte(want)) {
				return fmt.Errorf("%s answers CNI_COMMAND=%s with %q: want %q in it", program, command, out, want)
			}
			return nil
		}
	}
	return b.measure("shim", round, "", []step{
		{"shim", "start (VERSION)", call("VERSION", "supportedVersions")},
		{"shim", "start, socket, answer", call("NONE", "CNI_COMMAND is ")},
	})
}

// reads measures what plugins look at before they change anything; it has a series of its own
// because how often they look is theirs to decide.
func (b *bench) reads(t target, round int) error {
	return b.measure("reads", round, "", []step{
		{"gather", "mode of the RDMA subsystem", func() error { _, err := b.kernel.RDMAMode(); return err }},
		{"gather", "devices of a VF", func() error { _, err := b.kernel.VFDevices(t.vf.PCI); return err }},
		{"gather", "all cards and VFs", func() error { _, err := b.kernel.PFs(); return err }},
		{"gather", "links of the node", func() error { _, err := b.kernel.Links(host.NodeNS); return err }},
		{"gather", "RDMA devices of the node",
			func() error { _, err := b.kernel.RDMADevices(host.NodeNS); return err }},
	})
}

// disk measures one durable write of a page where the ledger lies; a record costs two of them
// (pages, then the new root).
func (b *bench) disk(dir string, round int) error {
	f, err := os.CreateTemp(dir, "hostbench")
	if err != nil {
		return fmt.Errorf("making a file beside the ledger: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, os.Getpagesize())
	if _, err := f.Write(page); err != nil {
		return fmt.Errorf("filling %s: %w", f.Name(), err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("filling %s: %w", f.Name(), err)
	}
	return b.measure("disk", round, "", []step{{"record", "a page written and synced", func() error {
		if _, err := f.WriteAt(page, 0); err != nil {
			return err
		}
		return f.Sync()
	}}})
}
