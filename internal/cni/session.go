// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/text"
)

// session is invoke.Exec for one attachment.
type session struct {
	version.PluginDecoder
	runner *Runner
	call   Call
	// seen keeps the interfaces as our plugins reported them: MTU and PCI address are lost on the
	// way through a configuration of an older version.
	seen map[string]types100.Interface
}

var _ invoke.Exec = (*session)(nil)

func (r *Runner) session(c Call) *session {
	return &session{runner: r, call: c, seen: map[string]types100.Interface{}}
}

func (s *session) dirs() []string {
	switch {
	case len(s.call.BinDirs) > 0:
		return s.call.BinDirs
	case len(s.runner.BinDirs) > 0:
		return s.runner.BinDirs
	}
	return []string{DefaultBinDir}
}

func (s *session) args(command string) *invoke.Args {
	return &invoke.Args{Command: command, ContainerID: s.call.ContainerID, NetNS: string(s.call.NetNS),
		IfName:        s.call.IfName,
		PluginArgsStr: s.call.Args, Path: strings.Join(s.dirs(), string(os.PathListSeparator))}
}

// FindInPath returns the bare name for a plugin of ours, else the path, below the runner's root, of
// one on disk.
func (s *session) FindInPath(plugin string, dirs []string) (string, error) {
	if _, ok := s.runner.Plugins[plugin]; ok {
		return plugin, nil
	}
	if plugin == "" || strings.ContainsRune(plugin, os.PathSeparator) {
		return "", Errorf(CodeInvalidConfig, `correct "type" in the network's configuration`,
			"%w: type %s is not a file name", errNoPlugin, text.Quote(plugin))
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, plugin)
		// Lstat, because an absolute link is to be followed below the root, by the kernel.
		if info, err := os.Lstat(filepath.Join(s.runner.Root, path)); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", Errorf(CodeInvalidConfig, "install it on the node, or name another type in the network's configuration",
		"%w %s in path %s", errNoPlugin, text.Quote(plugin), strings.Join(dirs, ", "))
}

// ExecPlugin implements invoke.Exec.
func (s *session) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("the runtime gave up: %w", err)
	}
	p, ours := s.runner.Plugins[path]
	if _, beside := p.(Beside); !beside {
		if err := s.call.Turn.wait(ctx, s.call.Phases); err != nil {
			return nil, err
		}
	}
	if _, records := p.(Recorder); !records {
		if err := s.recorded(); err != nil {
			return nil, err
		}
	}
	if ours {
		return s.inProcess(ctx, path, p, stdin, environ)
	}
	defer s.call.Phases.Start(PhaseExec)()
	out, err := s.onDisk(ctx, path, stdin, environ)
	if err == nil {
		if err = whole(out); err != nil {
			return nil, Errorf(CodeFailed, "it is that plugin's fault", "the result of %s: %w", path, err)
		}
	}
	if err == nil {
		return out, nil
	}
	command := variables(environ)["CNI_COMMAND"]
	if command == "DEL" && nothingToUndo(err) || s.failed(command, typeOf(path), err) {
		return nil, nil
	}
	return nil, err
}

// recorded has the attachment on disk when it returns.
func (s *session) recorded() error {
	if s.call.Recorded == nil {
		return nil
	}
	defer s.call.Phases.Start(PhaseRecord)()
	if err := s.call.Recorded(); err != nil {
		return fmt.Errorf("record the attachment: %w", err)
	}
	return nil
}

func (s *session) inProcess(ctx context.Context, name string, p Plugin, stdin []byte, environ []string) ([]byte,
	error) {
	if name == coordinatorType {
		defer s.call.Phases.Start(PhaseCoordinator)()
	}
	env := variables(environ)
	req, err := s.request(name, stdin, env)
	if err != nil {
		return nil, err
	}
	switch command := env["CNI_COMMAND"]; command {
	case "ADD":
		res, err := p.Add(ctx, req)
		if err != nil {
			return nil, err
		}
		s.remember(res)
		return Encode(res, req.CNIVersion)
	case "DEL":
		return nil, p.Del(ctx, req)
	case "CHECK":
		return nil, p.Check(ctx, req)
	case "STATUS", "GC":
		return nil, nil // our plugins are as ready as this process; what is left over is the collector's
	default:
		return nil, Errorf(CodeInvalidEnv, "want ADD, DEL, CHECK, STATUS, GC or VERSION", "CNI_COMMAND is %s",
			text.Quote(command))
	}
}

// request is a plugin's call as our plugins see it.
func (s *session) request(name string, stdin []byte, env map[string]string) (*Request, error) {
	var conf types.PluginConf
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, Errorf(CodeDecode, "", "plugin %s: the network configuration does not parse: %w", name, err)
	}
	args, err := parseArgs(env["CNI_ARGS"])
	if err != nil {
		return nil, Errorf(CodeInvalidEnv, "", "%w", err)
	}
	prev, err := prevResult(&conf)
	if err != nil && env["CNI_COMMAND"] != "DEL" { // which needs none, and must not be refused for ever
		return nil, Errorf(CodeDecode, "", "plugin %s: prevResult does not parse: %w", name, err)
	}
	if prev != nil {
		s.restore(prev)
	}
	req := &Request{ContainerID: env["CNI_CONTAINERID"], NetNS: host.NS(env["CNI_NETNS"]), IfName: env["CNI_IFNAME"],
		Args: args, Conf: stdin,
		Network: conf.Name, CNIVersion: conf.CNIVersion, Prev: prev, Pod: s.call.Pod, NAD: s.call.NAD,
		Interfaces: s.call.Interfaces, Phases: s.call.Phases, Turn: s.call.Turn}
	if s.call.State != nil {
		req.State = s.call.State(name)
	}
	// A plugin that is itself the address management has its own type there.
	if t := conf.IPAM.Type; t != "" && t != name {
		req.IPAM = &ipamCall{session: s, plugin: t, conf: stdin}
	}
	return req, nil
}

