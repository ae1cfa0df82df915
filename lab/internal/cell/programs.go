package cell

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
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
		time.Sleep(restartPause)
	}
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
	s.set(func(p *Process) { p.Running, p.Since, p.Starts = true, time.Now(), p.Starts+1 })
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
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
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
	return mux
}
