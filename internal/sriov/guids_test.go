// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/ib"
)

const guidPath = "/etc/sriov-operator/infiniband/guids"

// problems are those of the file and of its entries.
func problems(f *GUIDFile) (out []string) {
	if f.problem != "" {
		return []string{f.problem}
	}
	for _, e := range f.entries {
		if e.problem != "" {
			out = append(out, f.about(&e, e.problem))
		}
	}
	return out
}

func TestParseGUIDs(t *testing.T) {
	const (
		a = "02:00:00:00:00:00:00:01"
		b = "02:00:00:00:00:00:00:02"
		c = "02:00:00:00:00:00:00:09"
	)
	for _, tt := range []struct{ name, text, want string }{
		{"list", `[{"pci_address":"0000:86:00.0","guids":["` + a + `","0200000000000002"]}]`, ""},
		{"range", `[{"pf_guid":"0xe8ebd3030093ae10","guidsRange":{"start":"` + a + `","end":"` + c + `"}}]`, ""},
		{"nothing chosen", `[]`, ""},
		{"empty", ``, guidPath + " is not what it should be: unexpected end of JSON input"},
		{"not JSON", `pci_address: x`, "want a JSON list"},
		{"not a list", `{}`, "want a JSON list"},
		{"entry of another kind", `[{"pci_address":"0000:86:00.0","guids":["` + a + `"]}, 7]`,
			guidPath + ", entry 2: json: cannot unmarshal number"},
		{"no PF", `[{"guids":["` + a + `"]}]`,
			`entry 1: pci_address is "" and pf_guid is "": want exactly one of them`},
		{"both PFs", `[{"pci_address":"0000:86:00.0","pf_guid":"` + a + `","guids":[]}]`, "want exactly one of them"},
		{"PF without a domain", `[{"pci_address":"86:00.0","guids":[]}]`,
			"pci_address \"86:00.0\": the PCI domain is missing: want 0000:86:00.0"},
		{"PF with a broken GUID", `[{"pf_guid":"x","guids":[]}]`, `entry 1: pf_guid: GUID "x": want eight octets`},
		{"no GUIDs", `[{"pci_address":"0000:86:00.0"}]`,
			"entry 1 (pci_address 0000:86:00.0): guids and guidsRange: want exactly one of them"},
		{"both kinds", `[{"pci_address":"0000:86:00.0","guids":[],"guidsRange":{}}]`, "want exactly one of them"},
		{"GUID zero", `[{"pf_guid":"` + c + `","guids":["` + a + `","00:00:00:00:00:00:00:00"]}]`, "entry 1 (pf_guid " +
			c + "): guids[1]: GUID 00:00:00:00:00:00:00:00: want neither zero nor all ones"},
		{"GUID of ones", `[{"pf_guid":"` + c + `","guidsRange":{"start":"` + a + `","end":"ff:ff:ff:ff:ff:ff:ff:ff"}}]`,
			"guidsRange.end: GUID ff:ff:ff:ff:ff:ff:ff:ff: want neither"},
		{"broken start", `[{"pf_guid":"` + c + `","guidsRange":{"end":"` + a + `"}}]`,
			`guidsRange.start: GUID "": want eight octets`},
		{"backwards", `[{"pf_guid":"` + c + `","guidsRange":{"start":"` + b + `","end":"` + a + `"}}]`,
			"guidsRange starts at " + b + " and ends at " + a + ": want a start that is not after the end"},
		{"twice in an entry", `[{"pf_guid":"` + c + `","guids":["` + a + `","` + b + `","` + a + `"]}]`,
			"GUID " + a + " is in entry 1 and again in entry 1: want each once"},
		{"twice in two entries", `[{"pf_guid":"` + c + `","guids":["` + b + `"]},{"pf_guid":"` + a +
			`","guidsRange":{"start":"` + a + `","end":"` + c + `"}}]`, "GUID " + b +
			" is in entry 2 and again in entry 1"},
		{"under a long range", `[{"pf_guid":"` + c + `","guidsRange":{"start":"` + a + `","end":"` + c +
			`"}},{"pf_guid":"` + b + `","guids":["` + b + `","` + c + `"]}]`, "GUID " + b +
			" is in entry 1 and again in entry 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(problems(ParseGUIDs(guidPath, []byte(tt.text))), "\n")
			if !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
				t.Errorf("problem %q, want %q", got, tt.want)
			}
		})
	}
	if got := UnreadableGUIDs(guidPath, errors.New("permission denied")).problem; !strings.Contains(got,
		guidPath+" cannot be read: permission denied") {
		t.Error(got)
	}
}

