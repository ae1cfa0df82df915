// Package vhca holds the checks of the virtual InfiniBand card in module/: they
// build it, boot Debian's stock kernel with it in QEMU, and report what the
// scripts in guest/ found. It knows nothing of the product or of Kubernetes.
package vhca

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
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
		g.node, g.nodes, g.share, g.port = i+1, len(guests), share, port
		wg.Go(func() { verdicts[i], errs[i] = r.boot(context.Background(), g, &logs[i]) })
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
