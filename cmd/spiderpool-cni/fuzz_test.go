// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"spidernet.io/spiderpool/internal/cnisock"
)

// babbler is an agent that answers the first call with any octets, and those after it as an agent does.
type babbler struct {
	mu    sync.Mutex
	first []byte
	calls int
}

const wellAnswered = `{"ips":[]}`

func (b *babbler) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		b.answer(conn)
		conn.Close()
	}
}

func (b *babbler) answer(conn net.Conn) {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return // a request that is too large is not sent
	}
	if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head[:]))); err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.first
	if b.calls++; b.calls > 1 {
		out = frame(cnisock.Response{Stdout: []byte(wellAnswered)})
	}
	conn.Write(out)
}

func frame(r cnisock.Response) []byte {
	body, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// answered is what a shim has to make of an answer: the next one, when it is none.
func answered(wire []byte) cnisock.Response {
	good := cnisock.Response{Stdout: []byte(wellAnswered)}
	if len(wire) < 4 {
		return good
	}
	n := int64(binary.BigEndian.Uint32(wire))
	if n > cnisock.MaxFrame || int64(len(wire)-4) < n {
		return good
	}
	var r cnisock.Response
	if json.Unmarshal(wire[4:4+n], &r) != nil {
		return good
	}
	return r
}

// FuzzRun: whatever the surroundings, the configuration and the octets that come back, the shim
// prints the agent's output and succeeds, or it prints an error object with a code, a text and a
// version, and fails. What is no answer is asked for again.
func FuzzRun(f *testing.F) {
	conf := `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus","clusterNetwork":"k8s-pod-network"}`
	env := "CNI_COMMAND=ADD\nCNI_CONTAINERID=c\nCNI_NETNS=/var/run/netns/cni-1\nCNI_IFNAME=eth0\n" +
		"CNI_ARGS=K8S_POD_NAME=p\nPATH=/bin"
	f.Add("/opt/cni/bin/multus", env, []byte(conf), frame(cnisock.Response{Stdout: []byte(`{"cniVersion":"0.3.1"}`)}))
	f.Add("ib-sriov", env, []byte(`{"cniVersion":"1.1.0"}`),
		frame(cnisock.Response{Error: &cnisock.Error{Code: 11, Msg: "later", Details: "soon"}}))
	f.Add("ipoib", "CNI_COMMAND=DEL", []byte("junk"), []byte("\x00\x00\x00\x0c{\"error\":{}}"))
	f.Add("", "CNI_COMMAND=CHECK\nCNI_", []byte(`{"cniVersion":7}`), []byte("\xff\xff\xff\xff"))
	f.Add("x", "CNI_COMMAND=STATUS", []byte(`null`), []byte("\x00\x00\x00\x02{}"))
	f.Add("x", "CNI_COMMAND=GC", []byte(`{"ipam":{"ipam_unix_socket_path":""},"ipam_unix_socket_path":[]}`),
		[]byte("\x00\x00\x00\x04nullmore"))
	f.Add("x", "CNI_COMMAND=VERSION", []byte(""), []byte{})
	f.Add("x", "", []byte(""), []byte("\x00\x00"))

	path := filepath.Join(f.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	agent := &babbler{}
	go agent.serve(l)

	f.Fuzz(func(t *testing.T, arg0, environ string, stdin, answer []byte) {
		vars := append([]string{cnisock.PathVariable + "=" + path}, strings.Split(environ, "\n")...)
		if socket := socketPath(vars, stdin); socket != path {
			if socket == "" || json.Unmarshal(stdin, &struct{}{}) != nil {
				t.Fatalf("socket %q of %q", socket, stdin)
			}
			return // another agent's
		}
		agent.mu.Lock()
		agent.first, agent.calls = answer, 0
		agent.mu.Unlock()
		var out bytes.Buffer
		status := run(arg0, vars, bytes.NewReader(stdin), &out)
		agent.mu.Lock()
		calls := agent.calls
		agent.mu.Unlock()

		var want cnisock.Response
		if calls > 0 {
			want = answered(answer)
		}
		switch {
		case status == 0 && calls == 0 && out.String() != string(versionAnswer()):
			t.Fatalf("%q without an agent's answer", out.Bytes())
		case status == 0 && calls > 0 && (want.Error != nil || !bytes.Equal(out.Bytes(), want.Stdout)):
			t.Fatalf("%q; the agent answered %q, %v", out.Bytes(), want.Stdout, want.Error)
		case status != 0 && calls > 0 && want.Error == nil:
			t.Fatalf("%q; the agent answered %q", out.Bytes(), want.Stdout)
		case status != 0:
			checkError(t, out.Bytes(), stdin, want.Error)
		}
	})
}

func checkError(t *testing.T, out, stdin []byte, want *cnisock.Error) {
	t.Helper()
	var got struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
	}
	if err := json.Unmarshal(out, &got); err != nil || got.Code == 0 || got.Msg == "" || got.CNIVersion == "" {
		t.Fatalf("%q is no error object: %v", out, err)
	}
	if want != nil && want.Code != 0 && got.Code != want.Code {
		t.Fatalf("%q for the agent's %+v", out, want)
	}
	if want == nil && got.Code != cnisock.CodeInvalidEnv && got.Code != cnisock.CodeDecode {
		t.Fatalf("%q, and no agent was asked about %q", out, stdin)
	}
}
