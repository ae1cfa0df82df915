// SPDX-License-Identifier: Apache-2.0

// Package agent is the node's process: it answers the container runtime's
// calls, keeps the node's virtual functions as the policies want them,
// advertises them to the kubelet, and puts on the node what makes the runtime
// call us.
//
// It owns how the parts are put together and in which order they start. What
// each of them does is the business of packages attach, nodestate,
// deviceplugin, leases and cniinstall.
package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/agent/nodestate"
	"spidernet.io/spiderpool/internal/attach"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/coordinator"
	"spidernet.io/spiderpool/internal/cni/ibsriov"
	"spidernet.io/spiderpool/internal/cni/ipoib"
	"spidernet.io/spiderpool/internal/cni/rdma"
	"spidernet.io/spiderpool/internal/cniinstall"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/deviceplugin"
	"spidernet.io/spiderpool/internal/fence"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/podresources"
	"spidernet.io/spiderpool/internal/process"
	"spidernet.io/spiderpool/internal/settings"
	"spidernet.io/spiderpool/internal/sriov"
)

// Options of the process.
type Options struct {
	// Config reaches the API server.
	Config *rest.Config
	Log    *slog.Logger
	// Node is the name of this node; Namespace is the product's.
	Node, Namespace string
	// HealthAddress is host:port; MetricsAddress too, empty is no metrics.
	HealthAddress, MetricsAddress string
	// Ledger is the file of the node's records.
	Ledger string
	// Root is where the node's own root directory is seen, such as "/host".
	Root string
	// ClusterNetwork is the network of pods that name none; empty takes the first CNI configuration
	// of the node.
	ClusterNetwork string
	// ResourcePrefix of the node's resources, such as "spidernet.io".
	ResourcePrefix string
	// SRIOV makes, configures and advertises virtual functions.
	SRIOV bool
	// Prefer says which VFs a pod gets when there is a choice.
	Prefer sriov.Preference
	// Umad gives pods the umadN of their VFs too.
	Umad bool
	// KubeletDir holds the kubelet's device-plugins and pod-resources directories.
	KubeletDir string
	Install    Install
	// Settings are those of conf.yml.
	Settings settings.Settings
}

// Run runs the process until ctx ends; then it returns nil. Running pods are not touched by its end.
func Run(ctx context.Context, o Options) error {
	raiseProcs()
	book, damage, err := ledger.Open(o.Ledger)
	if err != nil {
		return fmt.Errorf("opening the node's records: %w", err)
	}
	defer book.Close()
	if damage != nil {
		o.Log.Error("records of this node were damaged and set aside", "reason", damage.String())
	}
	kernel, err := host.New(host.Options{})
	if err != nil {
		return err
	}
	a := &agent{
		Options: o, book: book, kernel: kernel,
		kubelet: podresources.New(o.KubeletDir + "/pod-resources/kubelet.sock"), cardsChanged: func() {},
	}
	defer a.kubelet.Close()
	if err := a.assemble(ctx); err != nil {
		return err
	}
	return a.run(ctx)
}

// leastProcs is how many goroutines may run at once on a node with one processor, too: as many as
// the chart's limit of one processor gives on any other. An attachment consists of system calls
// that sleep; when one returns and the agent's other work has the runtime's only processor, it
// waits for it, a tenth of its time.
const leastProcs = 2

func raiseProcs() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < leastProcs {
		runtime.GOMAXPROCS(leastProcs)
	}
}

// run lets the socket answer before the manager's caches are filled: a call that needs none, such
// as DEL, need not wait for the API server.
func (a *agent) run(ctx context.Context) error {
	listener, err := cnisock.Listen(a.Settings.IPAMUnixSocketPath)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	server := &cnisock.Server{Handler: a.answer, Log: a.Log}
	g.Go(func() error { return server.Serve(ctx, listener) })
	g.Go(func() error { return a.service.Run(ctx) })
	g.Go(func() error {
		if err := a.mgr.Start(ctx); err != nil {
			return fmt.Errorf("running the agent: %w", err)
		}
		return nil
	})
	return g.Wait()
}

