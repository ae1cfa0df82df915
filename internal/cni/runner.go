// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/text"
)

// DefaultBinDir is where plugins are on a node's disk.
const DefaultBinDir = "/opt/cni/bin"

// metaPlugin is our own meta plugin's name; inside a network it would call itself.
const metaPlugin = "multus"

// Runner runs configuration lists and single plugins. It is safe for concurrent use.
type Runner struct {
	// Plugins are those that run in this process, by type.
	Plugins map[string]Plugin
	// Root is the directory that plugins on disk see as "/", such as "/host"; "" is this process's own.
	Root string
	// BinDirs are searched, below Root, when a call names none; nil is DefaultBinDir.
	BinDirs []string
	// Env are variables, NAME=VALUE, that plugins on disk get beside those of CNI.
	Env []string
	// DiskTimeout bounds one plugin on disk; 0 is two minutes.
	DiskTimeout time.Duration
}

// Call is what all plugins of one attachment are called with.
type Call struct {
	ContainerID string
	NetNS       host.NS
	IfName      string
	// Args is CNI_ARGS.
	Args string
	// Capabilities go to each plugin that declares them, as runtimeConfig.
	Capabilities map[string]any
	// BinDirs are searched for plugins on disk; nil leaves it to the runner.
	BinDirs []string
	Pod     Pod
	// NAD is "namespace/name" of the NetworkAttachmentDefinition, "" when there is none.
	NAD string
	// Interfaces are the names of all interfaces of the pod, in order; nil when the caller cannot know.
	Interfaces []string
	// Turn returns when the networks before this one in the pod are attached; nil for the first. See Beside.
	Turn Turn
	// State gives each plugin of ours its durable memory of this attachment.
	State func(plugin string) State
	// Recorded has the attachment on disk when it returns; see Recorder. Nil: it is there.
	Recorded func() error
	// Refused is told that a plugin on disk failed, and decides whether its part of a DEL is
	// abandoned. Nil: it is when the failure is permanent.
	Refused func(Refusal) (abandon bool)
	Phases  *Phases
}

// Parse reads a configuration or a configuration list.
func Parse(config []byte) (*libcni.NetworkConfigList, error) {
	list, err := libcni.ConfListFromBytes(config)
	if err == nil && len(list.Plugins) > 0 {
		return list, check(list)
	}
	single, singleErr := libcni.NetworkPluginConfFromBytes(config)
	if singleErr != nil {
		return nil, Errorf(CodeInvalidConfig, "want a JSON object with plugins, or with type",
			"the CNI configuration does not parse: %w", errors.Join(err, singleErr))
	}
	// Users have single configurations, and there is no other way to read one.
	list, err = libcni.ConfListFromConf(single) //nolint:staticcheck // deprecated
	if err != nil {
		return nil, Errorf(CodeInvalidConfig, "", "the CNI configuration does not parse: %w", err)
	}
	return list, check(list)
}

func check(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if p.Network.Type == metaPlugin {
			return Errorf(CodeInvalidConfig, "name the network itself",
				"network %s: plugin type %s calls networks and cannot be one", text.Quote(list.Name), metaPlugin)
		}
	}
	return nil
}

// Add runs the list in order. On failure nothing is undone: that is Del's, with the same call.
func (r *Runner) Add(ctx context.Context, list *libcni.NetworkConfigList, c Call) (*types100.Result, error) {
	s := r.session(c)
	var prev types.Result
	for _, p := range list.Plugins {
		conf, err := s.inject(list, p, prev, nil)
		if err != nil {
			return nil, err
		}
		path, err := s.FindInPath(p.Network.Type, s.dirs())
		if err != nil {
			return nil, err
		}
		if prev, err = invoke.ExecPluginWithResult(ctx, path, conf, s.args("ADD"), s); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", p.Network.Type, err)
		}
	}
	if prev == nil {
		return nil, Errorf(CodeInvalidConfig, "", "network %s has no plugins", text.Quote(list.Name))
	}
	full, err := types100.NewResultFromResult(prev)
	if err != nil {
		return nil, fmt.Errorf("read the result of network %s: %w", text.Quote(list.Name), err)
	}
	s.restore(full)
	return full, nil
}

// Del runs the list in reverse, every plugin of it, whatever the others say. prev is Add's result,
// nil when there is none.
func (r *Runner) Del(ctx context.Context, list *libcni.NetworkConfigList, c Call, prev *types100.Result) error {
	s := r.session(c)
	var errs []error
	for _, p := range slices.Backward(list.Plugins) {
		if err := s.without(ctx, "DEL", list, p, prev, nil); err != nil {
			errs = append(errs, fmt.Errorf("plugin %s: %w", p.Network.Type, err))
		}
	}
	return errors.Join(errs...)
}

// Check runs the list in order and stops at the first that finds something wrong.
func (r *Runner) Check(ctx context.Context, list *libcni.NetworkConfigList, c Call, prev *types100.Result) error {
	return r.each(ctx, "CHECK", "0.4.0", list, c, prev, nil)
}

// Status asks each plugin whether it is ready.
func (r *Runner) Status(ctx context.Context, list *libcni.NetworkConfigList, c Call) error {
	return r.each(ctx, "STATUS", "1.1.0", list, c, nil, nil)
}

// GC tells each plugin which attachments are still valid, under the key of the specification and
// under that of its draft, as libcni does.
func (r *Runner) GC(ctx context.Context, list *libcni.NetworkConfigList, c Call, valid []types.GCAttachment) error {
	return r.each(ctx, "GC", "1.1.0", list, c, nil, map[string]any{"cni.dev/valid-attachments": valid,
		"cni.dev/attachments": valid})
}

