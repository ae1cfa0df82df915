// SPDX-License-Identifier: Apache-2.0

package cell

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// pauses between two starts of a program, and between two looks at what it waits for.
const (
	restartPause = time.Second
	probePause   = 200 * time.Millisecond
)

// supervised is a program and how it is.
type supervised struct {
	program Program
	mu      sync.Mutex
	state   Process
	process *os.Process // while it runs
	down    time.Time   // until when it is not started again
}

func startAll(programs []Program) []*supervised {
	var all []*supervised
	for _, p := range programs {
		s := &supervised{program: p, state: Process{Name: p.Name, Log: p.Log, Since: time.Now()}}
		all = append(all, s)
		go s.run()
	}
	return all
}

// run starts the program, again and again if it is to be restarted.
func (s *supervised) run() {
	if s.program.After != "" {
		s.set(func(p *Process) { p.Waiting = true })
		waitFor(s.program.After)
		s.set(func(p *Process) { p.Waiting = false })
	}
	for {
		err := s.once()
		slog.Error("program ended", "program", s.program.Name, "result", err)
		s.set(func(p *Process) { p.Running, p.Since, p.LastExit = false, time.Now(), ended(err) })
		if !s.program.Restart {
			return
		}
		time.Sleep(max(restartPause, s.stillDown()))
	}
}

// outage ends a program and has it started again only after some time.
func (s *supervised) outage(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.program.Restart {
		return fmt.Errorf("%s would not be started again", s.program.Name)
	}
	s.down = time.Now().Add(d)
	if s.process == nil {
		return nil
	}
	if err := s.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending %s: %w", s.program.Name, err)
	}
	return nil
}

func (s *supervised) stillDown() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.down)
}

func (s *supervised) once() error {
	log, err := os.OpenFile(s.program.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening its log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(s.program.Args[0], s.program.Args[1:]...)
	cmd.Env = append(os.Environ(), s.program.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting it: %w", err)
	}
	s.set(func(p *Process) { p.Running, p.Since, p.Starts, s.process = true, time.Now(), p.Starts+1, cmd.Process })
	defer s.set(func(*Process) { s.process = nil })
	return cmd.Wait()
}

func (s *supervised) set(change func(*Process)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

func (s *supervised) get() Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func ended(err error) string {
	if err == nil {
		return "ended with status 0"
	}
	return err.Error()
}

// waitFor returns when url answers 200. Who answers is not checked: it is only a matter of order.
func waitFor(url string) {
	client := http.Client{Timeout: 2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for ; ; time.Sleep(probePause) {
		resp, err := client.Get(url)
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
}

func controlHandler(programs []*supervised) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /processes", func(w http.ResponseWriter, _ *http.Request) {
		var all []Process
		for _, s := range programs {
			all = append(all, s.get())
		}
		json.NewEncoder(w).Encode(all)
	})
	mux.HandleFunc("POST /processes/{name}/outage", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.URL.Query().Get("for"))
		i := slices.IndexFunc(programs, func(s *supervised) bool { return s.program.Name == r.PathValue("name") })
		switch {
		case err != nil || d <= 0:
			http.Error(w, "want a duration, such as for=1m", http.StatusBadRequest)
		case i < 0:
			http.Error(w, "no such program", http.StatusNotFound)
		default:
			if err := programs[i].outage(d); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		}
	})
	return mux
}
