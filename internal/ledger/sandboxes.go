// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// sandboxes are the records of bucketSandboxes as they are on disk, decoded. Every attachment asks
// for all of them, and on a node with hundreds the decoding would be most of its work.
type sandboxes struct {
	mu   sync.RWMutex
	byID map[string]Sandbox
}

// load reads what is on disk: at first, and when a write has failed, of which nobody knows how far it got.
func (s *sandboxes) load(db *bolt.DB) error {
	all, err := list[Sandbox](db, bucketSandboxes)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID = map[string]Sandbox{}
	for _, one := range all {
		s.byID[one.ContainerID] = one
	}
	return nil
}

// set is called for each record in the order in which they are written, once they are on disk.
func (s *sandboxes) set(one Sandbox) {
	one = one.clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(one.Attachments) == 0 {
		delete(s.byID, one.ContainerID)
		return
	}
	s.byID[one.ContainerID] = one
}

func (s *sandboxes) get(id string) (Sandbox, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	one, ok := s.byID[id]
	return one.clone(), ok
}

func (s *sandboxes) list() []Sandbox {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]Sandbox, 0, len(s.byID))
	for _, one := range s.byID {
		all = append(all, one.clone())
	}
	slices.SortFunc(all, func(a, b Sandbox) int { return cmp.Compare(a.ContainerID, b.ContainerID) })
	return all
}

// clone copies what a reader may change: the attachments and their lists. The JSON in them is never
// changed, only replaced.
func (s Sandbox) clone() Sandbox {
	s.Attachments = slices.Clone(s.Attachments)
	for i := range s.Attachments {
		a := &s.Attachments[i]
		a.BinDirs, a.Direct, a.State = slices.Clone(a.BinDirs), slices.Clone(a.Direct), maps.Clone(a.State)
	}
	return s
}
