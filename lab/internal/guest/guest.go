// SPDX-License-Identifier: Apache-2.0

// Package guest runs commands on the lab's machines: over SSH, through a unix socket that the
// control plane's cell offers, so that no address of the host is involved. It also attaches a
// terminal to a machine's serial console.
package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

// NewKey makes the key pair that opens the machines: the private key as OpenSSH's PEM, the public
// one as a line of authorized_keys.
func NewKey() (private []byte, authorized []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the lab's SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "lab")
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the lab's SSH key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the lab's SSH key: %w", err)
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(sshPub), nil
}

// Machine is a connection to one machine.
type Machine struct{ client *ssh.Client }

// Dial connects to the machine behind a socket, with the private key in keyFile.
func Dial(ctx context.Context, socket, keyFile string) (*Machine, error) {
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the lab's SSH key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("reading the lab's SSH key %s: %w", keyFile, err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reaching the machine: %w", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline)
	c, channels, requests, err := ssh.NewClientConn(conn, "machine", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		// the way there is a socket of our own and a wire inside this host
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("logging in to the machine: %w", err)
	}
	conn.SetDeadline(time.Time{})
	return &Machine{client: ssh.NewClient(c, channels, requests)}, nil
}

// Close ends the connection.
func (m *Machine) Close() error { return m.client.Close() }

// Stdio are a command's standard streams; nil ones are empty or discarded.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit is the error of a command that ended with a status other than 0.
type Exit struct{ Status int }

func (e Exit) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Run runs a command line of the machine's shell. A status other than 0 is an Exit.
func (m *Machine) Run(ctx context.Context, command string, io Stdio) error {
	s, err := m.client.NewSession()
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	defer s.Close()
	s.Stdin, s.Stdout, s.Stderr = io.In, io.Out, io.Err
	defer context.AfterFunc(ctx, func() { s.Close() })()
	return result(ctx, s.Run(command))
}

// Output runs a command line and returns what it printed. A failure's error holds what it said on
// standard error.
func (m *Machine) Output(ctx context.Context, command string) (string, error) {
	var out, said bytes.Buffer
	if err := m.Run(ctx, command, Stdio{Out: &out, Err: &said}); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

func result(ctx context.Context, err error) error {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return Exit{Status: exit.ExitStatus()}
	}
	return fmt.Errorf("running a command on the machine: %w", err)
}

// Shell runs a command line, or a login shell for "", on a terminal of the machine joined to the
// terminal this process has.
func (m *Machine) Shell(ctx context.Context, command string) error {
	s, err := m.client.NewSession()
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	defer s.Close()
	fd := int(os.Stdin.Fd())
	width, height, err := term.GetSize(fd)
	if err != nil {
		return fmt.Errorf("asking the terminal for its size: %w", err)
	}
	if err := s.RequestPty(terminal(), height, width, ssh.TerminalModes{}); err != nil {
		return fmt.Errorf("asking the machine for a terminal: %w", err)
	}
	restore, err := raw(fd)
	if err != nil {
		return err
	}
	defer restore()
	defer followSize(fd, s)()
	s.Stdin, s.Stdout, s.Stderr = os.Stdin, os.Stdout, os.Stderr
	if command != "" {
		return result(ctx, s.Run(command))
	}
	if err := s.Shell(); err != nil {
		return fmt.Errorf("starting a shell: %w", err)
	}
	return result(ctx, s.Wait())
}

func terminal() string {
	if t := os.Getenv("TERM"); t != "" {
		return t
	}
	return "vt100"
}

func raw(fd int) (restore func(), err error) {
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("switching the terminal to raw mode: %w", err)
	}
	return func() { _ = term.Restore(fd, old) }, nil
}

// followSize tells the session of every change of the terminal's size, until the returned function is called.
func followSize(fd int, s *ssh.Session) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for range changes {
			if w, h, err := term.GetSize(fd); err == nil {
				_ = s.WindowChange(h, w)
			}
		}
	}()
	return func() { signal.Stop(changes); close(changes) }
}

// detach is Ctrl-], which ends Console.
const detach = 0x1d

// Console joins this process's terminal to the serial console behind a socket, until Ctrl-] is
// typed or the machine ends.
func Console(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("reaching the machine's console: %w", err)
	}
	defer conn.Close()
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		restore, err := raw(fd)
		if err != nil {
			return err
		}
		defer restore()
	}
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(os.Stdout, conn); ended <- err }()
	go func() {
		// without a terminal, nothing more to type is no reason to leave
		if err := typed(conn, os.Stdin); !errors.Is(err, io.EOF) {
			ended <- err
		}
	}()
	return <-ended
}

// typed copies until the detach character.
func typed(to io.Writer, from io.Reader) error {
	b := make([]byte, 256)
	for {
		n, err := from.Read(b)
		if i := bytes.IndexByte(b[:n], detach); i >= 0 {
			_, err := to.Write(b[:i])
			return err
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		if err != nil {
			return err
		}
	}
}

// Quote makes a shell word of each argument and joins them.
func Quote(args []string) string {
	var words []string
	for _, a := range args {
		words = append(words, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return strings.Join(words, " ")
}