// Verify has those plugins of the list that are ours look whether what they made is there, of
// whatever version the list is, and mend it where they can. It returns what was wrong with what was
// mended; the error is what could not be.
func (r *Runner) Verify(ctx context.Context, list *libcni.NetworkConfigList, c Call,
	prev *types100.Result) (mended []error, err error) {
	s := r.session(c)
	var errs []error
	for _, p := range list.Plugins {
		plugin, ours := r.Plugins[p.Network.Type]
		if !ours {
			continue
		}
		wrong, err := s.verify(ctx, list, p, plugin, prev)
		if err != nil {
			errs = append(errs, fmt.Errorf("plugin %s: %w", p.Network.Type, err))
		}
		if wrong != nil {
			mended = append(mended, wrong)
		}
	}
	return mended, errors.Join(errs...)
}

// verify returns what was wrong and is mended, or what is wrong still.
func (s *session) verify(ctx context.Context, list *libcni.NetworkConfigList, conf *libcni.PluginConfig, p Plugin,
	prev *types100.Result) (mended, err error) {
	stdin, err := s.inject(list, conf, previous(prev), nil)
	if err != nil {
		return nil, err
	}
	req, err := s.request(conf.Network.Type, stdin, variables(s.args("CHECK").AsEnv()))
	if err != nil {
		return nil, err
	}
	wrong := p.Check(ctx, req)
	m, mends := p.(Mender)
	if wrong == nil || !mends {
		return nil, wrong
	}
	if err := m.Mend(ctx, req); err != nil {
		return nil, errors.Join(wrong, fmt.Errorf("and mending it failed: %w", err))
	}
	if err := p.Check(ctx, req); err != nil {
		return nil, err
	}
	return wrong, nil
}

// previous is a result or nothing, not a nil pointer in an interface.
func previous(prev *types100.Result) types.Result {
	if prev == nil {
		return nil
	}
	return prev
}

// each runs a verb that the specification has since a version.
func (r *Runner) each(ctx context.Context, command, since string, list *libcni.NetworkConfigList, c Call,
	prev *types100.Result, extra map[string]any) error {
	if ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, since); err != nil || !ok {
		return err
	}
	s := r.session(c)
	for _, p := range list.Plugins {
		if err := s.without(ctx, command, list, p, prev, extra); err != nil {
			return fmt.Errorf("plugin %s: %w", p.Network.Type, err)
		}
	}
	return nil
}

// Direct runs one plugin of ours as it was called from outside: conf is its standard input, whole.
// It returns what to print.
func (r *Runner) Direct(ctx context.Context, plugin, command string, conf []byte, c Call) ([]byte, error) {
	s := r.session(c)
	return s.ExecPlugin(ctx, plugin, conf, s.args(command).AsEnv())
}

// inject gives a plugin's configuration what libcni would: the list's name and version, the result
// so far, and the capability arguments that the plugin declares.
func (s *session) inject(list *libcni.NetworkConfigList, p *libcni.PluginConfig, prev types.Result,
	extra map[string]any) ([]byte, error) {
	values := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	maps.Copy(values, extra)
	if prev != nil {
		converted, err := prev.GetAsVersion(list.CNIVersion)
		if err != nil {
			return nil, fmt.Errorf("convert the result of network %s to version %s: %w", text.Quote(list.Name),
				list.CNIVersion, err)
		}
		values["prevResult"] = converted
	}
	runtimeConfig := map[string]any{}
	for capability, declared := range p.Network.Capabilities {
		if v, ok := s.call.Capabilities[capability]; ok && declared {
			runtimeConfig[capability] = v
		}
	}
	if len(runtimeConfig) > 0 {
		values["runtimeConfig"] = runtimeConfig
	}
	out, err := libcni.InjectConf(p, values)
	if err != nil {
		return nil, Errorf(CodeInvalidConfig, "", "network %s: %w", text.Quote(list.Name), err)
	}
	return out.Bytes, nil
}

func (s *session) without(ctx context.Context, command string, list *libcni.NetworkConfigList, p *libcni.PluginConfig,
	prev *types100.Result, extra map[string]any) error {
	conf, err := s.inject(list, p, previous(prev), extra)
	if err != nil && prev != nil && command == "DEL" {
		// an old version cannot say every result, and DEL is to do without one
		conf, err = s.inject(list, p, nil, extra)
	}
	if err != nil {
		return err
	}
	if command == "DEL" {
		return s.del(ctx, p, conf)
	}
	path, err := s.FindInPath(p.Network.Type, s.dirs())
	if err != nil {
		return err
	}
	return invoke.ExecPluginWithoutResult(ctx, path, conf, s.args(command), s)
}

// Encode prints a result in a configuration's version.
func Encode(res *types100.Result, cniVersion string) ([]byte, error) {
	if res.CNIVersion == "" {
		res.CNIVersion = types100.ImplementedSpecVersion
	}
	if cniVersion == "" {
		cniVersion = "0.1.0"
	}
	converted, err := res.GetAsVersion(cniVersion)
	if err != nil {
		return nil, Errorf(CodeIncompatibleVersion, "", "convert the result to version %s: %w", cniVersion, err)
	}
	if full, ok := converted.(*types100.Result); ok && cniVersion == "1.0.0" {
		converted = withoutNewer(full)
	}
	out, err := json.Marshal(converted)
	if err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	return out, nil
}

// withoutNewer leaves out what version 1.0.0 does not have; the library keeps it.
func withoutNewer(res *types100.Result) *types100.Result {
	out := *res
	out.Interfaces = nil
	for _, i := range res.Interfaces {
		out.Interfaces = append(out.Interfaces, &types100.Interface{Name: i.Name, Mac: i.Mac, Sandbox: i.Sandbox})
	}
	return &out
}
