// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// TestKernel runs the tests that need an InfiniBand card, on a machine's second card: the real
// kernel passes the suite that the fake passes. It comes first of all, as its file does: once
// agents know the VFs of that card as theirs, they mend what they take for drift.
func TestKernel(t *testing.T) {
	name := machineWithoutPods(t)
	for _, test := range []struct{ pkg, run string }{
		{"./internal/host", "."},
		{"./internal/agent/nodestate", "TestOnKernel"},
		{"./internal/attach", "OnTheKernel"},
	} {
		t.Run(strings.ReplaceAll(strings.TrimPrefix(test.pkg, "./internal/"), "/", "-"), func(t *testing.T) {
			onMachine(t, name, test.pkg, test.run)
		})
	}
}

// machineWithoutPods finds a machine whose only network namespace is its own: the kernel changes
// the mode of its RDMA subsystem on no other.
func machineWithoutPods(t *testing.T) string {
	t.Helper()
	found := ""
	eventually(t, podLimit, func() string {
		counts := map[string]string{}
		for _, name := range topology.Names() {
			if counts[name] = strings.TrimSpace(node(t, name, "lsns -n -t net | wc -l")); counts[name] == "1" {
				found = name
				return ""
			}
		}
		return fmt.Sprintf("every machine has pods; network namespaces: %v", counts)
	})
	return found
}

// onMachine compiles a package's tests and runs some on a machine, each of which has to have run.
func onMachine(t *testing.T, name, pkg, run string) {
	file := t.TempDir() + "/test"
	shell(t, fmt.Sprintf("go test -c -o %s %s", file, pkg))
	program, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	const there = "/run/e2e-kernel"
	if _, err := term.Feed(t.Context(), name, fmt.Sprintf("mkdir -p %[1]s && cat >%[1]s/test && chmod 755 %[1]s/test",
		there), program); err != nil {
		t.Fatal(err)
	}
	defer node(t, name, "rm -rf "+there)
	out, err := term.Node(t.Context(), name,
		fmt.Sprintf("cd %s && TMPDIR=%s HOSTTEST_IB_PF=%s ./test -test.v -test.timeout 300s -test.run %s 2>&1", there,
			there, secondCard, run))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(out, "--- SKIP") || !strings.Contains(out, "--- PASS") {
		t.Errorf("tests were skipped, or there are none:\n%s", out)
	}
	t.Logf("%d tests passed on %s", strings.Count(out, "--- PASS"), name)
}
