// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/text"
)

// network is a CNI configuration with where it came from.
type network struct {
	name     string // of the NetworkAttachmentDefinition or file, for a configuration without one
	nad      string // "namespace/name", "" for a file
	resource string
	config   []byte
}

// confFile is a configuration of the node.
type confFile struct {
	path, name string
	config     []byte
	meta       bool // calls other networks
	err        error
}

// confFiles reads the node's configurations in the runtime's order.
func confFiles(dir string) ([]confFile, error) {
	paths, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("list the CNI configurations in %s: %w", dir, err)
	}
	slices.Sort(paths)
	var out []confFile
	for _, path := range paths {
		out = append(out, readConf(path))
	}
	return out, nil
}

// multusConfDir is where the documents of Multus put the files of networks without spec.config.
const multusConfDir = "/etc/cni/multus/net.d"

// networkDirs are the node's directories with the files of networks without spec.config: where this
// process sees each, by the node's path.
func networkDirs(s *Service, c *call) [][2]string {
	dirs := [][2]string{{s.ConfDir, s.ConfDir}, {multusConfDir, s.at(multusConfDir)}}
	if c.conf.ConfDir != "" {
		dirs = append(dirs, [2]string{c.conf.ConfDir, s.at(c.conf.ConfDir)})
	}
	return dirs
}

// confOfNode reads the first file that has the network's name. The error lists what cannot be read.
func confOfNode(name string, dirs [][2]string) ([]byte, error) {
	var names, unreadable []string
	for _, dir := range dirs {
		files, err := confFiles(dir[1])
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if f.err != nil {
				unreadable = append(unreadable, fmt.Sprintf("%s (%v)", filepath.Base(f.path), f.err))
			} else if f.name == name {
				return f.config, nil
			}
		}
		names = append(names, filepath.Clean(dir[0]))
	}
	slices.Sort(names)
	err := fmt.Errorf("no file in %s has the name %q", strings.Join(slices.Compact(names), " or "), name)
	if len(unreadable) > 0 {
		err = fmt.Errorf("%w; cannot read %s", err, text.List(unreadable))
	}
	return nil, err
}

// usable tells whether pods can have it for their default network. The installation names none
// without a name, nor does a runtime use one.
func (f confFile) usable() bool { return f.err == nil && !f.meta && f.name != "" }

func readConf(path string) confFile {
	f := confFile{path: path}
	if f.config, f.err = os.ReadFile(path); f.err != nil {
		return f
	}
	var c struct {
		Name    string `json:"name"`
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	f.err = json.Unmarshal(f.config, &c)
	f.name = c.Name
	f.meta = c.Type == MetaPlugin
	for _, p := range c.Plugins {
		f.meta = f.meta || p.Type == MetaPlugin
	}
	return f
}

// primary is the network of pods that ask for none. A file is preferred to a
// NetworkAttachmentDefinition of the same name: the pods that need it include those that make the
// API server reachable.
func (s *Service) primary(ctx context.Context, c *call) (network, error) {
	return s.named(ctx, c, cmp.Or(c.conf.ClusterNetwork, s.ClusterNetwork))
}

// networkNamespace is where networks are that are named without one.
func (s *Service) networkNamespace(c *call) string {
	return cmp.Or(c.conf.Namespace, s.NetworkNamespace)
}

// at is where this process sees a path of the node. /var/run is a link to /run on most nodes, and
// an absolute one leads out of Root.
func (s *Service) at(path string) string {
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = "/run/" + rest
	}
	return filepath.Join(s.Root, path)
}

// named finds a network that the node's configuration names; "" is the first that is no meta plugin's.
func (s *Service) named(ctx context.Context, c *call, want string) (network, error) {
	files, err := confFiles(s.ConfDir)
	if err != nil {
		return network{}, err
	}
	for _, f := range files {
		if f.usable() && (want == "" || f.name == want) {
			return network{name: f.name, config: f.config}, nil
		}
	}
	if want == "" {
		return network{}, noPrimary("no cluster default network", s.ConfDir, "any name", files)
	}
	if strings.HasPrefix(want, "/") {
		return s.primaryAt(want)
	}
	namespace, name, ok := strings.Cut(want, "/")
	if !ok {
		namespace, name = s.networkNamespace(c), want
	}
	n, err := s.nad(ctx, c, namespace, name)
	if errors.Is(err, ErrNotFound) {
		return network{}, noPrimary(fmt.Sprintf("no network %q on the node", want), s.ConfDir,
			fmt.Sprintf("name %q, nor a NetworkAttachmentDefinition %s/%s", want, namespace, name), files)
	}
	return n, err
}

func noPrimary(what, dir, wanted string, files []confFile) error {
	var found []string
	for _, f := range files {
		switch {
		case f.err != nil:
			found = append(found, fmt.Sprintf("%s (%v)", filepath.Base(f.path), f.err))
		case f.meta:
			found = append(found, filepath.Base(f.path)+" (a meta plugin's)")
		case f.name == "":
			found = append(found, filepath.Base(f.path)+" (without a name)")
		default:
			found = append(found, fmt.Sprintf("%s (%q)", filepath.Base(f.path), f.name))
		}
	}
	if len(found) == 0 {
		found = []string{"nothing"}
	}
	return cni.Errorf(cni.CodeTryAgainLater,
		"install the cluster's primary CNI, or set multus.multusCNI.defaultCniCRName to its name",
		"%s: %s holds no configuration of %s; found %s", what, dir, wanted, strings.Join(found, ", "))
}

// primaryAt reads a file, or the first usable file of a directory, below the node's root.
func (s *Service) primaryAt(path string) (network, error) {
	at := s.at(path)
	if info, err := os.Stat(at); err == nil && !info.IsDir() {
		f := readConf(at)
		if !f.usable() {
			return network{}, noPrimary("no network there", path, "use", []confFile{f})
		}
		return network{name: f.name, config: f.config}, nil
	}
	files, err := confFiles(at)
	if err != nil {
		return network{}, err
	}
	for _, f := range files {
		if f.usable() {
			return network{name: f.name, config: f.config}, nil
		}
	}
	return network{}, noPrimary("no network there", path, "any name", files)
}
