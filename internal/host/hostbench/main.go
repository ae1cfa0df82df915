// SPDX-License-Identifier: Apache-2.0

// Command hostbench measures, on one node, what the kernel alone takes for the
// steps by which pods are attached, or VFs made: the floor below the product's
// own times.
//
// It goes through the same door to the kernel as the product, with a VF that no
// pod has and in network namespaces of its own, and gives all back as it was.
// It also measures the start of the CNI shim and one durable write. It knows
// neither Kubernetes nor the product's plugins; the lab's benchmark brings it to
// a node and sets its numbers beside those of real pods.
//
// It ends early, in good order, when its standard input ends or at a signal.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/nodebench"
	"spidernet.io/spiderpool/internal/ib"
)

// sample is the duration of one step, as printed.
type sample struct {
	Series   string        `json:"series"` // "ib-sriov", "ipoib", "reads", "shim", "disk"
	Round    int           `json:"round"`
	Verb     string        `json:"verb,omitempty"`  // "ADD" or "DEL"
	Phase    string        `json:"phase,omitempty"` // the product's phase that does the same
	Step     string        `json:"step"`
	Duration time.Duration `json:"ns"`
}

// step is one thing to measure.
type step struct {
	phase, name string
	do          func() error
}

// kernel is what the steps need of the node.
type kernel interface {
	PFs() ([]host.PF, error)
	VFDevices(pci string) (host.VFDevices, error)
	Links(ns host.NS) ([]host.Link, error)
	RDMAMode() (host.RDMAMode, error)
	RDMADevices(ns host.NS) ([]host.RDMADevice, error)
	MoveRDMA(from host.NS, name string, to host.NS) error
	LinkByPCI(ns host.NS, pci string) (host.Link, error)
	LinkByName(ns host.NS, name string) (host.Link, error)
	MoveLink(from host.NS, index int, to host.NS, name string) (host.Link, error)
	RenameLink(ns host.NS, index int, name string) error
	SetLinkUp(ns host.NS, index int) error
	SetLinkDown(ns host.NS, index int) error
	DeleteLink(ns host.NS, index int) error
	AddIPoIBChild(parent int, name string, pkey uint16) (host.Link, error)
	SetIPv6LinkLocalGUID(ns host.NS, index int, guid ib.GUID) error
	AddVeth(ns host.NS, name string, peerNS host.NS, peerName string, mtu int) (host.Link, host.Link, error)
	AddAddress(ns host.NS, index int, p netip.Prefix) error
	AddRoute(ns host.NS, r host.Route) error
	AddRule(ns host.NS, r host.Rule) error
	DeleteRule(ns host.NS, r host.Rule) error
	AddNeighbor(ns host.NS, n host.Neighbor) error
	SetSysctl(ns host.NS, key, value string) error
	MarkReplies(ns host.NS, link string, mark uint32) error
}

// bench collects samples.
type bench struct {
	kernel  kernel
	newNS   func() (ns host.NS, closeNS func() error, err error)
	samples []sample
}

// measure runs steps in order, up to the first that fails.
func (b *bench) measure(series string, round int, verb string, steps []step) error {
	for _, s := range steps {
		began := time.Now()
		err := s.do()
		took := time.Since(began)
		if err != nil {
			return fmt.Errorf("%s, round %d, %s: %w", series, round, s.name, err)
		}
		b.samples = append(b.samples, sample{Series: series, Round: round, Verb: verb, Phase: s.phase, Step: s.name,
			Duration: took})
	}
	return nil
}

type options struct {
	rounds           int
	steps            bool
	only             string // series
	instead          int
	quiet            time.Duration
	pf, shim, ledger string
	make             string // cards
	vfs              int
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "n", 20, "rounds of each series")
	flag.BoolVar(&o.steps, "steps", false,
		"measure the steps of attachments alone: not the shim, the disk and single reads")
	flag.StringVar(&o.only, "series", "ib-sriov,ipoib", "whose steps, separated by commas")
	flag.IntVar(&o.instead, "instead", 0,
		"process in whose place these steps are measured: with its share of the processor, and while it stands still")
	flag.DurationVar(&o.quiet, "quiet", 0, "how long nothing is done before each round of these steps")
	flag.StringVar(&o.pf, "pf", "", "PCI address of the InfiniBand card; empty takes the first that has a free VF")
	flag.StringVar(&o.shim, "shim", "/opt/cni/bin/multus", "the CNI shim")
	flag.StringVar(&o.ledger, "ledger", "/var/lib/spidernet", "directory for the durable write")
	flag.StringVar(&o.make, "make", "",
		"measure the making of VFs instead, on these cards (PCI addresses, separated by commas) that have none")
	flag.IntVar(&o.vfs, "vfs", 12, "VFs to make on each")
	flag.Parse()
	ctx, stop := nodebench.Context()
	defer stop()
	if err := run(nodebench.UntilEOF(ctx, os.Stdin), o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hostbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.rounds < 1 {
		return fmt.Errorf("-n is %d: want at least 1", o.rounds)
	}
	machine, err := host.New(host.Options{})
	if err != nil {
		return err
	}
	defer machine.Close()
	b := &bench{kernel: machine, newNS: newNamespace}
	if o.make != "" {
		if err := b.runMake(ctx, machine, o); err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(b.samples)
	}
	t, err := chooseTarget(machine, o.pf)
	if err != nil {
		return err
	}
	if err := b.series(ctx, o, t); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(b.samples)
}

// series measures what is asked for.
func (b *bench) series(ctx context.Context, o options, t target) (err error) {
	undo, err := b.nodeRule()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	if !o.steps {
		err := b.all(ctx, o.rounds, []func(round int) error{
			func(round int) error { return b.shim(ctx, o.shim, round) },
			func(round int) error { return b.disk(o.ledger, round) },
			func(round int) error { return b.reads(t, round) },
		})
		if err != nil {
			return err
		}
	}
	known := map[string]func(target, int) error{"ib-sriov": b.virtualFunction, "ipoib": b.child}
	var wanted []func(round int) error
	for name := range strings.SplitSeq(o.only, ",") {
		one, ok := known[name]
		if !ok {
			return fmt.Errorf("-series has %q: want ib-sriov or ipoib", name)
		}
		wanted = append(wanted, func(round int) error { return o.inPlace(ctx, func() error { return one(t, round) }) })
	}
	return b.all(ctx, o.rounds, wanted)
}

// inPlace does something after the quiet time, in place of another process.
func (o options) inPlace(ctx context.Context, do func() error) (err error) {
	if !nodebench.Rest(ctx, o.quiet) {
		return errInterrupted
	}
	back, err := takePlace(o.instead)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	return do()
}

var errInterrupted = errors.New("interrupted; what was used has been given back")

// all runs series, one after another.
func (b *bench) all(ctx context.Context, rounds int, series []func(round int) error) error {
	for _, one := range series {
		for round := range rounds {
			if ctx.Err() != nil {
				return errInterrupted
			}
			if err := one(round); err != nil {
				return err
			}
		}
	}
	return nil
}
