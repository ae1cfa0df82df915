// SPDX-License-Identifier: Apache-2.0

package cnisock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func self() uint32 { return uint32(os.Getuid()) }

func TestCall(t *testing.T) {
	var got Request
	path := serve(t, &Server{UID: self(), Handler: func(_ context.Context, r Request) Response {
		got = r
		return Response{Stdout: []byte("out")}
	}})
	want := Request{Plugin: "multus", Env: map[string]string{"CNI_COMMAND": "ADD"}, Stdin: []byte("not even \xff JSON")}
	resp, err := Call(context.Background(), path, want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if string(resp.Stdout) != "out" || resp.Error != nil {
		t.Errorf("resp = %+v", resp)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v", info.Mode(), err)
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	path := serve(t, &Server{UID: self() + 1, Handler: func(context.Context, Request) Response {
		t.Error("answered")
		return Response{}
	}})
	var gone *Away
	if _, err := Call(context.Background(), path, Request{Plugin: "multus"}); !errors.As(err, &gone) {
		t.Errorf("err = %v", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	path := serve(t, &Server{UID: self(), Handler: func(context.Context, Request) Response {
		t.Error("a bad request reached the handler")
		return Response{}
	}})
	frame := func(body string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
	}
	for name, wire := range map[string]string{
		"not JSON":      frame("hello"),
		"wrong type":    frame(`{"plugin":7}`),
		"no plugin":     frame(`{}`),
		"path":          frame(`{"plugin":"../x"}`),
		"foreign env":   frame(`{"plugin":"multus","env":{"LD_PRELOAD":"x"}}`),
		"oversized":     "\xff\xff\xff\xff",
		"just too long": string(binary.BigEndian.AppendUint32(nil, MaxFrame+1)),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, wire)
			var resp Response
			if err := readFrame(conn, &resp); err != nil {
				t.Fatal(err)
			}
			if resp.Error == nil || resp.Error.Code != CodeDecode || resp.Error.Details == "" {
				t.Errorf("resp = %+v", resp)
			}
		})
	}
}

func TestFaultInHandlerIsAnAnswer(t *testing.T) {
	path := serve(t, &Server{UID: self(), Handler: func(context.Context, Request) Response { panic("boom") }})
	resp, err := Call(context.Background(), path, Request{Plugin: "multus"})
	if err != nil || resp.Error == nil || resp.Error.Code != CodeInternal || !strings.Contains(resp.Error.Details,
		"boom") {
		t.Errorf("resp = %+v, %v", resp.Error, err)
	}
}

func TestClientGoingAwayEndsTheCall(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	path := serve(t, &Server{UID: self(), Handler: func(ctx context.Context, _ Request) Response {
		close(started)
		<-ctx.Done()
		close(ended)
		return Response{}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-started
		cancel()
	}()
	if _, err := Call(ctx, path, Request{Plugin: "multus"}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	<-ended
}

// A server that is told to stop lets a call under way finish.
func TestStoppingServerFinishesCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	started, goOn := make(chan struct{}), make(chan struct{})
	s := &Server{UID: self(), Log: slog.New(slog.DiscardHandler), Handler: func(ctx context.Context,
		_ Request) Response {
		close(started)
		<-goOn
		if ctx.Err() != nil {
			return Response{Error: &Error{Msg: "cut short"}}
		}
		return Response{Stdout: []byte("whole")}
	}}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	go func() {
		<-started
		stop()
		close(goOn)
	}()
	resp, err := Call(context.Background(), path, Request{Plugin: "multus"})
	if err != nil || string(resp.Stdout) != "whole" {
		t.Errorf("resp = %+v, %v", resp, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestCallWaitsForAnAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(30 * time.Millisecond) // the agent is late
		l, err := Listen(path)
		if err != nil {
			t.Error(err)
			return
		}
		s := &Server{UID: self(), Log: slog.New(slog.DiscardHandler), Handler: func(context.Context,
			Request) Response {
			return Response{Stdout: []byte("here")}
		}}
		s.Serve(ctx, l)
	}()
	resp, err := CallWaiting(context.Background(), path, Request{Plugin: "multus"}, 10*time.Second)
	if err != nil || string(resp.Stdout) != "here" {
		t.Errorf("resp = %+v, %v", resp, err)
	}
	cancel()
	<-done
	var gone *Away
	if _, err := CallWaiting(context.Background(), path, Request{Plugin: "multus"},
		20*time.Millisecond); !errors.As(err, &gone) {
		t.Errorf("err = %v", err)
	}
}

// A stale socket of an agent that was killed is replaced.
func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

func FuzzReadRequest(f *testing.F) {
	var good bytes.Buffer
	if err := writeFrame(&good, Request{Plugin: "multus", Env: map[string]string{"CNI_COMMAND": "ADD"},
		Stdin: []byte("{}")}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var req Request
		if err := readFrame(bytes.NewReader(wire), &req); err != nil {
			return
		}
		if req.Validate() != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, req); err != nil {
			t.Fatal(err)
		}
		var back Request
		if err := readFrame(&again, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(req, back); diff != "" && len(req.Env)+len(req.Stdin) > 0 {
			t.Error(diff)
		}
	})
}
