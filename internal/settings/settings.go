// SPDX-License-Identifier: Apache-2.0

// Package settings reads conf.yml, the options that all processes share and that the chart writes
// into the ConfigMap spiderpool-conf. It knows the file's form and its defaults, and nothing of who
// uses them.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// DefaultPath is where the chart mounts the file.
const DefaultPath = "/tmp/spiderpool/config-map/conf.yml"

// DefaultSocket is the agent's socket.
const DefaultSocket = "/var/run/spidernet/spiderpool.sock"

// Settings are the options of conf.yml. Keys of older versions that are not listed are ignored.
type Settings struct {
	// IPAMUnixSocketPath is the absolute path of the agent's socket.
	IPAMUnixSocketPath string `json:"ipamUnixSocketPath"`
	// EnableIPv4 and EnableIPv6 are the families that pods may get; at least one is on.
	EnableIPv4 bool `json:"enableIPv4"`
	EnableIPv6 bool `json:"enableIPv6"`
	// EnableStatefulSet lets the pods of a StatefulSet keep their addresses when they are made anew.
	EnableStatefulSet bool `json:"enableStatefulSet"`
	// EnableKubevirtStaticIP does so for the virtual machines of KubeVirt.
	EnableKubevirtStaticIP bool `json:"enableKubevirtStaticIP"`
	// EnableIPConflictDetection asks the network, before a pod gets an address, whether anybody has
	// it. EnableGatewayDetection asks whether the address's gateway is there.
	EnableIPConflictDetection bool `json:"enableIPConflictDetection"`
	EnableGatewayDetection    bool `json:"enableGatewayDetection"`
	// NamespaceIsolation lets pods use networks of their own namespace alone, and of GlobalNamespaces.
	NamespaceIsolation bool     `json:"namespaceIsolation"`
	GlobalNamespaces   []string `json:"globalNamespaces"`
	// Stock is about addresses that nodes hold before pods need them.
	Stock Stock `json:"stock"`
	// GC is about addresses of pods that are gone.
	GC GC `json:"gc"`
}

// Stock is the addresses that a node takes from a pool ahead of its pods, so that a pod need not
// wait for the API server.
type Stock struct {
	// PerPool is how many addresses of a pool a node holds unused, at most MaxStock; 0 turns the stock off.
	PerPool int `json:"perPool"`
	// HeartbeatSeconds is how long a node may hand out stock without having reached the API server, from
	// MinHeartbeatSeconds to MaxHeartbeatSeconds. The stock of a node that has been silent for longer is taken back.
	HeartbeatSeconds int `json:"heartbeatSeconds"`
}

// Bounds of Stock. A shorter heartbeat would stop pods from starting whenever the API server restarts; of a longer
// one, which is fence.MaxValid, the controller would believe the first day.
const (
	MaxStock            = 256
	MinHeartbeatSeconds = 20
	MaxHeartbeatSeconds = 86400
)

// Heartbeat is how long a node may hand out stock without having reached the API server.
func (s Stock) Heartbeat() time.Duration { return time.Duration(s.HeartbeatSeconds) * time.Second }

// GC is when addresses of pods that are gone are taken back.
type GC struct {
	// IntervalSeconds between full scans, at least 1.
	IntervalSeconds int `json:"intervalSeconds"`
	// AdditionalGraceSeconds are added to the time that a pod must be gone.
	AdditionalGraceSeconds int `json:"additionalGraceSeconds"`
}

// Interval is the time between full scans.
func (g GC) Interval() time.Duration { return time.Duration(g.IntervalSeconds) * time.Second }

// AdditionalGrace is added to the time that a pod must be gone.
func (g GC) AdditionalGrace() time.Duration {
	return time.Duration(g.AdditionalGraceSeconds) * time.Second
}

// Default returns what counts for keys that the file leaves out.
func Default() Settings {
	return Settings{
		IPAMUnixSocketPath: DefaultSocket,
		EnableIPv4:         true, EnableIPv6: true,
		EnableStatefulSet: true, EnableKubevirtStaticIP: true,
		GlobalNamespaces: []string{metav1.NamespaceDefault},
		Stock:            Stock{PerPool: 8, HeartbeatSeconds: 120},
		GC:               GC{IntervalSeconds: 600},
	}
}

// Parse reads the text of conf.yml over the defaults. An error names every key that is wrong and
// what it should be.
func Parse(text []byte) (Settings, error) {
	s := Default()
	if err := yaml.Unmarshal(text, &s); err != nil {
		// The decoder's "json: cannot unmarshal" says nothing to the author of a YAML file.
		return Settings{}, fmt.Errorf("reading it as YAML: %s", strings.ReplaceAll(err.Error(), "json: ", ""))
	}
	return s, s.validate()
}

// Load reads a file. A file that does not exist gives the defaults.
func Load(path string) (Settings, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return Settings{}, fmt.Errorf("reading the options: %w", err)
	}
	s, err := Parse(text)
	if err != nil {
		return Settings{}, fmt.Errorf("options file %s (ConfigMap spiderpool-conf): %w", path, err)
	}
	return s, nil
}

func (s Settings) validate() error {
	var errs []error
	if !s.EnableIPv4 && !s.EnableIPv6 {
		errs = append(errs, errors.New("enableIPv4 and enableIPv6 are both false: set at least one to true"))
	}
	if !filepath.IsAbs(s.IPAMUnixSocketPath) {
		errs = append(errs, fmt.Errorf("ipamUnixSocketPath is %q: give an absolute path, such as %s",
			s.IPAMUnixSocketPath, DefaultSocket))
	}
	for i, name := range s.GlobalNamespaces {
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			errs = append(errs, fmt.Errorf("globalNamespaces[%d] is %q, which is no name of a namespace: %s", i, name,
				strings.Join(problems, "; ")))
		}
	}
	if s.Stock.PerPool < 0 || s.Stock.PerPool > MaxStock {
		errs = append(errs, fmt.Errorf("stock.perPool is %d: give 0 (no stock) to %d", s.Stock.PerPool, MaxStock))
	}
	if s.Stock.HeartbeatSeconds < MinHeartbeatSeconds || s.Stock.HeartbeatSeconds > MaxHeartbeatSeconds {
		errs = append(errs, fmt.Errorf("stock.heartbeatSeconds is %d: give %d to %d", s.Stock.HeartbeatSeconds,
			MinHeartbeatSeconds, MaxHeartbeatSeconds))
	}
	if s.GC.IntervalSeconds < 1 {
		errs = append(errs, fmt.Errorf("gc.intervalSeconds is %d: give at least 1", s.GC.IntervalSeconds))
	}
	if s.GC.AdditionalGraceSeconds < 0 {
		errs = append(errs, fmt.Errorf("gc.additionalGraceSeconds is %d: give 0 or more", s.GC.AdditionalGraceSeconds))
	}
	return errors.Join(errs...)
}
