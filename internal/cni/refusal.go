// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"spidernet.io/spiderpool/internal/text"
)

// Refusal is the failure of a plugin on disk to do its part of an attachment.
type Refusal struct {
	// Command is ADD or DEL.
	Command string
	// Plugin is the plugin's type.
	Plugin string
	Err    error
	// Permanent: the plugin is not there or refuses the call as such, so it fails the same way each
	// time. Temporary: it says, or the node does, that it may succeed later. Neither: not known.
	Permanent, Temporary bool
}

// maxNetworkName is NAME_MAX (linux/limits.h): plugins such as host-local name a folder after the network.
const maxNetworkName = 255

// Installed reports what of a list cannot run on this node, before anything is recorded or run: the
// name, or a plugin that is neither ours nor on disk, of the list or for its addresses. What is
// refused here needs no DEL; refused later, it would need one from plugins that do not exist.
func (r *Runner) Installed(list *libcni.NetworkConfigList, binDirs []string) error {
	if err := checkName(list.Name); err != nil {
		return err
	}
	s := r.session(Call{BinDirs: binDirs})
	for i, p := range list.Plugins {
		if err := s.installed(p.Network); err != nil {
			e := remedyOf(err)
			return Errorf(e.Code, e.Remedy, "network %s: plugin %d: %s", text.Quote(list.Name), i+1, e.Msg)
		}
	}
	return nil
}

// InstalledDirect is Installed for one plugin of ours that is called by itself: conf is its standard input.
func (r *Runner) InstalledDirect(conf []byte, binDirs []string) error {
	var p types.PluginConf
	if json.Unmarshal(conf, &p) != nil {
		return nil // whoever reads it says so
	}
	if p.Name != "" {
		if err := checkName(p.Name); err != nil {
			return err
		}
	}
	return r.session(Call{BinDirs: binDirs}).installedIPAM(&p)
}

func checkName(name string) error {
	if err := utils.ValidateNetworkName(name); err != nil {
		return Errorf(CodeInvalidConfig, `correct "name" in the network's configuration`,
			"the network's name %s is not valid: must be letters, digits, '_', '.' and '-', and begin with a letter "+
				"or digit", text.Quote(name))
	}
	if len(name) > maxNetworkName {
		return Errorf(CodeInvalidConfig, `shorten "name" in the network's configuration`,
			"the network's name has %d octets: must have at most %d: %s", len(name), maxNetworkName, text.Quote(name))
	}
	return nil
}

func (s *session) installed(p *types.PluginConf) error {
	if _, err := s.FindInPath(p.Type, s.dirs()); err != nil {
		return err
	}
	return s.installedIPAM(p)
}

func (s *session) installedIPAM(p *types.PluginConf) error {
	if p.IPAM.Type == "" || p.IPAM.Type == p.Type {
		return nil
	}
	if _, err := s.FindInPath(p.IPAM.Type, s.dirs()); err != nil {
		e := remedyOf(err)
		return Errorf(e.Code, `install it on the node, or name another "ipam": {"type": …} in the network's configuration`,
			"ipam: %s", e.Msg)
	}
	return nil
}

// remedyOf is the Error that FindInPath returned.
func remedyOf(err error) *Error {
	var e *Error
	errors.As(err, &e)
	return e
}

// failed reports the failure of a plugin on disk, and whether its part of a DEL is abandoned. A DEL
// has to succeed when what it takes down, or with, is missing (CNI specification, "DEL"): the
// runtime would ask for ever, and the pod stay Terminating.
func (s *session) failed(command, plugin string, err error) (abandon bool) {
	if command != "ADD" && command != "DEL" {
		return false
	}
	r := Refusal{Command: command, Plugin: plugin, Err: err, Permanent: permanent(err), Temporary: temporary(err)}
	if s.call.Refused != nil {
		return s.call.Refused(r) && command == "DEL"
	}
	return r.Permanent && command == "DEL"
}

// errNoPlugin marks a plugin that is not on disk.
var errNoPlugin = errors.New("failed to find plugin")

// permanent reports whether a plugin that failed so was not run, or refused the call itself: its
// configuration and variables come from the record and are the same each time.
func permanent(err error) bool {
	for _, never := range []error{errNoPlugin, syscall.ENOENT, syscall.EACCES, syscall.EPERM, syscall.ENOEXEC,
		syscall.ENOTDIR, syscall.ELOOP} {
		if errors.Is(err, never) {
			return true
		}
	}
	var said *types.Error
	if !errors.As(err, &said) {
		return false
	}
	switch said.Code {
	case types.ErrUnsupportedField, types.ErrInvalidEnvironmentVariables, types.ErrDecodingFailure,
		types.ErrInvalidNetworkConfig, types.ErrInvalidNetNS:
		return true
	}
	// what it delegates to, in the words of invoke.FindInPath
	return strings.HasPrefix(said.Msg, errNoPlugin.Error()) || strings.Contains(said.Msg, ": "+errNoPlugin.Error())
}

// temporary reports whether it is known that the same call may succeed later.
func temporary(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	for _, busy := range []error{syscall.ETXTBSY, syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE,
		syscall.EIO} {
		if errors.Is(err, busy) {
			return true
		}
	}
	var said *types.Error
	return errors.As(err, &said) && (said.Code == types.ErrTryAgainLater || said.Code == types.ErrIOFailure)
}

// nothingToUndo reports whether a plugin said that its part of an attachment does not exist: it
// never ran with a configuration of this version, or does not know the container (codes 1 and 3 of
// the specification; the latter implies that no cleanup is needed).
func nothingToUndo(err error) bool {
	var said *types.Error
	return errors.As(err, &said) &&
		(said.Code == types.ErrIncompatibleCNIVersion || said.Code == types.ErrUnknownContainer)
}

// findForDel is FindInPath for DEL: "" without an error is a plugin whose part is abandoned.
func (s *session) findForDel(plugin string) (string, error) {
	path, err := s.FindInPath(plugin, s.dirs())
	if err != nil && s.failed("DEL", plugin, err) {
		return "", nil
	}
	return path, err
}

// del runs one plugin's DEL. The addresses of one that has gone are released all the same: its
// address management may still be there.
func (s *session) del(ctx context.Context, p *libcni.PluginConfig, conf []byte) error {
	path, err := s.findForDel(p.Network.Type)
	if err != nil {
		return err
	}
	if path != "" {
		return invoke.ExecPluginWithoutResult(ctx, path, conf, s.args("DEL"), s)
	}
	if t := p.Network.IPAM.Type; t != "" && t != p.Network.Type {
		return (&ipamCall{session: s, plugin: t, conf: conf}).Del(ctx)
	}
	return nil
}

// typeOf is the type of the plugin at a path.
func typeOf(path string) string { return filepath.Base(path) }
