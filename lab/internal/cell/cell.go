// SPDX-License-Identifier: Apache-2.0

package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Handle names a cell's first process so that it cannot be mistaken for a later one with the same number.
type Handle struct {
	PID   int
	Start uint64 // in clock ticks since boot: field 22 of /proc/PID/stat (proc(5))
}

// Start makes a cell. command is the program that calls Main with specFile, and arguments for it;
// listeners are sockets of the host on which the cell accepts for Spec.Forward; output of the cell
// itself goes to logFile. As an ordinary user the cell gets a user namespace too.
func Start(spec Spec, specFile, logFile string, listeners []*os.File, command ...string) (Handle, error) {
	if len(listeners) != len(spec.Forward) {
		return Handle{}, fmt.Errorf("handing %d sockets to the control plane: its plan forwards %d", len(listeners),
			len(spec.Forward))
	}
	b, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return Handle{}, fmt.Errorf("writing the cell's plan: %w", err)
	}
	if err := os.WriteFile(specFile, b, 0o600); err != nil {
		return Handle{}, fmt.Errorf("writing the cell's plan: %w", err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Handle{}, fmt.Errorf("opening the cell's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = listeners
	cmd.SysProcAttr = namespaces()
	if err := cmd.Start(); err != nil {
		return Handle{}, fmt.Errorf("making the control plane's namespaces: %w", err)
	}
	return handle(cmd.Process.Pid)
}

func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if uid := os.Geteuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

func handle(pid int) (Handle, error) {
	start, err := startTime(pid)
	return Handle{PID: pid, Start: start}, err
}

func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("asking for process %d: %w", pid, err)
	}
	return parseStartTime(string(b))
}

// parseStartTime reads field 22 of proc(5)'s stat line. The second field, in parentheses, may
// itself hold spaces and parentheses.
func parseStartTime(stat string) (uint64, error) {
	const afterName = 22 - 3
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= afterName {
		return 0, fmt.Errorf("process state %q is too short", stat)
	}
	return strconv.ParseUint(fields[afterName], 10, 64)
}

// Alive tells whether the very process of the handle still runs.
func (h Handle) Alive() bool {
	if h.PID <= 0 {
		return false
	}
	start, err := startTime(h.PID)
	return err == nil && start == h.Start && !zombie(h.PID)
}

func zombie(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	i := strings.LastIndexByte(string(b), ')')
	return err == nil && i > 0 && strings.HasPrefix(string(b[i+1:]), " Z")
}

// Stop ends the cell and all inside it: the kernel ends every process of a namespace when its first
// one dies. A handle whose process is gone is no error, and a later process with its number is left
// alone.
func (h Handle) Stop(ctx context.Context) error {
	if !h.Alive() {
		return nil
	}
	if err := syscall.Kill(h.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("ending the control plane's namespaces (process %d): %w", h.PID, err)
	}
	for h.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for process %d to end: %w", h.PID, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Processes asks a cell, by its control socket, how its programs are.
func Processes(ctx context.Context, control string) ([]Process, error) {
	var all []Process
	answer, err := ask(ctx, control, http.MethodGet, "/processes")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(answer, &all); err != nil {
		return nil, fmt.Errorf("reading the cell's answer: %w", err)
	}
	return all, nil
}

// Outage has a cell end a program at once and start it again only after some time.
func Outage(ctx context.Context, control, program string, d time.Duration) error {
	_, err := ask(ctx, control, http.MethodPost, "/processes/"+url.PathEscape(program)+"/outage?for="+d.String())
	return err
}

func ask(ctx context.Context, control, method, path string) ([]byte, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", control)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://cell"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the control plane's cell: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the cell's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the control plane's cell refuses: %s", strings.TrimSpace(string(answer)))
	}
	return answer, nil
}
