// SPDX-License-Identifier: Apache-2.0

package cell

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// insideEnv, when set, makes this test program the first process of a cell.
const insideEnv = "LAB_CELL_TEST_SPEC"

// pongEnv, when set, makes it a web server on that address.
const pongEnv = "LAB_CELL_TEST_PONG"

func TestMain(m *testing.M) {
	if address := os.Getenv(pongEnv); address != "" {
		pong := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pong") }
		fmt.Fprintln(os.Stderr, http.ListenAndServe(address, http.HandlerFunc(pong)))
		os.Exit(1)
	}
	if spec := os.Getenv(insideEnv); spec != "" {
		if err := Main(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestParseStartTime(t *testing.T) {
	const stat = "12 (a (b) c) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2"
	if got, err := parseStartTime(stat); err != nil || got != 987654 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := parseStartTime("12 (x) S 1"); err == nil {
		t.Error("a cut line is no error")
	}
}

func TestStopEndsOnlyTheVeryProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	h, err := handle(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := Handle{PID: h.PID, Start: h.Start + 1}
	if other.Alive() {
		t.Error("a process that started at another time passes for ours")
	}
	if err := other.Stop(t.Context()); err != nil || !h.Alive() {
		t.Fatalf("stopping an earlier process with the same number: %v, alive %v", err, h.Alive())
	}
	if err := h.Stop(t.Context()); err != nil || h.Alive() {
		t.Errorf("stopping ours: %v, alive %v", err, h.Alive())
	}
	if err := h.Stop(t.Context()); err != nil {
		t.Errorf("stopping it again: %v", err)
	}
	if (Handle{}).Alive() {
		t.Error("no process is alive")
	}
}

// TestCell makes a real cell: the namespaces, a bridge with a tap, a program that has to be
// restarted, a way in by the inherited listener and one by a unix socket.
func TestCell(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("from inside"), 0o644); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	var files []*os.File
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		file, err := listener.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		addresses, files = append(addresses, listener.Addr().String()), append(files, file)
	}
	spec := testSpec(dir)
	t.Setenv(insideEnv, filepath.Join(dir, "spec"))
	h, err := Start(spec, filepath.Join(dir, "spec"), filepath.Join(dir, "log"), files, "/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop(context.Background()) })

	waitForProcess(t, spec.Control, dir, "fails", func(p Process) bool {
		return p.Starts >= 2 &&
			p.LastExit == "exit status 3"
	})
	waitForProcess(t, spec.Control, dir, "later", func(p Process) bool { return p.Running && !p.Waiting })
	began := time.Now()
	if err := Outage(t.Context(), spec.Control, "stays", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	waitForProcess(t, spec.Control, dir, "stays", func(p Process) bool {
		return !p.Running &&
			p.LastExit == "signal: killed"
	})
	waitForProcess(t, spec.Control, dir, "stays", func(p Process) bool { return p.Running && p.Starts == 2 })
	if away := time.Since(began); away < 3*time.Second {
		t.Errorf("it was started again after %s, want 3 s", away)
	}
	for program, want := range map[string]string{"nothing": "no such program", "later": "would not be started again"} {
		if err := Outage(t.Context(), spec.Control, program, time.Second); err == nil || !strings.Contains(err.Error(),
			want) {
			t.Errorf("outage of %q: %v, want %q", program, err, want)
		}
	}
	get(t, "tcp", addresses[0], "from inside")
	get(t, "tcp", addresses[1], "pong")
	get(t, "unix", spec.Sockets[0].Path, "from inside")

	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Processes(t.Context(), spec.Control); err == nil {
		t.Error("the cell answers after its end")
	}
}

func testSpec(dir string) Spec {
	const files, pong = "10.99.0.1:8080", "127.0.0.1:8081"
	return Spec{
		Bridges: []Bridge{{Name: "br", Address: "10.99.0.1/24", MTU: 9000}},
		Taps:    []Tap{{Name: "tap", Bridge: "br", MTU: 9000}},
		Routes:  []Route{{Network: "10.98.0.0/24", Via: "10.99.0.2"}},
		Files:   Files{Address: files, Dir: dir},
		Forward: []string{files, pong},
		Sockets: []Socket{{Path: filepath.Join(dir, "files.sock"), Target: files}},
		Control: filepath.Join(dir, "control.sock"),
		Programs: []Program{
			{Name: "fails", Args: []string{"sh", "-c", "ip link show tap; exit 3"},
				Log: filepath.Join(dir, "fails.log"), Restart: true},
			{Name: "stays", Args: []string{"sleep", "600"}, Log: filepath.Join(dir, "stays.log"), Restart: true},
			{Name: "pong", Args: []string{"/proc/self/exe"}, Env: []string{pongEnv + "=" + pong},
				Log: filepath.Join(dir, "pong.log")},
			{Name: "later", Args: []string{"sleep", "600"}, Log: filepath.Join(dir, "later.log"),
				After: "http://" + files + "/hello"},
		},
	}
}

func waitForProcess(t *testing.T, control, dir, name string, ok func(Process) bool) {
	t.Helper()
	var last any
	for range 200 {
		all, err := Processes(t.Context(), control)
		last = err
		for _, p := range all {
			if p.Name == name && ok(p) {
				return
			}
			last = all
		}
		time.Sleep(50 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("program %s: %+v\nlog of the cell: %s", name, last, log)
}

func get(t *testing.T, network, address, want string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	resp, err := client.Get("http://cell/hello")
	if err != nil {
		t.Errorf("by %s: %v", network, err)
		return
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); !strings.Contains(string(b), want) {
		t.Errorf("by %s: got %q", network, b)
	}
}