// agent holds the parts while they are put together.
type agent struct {
	Options
	book    *ledger.Ledger
	kernel  *host.Host
	mgr     ctrl.Manager
	health  *process.Health
	service *attach.Service
	kubelet *podresources.Client
	views   *http.ServeMux
	// cardsChanged asks for a look at the node's virtual functions.
	cardsChanged func()
	calls        calls
}

func (a *agent) assemble(ctx context.Context) error {
	a.views = http.NewServeMux()
	var err error
	a.mgr, a.health, err = process.NewManager(a.Config, process.Options{
		Name: "spiderpool-agent", Namespace: a.Namespace, Log: a.Log, HealthAddress: a.HealthAddress,
		MetricsAddress: a.MetricsAddress,
		Cache:          cacheOptions(a.Node, a.Namespace), EveryReplica: true, Views: a.views,
	})
	if err != nil {
		return err
	}
	steps := []func(context.Context) error{a.addService, a.addInstaller, a.addCards}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	a.view("sandboxes", func() (any, error) { return a.book.Sandboxes(), nil })
	a.view("vfs", func() (any, error) { return a.book.VFs() })
	a.view("handouts", func() (any, error) { return a.book.HandOuts() })
	a.view("releases", func() (any, error) { return a.book.Releases() })
	a.view("timings", func() (any, error) { return a.service.Timings(), nil })
	return nil
}

// addService adds what answers CNI calls.
func (a *agent) addService(ctx context.Context) error {
	heartbeat, err := a.heartbeat()
	if err != nil {
		return err
	}
	recorder := recorder{a.mgr.GetEventRecorder("spiderpool-agent")}
	addresses, err := leases.New(ctx, leases.Options{
		Client: a.mgr.GetClient(), Live: a.mgr.GetAPIReader(), Informers: a.mgr.GetCache(),
		Node: a.Node, Families: v2beta1.Families{IPv4: a.Settings.EnableIPv4, IPv6: a.Settings.EnableIPv6},
		NetworkNamespace: a.Namespace, Log: a.Log,
		ForgetStatefulSets: !a.Settings.EnableStatefulSet, ForgetVirtualMachines: !a.Settings.EnableKubevirtStaticIP,
		Book: a.book, Promise: heartbeat, PerPool: a.Settings.Stock.PerPool,
		Sandboxes: a.book.SandboxesOf, Attached: func() ([]leases.Attached, error) { return attachedAddresses(a.book) },
		Lost: recorder.lost,
	})
	if err != nil {
		return fmt.Errorf("preparing the address leases: %w", err)
	}
	sources := &cluster{client: a.mgr.GetClient(), live: a.mgr.GetAPIReader()}
	a.service, err = attach.New(attach.Options{
		Ledger: a.book, Kernel: a.kernel, Plugins: a.plugins(sources), Addresses: addresses,
		Pods: sources, Networks: sources, Status: sources, Devices: a.kubelet,
		Events: recorder, Log: a.Log,
		NetworkNamespace: a.Namespace, ClusterNetwork: a.ClusterNetwork, Root: a.Root, ConfDir: a.Install.ConfDir,
		Socket:  a.Settings.IPAMUnixSocketPath,
		Metrics: metrics.Registry,

		DevicesMoved: func() { a.cardsChanged() }, NamespaceAnnotations: sources.namespaceAnnotations,

		NamespaceIsolation: a.Settings.NamespaceIsolation, GlobalNamespaces: a.Settings.GlobalNamespaces,
		ConflictDetection: a.Settings.EnableIPConflictDetection, GatewayDetection: a.Settings.EnableGatewayDetection,
	})
	if err != nil {
		return err
	}
	return addAll(a.mgr, heartbeat, addresses)
}

// heartbeat is this node's promise about its stock of addresses.
func (a *agent) heartbeat() (*fence.Heartbeat, error) {
	clock, err := host.NewClock()
	if err != nil {
		return nil, err
	}
	return fence.New(fence.Options{
		Client: a.mgr.GetClient(), Live: a.mgr.GetAPIReader(), Namespace: a.Namespace, Node: a.Node,
		Holder: a.book.ID(),
		Valid:  a.Settings.Stock.Heartbeat(), Clock: clock, Log: a.Log,
	}), nil
}

