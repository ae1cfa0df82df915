// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
)

// memBook is a ledger's part in memory, for simulations of many lives of a node.
type memBook struct {
	id   string
	mu   sync.Mutex
	outs map[string]ledger.HandOut
}

func newMemBook(id string) *memBook {
	return &memBook{id: id, outs: map[string]ledger.HandOut{}}
}

func (b *memBook) ID() string { return b.id }

func (b *memBook) PutHandOut(h ledger.HandOut) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outs[h.Lease] = h
	return nil
}

func (b *memBook) HandOuts() ([]ledger.HandOut, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []ledger.HandOut
	for _, name := range slices.Sorted(maps.Keys(b.outs)) {
		all = append(all, b.outs[name])
	}
	return all, nil
}

func (b *memBook) DeleteHandOut(lease, podUID string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.outs[lease].Pod.UID == podUID {
		delete(b.outs, lease)
	}
	return nil
}

// The book in memory does what the ledger does.
func TestBooks(t *testing.T) {
	onDisk, _, err := ledger.Open(filepath.Join(t.TempDir(), "l"))
	if err != nil {
		t.Fatal(err)
	}
	defer onDisk.Close()
	for name, book := range map[string]leases.Book{"ledger": onDisk, "memory": newMemBook("memory")} {
		t.Run(name, func(t *testing.T) {
			out := func(lease, uid string) ledger.HandOut {
				return ledger.HandOut{Lease: lease, Pool: "p", IP: "10.0.0.1", Pod: ledger.Pod{UID: uid},
					Interface: "eth0", Sandbox: "s"}
			}
			err := errors.Join(book.PutHandOut(out("b", "1")), book.PutHandOut(out("a", "2")),
				book.PutHandOut(out("b", "3")),
				book.DeleteHandOut("b", "1"), book.DeleteHandOut("none", "1"))
			if err != nil || book.ID() == "" {
				t.Fatal(book.ID(), err)
			}
			check := func(want ...ledger.HandOut) {
				t.Helper()
				got, err := book.HandOuts()
				if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(ledger.HandOut{}, "Since"),
					cmpopts.EquateEmpty()); err != nil || diff != "" {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
			}
			check(out("a", "2"), out("b", "3"))
			if err := errors.Join(book.DeleteHandOut("b", "3"), book.DeleteHandOut("a", "2")); err != nil {
				t.Fatal(err)
			}
			check()
		})
	}
}

// steppedBook is a book that a process writes until it dies.
type steppedBook struct {
	*memBook
	p *process
}

func (b steppedBook) PutHandOut(h ledger.HandOut) error {
	if !b.p.step() {
		return errDead
	}
	if b.p.m.w.mutant.noRecord {
		return nil
	}
	if err := b.memBook.PutHandOut(h); err != nil {
		return err
	}
	b.p.assigned(h.Pod, netip.MustParseAddr(h.IP))
	if !b.p.step() {
		return errDead
	}
	return nil
}

func (b steppedBook) DeleteHandOut(lease, podUID string) error {
	if !b.p.step() {
		return errDead
	}
	return b.memBook.DeleteHandOut(lease, podUID)
}
