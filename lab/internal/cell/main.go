// SPDX-License-Identifier: Apache-2.0

package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

// firstInherited is the descriptor of the first socket that Start hands over; the others follow.
const firstInherited = 3

// Main is the first process of a cell: it makes the network, starts the programs and keeps them
// alive, until it is told to end.
func Main(specFile string) error {
	spec, err := readSpec(specFile)
	if err != nil {
		return err
	}
	if err := ownProc(); err != nil {
		slog.Warn("programs in the cell see the host's /proc", "error", err)
	}
	if err := makeNetwork(spec); err != nil {
		return err
	}
	if err := serve(spec); err != nil {
		return err
	}
	programs := startAll(spec.Programs)
	control, err := listenUnix(spec.Control)
	if err != nil {
		return err
	}
	go http.Serve(control, controlHandler(programs))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop // the kernel ends every other process of the namespace after this one
	return nil
}

func readSpec(file string) (Spec, error) {
	var spec Spec
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil {
		return spec, fmt.Errorf("reading the cell's plan: %w", err)
	}
	return spec, nil
}

// ownProc mounts a /proc that shows the cell's processes.
func ownProc() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC,
		""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}

// serve opens the ways in: the host's listeners, the unix sockets, and the file server for the machines.
func serve(spec Spec) error {
	for i, target := range spec.Forward {
		file := os.NewFile(firstInherited+uintptr(i), "listener")
		inherited, err := net.FileListener(file)
		if err != nil {
			return fmt.Errorf("taking over the host's socket for %s: %w", target, err)
		}
		if err := file.Close(); err != nil {
			return fmt.Errorf("taking over the host's socket for %s: %w", target, err)
		}
		go forward(inherited, target)
	}
	for _, s := range spec.Sockets {
		l, err := listenUnix(s.Path)
		if err != nil {
			return err
		}
		go forward(l, s.Target)
	}
	files, err := net.Listen("tcp", spec.Files.Address)
	if err != nil {
		return fmt.Errorf("serving files: %w", err)
	}
	go http.Serve(files, http.FileServer(http.Dir(spec.Files.Dir)))
	return nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("clearing a socket's place: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening a socket: %w", err)
	}
	return l, nil
}

// forward joins each connection to one to target, until the listener is closed.
func forward(l net.Listener, target string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go join(c, target)
	}
}

func join(near net.Conn, target string) {
	defer near.Close()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return // the caller sees its connection closed and tries again, as with a server that is down
	}
	defer far.Close()
	go pass(far, near)
	pass(near, far)
}

// pass copies one direction and says the end of it to the other side.
func pass(to, from net.Conn) {
	io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
