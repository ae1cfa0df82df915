// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"archive/tar"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/lab/internal/cell"
	"spidernet.io/spiderpool/lab/internal/noderoot"
	"spidernet.io/spiderpool/lab/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestPlan shows, as one would type them, all programs that a lab starts.
func TestPlan(t *testing.T) {
	p := parts{machine: noderoot.Machine{Kernel: "/cache/vmlinuz", Initramfs: "/cache/initramfs", Disk: "/cache/disk"},
		store: "/cache/store"}
	spec := plan(Layout{Dir: "/state"}, DefaultOptions(), p, false)
	var b strings.Builder
	for _, program := range spec.Programs {
		b.WriteString(program.Name + "\n")
		if program.After != "" {
			b.WriteString("    after " + program.After + "\n")
		}
		b.WriteString("    " + strings.Join(program.Args, "\n    ") + "\n")
	}
	golden(t, "programs.txt", b.String())
}

func TestPlanJoinsEveryMachineToBothBridges(t *testing.T) {
	spec := plan(Layout{Dir: "/state"}, DefaultOptions(), parts{}, false)
	for _, n := range topology.Nodes() {
		var bridges []string
		for _, tap := range spec.Taps {
			if strings.HasPrefix(tap.Name, "tap"+string(rune('0'+n.Index))) {
				bridges = append(bridges, tap.Bridge)
			}
		}
		if !slices.Equal(bridges, []string{nodeBridge, fabricBridge}) {
			t.Errorf("node %s is on %v", n.Name, bridges)
		}
		if !slices.Contains(spec.Routes, cell.Route{Network: n.PodCIDR.String(), Via: n.Address.String()}) {
			t.Errorf("the control plane has no route to the pods of %s", n.Name)
		}
	}
}

// TestSeed shows the files that make a machine a node, keys apart.
func TestSeed(t *testing.T) {
	l := Layout{Dir: t.TempDir()}
	if err := l.fresh(); err != nil {
		t.Fatal(err)
	}
	if err := makeIdentities(l, DefaultOptions()); err != nil {
		t.Fatal(err)
	}
	files := readSeed(t, l.seed("10-20-1-10"))
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString("== " + name + "\n")
		switch {
		case strings.Contains(name, "pki") || strings.HasSuffix(name, "kubeconfig") ||
			strings.HasSuffix(name, "authorized_keys"):
		case strings.HasSuffix(name, ".link") && !strings.HasSuffix(name, "f0.link") &&
			!strings.HasSuffix(name, "v7.link"):
		default:
			b.WriteString(files[name])
		}
	}
	golden(t, "seed.txt", b.String())
}

func readSeed(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".key") && h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		files[h.Name] = string(b)
	}
}

func TestVirtualFunction(t *testing.T) {
	cases := map[int]string{0: "0000:86:00.1", 6: "0000:86:00.7", 7: "0000:86:01.0", 11: "0000:86:01.4",
		15: "0000:86:02.0"}
	for vf, want := range cases {
		if got := virtualFunction("0000:86:00.0", vf); got != want {
			t.Errorf("VF %d is at %s, want %s", vf, got, want)
		}
	}
}

func TestStateOfALabThatIsGone(t *testing.T) {
	l := Layout{Dir: t.TempDir()}
	if _, up, err := l.Load(); up || err != nil {
		t.Errorf("without a state: up %v, %v", up, err)
	}
	if err := l.save(State{Cell: cell.Handle{PID: os.Getpid(), Start: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, up, err := l.Load(); up || err != nil {
		t.Errorf("with the number of another process: up %v, %v", up, err)
	}
	if err := os.WriteFile(l.stateFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Load(); err == nil {
		t.Error("a broken state is no error")
	}
}

func TestDownOfNothing(t *testing.T) {
	if err := (Lab{Layout: Layout{Dir: filepath.Join(t.TempDir(), "none")}}).Down(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOneCommandAtATime(t *testing.T) {
	l := Layout{Dir: filepath.Join(t.TempDir(), "lab")}
	unlock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := (Lab{Layout: l}).Down(t.Context()); err == nil || !strings.Contains(err.Error(), "another command") {
		t.Errorf("while another command works: %v", err)
	}
	unlock()
	if err := (Lab{Layout: l}).Down(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("1\n2\n3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := tail(file, 3); got != "2\n3\n" {
		t.Errorf("got %q", got)
	}
	if got := tail(file+"x", 3); !strings.Contains(got, "no such file") {
		t.Errorf("got %q", got)
	}
}
