// SPDX-License-Identifier: Apache-2.0

// Package test holds checks of the repository as a whole.
package test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "spidernet.io/spiderpool/"

// rule says what the packages below a path may import. Of our own packages only those listed in own
// (prefixes); none of those in never.
type rule struct {
	path  string
	own   []string // nil: any
	never []string
}

// The directions of docs/architecture.md. The last rule whose path fits a package counts.
var rules = []rule{
	{path: "internal", never: []string{"github.com/vishvananda", "github.com/google/nftables"}},
	{path: "internal/ib", own: []string{}, never: []string{"os", "k8s.io", "sigs.k8s.io"}},
	{path: "api", own: []string{"api", "internal/ib"}, never: []string{"os", "k8s.io/client-go",
		"sigs.k8s.io/controller-runtime/pkg/client"}},
	{path: "internal/text", own: []string{}, never: []string{"os", "k8s.io", "sigs.k8s.io"}},
	{path: "internal/ipam", own: []string{"api", "internal/ib", "internal/text"},
		never: []string{"os", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
	{path: "internal/nad", own: []string{"api", "internal/ib", "internal/text"},
		never: []string{"os", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
	{path: "internal/sriov", own: []string{"api", "internal/ib", "internal/host"},
		never: []string{"os", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
	{path: "internal/host", own: []string{"internal/ib", "internal/host"}, never: []string{"k8s.io", "sigs.k8s.io"}},
	{path: "internal/ledger", own: []string{"internal/ib"}, never: []string{"k8s.io", "sigs.k8s.io"}},
	{path: "internal/fence", own: []string{}},
	{path: "internal/simapi", own: []string{"api"}},
	{path: "internal/leases", own: []string{"api", "internal/ib", "internal/ipam", "internal/ledger",
		"internal/leases"}},
	{path: "internal/leases/ipambench"}, // puts a whole control plane together
	{path: "internal/controller/pools", own: []string{"api", "internal/ib", "internal/ipam", "internal/fence",
		"internal/text"}},
	{path: "internal/cnisock", own: []string{}, never: []string{"k8s.io", "sigs.k8s.io", "github.com", "golang.org",
		"net/http"}},
	{path: "internal/cni", own: []string{"api", "internal/ib", "internal/host", "internal/ipam", "internal/nad",
		"internal/ledger", "internal/cni", "internal/text"}, never: []string{"k8s.io/client-go",
		"sigs.k8s.io/controller-runtime", "github.com/vishvananda", "github.com/google/nftables"}},
	{path: "internal/attach", own: []string{"api", "internal/ib", "internal/host", "internal/ipam", "internal/nad",
		"internal/ledger", "internal/cni", "internal/cnisock", "internal/attach",
		"internal/text"},
		never: []string{"github.com/vishvananda", "github.com/google/nftables"}},
	{path: "internal/version", own: []string{}, never: []string{"k8s.io", "sigs.k8s.io", "github.com", "golang.org",
		"net/http"}},
	{path: "cmd/spiderpool-cni", own: []string{"internal/cnisock", "internal/version"},
		never: []string{"k8s.io", "sigs.k8s.io", "github.com", "golang.org", "net/http"}},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportDirections(t *testing.T) {
	for _, p := range packages(t) {
		r, ok := ruleFor(strings.TrimPrefix(p.ImportPath, module))
		if !ok {
			continue
		}
		for _, imp := range p.Imports {
			if why := r.forbids(imp); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, why)
			}
		}
	}
}

// A rule for a package that is not there protects nothing.
func TestRulesNamePackages(t *testing.T) {
	all := packages(t)
	for _, r := range rules {
		found := false
		for _, p := range all {
			found = found || below(strings.TrimPrefix(p.ImportPath, module), r.path)
		}
		if !found {
			t.Errorf("there is no package at or below %s", r.path)
		}
	}
}

func ruleFor(path string) (rule, bool) {
	var out rule
	found := false
	for _, r := range rules {
		if below(path, r.path) {
			out, found = r, true
		}
	}
	return out, found && !(out.path == "internal" && below(path, "internal/host"))
}

func (r rule) forbids(imp string) string {
	for _, n := range r.never {
		if below(imp, n) {
			return n + " is not for packages below " + r.path
		}
	}
	ours, isOurs := strings.CutPrefix(imp, module)
	if !isOurs || r.own == nil || below(ours, r.path) {
		return ""
	}
	for _, o := range r.own {
		if below(ours, o) {
			return ""
		}
	}
	return "packages below " + r.path + " may import of ours only " + strings.Join(r.own, ", ")
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
