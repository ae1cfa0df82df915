// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/internal/ledger"
)

// bench is one run.
type bench struct {
	plan       plan
	progress   io.Writer
	server     *server
	controller *controller // nil while it does not run
	dir        string
	log        *slog.Logger
	warnings   *warnings
	report     report

	begun          time.Time
	fleets         int
	pools, podSets int
	next           netip.Addr // the first address that no pool has

	floorBook   *ledger.Ledger
	floorLeases int         // created as a floor
	filler      *corev1.Pod // of the leases that fill pools
}

func newBench(p plan, progress io.Writer) (*bench, error) {
	dir, err := os.MkdirTemp(p.Dir, "ipambench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the ledgers: %w", err)
	}
	w := &warnings{counts: map[string]int{}}
	b := &bench{
		plan: p, progress: progress, dir: dir, log: slog.New(w), warnings: w, begun: time.Now(),
		next:   netip.MustParseAddr("10.1.0.0"),
		report: report{plan: p, warnings: w},
	}
	b.say("starting etcd and the API server")
	if b.server, err = startServer(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return b, nil
}

func (b *bench) close() error {
	var errs []error
	if b.controller != nil {
		errs = append(errs, b.controller.stop())
	}
	if b.floorBook != nil {
		errs = append(errs, b.floorBook.Close())
	}
	return errors.Join(append(errs, b.server.stop(), os.RemoveAll(b.dir))...)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "%6.1fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

// all runs everything. The controller does not run beside the one-object design: it would write
// into the same status.
func (b *bench) all(ctx context.Context) error {
	if err := b.floor(ctx); err != nil {
		return err
	}
	if err := b.makeNodes(ctx, slices.Max(b.plan.Agents)); err != nil {
		return err
	}
	if err := b.ours(ctx); err != nil || !b.plan.measures(partObject) {
		return err
	}
	for _, n := range b.plan.Agents {
		if err := b.oneObject(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// ours measures the product, with the controller beside the agents.
func (b *bench) ours(ctx context.Context) error {
	var err error
	if b.controller, err = startController(ctx, b.server, b.log); err != nil {
		return err
	}
	for _, n := range b.plan.Agents {
		if err := b.agents(ctx, n); err != nil {
			return err
		}
	}
	if b.plan.measures(partFlat) {
		if err := b.flat(ctx); err != nil {
			return err
		}
	}
	err = b.controller.stop()
	if b.controller = nil; err != nil {
		return fmt.Errorf("stop the controller: %w", err)
	}
	return nil
}

// agents measures so many agents with little stock and with much.
func (b *bench) agents(ctx context.Context, n int) error {
	if b.plan.measures(partUsual) {
		if err := b.usual(ctx, n); err != nil {
			return err
		}
	}
	if b.plan.measures(partWarm) {
		return b.warmed(ctx, n)
	}
	return nil
}

// floor measures the durable write of a hand-out with nothing beside it.
func (b *bench) floor(ctx context.Context) (err error) {
	if b.floorBook, _, err = ledger.Open(filepath.Join(b.dir, "floor.db")); err != nil {
		return err
	}
	for i := range b.plan.Floor {
		begun := time.Now()
		if err := b.diskFloor(ctx, i); err != nil {
			return err
		}
		b.report.floor = append(b.report.floor, time.Since(begun))
	}
	return nil
}

func floorHandOut(i int) ledger.HandOut {
	return ledger.HandOut{
		Lease: fmt.Sprintf("bench-1.10-1-0-%d", i), LeaseUID: "00000000-0000-0000-0000-000000000000", Pool: "bench-1",
		IP:        "10.1.0.1",
		Pod:       ledger.Pod{Namespace: namespace, Name: "pod", UID: "00000000-0000-0000-0000-000000000000"},
		Interface: "eth0", Sandbox: "sandbox",
	}
}

// withFleet runs scenarios with agents and removes everything afterwards.
func (b *bench) withFleet(ctx context.Context, n, perPool int, do func(*fleet) error) error {
	f, err := b.startFleet(ctx, n, perPool)
	if err != nil {
		return err
	}
	if err := errors.Join(do(f), f.stop()); err != nil {
		return err
	}
	return b.clean(ctx)
}

// startFleet starts agents with new ledgers.
func (b *bench) startFleet(ctx context.Context, n, perPool int) (*fleet, error) {
	b.say("starting %d agents with %d addresses of a pool in stock", n, perPool)
	b.fleets++
	return startFleet(ctx, b.server, n, perPool, filepath.Join(b.dir, fmt.Sprint("fleet-", b.fleets)), b.log)
}
