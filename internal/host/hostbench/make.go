// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// maker is what making VFs needs of the node.
type maker interface {
	PFs() ([]host.PF, error)
	SetNumVFs(pf string, n int) error
	SetVFGUID(pf string, index int, guid ib.GUID) error
	SetVFState(pf string, index int, state host.VFState) error
	BindVF(pci string) error
	SetLinkUp(ns host.NS, index int) error
}

// makeSeries is the name of what makeVFs measures.
const makeSeries = "make"

// makeVFs measures, for a round, how long it takes to make VFs on cards that have none, as the
// agent makes them: one step after the other. It removes them again. Steps of one kind are added
// up.
func (b *bench) makeVFs(ctx context.Context, m maker, cards []string, vfs, round int) (err error) {
	for _, card := range cards {
		pf, err := lookAt(m, card)
		switch {
		case err != nil:
			return err
		case pf.NumVFs != 0:
			return fmt.Errorf("card %s has %d VFs: want none, so that nobody's are removed", card, pf.NumVFs)
		case pf.RDMA == nil || pf.Link == nil:
			return fmt.Errorf("card %s has no RDMA device or no netdev in the node's namespace", card)
		}
	}
	defer func() {
		for _, card := range cards {
			err = errors.Join(err, m.SetNumVFs(card, 0))
		}
	}()
	took := map[string]time.Duration{}
	timed := func(name string, do func() error) error {
		began := time.Now()
		err := do()
		took[name] += time.Since(began)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	for _, card := range cards {
		if err := makeOn(ctx, m, card, vfs, timed); err != nil {
			return fmt.Errorf("card %s, round %d: %w", card, round, err)
		}
	}
	for _, name := range makeSteps {
		b.samples = append(b.samples, sample{Series: makeSeries, Round: round, Step: name, Duration: took[name]})
	}
	return nil
}

// makeSteps are the kinds of step, in order.
var makeSteps = []string{"PF set up", "number of VFs set", "VFs found", "GUIDs set", "link states set", "drivers bound"}

func makeOn(ctx context.Context, m maker, card string, vfs int, timed func(string, func() error) error) error {
	pf, err := lookAt(m, card)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return m.SetLinkUp(host.NodeNS, pf.Link.Index) },
		func() error { return m.SetNumVFs(card, vfs) },
		func() (err error) { pf, err = lookAt(m, card); return err },
		func() error {
			return forVFs(ctx, pf,
				func(v host.VF) error { return m.SetVFGUID(card, v.Index, ib.VFGUID(pf.RDMA.PortGUID, v.Index)) })
		},
		func() error {
			return forVFs(ctx, pf, func(v host.VF) error { return m.SetVFState(card, v.Index, host.VFAuto) })
		},
		func() error { return forVFs(ctx, pf, func(v host.VF) error { return m.BindVF(v.PCI) }) },
	}
	for i, do := range steps {
		if err := timed(makeSteps[i], do); err != nil {
			return err
		}
	}
	return nil
}

// lookAt finds a card in a look at all of them, as the agent looks.
func lookAt(m maker, card string) (host.PF, error) {
	pfs, err := m.PFs()
	if err != nil {
		return host.PF{}, fmt.Errorf("listing the cards: %w", err)
	}
	i := slices.IndexFunc(pfs, func(p host.PF) bool { return p.PCI == card })
	if i < 0 {
		return host.PF{}, fmt.Errorf("no card %s among the node's %d", card, len(pfs))
	}
	return pfs[i], nil
}

func forVFs(ctx context.Context, pf host.PF, do func(host.VF) error) error {
	for _, v := range pf.VFs {
		if ctx.Err() != nil {
			return errors.New("interrupted; the VFs are removed again")
		}
		if err := do(v); err != nil {
			return err
		}
	}
	return nil
}

// runMake is the program with -make.
func (b *bench) runMake(ctx context.Context, m maker, o options) error {
	for round := range o.rounds {
		if err := b.makeVFs(ctx, m, strings.Split(o.make, ","), o.vfs, round); err != nil {
			return err
		}
	}
	return nil
}
