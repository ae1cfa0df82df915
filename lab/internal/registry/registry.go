// SPDX-License-Identifier: Apache-2.0

// Package registry is the lab's container registry: images and charts that are pushed from the host
// and pulled by the machines, kept in a directory.
//
// The protocol is go-containerregistry's; this package adds that the content outlives the process,
// which the lab ends on purpose. It must not know who pushes or pulls, or under which name.
package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Layout of a registry's directory.
const (
	blobsDir  = "blobs"           // sha256/HEX: a layer, a configuration or a chart
	manifests = "manifests.jsonl" // one line for each manifest that was pushed, in order
)

// Blob is the file that holds the blob of a digest ("sha256:…") in a registry's directory.
func Blob(dir, digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(dir, blobsDir, algorithm, hex)
}

// pushed is a line of the manifests' file. go-containerregistry keeps manifests in memory alone.
type pushed struct {
	Path, Type string
	Body       []byte
}

// Serve serves the registry of a directory on an address until the process ends. Requests are
// written to out.
func Serve(dir, address string, out io.Writer) error {
	h, err := Open(dir, out)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("opening the registry's port: %w", err)
	}
	server := http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(l)
}

// Open returns the registry of a directory, which is made if it does not exist.
func Open(dir string, out io.Writer) (http.Handler, error) {
	blobs := filepath.Join(dir, blobsDir)
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return nil, fmt.Errorf("making the registry's directory: %w", err)
	}
	k := &keeper{
		file: filepath.Join(dir, manifests),
		next: registry.New(
			registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
			registry.WithReferrersSupport(true),
			registry.Logger(log.New(out, "", log.LstdFlags))),
	}
	return k, k.replay()
}

// keeper notes every manifest that next accepts.
type keeper struct {
	next http.Handler
	file string
	mu   sync.Mutex
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	changes := r.Method == http.MethodPut || r.Method == http.MethodDelete
	if !changes || !strings.Contains(r.URL.Path, "/manifests/") {
		k.next.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodDelete {
		http.Error(w, "the lab's registry deletes nothing", http.StatusMethodNotAllowed)
		return
	}
	if err := k.put(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// put notes the manifest before the client is answered. Its error means that no answer was written.
func (k *keeper) put(w http.ResponseWriter, r *http.Request) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading a manifest: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	k.next.ServeHTTP(answer, r)
	if answer.Code == http.StatusCreated {
		p := pushed{Path: r.URL.Path, Type: r.Header.Get("Content-Type"), Body: body}
		if err := k.note(p); err != nil {
			return err
		}
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // a client that has gone does not change what was pushed
	return nil
}

func (k *keeper) note(p pushed) error {
	line, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("noting a manifest: %w", err)
	}
	f, err := os.OpenFile(k.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("noting a manifest: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("noting a manifest: %w", err)
	}
	return nil
}

// replay pushes what was noted into the registry's memory. A last line that its process did not
// finish was not answered either, so its client pushes again.
func (k *keeper) replay() error {
	b, err := os.ReadFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the registry's manifests: %w", err)
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	for line := range bytes.Lines(whole) {
		var p pushed
		if err := json.Unmarshal(line, &p); err != nil {
			return fmt.Errorf("reading the registry's manifests: %w", err)
		}
		r := httptest.NewRequest(http.MethodPut, p.Path, bytes.NewReader(p.Body))
		r.Header.Set("Content-Type", p.Type)
		answer := httptest.NewRecorder()
		k.next.ServeHTTP(answer, r)
		if answer.Code != http.StatusCreated {
			return fmt.Errorf("reading the registry's manifests: %s: %s", p.Path, answer.Body)
		}
	}
	if len(whole) == len(b) {
		return nil
	}
	if err := os.Truncate(k.file, int64(len(whole))); err != nil {
		return fmt.Errorf("repairing the registry's manifests: %w", err)
	}
	return nil
}
