// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Reset restarts a machine as its reset button would, through the QEMU monitor (QMP) behind a socket.
func Reset(ctx context.Context, socket string) error { return command(ctx, socket, "system_reset") }

// Pause stops a machine's processors and devices where they are: to others it is as if it had lost
// its power, but Resume makes it go on. Its clock stands still meanwhile.
func Pause(ctx context.Context, socket string) error { return command(ctx, socket, "stop") }

// Resume has a paused machine go on.
func Resume(ctx context.Context, socket string) error { return command(ctx, socket, "cont") }

func command(ctx context.Context, socket, name string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reaching the machine's monitor: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("reaching the machine's monitor: %w", err)
	}
	return converse(conn, json.NewDecoder(conn), name)
}

// converse reads the greeting, leaves negotiation mode and gives one command.
func converse(conn net.Conn, from *json.Decoder, name string) error {
	var greeting map[string]any
	if err := from.Decode(&greeting); err != nil {
		return fmt.Errorf("reading the monitor's greeting: %w", err)
	}
	for _, command := range []string{"qmp_capabilities", name} {
		if err := execute(conn, from, command); err != nil {
			return err
		}
	}
	return nil
}

func execute(conn net.Conn, from *json.Decoder, command string) error {
	if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", command); err != nil {
		return fmt.Errorf("telling the monitor %s: %w", command, err)
	}
	for {
		var answer struct {
			Return *json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := from.Decode(&answer); err != nil {
			return fmt.Errorf("reading the monitor's answer to %s: %w", command, err)
		}
		switch {
		case answer.Error != nil:
			return fmt.Errorf("the monitor refused %s: %s", command, answer.Error.Desc)
		case answer.Return != nil:
			return nil
		} // anything else is an event
	}
}
