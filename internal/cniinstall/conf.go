// SPDX-License-Identifier: Apache-2.0

package cniinstall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// ConfName sorts before every other product's file, so the runtime takes it.
const ConfName = "00-multus.conf"

// PluginType is the plugin type in our configuration: the name users' runtimes know.
const PluginType = "multus"

// ErrNoPrimary means that no other CNI configuration is there yet.
var ErrNoPrimary = errors.New("no primary CNI network is configured yet")

// ErrForeign means that another product's meta plugin is installed.
var ErrForeign = errors.New("another meta plugin is installed")

// ConfOptions say what goes into our configuration.
type ConfOptions struct {
	Dir string // the node's CNI configuration directory
	// ClusterNetwork is the network of pods that name none; empty takes the first configuration in Dir.
	ClusterNetwork string
	// Namespace is where networks named without a namespace are looked up.
	Namespace string
	// Socket is the agent's socket; the shim reads it from the configuration.
	Socket string
}

// conf is the content of our file. Keys are those of the Multus configuration, and ours.
type conf struct {
	CNIVersion     string          `json:"cniVersion"`
	Name           string          `json:"name"`
	Type           string          `json:"type"`
	Capabilities   map[string]bool `json:"capabilities"`
	ClusterNetwork string          `json:"clusterNetwork"`
	Namespace      string          `json:"multusNamespace"`
	Socket         string          `json:"ipam_unix_socket_path"`
	// Owner marks the file as ours.
	Owner string `json:"owner"`
}

const owner = "spiderpool"

// Primary is the configuration that serves pods which name no network.
type Primary struct {
	Name string // the network's name
	File string // where it was found; empty when it was given by name
}

// FindPrimary returns the first CNI configuration in dir that is not a meta plugin's, in the
// runtime's own order. ErrNoPrimary when there is none; files that do not parse are named in the
// error.
func FindPrimary(dir string) (Primary, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return Primary{}, fmt.Errorf("listing CNI configurations in %s: %w", dir, err)
	}
	slices.Sort(files)
	var bad []string
	for _, file := range files {
		if filepath.Base(file) == ConfName {
			continue // ours, whatever is left of it: named as the primary network it would call itself
		}
		name, types, err := readConf(file)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", filepath.Base(file), err))
			continue
		}
		if name != "" && !slices.Contains(types, PluginType) {
			return Primary{Name: name, File: file}, nil
		}
	}
	if len(bad) > 0 {
		return Primary{}, fmt.Errorf("%w: files in %s that cannot be used: %s", ErrNoPrimary, dir,
			strings.Join(bad, "; "))
	}
	return Primary{}, fmt.Errorf("%w: nothing but meta plugins among the %d files in %s", ErrNoPrimary, len(files), dir)
}

func readConf(file string) (name string, types []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	var c struct {
		Name    string `json:"name"`
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return "", nil, err
	}
	if c.Type != "" {
		types = append(types, c.Type)
	}
	for _, p := range c.Plugins {
		types = append(types, p.Type)
	}
	return c.Name, types, nil
}

// WriteConf writes our configuration when it is not there or differs, and
// returns the primary network it names. ErrForeign when a file of that name
// belongs to another product; ErrNoPrimary while there is no primary network,
// in which case nothing is written and nothing removed.
func WriteConf(o ConfOptions) (Primary, error) {
	path := filepath.Join(o.Dir, ConfName)
	old, err := os.ReadFile(path)
	if err == nil && !oursConf(old) {
		return Primary{},
			fmt.Errorf(
				"%w: %s is not ours; remove that product and its file first, or install with "+
					"multus.multusCNI.install=false", ErrForeign, path)
	}
	primary := Primary{Name: o.ClusterNetwork}
	if primary.Name == "" {
		if primary, err = FindPrimary(o.Dir); err != nil {
			return Primary{}, err
		}
	}
	text, err := json.MarshalIndent(conf{
		CNIVersion: "1.0.0", Name: "multus-cni-network", Type: PluginType,
		Capabilities:   map[string]bool{"portMappings": true, "bandwidth": true},
		ClusterNetwork: primary.Name, Namespace: o.Namespace, Socket: o.Socket, Owner: owner,
	}, "", "  ")
	if err != nil {
		return Primary{}, fmt.Errorf("encoding %s: %w", ConfName, err)
	}
	if string(old) == string(text) {
		return primary, nil
	}
	err = replaceFile(path, 0o644, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return Primary{}, fmt.Errorf("writing %s: %w", path, err)
	}
	return primary, nil
}

// ConfInstalled tells whether our configuration is in the directory.
func ConfInstalled(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, ConfName))
	return err == nil && oursConf(text)
}

// RemoveConf removes our configuration, so that the runtime uses the primary network alone.
func RemoveConf(dir string) error {
	path := filepath.Join(dir, ConfName)
	if text, err := os.ReadFile(path); err != nil || !oursConf(text) {
		return nil
	}
	return remove(path)
}

func oursConf(text []byte) bool {
	var c conf
	return json.Unmarshal(text, &c) == nil && c.Owner == owner
}
