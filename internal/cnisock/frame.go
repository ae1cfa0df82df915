// SPDX-License-Identifier: Apache-2.0

package cnisock

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultPath is where the agent listens.
const DefaultPath = "/var/run/spidernet/spiderpool.sock"

// PathVariable is the environment variable that overrides DefaultPath for the shim.
const PathVariable = "SPIDERPOOL_SOCKET"

// MaxFrame is the largest frame in octets. A CNI configuration with its previous result is a few kilobytes.
const MaxFrame = 1 << 20

// Error codes of the CNI specification that the wire itself gives.
const (
	CodeInvalidEnv    = 4
	CodeIO            = 5
	CodeDecode        = 6
	CodeTryAgainLater = 11
	CodeInternal      = 999
)

// Errors of the wire, for errors.Is.
var (
	// ErrTooLarge: a frame over MaxFrame.
	ErrTooLarge = fmt.Errorf("frame is larger than %d octets", MaxFrame)
	// ErrMalformed: a frame that is not what the protocol says.
	ErrMalformed = errors.New("malformed frame")
)

// Request is one call of a plugin as the runtime made it.
type Request struct {
	// Plugin is the name under which the shim was called, such as "multus" or "ib-sriov".
	Plugin string `json:"plugin"`
	// Env holds the variables whose names begin with CNI_.
	Env map[string]string `json:"env"`
	// Stdin is the network configuration, as read.
	Stdin []byte `json:"stdin"`
}

// Response is what the plugin prints: Stdout with exit status 0 (it may be empty), or Error with
// exit status 1.
type Response struct {
	Stdout []byte `json:"stdout,omitempty"`
	Error  *Error `json:"error,omitempty"`
}

// Error is the CNI specification's error object.
type Error struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// Error is the message with its details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Details
}

// Validate tells what of a request could not have come from the shim.
func (r *Request) Validate() error {
	if r.Plugin == "" || strings.ContainsAny(r.Plugin, "/\x00") || len(r.Plugin) > 64 {
		return fmt.Errorf("%w: plugin name %.70q", ErrMalformed, r.Plugin)
	}
	for name := range r.Env {
		if !strings.HasPrefix(name, "CNI_") {
			return fmt.Errorf("%w: environment variable %.70q: only names beginning with CNI_ are carried",
				ErrMalformed, name)
		}
	}
	return nil
}

// writeFrame writes one frame.
func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("write frame: %w", ErrTooLarge)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// readFrame reads one frame into v. It allocates no more than arrives.
func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return fmt.Errorf("read frame of %d octets: %w", n, ErrTooLarge)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n)); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := json.Unmarshal(body.Bytes(), v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}
