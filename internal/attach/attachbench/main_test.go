// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/host/nodebench"
)

// node is a directory in place of a node: namespaces are files in it, and the shim is a script that
// notes its calls.
type node struct {
	*bench
	dir  string
	made int
}

func newNode(t *testing.T, script string) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	shim := filepath.Join(n.dir, "bin", "multus")
	check(t, os.Mkdir(filepath.Dir(shim), 0o755))
	check(t, os.WriteFile(shim, []byte("#!/bin/sh\nlog="+n.dir+"/log\n"+script), 0o755))
	n.bench = &bench{shim: shim, conf: []byte(`{"cniVersion":"1.0.0"}`), newNS: func(name string) (string, func() error,
		error) {
		n.made++
		path := filepath.Join(n.dir, name)
		return path, func() error { return os.Remove(path) }, os.WriteFile(path, nil, 0o600)
	}}
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// log is what the script noted.
func (n *node) log(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, "log"))
	check(t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// left are the namespaces that nobody removed.
func (n *node) left(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(n.dir, "attachbench-*"))
	check(t, err)
	return left
}

func pods(count int) []pod {
	var out []pod
	for i := range count {
		out = append(out, pod{"default", fmt.Sprintf("p%d", i), fmt.Sprintf("uid-%d", i)})
	}
	return out
}

// noteCall notes the verb, whether the namespace is there, and the pod's name.
const noteCall = `test -e "$CNI_NETNS" && there=yes
name=${CNI_ARGS#*K8S_POD_NAME=}; name=${name%%;*}
echo "$CNI_COMMAND $name $there" >>$log
`

func TestReadPods(t *testing.T) {
	for in, want := range map[string]string{
		`[{"namespace":"a","name":"b","uid":"c"}]` + "\nmore": "",
		"":                                      "first line of standard input",
		"[]\n":                                  "is empty",
		`[{"namespace":"a","name":"b"}]` + "\n": "want a namespace, a name and a UID",
		`[{"namespace":"a","name":"b;X=1","uid":"c"}]` + "\n":    "want a namespace, a name and a UID",
		`{"namespace":"a"}` + "\n":                               "first line of standard input",
		`[{"namespace":"a",` + "\n" + `"name":"b","uid":"c"}]\n`: "first line of standard input",
	} {
		got, err := readPods(bufio.NewReader(strings.NewReader(in)))
		switch {
		case want == "" && (err != nil || !slices.Equal(got, []pod{{"a", "b", "c"}})):
			t.Errorf("%q: %v, %v", in, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: error %v, want %q", in, err, want)
		}
	}
}

func TestCallsAsARuntimeDoes(t *testing.T) {
	n := newNode(t, `env | grep ^CNI_ | sort >>$log; cat >>$log; exit 0`)
	box := sandbox{pod{"default", "p", "uid"}, strings.Repeat("ab", 32), "/var/run/netns/x", nil}
	check(t, n.call("ADD", box))
	want := []string{
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=" +
			box.container + ";K8S_POD_UID=uid",
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + box.container, "CNI_IFNAME=eth0", "CNI_NETNS=/var/run/netns/x",
		"CNI_PATH=" + filepath.Dir(n.shim),
		`{"cniVersion":"1.0.0"}`,
	}
	if diff := cmp.Diff(want, n.log(t)); diff != "" {
		t.Error(diff)
	}
}

// Every pod of a round is attached before any is detached, and a round is over before the next begins.
func TestRounds(t *testing.T) {
	n := newNode(t, noteCall)
	check(t, n.rounds(t.Context(), pods(5), 2))
	var got []string
	for some := range slices.Chunk(n.log(t), 2) {
		slices.Sort(some) // those of a round are in any order
		got = append(got, some...)
	}
	want := []string{"ADD p0 yes", "ADD p1 yes", "DEL p0 yes", "DEL p1 yes", "ADD p2 yes", "ADD p3 yes", "DEL p2 yes",
		"DEL p3 yes", "ADD p4 yes", "DEL p4 yes"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if left := n.left(t); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
	containers := map[string]bool{}
	for _, s := range n.samples {
		containers[s.Container] = true
		if s.Duration <= 0 || s.Done < s.Duration || len(s.Container) != 64 || s.Error != "" {
			t.Errorf("sample %+v", s)
		}
	}
	if len(n.samples) != 10 || len(containers) != 5 || n.samples[9].Round != 2 {
		t.Errorf("%d samples of %d containers: %+v", len(n.samples), len(containers), n.samples)
	}
}

// The calls of a round run beside each other: each of these waits for the other's mark.
func TestAtOnce(t *testing.T) {
	n := newNode(t, `mark=$log.$CNI_COMMAND; touch $mark.$$
for i in $(seq 100); do test $(ls $mark.* | wc -l) = 2 && exit 0; sleep 0.05; done
echo '{"msg":"alone"}'; exit 1`)
	check(t, n.rounds(t.Context(), pods(2), 2))
	for _, s := range n.samples {
		if s.Error != "" {
			t.Errorf("sample %+v", s)
		}
	}
}

// A failed ADD is reported with the shim's words, and detached.
func TestFailedADD(t *testing.T) {
	n := newNode(t,
		noteCall+
			`if test $CNI_COMMAND = ADD; then echo '{"code":11,"msg":"pool is exhausted","details":"make it larger"}'; exit 1; fi`)
	check(t, n.rounds(t.Context(), pods(1), 1))
	if diff := cmp.Diff([]string{"ADD p0 yes", "DEL p0 yes"}, n.log(t)); diff != "" {
		t.Error(diff)
	}
	if got := n.samples[0].Error; got != "ADD: pool is exhausted; make it larger" {
		t.Errorf("error %q", got)
	}
}

// A DEL that fails is repeated once, and its namespace removed whatever comes.
func TestFailedDEL(t *testing.T) {
	n := newNode(t, noteCall+`if test $CNI_COMMAND = DEL; then echo no >&2; exit 1; fi`)
	if err := n.rounds(t.Context(), pods(1), 1); err == nil || !strings.Contains(err.Error(),
		"detaching pod default/p0, twice: DEL: exit status 1: no") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"ADD p0 yes", "DEL p0 yes", "DEL p0 yes"}, n.log(t)); diff != "" {
		t.Error(diff)
	}
	if left := n.left(t); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
}