func (a *agent) plugins(c *cluster) map[string]cni.Plugin {
	return map[string]cni.Plugin{
		ibsriov.Type:     &ibsriov.Plugin{Kernel: a.kernel, Given: a.book.Verbs},
		ipoib.Type:       &ipoib.Plugin{Kernel: a.kernel},
		rdma.Type:        &rdma.Plugin{Kernel: a.kernel},
		coordinator.Type: &coordinator.Plugin{Kernel: a.kernel, Cluster: c},
	}
}

// addInstaller adds what puts the shim and the CNI configuration on the node.
func (a *agent) addInstaller(context.Context) error {
	in := newInstaller(a.Install, cniinstall.ConfOptions{
		Dir: a.Install.ConfDir, ClusterNetwork: a.ClusterNetwork, Namespace: a.Namespace,
		Socket: a.Settings.IPAMUnixSocketPath,
	}, a.Log)
	a.health.Require("CNI configuration", in.ready)
	return addAll(a.mgr, in)
}

// addCards adds the node half of the SR-IOV operator and the device plugin.
func (a *agent) addCards(context.Context) error {
	if !a.SRIOV {
		return nil
	}
	devices := deviceplugin.New(a.kernel, deviceplugin.Options{
		Prefix: a.ResourcePrefix, Dir: a.KubeletDir + "/device-plugins", DevDir: a.Root + "/dev", Log: a.Log,
		Note: a.book.PutVerbs, Prefer: a.Prefer, Umad: a.Umad,
		// /var/run on the node; a link there would lead out of Root
		InfoDir: a.Root + "/run/k8s.cni.cncf.io/devinfo/dp",
	})
	var err error
	a.cardsChanged, err = nodestate.SetupWithManager(a.mgr, nodestate.Options{
		Namespace: a.Namespace, Node: a.Node, Root: a.Root, Kernel: a.kernel, Ledger: a.book, Front: devices,
		Allocated: func(ctx context.Context) (map[string]string, error) {
			return a.kubelet.Holders(ctx, a.ResourcePrefix+"/")
		},
		Busy: a.calls.busy,
	})
	if err != nil {
		return err
	}
	return addAll(a.mgr, everywhere(devices.Run))
}

// answer answers one call of the shim.
func (a *agent) answer(ctx context.Context, req cnisock.Request) cnisock.Response {
	if command := req.Env["CNI_COMMAND"]; command == "ADD" || command == "DEL" {
		defer a.calls.begin()()
	}
	return a.service.Handle(ctx, req)
}

// view serves something of the node's state on the health address below /v1/node/, for people, the
// doctor and benchmarks.
func (a *agent) view(name string, content func() (any, error)) {
	a.views.HandleFunc("GET /v1/node/"+name, func(w http.ResponseWriter, _ *http.Request) {
		v, err := content()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(v) // the reader has gone; there is nobody to tell
	})
}

// cacheOptions keep the agent to its own node: of pods, nodes and node states it reads no others.
func cacheOptions(node, namespace string) cache.Options {
	return cache.Options{
		SyncPeriod: new(10 * time.Hour),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Field: fields.OneTermEqualSelector("spec.nodeName", node)},
			&corev1.Node{}: {Field: fields.OneTermEqualSelector("metadata.name", node)},
			// A pool's status lists all its addresses; the agent knows them from the leases.
			&v2beta1.SpiderIPPool{}: {Transform: withoutStatus},
			&sriovv1.SriovNetworkNodeState{}: {Namespaces: map[string]cache.Config{
				namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", node)},
			}},
		},
	}
}

func withoutStatus(object any) (any, error) {
	if pool, ok := object.(*v2beta1.SpiderIPPool); ok {
		pool.Status = v2beta1.IPPoolStatus{}
		pool.ManagedFields = nil
	}
	return object, nil
}

// everywhere is a part that does not wait for leadership.
type everywhere func(context.Context) error

func (f everywhere) Start(ctx context.Context) error { return f(ctx) }
func (everywhere) NeedLeaderElection() bool          { return false }

func addAll(mgr ctrl.Manager, parts ...manager.Runnable) error {
	for _, p := range parts {
		if err := mgr.Add(p); err != nil {
			return fmt.Errorf("adding a part of the agent: %w", err)
		}
	}
	return nil
}
