package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Reset restarts a machine as its reset button would, through the QEMU monitor (QMP) behind a socket.
func Reset(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reaching the machine's monitor: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("reaching the machine's monitor: %w", err)
	}
	return converse(conn, json.NewDecoder(conn))
}

// converse reads the greeting, leaves negotiation mode and resets.
func converse(conn net.Conn, from *json.Decoder) error {
	var greeting map[string]any
	if err := from.Decode(&greeting); err != nil {
		return fmt.Errorf("reading the monitor's greeting: %w", err)
	}
	for _, command := range []string{"qmp_capabilities", "system_reset"} {
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
