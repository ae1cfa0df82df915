// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"fmt"
	"sync"

	"spidernet.io/spiderpool/internal/ledger"
)

// draft gathers what one call has to record of its sandbox. Each write to disk is two synced ones,
// so what need not be there by itself goes with the next that must.
type draft struct {
	ledger      Ledger
	containerID string

	mu      sync.Mutex
	noted   []func(*ledger.Sandbox) error // not on disk yet, in order
	written bool                          // something is
}

func (s *Service) draft(containerID string) *draft {
	return &draft{ledger: s.Ledger, containerID: containerID}
}

// note has a change written with the next write.
func (d *draft) note(change func(*ledger.Sandbox) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noted = append(d.noted, change)
}

// write has a change, behind all that was noted, on disk when it returns. Attachments made beside
// each other do not wait for each other here unless something was noted: the one of them that comes
// first has it written for all.
func (d *draft) write(change func(*ledger.Sandbox) error) error {
	d.mu.Lock()
	changes := append(d.noted[:len(d.noted):len(d.noted)], change)
	if len(changes) == 1 && d.written {
		d.mu.Unlock()
		return d.ledger.UpdateSandbox(d.containerID, change)
	}
	defer d.mu.Unlock()
	err := d.ledger.UpdateSandbox(d.containerID, func(sb *ledger.Sandbox) error {
		for _, change := range changes {
			if err := change(sb); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		d.noted, d.written = nil, true
	}
	return err
}

// recorded has the attachments of an ADD on disk when it returns. They are what is noted first;
// notes that came after a write can wait.
func (d *draft) recorded() error {
	d.mu.Lock()
	done := d.written || len(d.noted) == 0
	d.mu.Unlock()
	if done {
		return nil
	}
	return d.write(func(*ledger.Sandbox) error { return nil })
}

// state is a plugin's memory of one attachment, in the ledger.
type state struct {
	draft                   *draft
	network, ifname, plugin string
}

// Load implements cni.State.
func (s state) Load(into any) (bool, error) {
	sb, ok := s.draft.ledger.Sandbox(s.draft.containerID)
	if !ok {
		return false, nil
	}
	a := sb.Attachment(s.network, s.ifname)
	if a == nil || a.State[s.plugin] == nil {
		return false, nil
	}
	if err := json.Unmarshal(a.State[s.plugin], into); err != nil {
		return false, fmt.Errorf("read what plugin %s recorded of %s: %w", s.plugin, describe(s.network, s.ifname), err)
	}
	return true, nil
}

// Save implements cni.State.
func (s state) Save(v any) error {
	change, err := s.change(v)
	if err != nil {
		return err
	}
	return s.draft.write(change)
}

// Note implements cni.State.
func (s state) Note(v any) error {
	change, err := s.change(v)
	if err == nil {
		s.draft.note(change)
	}
	return err
}

func (s state) change(v any) (func(*ledger.Sandbox) error, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the state of plugin %s: %w", s.plugin, err)
	}
	return func(sb *ledger.Sandbox) error {
		a := sb.Attachment(s.network, s.ifname)
		if a == nil {
			return fmt.Errorf("%s is not recorded", describe(s.network, s.ifname))
		}
		if a.State == nil {
			a.State = map[string]json.RawMessage{}
		}
		a.State[s.plugin] = raw
		return nil
	}, nil
}
