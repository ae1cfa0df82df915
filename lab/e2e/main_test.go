// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"spidernet.io/spiderpool/lab/demo"
	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/progress"
	"spidernet.io/spiderpool/lab/internal/terminal"
	"spidernet.io/spiderpool/lab/internal/topology"
)

// term is where all tests type their commands; laboratory does what no command on a node can.
var (
	term       *terminal.Terminal
	laboratory cluster.Lab
)

// The nodes have one more card than the guide's, for the tests of policies, and memory for a dozen
// pods and 28 VFs.
const cards, memoryMiB = 2, 1536

// long has the tests that repeat things, or do them to many pods, do so as often as is meant.
// Emulated machines take most of an hour for that.
var long = flag.Bool("long", false,
	"ten restarts of the kubelet instead of three, twelve pods and VFs over a reboot instead of four, two hundred "+
		"pods in waves instead of 16 and a power failure among them")

// onlyLong leaves a test to make test-lab-long, for the reason that the Makefile gives.
func onlyLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("left out: make test-lab-long runs it")
	}
}

// atLength chooses how many.
func atLength(usual, full int) int {
	if *long {
		return full
	}
	return usual
}

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: skipped, because of -short")
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	lab, err := openLab()
	if err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "lab") // the cell's first process is the lab program, not this test
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "../cmd/lab").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("compiling the lab program: %w\n%s", err, out)
	}
	if os.Getenv("LAB_KEEP") == "" {
		if err := lab.Down(ctx); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, lab.Down(ctx)) }()
	}
	laboratory = lab
	options := cluster.DefaultOptions()
	options.Cards, options.MemoryMiB = cards, memoryMiB
	if err := lab.Ensure(ctx, options, []string{program, "cell"}); err != nil {
		return 1, err
	}
	if term, err = terminal.Open(ctx, lab); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func openLab() (cluster.Lab, error) {
	dir, err := os.Getwd()
	if err != nil {
		return cluster.Lab{}, err
	}
	source, err := gobuild.FindSource(dir)
	if err != nil {
		return cluster.Lab{}, err
	}
	c, err := cache.Default()
	if err != nil {
		return cluster.Lab{}, err
	}
	layout, err := cluster.DefaultLayout()
	return cluster.Lab{Layout: layout, Source: source, Cache: c, Say: progress.New(os.Stderr)}, err
}

// TestGuide releases this tree into the lab's registry and walks the guide as the demo does, except
// that it installs from there; every promise is a test of its own. All tests of the product use what
// it installed.
func TestGuide(t *testing.T) {
	var image string
	t.Run("A release into the lab's registry", func(t *testing.T) { image = release(t) })
	if image == "" {
		t.Fatal("there is no release to install")
	}
	options := demo.Options{Nodes: topology.Names(), Install: pageScript(t, sectionInstall)}
	steps, err := demo.Steps(options)
	if err != nil {
		t.Fatal(err)
	}
	walk := demo.New(term, t.Output())
	for _, s := range steps {
		t.Run(s.Title, func(t *testing.T) {
			results, err := walk.Run(t.Context(), []demo.Step{s})
			if err != nil {
				t.Fatalf("%v: %v", err, results[0].Err)
			}
		})
		if s.Command == options.Install {
			t.Run("The nodes run what was released", func(t *testing.T) { checkImages(t, image) })
		}
	}
}
