// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/coordinator"
	"spidernet.io/spiderpool/internal/cni/ibsriov"
	"spidernet.io/spiderpool/internal/cni/ipoib"
	"spidernet.io/spiderpool/internal/cni/rdma"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/ledger"
)

// The two networks of the guide, as they are rendered.
const (
	confIBSRIOV = `{"cniVersion":"0.3.1","name":"ib-sriov","plugins":[{"type":"ib-sriov","link_state":"enable","rdmaIsolation":true,
		"ibKubernetesEnabled":false,"capabilities":{"infinibandGUID":true},"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]}},{"type":"coordinator"}]}`
	confIPoIB = `{"cniVersion":"0.3.1","name":"ipoib","plugins":[{"type":"ipoib","master":"ibs5f0",
		"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]}},{"type":"coordinator"}]}`
	resource = "spidernet.io/mellanoxibsriov"
	podNS    = host.NS("/var/run/netns/cni-1")
	vf0      = "0000:86:00.1"
	vf1      = "0000:86:00.2"
)

// node is a node of the guide with twelve VFs, a service on it, and fakes of all that is around it.
type node struct {
	t       testing.TB
	fake    *hosttest.Fake
	service *Service
	ledger  *ledger.Ledger
	path    string
	options Options

	mu        sync.Mutex
	pods      map[string]*corev1.Pod
	networks  map[string]*cncfv1.NetworkAttachmentDefinition
	devices   map[string][]string
	devicesOf map[string]map[string][]string // by pod, in place of devices
	held      map[string]netip.Addr          // by pod UID, interface and sandbox
	statuses  map[string]string
	events    []string
	apiDown   bool
	liveReads int
	asked     map[string]ipam.Request // the last one for an address, by pod and interface

	avoided     []netip.Addr
	kubeletHas  map[string]bool // pods, "namespace/name"
	kubeletDown bool

	settled     map[string]bool // by pod UID
	settleFails bool

	moved atomic.Int32 // devices, as DevicesMoved was told
}

func newNode(t testing.TB, o hosttest.Options) *node {
	t.Helper()
	o.Naming = hosttest.GuideNaming
	n := &node{t: t, fake: hosttest.GuideNodeWith(o), path: filepath.Join(t.TempDir(), "ledger"),
		pods:     map[string]*corev1.Pod{},
		networks: map[string]*cncfv1.NetworkAttachmentDefinition{}, devices: map[string][]string{resource: {vf0, vf1}},
		held: map[string]netip.Addr{}, statuses: map[string]string{}}
	must(t, n.fake.SetNumVFs(hosttest.GuidePF, 12))
	pf, err := n.fake.PF(hosttest.GuidePF)
	must(t, err)
	for _, vf := range pf.VFs {
		must(t, n.fake.SetVFGUID(hosttest.GuidePF, vf.Index, ib.VFGUID(hosttest.GuidePFGUID, vf.Index)))
		must(t, n.fake.BindVF(vf.PCI))
	}
	n.fake.AddNS(podNS)
	n.fake.Revive()
	n.network("kube-system", "ib-sriov", confIBSRIOV, resource)
	n.network("kube-system", "ipoib", confIPoIB, "")
	confDir := t.TempDir()
	n.options = Options{Kernel: n.fake, Addresses: n, Pods: n, Networks: n, Devices: n, Status: n, Events: n,
		Log: slog.New(slog.DiscardHandler), ConfDir: confDir,
		Root:         t.TempDir(), // so that no plugin of this machine is ever found, and run
		DevicesMoved: func() { n.moved.Add(1) },
		Plugins: map[string]cni.Plugin{ibsriov.Type: &ibsriov.Plugin{Kernel: n.fake},
			ipoib.Type: &ipoib.Plugin{Kernel: n.fake}, rdma.Type: &rdma.Plugin{Kernel: n.fake},
			coordinator.Type: &coordinator.Plugin{Kernel: n.fake, Cluster: n}}}
	n.start()
	// what the coordinator leaves on the node for good is there from the first pod on
	n.pod("first", annotations("ipoib"))
	n.mustCall("ADD", "first")
	n.mustCall("DEL", "first")
	n.collect()
	n.fake.DeleteNS(podNS)
	n.fake.AddNS(podNS)
	n.fake.Revive()
	n.events, n.statuses = nil, map[string]string{}
	n.moved.Store(0)
	return n
}

