// SPDX-License-Identifier: Apache-2.0

// Package deviceplugin advertises pools of VFs to the kubelet as extended
// resources and hands out their device nodes: one device-plugin server
// (v1beta1) for each resource, in this process.
//
// It owns its sockets, the registrations and the device-info files. What is in
// a pool is decided elsewhere and published to it; it reads the kernel only to
// find the device nodes of a VF at the moment one is given away.
package deviceplugin

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/sriov"
)

// Kernel is what the package asks of the node.
type Kernel interface {
	// VFDevices returns host.ErrNotFound when the address is no virtual function.
	VFDevices(pci string) (host.VFDevices, error)
}

// Options place the plugin on a node. Empty fields take the value in their comment.
type Options struct {
	Prefix  string // of resource names: "spidernet.io"
	Dir     string // where the kubelet's socket is and ours go: "/var/lib/kubelet/device-plugins"
	InfoDir string // of device-info files: "/var/run/k8s.cni.cncf.io/devinfo/dp"
	// DevDir is where this process sees the node's /dev, with devices that appear later: "/host/dev".
	DevDir string
	// Note keeps, for good, which verbs device ("uverbs3") and management device ("umad3"), "" for
	// none, a container is given with a VF: it is what the container has when its network is
	// attached, perhaps by a later process. Nil keeps nothing.
	Note func(pci, verbs, umad string) error
	// Umad gives pods the umadN of their VF too, for management datagrams.
	Umad bool
	// Prefer says which VFs the kubelet is told to give when it has a choice.
	Prefer sriov.Preference
	Log    *slog.Logger
}

const (
	pollInterval = 250 * time.Millisecond // how soon a restarted kubelet is noticed
	firstRetry   = 100 * time.Millisecond
	lastRetry    = time.Second
	// callTimeout bounds one registration. A kubelet that starts is slow to answer and calls back
	// meanwhile, with ten seconds of its own: giving up earlier makes it start anew.
	callTimeout = 20 * time.Second
	recent      = 10 * time.Second
	leaveTime   = time.Second // for the kubelet to read the last list of a resource
	// returnWait bounds the wait for a VF that the pod before has not quite given back. The kubelet admits no
	// other pod meanwhile.
	returnWait = 3 * time.Second
)

// Plugin runs the servers. Make one with New, keep Run running, Publish whenever the pools change.
type Plugin struct {
	opts   Options
	kernel Kernel
	wake   chan struct{}

	mu        sync.Mutex
	published int                       // counts calls of Publish
	wanted    map[string][]sriov.Device // by resource
	given     map[string]time.Time      // by PCI address, when it was last given to a pod

	// of Run's goroutine
	servers  map[string]*server
	infoDone int // the value of published that the device-info files are right for
}

// New makes a plugin that advertises nothing yet.
func New(kernel Kernel, o Options) *Plugin {
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	def(&o.Prefix, "spidernet.io")
	def(&o.Dir, pluginapi.DevicePluginPath)
	def(&o.InfoDir, "/var/run/k8s.cni.cncf.io/devinfo/dp")
	def(&o.DevDir, "/host/dev")
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Plugin{opts: o, kernel: kernel, wake: make(chan struct{}, 1), servers: map[string]*server{},
		given: map[string]time.Time{}}
}

// Publish replaces what is advertised. It returns at once; the kubelet hears of it by Run. A
// resource that was never offered a device is not registered; one that is not in pools any more is
// given up.
func (p *Plugin) Publish(pools []sriov.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published++
	p.wanted = map[string][]sriov.Device{}
	for _, pool := range pools {
		p.wanted[pool.Resource] = slices.Clone(pool.Devices)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// RecentlyGiven lists VFs that were given to a pod so short a time ago that the kubelet may not
// tell of it yet, with a word for who has them. Nothing that is listed may be reset.
func (p *Plugin) RecentlyGiven() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for pci, at := range p.given {
		if time.Since(at) > recent {
			delete(p.given, pci)
			continue
		}
		out[pci] = "a pod that the kubelet is starting"
	}
	return out
}

// take finds a published device and notes that it is being given away, in one step: once Publish
// has returned, either the device is no longer offered or RecentlyGiven lists it.
func (p *Plugin) take(resource, pci string) (sriov.Device, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.wanted[resource], func(d sriov.Device) bool { return d.PCI == pci })
	if i < 0 {
		return sriov.Device{}, false
	}
	p.given[pci] = time.Now()
	return p.wanted[resource][i], true
}

