// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// Record is what is recorded of a thing above its limit: the size that it may have until it shrinks.
type Record struct {
	Size int `json:"size"`
	// Reason says why the size was allowed to grow.
	Reason string `json:"reason,omitempty"`
}

// Records are the things above their limits: by measure, then by name.
type Records map[string]map[string]Record

// Load reads a file of records. A file that does not exist holds none.
func Load(file string) (Records, error) {
	raw, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return Records{}, nil
	}
	if err != nil {
		return nil, err
	}
	var r Records
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("reading the recorded sizes: %s: %w", file, err)
	}
	return r, nil
}

// Save writes a file of records.
func (r Records) Save(file string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

const (
	update = "go test ./test/arch -update"
	loosen = "go test ./test/arch -update -loosen 'the reason'"
)

// Compare returns what is wrong with the sizes: what is above its limit without a record or grew
// (grown), and what shrank below its record (stale).
func Compare(sizes Sizes, recorded Records) (grown, stale []string) {
	for _, measure := range names() {
		limit := Limits[measure]
		for _, name := range slices.Sorted(maps.Keys(sizes[measure])) {
			size := sizes[measure][name]
			record, known := recorded[measure][name]
			switch {
			case size > limit && !known:
				grown = append(grown,
					fmt.Sprintf("%s: %s has %d: expected at most %d: split it, or move a part where it belongs "+
						"(docs/architecture.md); if it must be, `%s` records it", measure, name, size, limit, loosen))
			case size > limit && size > record.Size:
				grown = append(grown,
					fmt.Sprintf("%s: %s grew from %d to %d: above the limit of %d it may only shrink: move out of it "+
						"what you add, and something more; if it must be, `%s` records it", measure, name, record.Size,
						size, limit, loosen))
			case known && size < record.Size:
				stale = append(stale,
					fmt.Sprintf("%s: %s shrank from %d to %d: record that with `%s`, so that it stays so",
						measure, name, record.Size, size, update))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(recorded[measure])) {
			if _, exists := sizes[measure][name]; !exists {
				stale = append(stale, fmt.Sprintf("%s: %s no longer exists: remove its record with `%s`", measure, name,
					update))
			}
		}
	}
	for measure := range recorded {
		if _, exists := Limits[measure]; !exists {
			stale = append(stale, fmt.Sprintf("%q is no measure: remove its records with `%s`", measure, update))
		}
	}
	return grown, stale
}

// Update returns the records of today's sizes. Those that grew are recorded with a reason; without
// one they are an error.
func Update(sizes Sizes, recorded Records, reason string) (Records, error) {
	if grown, _ := Compare(sizes, recorded); len(grown) > 0 && reason == "" {
		return nil, fmt.Errorf("recording the sizes: %d grew: expected none without a reason (-loosen): the first: %s",
			len(grown), grown[0])
	}
	next := Records{}
	for measure, things := range sizes {
		for name, size := range things {
			if size <= Limits[measure] {
				continue
			}
			if next[measure] == nil {
				next[measure] = map[string]Record{}
			}
			record := recorded[measure][name]
			if size > record.Size {
				record.Reason = reason
			}
			record.Size = size
			next[measure][name] = record
		}
	}
	return next, nil
}