// Coordinator implements coordinator.Cluster.
func (n *node) Coordinator(context.Context) (v2beta1.CoordinatorSpec, v2beta1.CoordinatorStatus, error) {
	return v2beta1.CoordinatorSpec{}, v2beta1.CoordinatorStatus{OverlayPodCIDR: []string{"10.233.64.0/18"},
		ServiceCIDR: []string{"10.233.0.0/18"}}, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start begins an agent on the node's ledger, after the one before has ended at whatever point.
func (n *node) start() {
	n.t.Helper()
	if n.ledger != nil {
		must(n.t, n.ledger.Close())
	}
	l, damage, err := ledger.Open(n.path)
	must(n.t, err)
	if damage != nil {
		n.t.Fatal(damage)
	}
	n.ledger = l
	n.t.Cleanup(func() { l.Close() })
	o := n.options
	o.Ledger = l
	n.service, err = New(o)
	must(n.t, err)
}

func (n *node) network(namespace, name, config, res string) {
	d := &cncfv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: cncfv1.NetworkAttachmentDefinitionSpec{Config: config}}
	if res != "" {
		d.Annotations = map[string]string{cncfv1.AnnotationResourceName: res}
	}
	n.networks[namespace+"/"+name] = d
}

// pod makes a pod with annotations and returns its UID.
func (n *node) pod(name string, annotations map[string]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods["default/"+name] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name,
		UID: types.UID("uid-" + name), Annotations: annotations},
		Spec: corev1.PodSpec{NodeName: "node"}}
}

// request is a call of our meta plugin as a runtime makes it.
func request(command, pod, sandbox string, ns host.NS) cnisock.Request {
	return cnisock.Request{Plugin: MetaPlugin,
		Stdin: []byte(`{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus"}`),
		Env: map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": sandbox, "CNI_NETNS": string(ns),
			"CNI_IFNAME": "eth0",
			"CNI_ARGS": fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;"+
				"K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=uid-%s", pod, sandbox, pod)}}
}

func (n *node) call(command, pod string) cnisock.Response {
	return n.service.Handle(context.Background(), request(command, pod, "sandbox-"+pod, podNS))
}

func (n *node) mustCall(command, pod string) []byte {
	n.t.Helper()
	resp := n.call(command, pod)
	if resp.Error != nil {
		n.t.Fatalf("%s of %s: %s", command, pod, resp.Error)
	}
	return resp.Stdout
}

// snapshot is all that a sandbox can leave behind.
type snapshot struct {
	Host      hosttest.Snapshot
	Sandboxes []ledger.Sandbox
	Releases  []ledger.Release
	Held      map[string]netip.Addr
}

func (n *node) snapshot() snapshot {
	n.t.Helper()
	sandboxes := n.ledger.Sandboxes()
	releases, err := n.ledger.Releases()
	must(n.t, err)
	n.mu.Lock()
	defer n.mu.Unlock()
	held := map[string]netip.Addr{}
	for k, v := range n.held {
		held[k] = v
	}
	return snapshot{n.fake.Snapshot(), sandboxes, releases, held}
}