// Run serves until the context ends. It registers again whenever the kubelet comes back.
func (p *Plugin) Run(ctx context.Context) error {
	defer p.stopAll()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		p.sync(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-p.wake:
		}
	}
}

func (p *Plugin) stopAll() {
	for _, s := range p.servers {
		s.stop()
	}
}

// sync brings servers, registrations and device-info files in line with what was published.
func (p *Plugin) sync(ctx context.Context) {
	p.mu.Lock()
	wanted, published := p.wanted, p.published
	p.mu.Unlock()
	if published == 0 {
		return
	}
	p.giveUp(wanted)
	kubelet, _ := os.Stat(filepath.Join(p.opts.Dir, filepath.Base(pluginapi.KubeletSocket))) // nil: not there now
	for _, resource := range slices.Sorted(maps.Keys(wanted)) {
		devices := wanted[resource]
		s := p.servers[resource]
		if s == nil && len(devices) == 0 {
			continue
		}
		if s == nil {
			s = newServer(p, resource)
			p.servers[resource] = s
		}
		s.leaving = time.Time{}
		s.update(devices)
		if err := s.attach(ctx, kubelet); err != nil && ctx.Err() == nil {
			p.opts.Log.Error("cannot register with the kubelet, will try again", "resource", s.name, "retry", s.delay,
				"error", err)
		}
	}
	if p.infoDone == published {
		return
	}
	if err := p.syncDeviceInfo(wanted); err != nil {
		p.opts.Log.Error("cannot write device-info files, will try again", "error", err)
		return
	}
	p.infoDone = published
}

// giveUp ends the servers of resources that are not wanted any more, a moment after the kubelet was
// told that they are empty.
func (p *Plugin) giveUp(wanted map[string][]sriov.Device) {
	for resource, s := range p.servers {
		if _, ok := wanted[resource]; ok {
			continue
		}
		if s.leaving.IsZero() {
			s.update(nil)
			s.leaving = time.Now()
		}
		if time.Since(s.leaving) > leaveTime {
			s.stop()
			delete(p.servers, resource)
			p.opts.Log.Info("resource is not advertised any more", "resource", s.name)
		}
	}
}

// attach makes sure that the server listens and that this kubelet knows it. Failures are retried
// later and later, up to every second, but at once when the kubelet's socket is a new one.
func (s *server) attach(ctx context.Context, kubelet os.FileInfo) error {
	if s.listening() && s.registered && same(kubelet, s.kubelet) {
		return nil
	}
	if kubelet == nil {
		s.registered, s.kubelet = false, nil
		return nil
	}
	if !same(kubelet, s.kubelet) {
		s.kubelet, s.registered, s.delay, s.next = kubelet, false, 0, time.Time{}
	}
	if time.Now().Before(s.next) {
		return nil
	}
	err := s.connect(ctx)
	if err == nil {
		s.registered, s.delay = true, 0
		s.plugin.opts.Log.Info("registered with the kubelet", "resource", s.name, "devices", s.count())
		return nil
	}
	s.delay = min(max(2*s.delay, firstRetry), lastRetry)
	s.next = time.Now().Add(s.delay)
	return err
}

// same tells whether two looks at the kubelet's socket saw the same one. Inode numbers are used
// again soon, times are not.
func same(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}

func (s *server) connect(ctx context.Context) error {
	if !s.listening() {
		if err := s.listen(); err != nil {
			return err
		}
	}
	if err := s.register(ctx); err != nil {
		return fmt.Errorf("register %s: %w", s.name, err)
	}
	return nil
}
