// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/version"
)

func agent(t *testing.T, handler cnisock.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := cnisock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s := &cnisock.Server{UID: uint32(os.Getuid()), Log: slog.New(slog.DiscardHandler), Handler: handler}
	go func() {
		defer close(done)
		s.Serve(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

func TestRun(t *testing.T) {
	var got cnisock.Request
	path := agent(t, func(_ context.Context, r cnisock.Request) cnisock.Response {
		got = r
		if r.Env["CNI_COMMAND"] == "DEL" {
			return cnisock.Response{}
		}
		if r.Env["CNI_COMMAND"] == "CHECK" {
			return cnisock.Response{Error: &cnisock.Error{Code: 7, Msg: "bad", Details: "why"}}
		}
		return cnisock.Response{Stdout: []byte(`{"ips":[]}`)}
	})
	for _, test := range []struct {
		command, stdin, out string
		status              int
	}{
		{"ADD", `{"cniVersion":"0.4.0"}`, `{"ips":[]}`, 0},
		{"DEL", `{"cniVersion":"0.4.0"}`, ``, 0},
		{"CHECK", `{"cniVersion":"0.4.0"}`, `{"cniVersion":"0.4.0","code":7,"msg":"bad","details":"why"}` + "\n", 1},
		{"CHECK", `junk`, `{"cniVersion":"1.1.0","code":7,"msg":"bad","details":"why"}` + "\n", 1},
	} {
		var out bytes.Buffer
		env := []string{"PATH=/bin", "CNI_COMMAND=" + test.command, "CNI_ARGS=a=b;c=d", cnisock.PathVariable + "=" +
			path}
		status := run("/opt/cni/bin/ib-sriov", env, strings.NewReader(test.stdin), &out)
		if status != test.status || out.String() != test.out {
			t.Errorf("%s: status %d, out %q", test.command, status, out.String())
		}
		want := cnisock.Request{Plugin: "ib-sriov", Env: map[string]string{"CNI_COMMAND": test.command,
			"CNI_ARGS": "a=b;c=d"}, Stdin: []byte(test.stdin)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAgentAway(t *testing.T) {
	var out bytes.Buffer
	env := []string{"CNI_COMMAND=STATUS"} // the verb with the short wait
	conf := `{"cniVersion":"1.1.0","ipam":{"ipam_unix_socket_path":"` + filepath.Join(t.TempDir(), "none") + `"}}`
	status := run("multus", env, strings.NewReader(conf), &out)
	var e cnisock.Error
	if err := json.Unmarshal(out.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	if status != 1 || e.Code != cnisock.CodeTryAgainLater || e.CNIVersion != "1.1.0" {
		t.Errorf("status %d, error %+v", status, e)
	}
}

func TestVersionNeedsNoAgent(t *testing.T) {
	var out bytes.Buffer
	if status := run("multus", []string{"CNI_COMMAND=VERSION"}, strings.NewReader(""), &out); status != 0 {
		t.Errorf("status %d", status)
	}
	want := `{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`
	if out.String() != want {
		t.Errorf("out = %s", out.String())
	}
}

func TestWithoutCommand(t *testing.T) {
	var out bytes.Buffer
	status := run("multus", nil, strings.NewReader(""), &out)
	if status != 1 || !strings.Contains(out.String(), `"code":4`) || !strings.Contains(out.String(),
		version.Get().String()) {
		t.Errorf("status %d, out %s", status, out.String())
	}
}

// A person asks the installed shim for its build; the linker's stamp is what it prints.
func TestPrintsItsVersion(t *testing.T) {
	shim := filepath.Join(t.TempDir(), "shim")
	const vars = "spidernet.io/spiderpool/internal/version."
	stamp := "-X " + vars + "version=v1.2.3 -X " + vars + "commit=abc -X " + vars + "built=2026-05-06T07:08:09Z"
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", stamp, "-o", shim,
		".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := version.Info{
		Version: "v1.2.3", Commit: "abc", Built: "2026-05-06T07:08:09Z", Go: runtime.Version(), Platform: runtime.GOOS +
			"/" + runtime.GOARCH,
	}.Text("spiderpool-cni")
	for _, arg := range []string{"--version", "version"} {
		out, err := exec.Command(shim, arg).Output()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, %q; want %q", arg, err, out, want)
		}
	}
}

// The shim links the standard library and the wire alone.
func TestLinksNothingElse(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{.ImportPath}}{{end}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"spidernet.io/spiderpool/internal/cnisock", "spidernet.io/spiderpool/internal/version",
		"spidernet.io/spiderpool/cmd/spiderpool-cni",
	}
	if diff := cmp.Diff(want, strings.Fields(string(out))); diff != "" {
		t.Error(diff)
	}
	std, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(std)) {
		if p == "net/http" || p == "crypto/tls" {
			t.Errorf("links %s", p)
		}
	}
}
