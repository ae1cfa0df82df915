// SPDX-License-Identifier: Apache-2.0

package cnisock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// Limits of the server.
const (
	readTimeout  = 5 * time.Second // for a request to arrive whole
	writeTimeout = 5 * time.Second
	maxCalls     = 1024 // at once
	// graceTime is how long calls under way may go on after the server was told to stop. It is
	// below the time that a stopping agent has, and longer than an attachment takes.
	graceTime = 8 * time.Second
)

// Handler answers one request. Its context ends when the client goes away, or some seconds after
// the server was told to stop.
type Handler func(ctx context.Context, req Request) Response

// Server answers requests.
type Server struct {
	Handler Handler
	// UID is the only user that is answered; 0 is root.
	UID uint32
	Log *slog.Logger
}

// Listen makes the socket, in place of one left by an agent before, for the owner alone.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on the agent's socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // the next agent may have made its own at the same path already
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("restrict the socket to its owner: %w", err)
	}
	return l, nil
}

// Serve answers until ctx ends, then waits for the calls under way, which are cut short only after
// some seconds.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	callCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(graceTime, cut) })()
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, maxCalls)
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on the agent's socket: %w", err)
		}
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			s.serve(callCtx, conn)
		})
	}
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if err := s.admit(conn); err != nil {
		s.Log.Warn("refused a connection to the agent's socket", "error", err)
		return
	}
	conn.SetReadDeadline(time.Now().Add(readTimeout))
	var req Request
	err := readFrame(conn, &req)
	if err == nil {
		err = req.Validate()
	}
	if err != nil {
		s.Log.Warn("refused a request on the agent's socket", "error", err)
		s.answer(conn, Response{Error: &Error{Code: CodeDecode, Msg: "the agent refused the request",
			Details: err.Error()}})
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go watch(conn, cancel)
	s.answer(conn, s.call(ctx, req))
}

// admit asks the kernel who is at the other end.
func (s *Server) admit(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("look at the peer: %w", credErr)
	}
	if cred.Uid != s.UID {
		return fmt.Errorf("peer process %d has user id %d: only %d is answered", cred.Pid, cred.Uid, s.UID)
	}
	return nil
}

// watch cancels the call when the client closes its end: the runtime gave up and will ask for DEL.
func watch(conn *net.UnixConn, cancel context.CancelFunc) {
	conn.SetReadDeadline(time.Time{})
	var one [1]byte
	conn.Read(one[:]) // nothing more may come; any return is the end
	cancel()
}

// call keeps a fault in one call from ending the agent, and with it all others.
func (s *Server) call(ctx context.Context, req Request) (resp Response) {
	defer func() {
		if r := recover(); r != nil {
			s.Log.Error("fault while answering a CNI call", "plugin", req.Plugin, "fault", r, "stack",
				string(debug.Stack()))
			resp = Response{Error: &Error{Code: CodeInternal, Msg: "fault in the agent", Details: fmt.Sprint(r) +
				"; the agent's log has the stack"}}
		}
	}()
	return s.Handler(ctx, req)
}

func (s *Server) answer(conn *net.UnixConn, resp Response) {
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err := writeFrame(conn, resp)
	// nothing is sent yet, and without an answer the call would be made again and again
	if errors.Is(err, ErrTooLarge) {
		s.Log.Error("an answer on the agent's socket is too large", "error", err)
		err = writeFrame(conn, Response{Error: &Error{Code: CodeInternal, Msg: "the agent's answer is too large",
			Details: err.Error()}})
	}
	if err != nil {
		s.Log.Warn("could not answer on the agent's socket", "error", err)
	}
}
