// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"spidernet.io/spiderpool/internal/ib"
)

// GUIDFile is an administrator's choice of GUIDs for the VFs of some PFs: a JSON list of
// {"pci_address" or "pf_guid", "guids": [] or "guidsRange": {"start", "end"}}. VF i bears the i-th
// GUID. A nil GUIDFile chooses nothing.
type GUIDFile struct {
	path    string
	problem string // of the whole file; "" when there is none
	entries []guidEntry
}

// guidEntry is what the file says of one PF.
type guidEntry struct {
	number  int // in the file, from 1
	pci     string
	pf      ib.GUID
	ranges  []guidRange
	problem string // "" when it can be used
}

// guidRange is a run of GUIDs, both ends included.
type guidRange struct{ start, end uint64 }

// jsonEntry is an entry as it is written.
type jsonEntry struct {
	PCI   string   `json:"pci_address"`
	PF    string   `json:"pf_guid"`
	GUIDs []string `json:"guids"`
	Range *struct {
		Start string `json:"start"`
		End   string `json:"end"`
	} `json:"guidsRange"`
}

// UnreadableGUIDs is a file that is there and cannot be read.
func UnreadableGUIDs(path string, err error) *GUIDFile {
	return &GUIDFile{path: path,
		problem: fmt.Sprintf(
			"%s cannot be read: %s; make it readable, or remove it to have GUIDs derived from the PF's", path, err)}
}

// ParseGUIDs reads a file. What is wrong with it is kept and blocks the PFs that it concerns, which
// are all of them when that cannot be told.
func ParseGUIDs(path string, text []byte) *GUIDFile {
	f := &GUIDFile{path: path}
	var raw []json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		f.problem = fmt.Sprintf(
			`%s is not what it should be: %s; want a JSON list of {"pci_address" or "pf_guid", "guids" or "guidsRange"}`, path, err)
		return f
	}
	for i, r := range raw {
		e := guidEntry{number: i + 1}
		if err := e.parse(r); err != nil {
			f.problem = fmt.Sprintf("%s, entry %d: %s", path, e.number, err)
			return f
		}
		f.entries = append(f.entries, e)
	}
	f.findTwice()
	return f
}

// parse returns an error when it cannot be told which PF the entry is about, and keeps other problems.
func (e *guidEntry) parse(raw []byte) error {
	var j jsonEntry
	if err := json.Unmarshal(raw, &j); err != nil {
		return fmt.Errorf(`%w; want {"pci_address" or "pf_guid", "guids" or "guidsRange"}`, err)
	}
	switch {
	case (j.PCI == "") == (j.PF == ""):
		return fmt.Errorf("pci_address is %q and pf_guid is %q: want exactly one of them", j.PCI, j.PF)
	case j.PF != "":
		guid, err := ib.ParseGUID(j.PF)
		if err != nil {
			return fmt.Errorf("pf_guid: %w", err)
		}
		e.pf = guid
	default:
		pci, err := ib.ParsePCIAddress(j.PCI)
		if err != nil {
			return fmt.Errorf("pci_address %q: %w", j.PCI, err)
		}
		e.pci = pci
	}
	if err := e.parseGUIDs(j); err != nil {
		e.problem = err.Error()
	}
	return nil
}

func (e *guidEntry) parseGUIDs(j jsonEntry) error {
	switch {
	case (j.GUIDs == nil) == (j.Range == nil):
		return fmt.Errorf("guids and guidsRange: want exactly one of them")
	case j.Range != nil:
		start, err := usableGUID(j.Range.Start)
		if err != nil {
			return fmt.Errorf("guidsRange.start: %w", err)
		}
		end, err := usableGUID(j.Range.End)
		if err != nil {
			return fmt.Errorf("guidsRange.end: %w", err)
		}
		if start.Uint64() > end.Uint64() {
			return fmt.Errorf("guidsRange starts at %s and ends at %s: want a start that is not after the end", start,
				end)
		}
		e.ranges = []guidRange{{start.Uint64(), end.Uint64()}}
	default:
		for i, text := range j.GUIDs {
			guid, err := usableGUID(text)
			if err != nil {
				return fmt.Errorf("guids[%d]: %w", i, err)
			}
			e.ranges = append(e.ranges, guidRange{guid.Uint64(), guid.Uint64()})
		}
	}
	return nil
}

