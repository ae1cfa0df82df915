// SPDX-License-Identifier: Apache-2.0

package deviceplugin

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/sriov"
)

// server is the device-plugin server of one resource.
type server struct {
	pluginapi.UnimplementedDevicePluginServer
	plugin   *Plugin
	resource string
	name     string // with the prefix
	socket   string

	// of Run's goroutine
	grpc       *grpc.Server
	file       os.FileInfo // of the socket as it was made
	kubelet    os.FileInfo // of the kubelet's socket when last seen
	registered bool
	delay      time.Duration
	next       time.Time
	leaving    time.Time // when it ceased to be wanted

	mu      sync.Mutex
	devices []sriov.Device
	health  map[string]string // by PCI address, the last that could be seen
	changed chan struct{}     // closed when devices or health change
}

func newServer(p *Plugin, resource string) *server {
	return &server{
		plugin: p, resource: resource, name: p.opts.Prefix + "/" + resource,
		socket: filepath.Join(p.opts.Dir, socketName(p.opts.Prefix, resource)),
		health: map[string]string{}, changed: make(chan struct{}),
	}
}

// maxSocketName keeps the whole path below the 107 octets of a unix socket's address (unix(7)).
const maxSocketName = 64

func socketName(prefix, resource string) string {
	name := prefix + "_" + resource
	if len(name) > maxSocketName {
		name = fmt.Sprintf("%s-%x", name[:maxSocketName-9], sha256.Sum256([]byte(name)))[:maxSocketName]
	}
	return name + ".sock"
}

// update takes new devices and tells every listener if that changes anything for the kubelet.
func (s *server) update(devices []sriov.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.list()
	s.devices = devices
	health := map[string]string{}
	for _, d := range devices {
		health[d.PCI] = s.judge(d)
	}
	s.health = health
	if !slices.EqualFunc(before, s.list(), sameDevice) {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// judge is a device's health: an InfiniBand port that can be seen must be ACTIVE. One in a pod
// keeps the health it had.
func (s *server) judge(d sriov.Device) string {
	if d.Pod != "" || d.PortState == "" {
		if last, ok := s.health[d.PCI]; ok {
			return last
		}
		return pluginapi.Healthy
	}
	if d.LinkType == v1.LinkTypeIB && d.PortState != "ACTIVE" {
		return pluginapi.Unhealthy
	}
	return pluginapi.Healthy
}

// list is what the kubelet is told. The lock is held.
func (s *server) list() []*pluginapi.Device {
	var out []*pluginapi.Device
	for _, d := range s.devices {
		device := &pluginapi.Device{ID: d.PCI, Health: s.health[d.PCI]}
		if d.NUMANode >= 0 {
			device.Topology = &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: int64(d.NUMANode)}}}
		}
		out = append(out, device)
	}
	return out
}

func sameDevice(a, b *pluginapi.Device) bool {
	return a.ID == b.ID && a.Health == b.Health && numa(a) == numa(b)
}

func numa(d *pluginapi.Device) int64 {
	if d.Topology == nil {
		return -1
	}
	return d.Topology.Nodes[0].ID
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.devices)
}

// listening tells whether our socket still is where we put it: a starting kubelet removes every
// socket in the folder.
func (s *server) listening() bool {
	if s.grpc == nil {
		return false
	}
	now, err := os.Stat(s.socket)
	return err == nil && os.SameFile(now, s.file)
}

func (s *server) listen() error {
	s.stop() // also unlinks, so before the new socket is made
	if err := os.Remove(s.socket); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		return fmt.Errorf("listen for the kubelet: %w", err)
	}
	if s.file, err = os.Stat(s.socket); err != nil {
		l.Close()
		return fmt.Errorf("look at the socket just made: %w", err)
	}
	s.grpc = grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(s.grpc, s)
	go s.grpc.Serve(l) // ends with stop; a failure shows as a socket that does not answer when registering
	return nil
}

func (s *server) stop() {
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.grpc, s.registered = nil, false
}

func (s *server) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	kubelet := filepath.Join(s.plugin.opts.Dir, filepath.Base(pluginapi.KubeletSocket))
	conn, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("prepare a connection to %s: %w", kubelet, err)
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: filepath.Base(s.socket), ResourceName: s.name, Options: s.options(),
	})
	return err
}

// options: no call before a container starts, and one about preferred devices if there is a preference.
func (s *server) options() *pluginapi.DevicePluginOptions {
	return &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: s.plugin.opts.Prefer != sriov.NoPreference}
}

// GetDevicePluginOptions implements the device-plugin API.
func (s *server) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return s.options(), nil
}

// ListAndWatch implements the device-plugin API: the devices now, and again at each change.
func (s *server) ListAndWatch(_ *pluginapi.Empty,
	stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		s.mu.Lock()
		devices, changed := s.list(), s.changed
		s.mu.Unlock()
		if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// PreStartContainer implements the device-plugin API; it is never asked for.
func (s *server) PreStartContainer(context.Context,
	*pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	return &pluginapi.PreStartContainerResponse{}, nil
}
