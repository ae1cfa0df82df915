// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"spidernet.io/spiderpool/lab/internal/cell"
)

// Layout is where a lab keeps what belongs to one life of it: all under one directory, removed by Down.
type Layout struct{ Dir string }

// DefaultLayout is $XDG_STATE_HOME/spiderpool-lab, or the same under ~/.local/state: one lab per user.
func DefaultLayout() (Layout, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return Layout{}, fmt.Errorf("finding the home directory: %w", err)
		}
		base = filepath.Join(home, ".local/state")
	}
	return Layout{Dir: filepath.Join(base, "spiderpool-lab")}, nil
}

func (l Layout) stateFile() string          { return filepath.Join(l.Dir, "lab.json") }
func (l Layout) pki(name string) string     { return filepath.Join(l.Dir, "pki", name) }
func (l Layout) images() string             { return filepath.Join(l.Dir, "images") }
func (l Layout) logs() string               { return filepath.Join(l.Dir, "log") }
func (l Layout) log(name string) string     { return filepath.Join(l.logs(), name+".log") }
func (l Layout) run() string                { return filepath.Join(l.Dir, "run") }
func (l Layout) control() string            { return filepath.Join(l.run(), "cell.sock") }
func (l Layout) ssh(node string) string     { return filepath.Join(l.run(), node+".ssh") }
func (l Layout) key() string                { return filepath.Join(l.Dir, "pki/ssh.key") }
func (l Layout) seed(node string) string    { return filepath.Join(l.Dir, "vm", node+".tar") }
func (l Layout) scratch() string            { return filepath.Join(l.Dir, "vm") }
func (l Layout) etcd() string               { return filepath.Join(l.Dir, "etcd") }
func (l Layout) program(name string) string { return filepath.Join(l.Dir, "bin", name) }

// Kubeconfig is the cluster administrator's, for use on the host.
func (l Layout) Kubeconfig() string { return l.pki("admin.kubeconfig") }

// Registry is the directory of the lab's container registry (package registry).
func (l Layout) Registry() string { return filepath.Join(l.Dir, "registry") }

// Kubectl is the kubectl of the cluster's version.
func (l Layout) Kubectl() string { return l.program("kubectl") }

// State is what is remembered about a lab that is up.
type State struct {
	Cell    cell.Handle
	Options Options
}

// Load reads the state; ok is false when no lab is up.
func (l Layout) Load() (s State, ok bool, err error) {
	b, err := os.ReadFile(l.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, false, fmt.Errorf("reading the lab's state: %w", err)
	}
	return s, s.Cell.Alive(), nil
}

func (l Layout) save(s State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.WriteFile(l.stateFile(), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting the lab's state: %w", err)
	}
	return nil
}

// lock keeps two commands from starting or ending the lab at once. It does not wait.
func (l Layout) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(l.Dir), 0o755); err != nil {
		return nil, fmt.Errorf("making the place of the lab's state: %w", err)
	}
	f, err := os.OpenFile(l.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lab's lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another command is starting or ending this lab (%s.lock is taken: %w)", l.Dir, err)
	}
	return func() { f.Close() }, nil
}

// fresh empties the directory and lays out its folders.
func (l Layout) fresh() error {
	if err := l.remove(); err != nil {
		return err
	}
	for _, d := range []string{"pki", "images", "log", "run", "vm", "etcd", "bin", "registry"} {
		if err := os.MkdirAll(filepath.Join(l.Dir, d), 0o700); err != nil {
			return fmt.Errorf("making the lab's state directory: %w", err)
		}
	}
	return nil
}

func (l Layout) remove() error {
	if err := os.RemoveAll(l.Dir); err != nil {
		return fmt.Errorf("removing the lab's state: %w", err)
	}
	return nil
}
