// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestQuoteSurvivesAShell(t *testing.T) {
	args := []string{"plain", "with space", "it's", `"quoted"`, "$HOME `x`", ""}
	out, err := exec.Command("sh", "-c", `printf '%s\n' `+Quote(args)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(args, "\n") + "\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestTypedStopsAtTheDetachCharacter(t *testing.T) {
	cases := []struct {
		in, want string
		err      error
	}{{"ls\r", "ls\r", io.EOF}, {"ls\x1dmore", "ls", nil}, {"\x1d", "", nil}}
	for _, c := range cases {
		var out bytes.Buffer
		if err := typed(&out, strings.NewReader(c.in)); !errors.Is(err, c.err) || out.String() != c.want {
			t.Errorf("%q passes %q, %v; want %q, %v", c.in, out.String(), err, c.want, c.err)
		}
	}
}

// machine serves one SSH connection on a unix socket and answers every command with output and status.
func machine(t *testing.T, authorized []byte, output string, status uint32) (socket string) {
	t.Helper()
	private, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions,
		error) {
		if !bytes.Equal(ssh.MarshalAuthorizedKey(key), authorized) {
			return nil, errors.New("not this key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serve(l, config, output, status)
	return socket
}

func serve(l net.Listener, config *ssh.ServerConfig, output string, status uint32) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			r.Reply(r.Type == "exec", nil)
			if r.Type == "exec" {
				channel.Write([]byte(output))
				channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
				channel.Close()
			}
		}
	}
}

func keyPair(t *testing.T) (file string, authorized []byte) {
	t.Helper()
	private, authorized, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, authorized
}

func TestRun(t *testing.T) {
	file, authorized := keyPair(t)
	m, err := Dial(context.Background(), machine(t, authorized, "hello\n", 3), file)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	out, err := m.Output(context.Background(), "true")
	var exit Exit
	if out != "hello\n" || !errors.As(err, &exit) || exit.Status != 3 {
		t.Errorf("got %q, %v; want hello and exit status 3", out, err)
	}
}

func TestDialNeedsTheRightKey(t *testing.T) {
	file, _ := keyPair(t)
	_, other := keyPair(t)
	if _, err := Dial(context.Background(), machine(t, other, "", 0), file); err == nil {
		t.Error("a wrong key opens the machine")
	}
}

func TestDialTellsThatNobodyIsThere(t *testing.T) {
	file, _ := keyPair(t)
	if _, err := Dial(context.Background(), filepath.Join(t.TempDir(), "none"), file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}