// same fails the test when something was left behind. Of the pod's namespace only the links count:
// the rest goes with it.
func (n *node) same(want snapshot, what string) {
	n.t.Helper()
	got := n.snapshot()
	want.Host.Namespaces, got.Host.Namespaces = maps.Clone(want.Host.Namespaces), maps.Clone(got.Host.Namespaces)
	if n.fake.NSExists(podNS) {
		got.Host.Namespaces[podNS] = hosttest.NamespaceState{Links: got.Host.Namespaces[podNS].Links}
		want.Host.Namespaces[podNS] = hosttest.NamespaceState{Links: want.Host.Namespaces[podNS].Links}
	} else {
		delete(want.Host.Namespaces, podNS)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		n.t.Errorf("%s: left behind (-before +after):\n%s", what, diff)
	}
}

func (n *node) collect() {
	n.t.Helper()
	must(n.t, n.service.Collect(context.Background()))
}

var errAPIDown = errors.New("the API server does not answer")

func (n *node) Cached(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.pods[namespace+"/"+name]
	if !ok {
		return nil, ErrNotFound
	}
	return p, nil
}

func (n *node) Live(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	n.mu.Lock()
	n.liveReads++
	down := n.apiDown
	n.mu.Unlock()
	if down {
		return nil, errAPIDown
	}
	return n.Cached(ctx, namespace, name)
}

func (n *node) Network(_ context.Context, namespace, name string) (*cncfv1.NetworkAttachmentDefinition, error) {
	d, ok := n.networks[namespace+"/"+name]
	if !ok {
		return nil, ErrNotFound
	}
	return d, nil
}

func (n *node) Devices(_ context.Context, _, name string) (map[string][]string, error) {
	if d, ok := n.devicesOf[name]; ok {
		return d, nil
	}
	return n.devices, nil
}

func (n *node) Pods(context.Context) (map[string]bool, error) {
	if n.kubeletDown {
		return nil, errors.New("the kubelet does not answer")
	}
	return n.kubeletHas, nil
}

func (n *node) WriteStatus(_ context.Context, pod ledger.Pod, status string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.apiDown {
		return errAPIDown
	}
	if !n.settled[pod.UID] {
		n.t.Errorf("the network-status of pod %s/%s is written before its addresses are known to be shown",
			pod.Namespace, pod.Name)
	}
	n.statuses[pod.Namespace+"/"+pod.Name] = status
	return nil
}

func (n *node) Event(_ runtime.Object, eventType, reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, eventType+" "+reason+" "+message)
}

func heldKey(podUID, ifname, sandbox string) string { return podUID + " " + ifname + " " + sandbox }

func (n *node) Allocate(_ context.Context, r ipam.Request) (ipam.Allocation, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked == nil {
		n.asked = map[string]ipam.Request{}
	}
	n.asked[r.Pod.Name+" "+r.Interface] = r
	addr := netip.MustParseAddr("172.91.0.100")
	for _, taken := range n.held {
		if taken.Compare(addr) >= 0 {
			addr = taken.Next()
		}
	}
	for slices.Contains(n.avoided, addr) {
		addr = addr.Next()
	}
	n.held[heldKey(r.Pod.UID, r.Interface, r.Sandbox)] = addr
	gw := netip.MustParseAddr("172.91.0.1")
	return ipam.Allocation{Addresses: []ipam.Address{{IP: netip.PrefixFrom(addr, 16), Gateway: gw, Pool: "v4-91"}},
		Routes: []ipam.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gw}}}, nil
}

func (n *node) Release(_ context.Context, podUID, sandbox, ifname string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.apiDown {
		return errAPIDown
	}
	delete(n.held, heldKey(podUID, ifname, sandbox))
	return nil
}

func (n *node) Avoid(ip netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.avoided = append(n.avoided, ip)
}

func (n *node) Settle(_ context.Context, podUID string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.settleFails {
		return errAPIDown
	}
	if n.settled == nil {
		n.settled = map[string]bool{}
	}
	n.settled[podUID] = true
	return nil
}

func (n *node) writeConf(name, text string) {
	must(n.t, os.WriteFile(filepath.Join(n.options.ConfDir, name), []byte(text), 0o600))
}