// whole refuses a result with null for an interface, address or route: whoever reads one, libcni's
// conversions first of all, takes it for an object. Text that is no result at all is for the
// readers to refuse.
func whole(result []byte) error {
	var r struct {
		Interfaces, IPs, Routes []*struct{}
	}
	_ = json.Unmarshal(result, &r)
	for i, members := range [][]*struct{}{r.Interfaces, r.IPs, r.Routes} {
		if j := slices.Index(members, nil); j >= 0 {
			return fmt.Errorf("%s[%d] is null", []string{"interfaces", "ips", "routes"}[i], j)
		}
	}
	return nil
}

func prevResult(conf *types.PluginConf) (*types100.Result, error) {
	raw, err := json.Marshal(conf.RawPrevResult)
	if err != nil {
		return nil, err
	}
	if err := whole(raw); err != nil {
		return nil, err
	}
	if err := version.ParsePrevResult(conf); err != nil {
		return nil, err
	}
	if conf.PrevResult == nil {
		return nil, nil
	}
	return types100.NewResultFromResult(conf.PrevResult)
}

func (s *session) remember(res *types100.Result) {
	for _, i := range res.Interfaces {
		if i.Mtu != 0 || i.PciID != "" {
			s.seen[i.Sandbox+" "+i.Name] = *i
		}
	}
}

func (s *session) restore(res *types100.Result) {
	for _, i := range res.Interfaces {
		if full, ok := s.seen[i.Sandbox+" "+i.Name]; ok && full.Mac == i.Mac {
			i.Mtu, i.PciID = full.Mtu, full.PciID
		}
	}
}

// Bounds of a plugin on disk. A DEL is not ended by a runtime that gives up, and a plugin that
// hangs would hold its sandbox, or the collector, for ever.
const (
	diskTimeout = 2 * time.Minute
	// outputWait is for the output of a plugin that has ended and left a process behind with it.
	outputWait = time.Second
)

// onDisk executes a plugin with the CNI variables and the runner's alone: the agent's own
// environment is none of its business.
func (s *session) onDisk(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.runner.DiskTimeout, diskTimeout))
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.WaitDelay = "/", outputWait
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Env = append(cmd.Env, s.runner.Env...)
	for _, pair := range environ {
		if strings.HasPrefix(pair, "CNI_") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	if s.runner.Root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.runner.Root}
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s was ended: %w", path, ctx.Err())
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // with that one the plugin itself has succeeded
		return nil, diskError(path, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// mostSaid is how many octets of what a plugin on disk says about its failure are kept.
const mostSaid = 2000

// diskError is the plugin's own error object when it printed one.
func diskError(path string, err error, stdout, stderr []byte) error {
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		said.Msg, said.Details = text.Limit(said.Msg, mostSaid), text.Limit(said.Details, mostSaid)
		return &said
	}
	if len(stderr) > mostSaid {
		stderr = stderr[len(stderr)-mostSaid:]
	}
	if len(stdout) > mostSaid {
		stdout = stdout[len(stdout)-mostSaid:]
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return Errorf(CodeFailed, "", "%s: %w: %s%s", path, err, bytes.TrimSpace(stderr), bytes.TrimSpace(stdout))
	}
	return Errorf(CodeFailed, "", "execute %s: %w", path, err)
}

func variables(environ []string) map[string]string {
	env := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "CNI_") {
			env[name] = value
		}
	}
	return env
}

// ipamCall delegates address management: same configuration, same variables, another plugin.
type ipamCall struct {
	session *session
	plugin  string
	conf    []byte
}

func (i *ipamCall) Add(ctx context.Context) (*types100.Result, error) {
	path, err := i.session.FindInPath(i.plugin, i.session.dirs())
	if err != nil {
		return nil, err
	}
	res, err := invoke.ExecPluginWithResult(ctx, path, i.conf, i.session.args("ADD"), i.session)
	if err != nil {
		return nil, fmt.Errorf("ipam %s: %w", i.plugin, err)
	}
	full, err := types100.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("ipam %s: read its result: %w", i.plugin, err)
	}
	return full, nil
}

func (i *ipamCall) Del(ctx context.Context) error { return i.without(ctx, "DEL") }

func (i *ipamCall) Check(ctx context.Context) error { return i.without(ctx, "CHECK") }

func (i *ipamCall) without(ctx context.Context, command string) error {
	find := i.session.findForDel
	if command != "DEL" {
		find = func(plugin string) (string, error) { return i.session.FindInPath(plugin, i.session.dirs()) }
	}
	path, err := find(i.plugin)
	if err != nil || path == "" {
		return err
	}
	if err := invoke.ExecPluginWithoutResult(ctx, path, i.conf, i.session.args(command), i.session); err != nil {
		return fmt.Errorf("ipam %s: %w", i.plugin, err)
	}
	return nil
}

// coordinatorType is the plugin whose whole call is one phase.
const coordinatorType = "coordinator"
