// SPDX-License-Identifier: Apache-2.0

// Package vhca holds the checks of the virtual InfiniBand card in module/: they
// build it, boot Debian's stock kernel with it in QEMU, and report what the
// scripts in guest/ found. It knows nothing of the product or of Kubernetes.
package vhca

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	stress  = flag.Bool("stress", false, "run TestStress too")
	console = flag.Bool("console", false, "print the guests' consoles even when nothing failed")
)

// buildRig builds what guests boot from, once for all tests.
var buildRig = sync.OnceValues(newRig)

func needRig(t *testing.T) rig {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines: not with -short")
	}
	r, err := buildRig()
	if err != nil {
		t.Fatalf("these checks cannot run here: %v", err)
	}
	return r
}

// runGuests boots the machines of one fabric and reports each of their checks
// as a subtest.
func runGuests(t *testing.T, guests ...guest) {
	t.Helper()
	r := needRig(t)
	share := t.TempDir()
	port := 0
	if len(guests) > 1 {
		port = 20000 + rand.IntN(20000)
	}
	logs := make([]bytes.Buffer, len(guests))
	verdicts := make([][]verdict, len(guests))
	errs := make([]error, len(guests))
	var wg sync.WaitGroup
	for i, g := range guests {
		g.node, g.share, g.port = i+1, share, port
		wg.Go(func() { verdicts[i], errs[i] = r.boot(t.Context(), g, &logs[i]) })
	}
	wg.Wait()
	for i := range guests {
		for _, v := range verdicts[i] {
			t.Run(fmt.Sprintf("node%d/%s", i+1, v.name), func(t *testing.T) {
				if !v.ok {
					t.Error(v.detail)
				}
			})
		}
		if errs[i] != nil {
			t.Errorf("node %d: %v", i+1, errs[i])
		}
		if t.Failed() || *console {
			t.Logf("console of node %d:\n%s", i+1, &logs[i])
		}
	}
}

func TestReadConsole(t *testing.T) {
	tests := []struct {
		name, console string
		want          []verdict
		wantErr       string // part of it; empty: none
	}{
		{"all told", "kernel says\r\nPASS a b\r\nFAIL c :: d :: e\r\nEND 2\r\n",
			[]verdict{{name: "a b", ok: true}, {name: "c", detail: "d :: e"}}, ""},
		{"a line lost", "PASS a\nkernel saysPASS b\nEND 2\n", []verdict{{name: "a", ok: true}}, "console shows 1"},
		{"died early", "PASS a\n", []verdict{{name: "a", ok: true}}, "did not reach its END"},
		{"checked nothing", "END 0\n", nil, "console shows 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readConsole(strings.NewReader(tt.console))
			if !slices.Equal(got, tt.want) {
				t.Errorf("verdicts %+v, want %+v", got, tt.want)
			}
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want one with %q", err, tt.wantErr)
			}
		})
	}
}

func TestDropEarlier(t *testing.T) {
	got := dropEarlier([]string{"ib_cm", "ib_core", "rdma_cm", "ib_cm", "ib_core"})
	want := []string{"rdma_cm", "ib_cm", "ib_core"}
	if !slices.Equal(got, want) {
		t.Errorf("dropEarlier gives %v, want %v: a module must come after all that need it", got, want)
	}
}

// TestSetupInstallsTheHostPrograms holds lab/packages.txt, from which "make test" installs, to what
// these checks run on the host.
func TestSetupInstallsTheHostPrograms(t *testing.T) {
	b, err := os.ReadFile("../packages.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(string(b))
	for program, pkg := range hostPrograms {
		everywhere := slices.Contains([]string{"apt", "dpkg", "gzip"}, pkg) // no Debian is without them
		if !everywhere && !slices.Contains(listed, pkg) {
			t.Errorf("lab/packages.txt lacks %s, which has %s", pkg, program)
		}
	}
}

func TestMachine(t *testing.T) {
	runGuests(t, guest{script: "machine.sh", cpus: 2, limit: 4 * time.Minute})
}

func TestKernelFacts(t *testing.T) {
	runGuests(t, guest{script: "facts.sh", cpus: 2, limit: 2 * time.Minute})
}

func TestPair(t *testing.T) {
	g := guest{script: "pair.sh", cpus: 1, limit: 4 * time.Minute}
	runGuests(t, g, g)
}

// TestStress runs traffic for a minute beside rebinds, child interfaces and
// link state changes. Its load says nothing that the other tests do not on a
// good day, so it runs only when asked for.
func TestStress(t *testing.T) {
	if !*stress {
		t.Skip("needs -stress")
	}
	runGuests(t, guest{script: "stress.sh", cpus: 2, limit: 4 * time.Minute})
}