func usableGUID(text string) (ib.GUID, error) {
	guid, err := ib.ParseGUID(text)
	if err == nil && !guid.Valid() {
		err = fmt.Errorf("GUID %s: want neither zero nor all ones", guid)
	}
	return guid, err
}

// findTwice marks entries that share a GUID.
func (f *GUIDFile) findTwice() {
	type run struct {
		guidRange
		entry int
	}
	var runs []run
	for i := range f.entries {
		for _, r := range f.entries[i].ranges {
			runs = append(runs, run{r, i})
		}
	}
	slices.SortFunc(runs, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.start, b.start),
			cmp.Compare(a.entry, b.entry))
	})
	for i := 1; i < len(runs); i++ {
		a, b := runs[i-1], runs[i]
		if b.start <= a.end {
			text := fmt.Sprintf("GUID %s is in entry %d and again in entry %d: want each once",
				ib.GUIDFromUint64(b.start), f.entries[a.entry].number, f.entries[b.entry].number)
			f.entries[a.entry].spoil(text)
			f.entries[b.entry].spoil(text)
		}
		if a.end > b.end {
			runs[i].guidRange.end, runs[i].entry = a.end, a.entry // it may reach over later ones
		}
	}
}

// spoil keeps the first problem.
func (e *guidEntry) spoil(text string) {
	if e.problem == "" {
		e.problem = text
	}
}

// of finds the entry of a PF; nil when the file does not choose for it, or cannot, and then problem says why.
func (f *GUIDFile) of(p *PF) (entry *guidEntry, problem string) {
	if f == nil || f.problem != "" {
		return nil, f.wholeProblem()
	}
	for i := range f.entries {
		e := &f.entries[i]
		if !strings.EqualFold(e.pci, p.PCI) && (e.pf.IsZero() || e.pf != p.GUID) {
			continue
		}
		if entry != nil {
			return nil, fmt.Sprintf("%s: entries %d and %d are both for %s (port GUID %s): want one", f.path,
				entry.number, e.number, p.PCI, p.GUID)
		}
		entry = e
	}
	if entry != nil && entry.problem != "" {
		return nil, f.about(entry, entry.problem)
	}
	return entry, ""
}

func (f *GUIDFile) wholeProblem() string {
	if f == nil {
		return ""
	}
	return f.problem
}

// about says which entry a problem is about.
func (f *GUIDFile) about(e *guidEntry, problem string) string {
	which := "pci_address " + e.pci
	if e.pci == "" {
		which = "pf_guid " + e.pf.String()
	}
	return fmt.Sprintf("%s, entry %d (%s): %s", f.path, e.number, which, problem)
}

// has tells whether any entry holds the GUID.
func (f *GUIDFile) has(g ib.GUID) bool {
	return f != nil && slices.ContainsFunc(f.entries, func(e guidEntry) bool { return e.has(g) })
}

func (e *guidEntry) has(g ib.GUID) bool {
	n := g.Uint64()
	return slices.ContainsFunc(e.ranges, func(r guidRange) bool { return r.start <= n && n <= r.end })
}

// enough tells whether there are GUIDs for n VFs.
func (e *guidEntry) enough(n int) bool {
	_, ok := e.at(n - 1)
	return ok || n <= 0
}

// count is how many GUIDs there are, for a person.
func (e *guidEntry) count() uint64 {
	if len(e.ranges) != 1 {
		return uint64(len(e.ranges))
	}
	return e.ranges[0].end - e.ranges[0].start + 1
}

// at is the GUID of a VF.
func (e *guidEntry) at(index int) (ib.GUID, bool) {
	switch {
	case e == nil || index < 0:
		return ib.GUID{}, false
	case len(e.ranges) == 1 && uint64(index) <= e.ranges[0].end-e.ranges[0].start:
		return ib.GUIDFromUint64(e.ranges[0].start + uint64(index)), true
	case len(e.ranges) == 1 || index >= len(e.ranges):
		return ib.GUID{}, false
	}
	return ib.GUIDFromUint64(e.ranges[index].start), true
}