func FuzzParseGUIDs(f *testing.F) {
	f.Add(
		[]byte(
			`[{"pci_address":"0000:86:00.0","guids":["02:00:00:00:00:00:00:01"]},{"pf_guid":"e8ebd3030093ae10","guidsRange":{"start":"0200000000000002","end":"0200000000000009"}}]`))
	f.Add([]byte(`[{"pf_guid":"0000000000000001","guidsRange":{"start":"0000000000000001","end":"fffffffffffffffe"}}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := ParseGUIDs(guidPath, text)
		seen := map[ib.GUID]bool{}
		for i := range file.entries {
			e := &file.entries[i]
			if e.problem != "" {
				continue
			}
			for v := range 20 {
				g, ok := e.at(v)
				if ok != (uint64(v) < e.count()) || ok != e.enough(v+1) {
					t.Fatalf("entry %d: VF %d has one: %t, of %d", e.number, v, ok, e.count())
				}
				if ok && (!g.Valid() || seen[g] || !file.has(g)) {
					t.Fatalf("entry %d: VF %d gets %s; seen before: %t", e.number, v, g, seen[g])
				}
				seen[g] = ok
			}
		}
	})
}

// guids is a file with one entry, of n GUIDs from 02:…:10 on.
func guids(n int) *GUIDFile {
	return ParseGUIDs(guidPath,
		fmt.Appendf(nil, `[{"pci_address":"0000:86:00.0","guidsRange":{"start":"0200000000000010","end":"%016x"}}]`,
			0x0200000000000010+n-1))
}

func TestPlanWithGUIDFile(t *testing.T) {
	const gs = "02:00:00:00:00:00:00:1"
	second := func(n *Node) *PF { // a card that the file says nothing of
		p := guidePF()
		p.PCI, p.GUID[7] = "0000:87:00.0", 0x11
		n.PFs = append(n.PFs, fresh(p, 1))
		return &n.PFs[len(n.PFs)-1]
	}
	tests := []struct {
		name string
		n    int // VFs wanted
		node func() Node
		file *GUIDFile
		want []string
	}{
		{"fresh VFs", 2, func() Node { return Node{PFs: []PF{fresh(guidePF(), 2)}} }, guids(2), []string{
			"0000:86:00.0: VF 0000:86:00.1: set GUID " + gs + "0",
			"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver",
			"0000:86:00.0: VF 0000:86:00.2: set GUID " + gs + "1",
			"0000:86:00.0: VF 0000:86:00.2: bind the kernel's driver"}},
		{"a PF that the file does not name", 1, func() Node { return Node{PFs: []PF{fresh(guidePF(), 1)}} },
			ParseGUIDs(guidPath, []byte(`[{"pci_address":"0000:99:00.0","guids":["0200000000000001"]}]`)), []string{
				"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:01:93:ae:10",
				"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver"}},
		{"VFs under other GUIDs, one of them in a pod", 2,
			func() Node { n := configured(2); hold(&n.PFs[0].VFs[1], "default/a"); return n }, guids(2), []string{
				"0000:86:00.0: VF 0000:86:00.1: unbind the driver", "0000:86:00.0: VF 0000:86:00.1: set GUID " + gs +
					"0",
				"0000:86:00.0: VF 0000:86:00.1: set link state auto",
				"0000:86:00.0: VF 0000:86:00.1: bind the kernel's driver",
				"0000:86:00.0: VF 0000:86:00.2: unbind the driver | a VF takes another GUID only when its driver is " +
					"bound anew, and these are in use: 0000:86:00.2 by default/a; it goes on when these pods " +
					"are deleted"}},
		{"two that change places: none takes what the other bears still", 2, func() Node { return configured(2) },
			ParseGUIDs(guidPath, fmt.Appendf(nil, `[{"pf_guid":%q,"guids":[%q,%q]}]`, pfGUID, ib.VFGUID(pfGUID, 1),
				ib.VFGUID(pfGUID, 0))), []string{
				"0000:86:00.0: VF 0000:86:00.1: unbind the driver",
				"0000:86:00.0: VF 0000:86:00.1: set GUID ea:eb:d3:03:02:93:ae:10 | 0000:86:00.2 bears that GUID " +
					"until it gets another, by a policy that covers it",
				"0000:86:00.0: VF 0000:86:00.2: unbind the driver",
				"0000:86:00.0: VF 0000:86:00.2: set GUID ea:eb:d3:03:01:93:ae:10 | 0000:86:00.1 bears that GUID " +
					"until it gets another, by a policy that covers it"}},
		{"and the other is in a pod", 2,
			func() Node { n := configured(2); hold(&n.PFs[0].VFs[1], "default/a"); return n },
			ParseGUIDs(guidPath, fmt.Appendf(nil, `[{"pf_guid":%q,"guids":[%q,"0200000000000001"]}]`, pfGUID,
				ib.VFGUID(pfGUID, 1))), []string{
				"0000:86:00.0: VF 0000:86:00.1: unbind the driver | GUID ea:eb:d3:03:02:93:ae:10 is another VF's " +
					"still, and these are in use: 0000:86:00.2 by default/a; it goes on when these pods are deleted",
				"0000:86:00.0: VF 0000:86:00.2: unbind the driver | a VF takes another GUID only when its driver is " +
					"bound anew, and these are in use: 0000:86:00.2 by default/a; it goes on when these pods " +
					"are deleted"}},
		{"a broken file", 2, func() Node { return Node{PFs: []PF{guidePF()}} }, ParseGUIDs(guidPath, nil), []string{
			`0000:86:00.0: choose GUIDs | ` + guidPath +
				` is not what it should be: unexpected end of JSON input; want a JSON list of {"pci_address" or "pf_guid", "guids" or "guidsRange"}`}},
		{"too few", 4, func() Node { return Node{PFs: []PF{guidePF()}} }, guids(3), []string{
			"0000:86:00.0: choose GUIDs | " + guidPath +
				", entry 1 (pci_address 0000:86:00.0): it has 3 GUIDs: want one for each of the 4 VFs"}},
		{"no VFs wanted", 0, func() Node { return configured(2) }, guids(1), []string{"0000:86:00.0: numVfs 2 -> 0"}},
		{"two entries for one PF", 1, func() Node { return Node{PFs: []PF{guidePF()}} },
			ParseGUIDs(guidPath,
				fmt.Appendf(nil,
					`[{"pf_guid":%q,"guids":["0200000000000001"]},{"pci_address":"0000:86:00.0","guids":["0200000000000002"]}]`, pfGUID)), []string{
				"0000:86:00.0: choose GUIDs | " + guidPath +
					": entries 1 and 2 are both for 0000:86:00.0 (port GUID e8:eb:d3:03:00:93:ae:10): want one"}},
		{"the PF's own GUID", 1, func() Node { return Node{PFs: []PF{guidePF()}} },
			ParseGUIDs(guidPath, fmt.Appendf(nil, `[{"pf_guid":%q,"guids":[%q]}]`, pfGUID, pfGUID)), []string{
				"0000:86:00.0: choose GUIDs | " + guidPath +
					", entry 1 (pf_guid e8:eb:d3:03:00:93:ae:10): GUID e8:eb:d3:03:00:93:ae:10 is that of the port " +
					"of 0000:86:00.0: want one that nothing bears"}},
		{"a GUID of a VF that the file does not choose for", 1, func() Node {
			n := Node{PFs: []PF{fresh(guidePF(), 1)}}
			v := &second(&n).VFs[0]
			v.NodeGUID = ib.GUID{2, 0, 0, 0, 0, 0, 0, 0x10}
			v.PortGUID = v.NodeGUID
			bind(v)
			return n
		}, guids(1), []string{"0000:86:00.0: choose GUIDs | " + guidPath +
			", entry 1 (pci_address 0000:86:00.0): GUID " + gs +
			"0 is that of VF 0000:87:00.1, which the file does not choose for: want one that nothing bears"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, spec := tt.node(), guideSpec(tt.n)
			n.GUIDs = tt.file
			if tt.n == 0 {
				spec.Interfaces[0].VfGroups = nil
			}
			if diff := cmp.Diff(tt.want, lines(Plan(spec, n))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A mistake in the file takes nothing out of service: what works goes on under the GUIDs that it has.
func TestOffersDespiteGUIDFile(t *testing.T) {
	n := configured(2)
	n.GUIDs = ParseGUIDs(guidPath, []byte("nonsense"))
	if pools := Pools(guideSpec(2), n); len(pools[0].Devices) != 2 {
		t.Errorf("a broken file: offered %+v", pools)
	}
	n.GUIDs = guids(2)
	if pools := Pools(guideSpec(2), n); len(pools[0].Devices) != 0 {
		t.Errorf("other GUIDs are wanted, offered: %+v", pools)
	}
	hold(&n.PFs[0].VFs[0], "default/a")
	if pools := Pools(guideSpec(2), n); len(pools[0].Devices) != 1 {
		t.Errorf("the one in a pod is to be counted: %+v", pools)
	}
}
