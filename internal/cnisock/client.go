// SPDX-License-Identifier: Apache-2.0

package cnisock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Away is the error of an agent that could not be reached or went away before it answered. Every
// CNI verb of ours may be repeated, so the call may be made again.
type Away struct{ Err error }

func (a *Away) Error() string { return "the agent does not answer: " + a.Err.Error() }
func (a *Away) Unwrap() error { return a.Err }

// Call makes one request. The error is an *Away, or else ErrTooLarge for a request that cannot be sent.
func Call(ctx context.Context, path string, req Request) (Response, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return Response{}, &Away{err}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := writeFrame(conn, req); errors.Is(err, ErrTooLarge) {
		return Response{}, err
	} else if err != nil {
		return Response{}, away(ctx, err)
	}
	var resp Response
	if err := readFrame(conn, &resp); err != nil {
		return Response{}, away(ctx, err)
	}
	return resp, nil
}

func away(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return &Away{err}
}

// CallWaiting is Call that waits up to wait for an agent that is just restarting. The bound is on
// waiting for an agent; how long the agent may work is ctx's.
func CallWaiting(ctx context.Context, path string, req Request, wait time.Duration) (Response, error) {
	deadline := time.Now().Add(wait)
	pause := 10 * time.Millisecond
	for {
		resp, err := Call(ctx, path, req)
		if gone := (*Away)(nil); !errors.As(err, &gone) || ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return Response{}, err
		case <-time.After(pause):
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}
