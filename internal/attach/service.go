// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/attach/abandon"
	"spidernet.io/spiderpool/internal/attach/sandboxlock"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/spiderpool"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/text"
)

// MetaPlugin is the name of our meta plugin.
const MetaPlugin = "multus"

// ErrNotFound is what the sources below return, wrapped, for an object that does not exist.
var ErrNotFound = errors.New("does not exist")

// PodSource finds pods.
type PodSource interface {
	// Cached looks among the pods of this node that are known already.
	Cached(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// Live asks the API server.
	Live(ctx context.Context, namespace, name string) (*corev1.Pod, error)
}

// NetworkSource finds NetworkAttachmentDefinitions.
type NetworkSource interface {
	Network(ctx context.Context, namespace, name string) (*cncfv1.NetworkAttachmentDefinition, error)
}

// DeviceSource is the kubelet: which devices it gave to a pod, resource to device IDs, sorted, and
// which pods it has.
type DeviceSource interface {
	Devices(ctx context.Context, namespace, name string) (map[string][]string, error)
	// Pods are the "namespace/name" of all pods that the kubelet has to do with.
	Pods(ctx context.Context) (map[string]bool, error)
}

// StatusWriter writes the network-status annotation of the pod with that UID; ErrNotFound when it is gone.
type StatusWriter interface {
	WriteStatus(ctx context.Context, pod ledger.Pod, status string) error
}

// Recorder makes events that people see at the pod.
type Recorder interface {
	Event(object runtime.Object, eventType, reason, message string)
}

// Addresses gives and takes back addresses. All are idempotent.
type Addresses interface {
	spiderpool.Addresses
	// Settle makes the API server show the pod's addresses. Until then the pod must have no
	// network-status: whoever reads one relies on it.
	Settle(ctx context.Context, podUID string) error
}

// Ledger keeps the records; see the package of that name. A write is on disk when it returns.
type Ledger interface {
	Sandbox(containerID string) (s ledger.Sandbox, ok bool)
	Sandboxes() []ledger.Sandbox
	UpdateSandbox(containerID string, fn func(*ledger.Sandbox) error) error
	PutRelease(r ledger.Release) error
	Releases() ([]ledger.Release, error)
	DeleteRelease(r ledger.Release) error
}

// Kernel is what this package itself asks of the node.
type Kernel interface {
	NSExists(ns host.NS) bool
	VFDevices(pci string) (host.VFDevices, error)
	LinkByPCI(ns host.NS, pci string) (host.Link, error)
	Addresses(ns host.NS, index int) ([]netip.Prefix, error)
	spiderpool.Solicitor
}

// Options are the parts that a Service works with. All but the last group are required.
type Options struct {
	Ledger    Ledger
	Kernel    Kernel
	Plugins   map[string]cni.Plugin // of ours, by type, without the IPAM plugin
	Addresses Addresses
	Pods      PodSource
	Networks  NetworkSource
	Devices   DeviceSource
	Status    StatusWriter
	Events    Recorder
	Log       *slog.Logger

	// NamespaceAnnotations are those of a namespace, as far as they are known without waiting; nil
	// when they cannot be.
	NamespaceAnnotations func(namespace string) map[string]string
	// NetworkNamespace is where a default network without a namespace is looked up; "" is kube-system.
	NetworkNamespace string
	// ClusterNetwork names the network of pods that ask for none: a NetworkAttachmentDefinition in
	// NetworkNamespace, a configuration in ConfDir by its name, or a file. "" is the first
	// configuration in ConfDir that is not a meta plugin's. What the runtime's configuration says
	// ("clusterNetwork") comes first.
	ClusterNetwork string
	// ConfDir holds the node's CNI configurations as this process sees it; "" is /etc/cni/net.d below Root.
	ConfDir string
	// Root is what plugins on disk see as "/", such as "/host".
	Root string
	// Socket is the agent's own, for plugins on disk that delegate to us; "" is the default.
	Socket string
	// NamespaceIsolation refuses networks of other namespaces than the pod's, except those in
	// GlobalNamespaces.
	NamespaceIsolation bool
	GlobalNamespaces   []string
	// ConflictDetection and GatewayDetection ask an interface's network about its addresses and
	// their gateways before they are used.
	ConflictDetection, GatewayDetection bool
	// DevicesMoved is told when a device has gone to a pod or come back; nil when nobody wants to know.
	DevicesMoved func()
	// Metrics takes the histogram of phases; nil leaves it out.
	Metrics prometheus.Registerer
	// CollectEvery is the time between two passes of the collector; 0 is a minute.
	CollectEvery time.Duration
}

// Service answers CNI calls. Make it with New, run Run beside it.
type Service struct {
	Options
	runner  *cni.Runner
	locks   *sandboxlock.Locks
	timings *timings
	kick    chan struct{} // wakes the collector
	status  *statusQueue
	gone    finished
	missed  missed
	broken  broken
	// failures are those of plugins on disk
	failures abandon.Tracker
	now      func() time.Time
}

// New checks the options and makes a Service.
func New(o Options) (*Service, error) {
	if o.Ledger == nil || o.Kernel == nil || o.Addresses == nil || o.Pods == nil || o.Networks == nil ||
		o.Devices == nil || o.Status == nil || o.Events == nil || o.Log == nil {
		return nil, errors.New("attach: an option is missing")
	}
	if o.NetworkNamespace == "" {
		o.NetworkNamespace = "kube-system"
	}
	if o.ConfDir == "" {
		o.ConfDir = o.Root + "/etc/cni/net.d"
	}
	if o.DevicesMoved == nil {
		o.DevicesMoved = func() {}
	}
	if o.CollectEvery == 0 {
		o.CollectEvery = time.Minute
	}
	t, err := newTimings(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register the metrics of CNI calls: %w", err)
	}
	s := &Service{Options: o, locks: sandboxlock.New(), timings: t, kick: make(chan struct{}, 1), now: time.Now}
	s.status = newStatusQueue(s)
	detect := spiderpool.Detection{Conflict: o.ConflictDetection, Gateway: o.GatewayDetection, Kernel: o.Kernel,
		Tell: s.tellConflict}
	plugins := map[string]cni.Plugin{spiderpool.Type: &spiderpool.Plugin{Addresses: o.Addresses,
		Release: s.releaseLater, Masters: s.masters, Detect: detect}}
	for name, p := range o.Plugins {
		plugins[name] = p
	}
	s.runner = &cni.Runner{Plugins: plugins, Root: o.Root}
	if o.Socket != "" {
		s.runner.Env = []string{cnisock.PathVariable + "=" + o.Socket}
	}
	return s, nil
}

// Run finishes what earlier calls, and agents, left undone, writes network-status, and goes on so
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { s.status.run(ctx) })
	beside.Go(func() { s.verifyLoop(ctx) })
	s.collectLoop(ctx)
	beside.Wait()
	return nil
}

