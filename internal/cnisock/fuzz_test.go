// SPDX-License-Identifier: Apache-2.0

package cnisock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzReadResponse: what the shim reads of any octets is a response that is read the same when it
// is written anew, or an error that tells what was wrong; and no octet behind the frame is taken.
func FuzzReadResponse(f *testing.F) {
	for _, r := range []Response{{}, {Stdout: []byte(`{"cniVersion":"0.3.1","ips":[]}`)},
		{Error: &Error{CNIVersion: "1.1.0", Code: 11, Msg: "later", Details: "soon"}}} {
		var good bytes.Buffer
		if err := writeFrame(&good, r); err != nil {
			f.Fatal(err)
		}
		f.Add(good.Bytes())
	}
	f.Add([]byte("\x00\x00\x00\x0c{\"error\":{}}"))
	f.Add([]byte("\x00\x00\x00\x13{\"stdout\":\"no base\"}"))
	f.Add([]byte("\x00\x00\x00\x04nullmore"))
	f.Add([]byte("\x00\x10\x00\x01"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x05{}"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := bytes.NewReader(wire)
		var got Response
		err := readFrame(in, &got)
		announced := int64(0)
		if len(wire) >= 4 {
			announced = int64(binary.BigEndian.Uint32(wire))
		}
		if taken := int64(len(wire) - in.Len()); taken > 4+announced || announced > MaxFrame && taken > 4 {
			t.Fatalf("%d octets taken of a frame of %d", taken, announced)
		}
		short := int64(len(wire)) < 4+announced
		switch {
		case errors.Is(err, ErrTooLarge) != (announced > MaxFrame):
			t.Fatalf("a frame of %d octets: %v", announced, err)
		case err != nil && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrMalformed) &&
			!(short && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))):
			t.Fatalf("%d octets of a frame of %d: %v", len(wire), announced, err)
		case err == nil && (short || len(wire) < 4):
			t.Fatalf("%d octets pass for a frame of %d", len(wire), announced)
		case err != nil:
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, got); errors.Is(err, ErrTooLarge) {
			return // text may be longer when it is written anew
		} else if err != nil {
			t.Fatal(err)
		}
		var back Response
		if err := readFrame(&again, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, back, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

// What is too large in an answer is no fault of the request: the agent is asked again, and says so
// itself when it knows.
func TestTooLargeAnAnswer(t *testing.T) {
	path := serve(t,
		&Server{UID: self(), Handler: func(context.Context,
			Request) Response {
			return Response{Stdout: make([]byte, MaxFrame)}
		}})
	resp, err := Call(context.Background(), path, Request{Plugin: "multus"})
	if err != nil || resp.Error == nil || resp.Error.Code != CodeInternal || !strings.Contains(resp.Error.Details,
		"larger than") {
		t.Errorf("resp = %+v, %v", resp.Error, err)
	}

	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for _, answer := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x15{\"stdout\":\"aGVyZQ==\"}"} {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var req Request
			readFrame(conn, &req)
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	if resp, err := CallWaiting(context.Background(), path, Request{Plugin: "multus"}, 10*time.Second); err != nil ||
		string(resp.Stdout) != "here" {
		t.Errorf("resp = %+v, %v", resp, err)
	}
}