func TestNoNamespace(t *testing.T) {
	n := newNode(t, noteCall)
	inner := n.newNS
	n.newNS = func(name string) (string, func() error, error) {
		if n.made == 1 {
			return "", nil, errors.New("no room")
		}
		return inner(name)
	}
	if err := n.rounds(t.Context(), pods(2), 2); err == nil || !strings.Contains(err.Error(),
		"for pod default/p1: no room") {
		t.Errorf("error %v", err)
	}
	if left := n.left(t); len(left) > 0 || len(n.samples) > 0 {
		t.Errorf("left %v, samples %v", left, n.samples)
	}
}

// When it is interrupted the round that has begun is finished, and no other begins.
func TestInterrupted(t *testing.T) {
	n := newNode(t, noteCall)
	ctx, cancel := context.WithCancel(t.Context())
	inner := n.newNS
	n.newNS = func(name string) (string, func() error, error) {
		cancel()
		return inner(name)
	}
	var out bytes.Buffer
	if err := n.print(ctx, options{atOnce: 1}, pods(2), &out); !errors.Is(err, errInterrupted) || out.Len() > 0 {
		t.Errorf("error %v, printed %q", err, out.String())
	}
	if diff := cmp.Diff([]string{"ADD p0 yes", "DEL p0 yes"}, n.log(t)); diff != "" {
		t.Error(diff)
	}
}

func TestHold(t *testing.T) {
	n := newNode(t, noteCall)
	var out bytes.Buffer
	check(t, n.print(t.Context(), options{atOnce: 1, hold: "echo held >>" + n.dir + "/log; echo 4711"}, pods(2), &out))
	if diff := cmp.Diff([]string{"ADD p0 yes", "ADD p1 yes", "held", "DEL p1 yes", "DEL p0 yes"},
		n.log(t)); diff != "" {
		t.Error(diff)
	}
	var got output
	check(t, json.Unmarshal(out.Bytes(), &got))
	if got.Held != "4711\n" || len(got.Samples) != 4 {
		t.Errorf("printed %+v", got)
	}
	if left := n.left(t); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
}

// The end of the standard input ends a command that holds, and all is detached.
func TestHoldInterrupted(t *testing.T) {
	n := newNode(t, noteCall)
	r, w := io.Pipe()
	ctx := nodebench.UntilEOF(t.Context(), r)
	go func() {
		for !bytes.Contains(mustRead(n.dir+"/log"), []byte("held")) {
			time.Sleep(5 * time.Millisecond)
		}
		w.Close()
	}()
	_, err := n.hold(ctx, pods(1), 1, "echo held >>"+n.dir+"/log; exec sleep 60")
	if !errors.Is(err, errInterrupted) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"ADD p0 yes", "held", "DEL p0 yes"}, n.log(t)); diff != "" {
		t.Error(diff)
	}
}

func mustRead(path string) []byte { b, _ := os.ReadFile(path); return b }

func TestRunRefuses(t *testing.T) {
	for want, o := range map[string]options{
		"-at-once is 0":               {},
		"the runtime's configuration": {atOnce: 1, conf: filepath.Join(t.TempDir(), "none")},
	} {
		if err := run(t.Context(), o, strings.NewReader(""), io.Discard); err == nil || !strings.Contains(err.Error(),
			want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// On a machine where we are root, a namespace is made, seen by its path, and gone again.
func TestNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	path, remove, err := newNamespace("attachbench-test-" + containerID()[:8])
	if errors.Is(err, os.ErrPermission) {
		t.Skip("may not make namespaces here:", err)
	}
	check(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	if !strings.Contains(string(mounts), filepath.Base(path)) {
		t.Errorf("%s is not mounted", path)
	}
	check(t, remove())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}