// Handle answers one request of the shim; it is a cnisock.Handler.
func (s *Service) Handle(ctx context.Context, req cnisock.Request) cnisock.Response {
	c, err := parseCall(req)
	if err != nil {
		return refuse(req.Stdin, err)
	}
	c.draft = s.draft(c.containerID)
	began := time.Now()
	out, err := s.dispatch(ctx, c)
	s.finish(c, began, err)
	if c.command != "ADD" || err != nil {
		s.wake() // after the call's lock is gone: addresses to give back, and what could not be undone
	}
	if err != nil {
		return refuse(req.Stdin, err)
	}
	return cnisock.Response{Stdout: out}
}

func (s *Service) dispatch(ctx context.Context, c *call) ([]byte, error) {
	if c.plugin != MetaPlugin {
		return s.direct(ctx, c)
	}
	switch c.command {
	case "ADD":
		return s.add(ctx, c)
	case "DEL":
		return nil, s.del(ctx, c)
	case "CHECK":
		return nil, s.check(ctx, c)
	case "STATUS":
		return nil, s.statusVerb(ctx, c)
	default: // GC; parseCall lets no other through
		return nil, s.gc(context.WithoutCancel(ctx), c)
	}
}

// finish keeps the durations of a call and logs it.
func (s *Service) finish(c *call, began time.Time, err error) {
	t := Timing{Verb: c.command, Plugin: c.plugin, NetworkType: c.networkType, Sandbox: c.containerID, Pod: c.podName(),
		IfName: c.ifname,
		Began:  began, Total: time.Since(began), Phases: c.phases.List()}
	if err != nil {
		t.Error = text.Limit(err.Error(), text.MaxMessage)
	}
	s.timings.add(t)
	attrs := []any{"verb", t.Verb, "plugin", t.Plugin, "network_type", t.NetworkType, "sandbox", t.Sandbox, "pod",
		c.args["K8S_POD_NAME"],
		"namespace", c.args["K8S_POD_NAMESPACE"], "ifname", t.IfName, "ms", t.Total.Milliseconds(), "phases",
		t.phaseText()}
	if err != nil {
		s.Log.Error("CNI call failed", append(attrs, "error", t.Error)...)
		return
	}
	s.Log.Info("CNI call", attrs...)
}
