// SPDX-License-Identifier: Apache-2.0

package deviceplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/sriov"
)

// patience bounds every wait of these tests; they end as soon as what they wait for is there.
const patience = 20 * time.Second

// kubelet is the registering half of a kubelet's device manager: it removes the sockets it finds,
// listens, and watches every plugin that registers.
type kubelet struct {
	pluginapi.UnimplementedRegistrationServer
	dir    string
	server *grpc.Server
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	lists   map[string][]*pluginapi.Device
	clients map[string]pluginapi.DevicePluginClient
	options map[string]*pluginapi.DevicePluginOptions
	refuse  int // registrations to refuse
}

func startKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	sockets, _ := filepath.Glob(filepath.Join(dir, "*.sock"))
	for _, s := range sockets {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{dir: dir, server: grpc.NewServer(), lists: map[string][]*pluginapi.Device{},
		clients: map[string]pluginapi.DevicePluginClient{}, options: map[string]*pluginapi.DevicePluginOptions{}}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	pluginapi.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(l)
	t.Cleanup(k.stop)
	return k
}

func (k *kubelet) stop() {
	k.cancel()
	k.server.Stop()
}

func (k *kubelet) Register(_ context.Context, r *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse > 0 {
		k.refuse--
		return nil, fmt.Errorf("not yet")
	}
	if r.Version != "v1beta1" {
		return nil, fmt.Errorf("version %s", r.Version)
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, r.Endpoint),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	k.options[r.ResourceName] = r.Options
	k.clients[r.ResourceName] = pluginapi.NewDevicePluginClient(conn)
	go k.watch(r.ResourceName, k.clients[r.ResourceName])
	return &pluginapi.Empty{}, nil
}

func (k *kubelet) watch(resource string, c pluginapi.DevicePluginClient) {
	stream, err := c.ListAndWatch(k.ctx, &pluginapi.Empty{})
	for err == nil {
		var r *pluginapi.ListAndWatchResponse
		if r, err = stream.Recv(); err == nil {
			k.mu.Lock()
			k.lists[resource] = r.Devices
			k.mu.Unlock()
		}
	}
}

// seen writes a resource's devices as "0000:86:00.1 Healthy 1".
func (k *kubelet) seen(resource string) (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.lists[resource] {
		out = append(out, fmt.Sprintf("%s %s %d", d.ID, d.Health, numa(d)))
	}
	return out
}

func (k *kubelet) waitFor(t *testing.T, resource string, want ...string) {
	t.Helper()
	wait(t, func() bool { return slices.Equal(k.seen(resource), want) }, func() string {
		return fmt.Sprintf("the kubelet sees %q of %s, want %q", k.seen(resource), resource, want)
	})
}

func wait(t *testing.T, done func() bool, say func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(say())
		}
	}
}

func (k *kubelet) client(resource string) pluginapi.DevicePluginClient {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.clients[resource]
}

// guideVFs is the guide's node with n VFs in service, and the pool of them.
func guideVFs(t *testing.T, n int) (*hosttest.Fake, sriov.Pool) {
	t.Helper()
	f := hosttest.GuideNode()
	must(t, f.SetNumVFs(hosttest.GuidePF, n))
	pf, err := f.PF(hosttest.GuidePF)
	must(t, err)
	pool := sriov.Pool{Resource: "mellanoxibsriov"}
	for i, vf := range pf.VFs {
		guid := ib.VFGUID(hosttest.GuidePFGUID, i)
		must(t, f.SetVFGUID(hosttest.GuidePF, i, guid))
		must(t, f.BindVF(vf.PCI))
		vf, err := f.VF(vf.PCI)
		must(t, err)
		pool.Devices = append(pool.Devices, sriov.Device{PCI: vf.PCI, PF: vf.PF, Index: i, NUMANode: 1, LinkType: "IB",
			GUID: guid, RDMA: true,
			RDMADevice: vf.RDMA.Name, PortState: vf.RDMA.State})
	}
	return f, pool
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs a plugin below a temporary folder, with the device nodes of the fake node.
func start(t *testing.T, k Kernel, o Options) (*Plugin, Options) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp") // t.TempDir's names are too long for a socket's address
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	o.Dir, o.InfoDir, o.DevDir = filepath.Join(dir, "p"), filepath.Join(dir, "info", "dp"), filepath.Join(dir, "dev")
	o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	must(t, os.MkdirAll(o.Dir, 0o755))
	must(t, os.MkdirAll(filepath.Join(o.DevDir, "infiniband"), 0o755))
	for i := range 20 {
		for _, name := range []string{"uverbs", "umad", "issm"} {
			must(t, os.WriteFile(filepath.Join(o.DevDir, "infiniband", fmt.Sprint(name, i)), nil, 0o644))
		}
	}
	must(t, os.WriteFile(filepath.Join(o.DevDir, "infiniband", "rdma_cm"), nil, 0o644))
	p := New(k, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return p, o
}

const guideResource = "spidernet.io/mellanoxibsriov"

func TestAdvertises(t *testing.T) {
	f, pool := guideVFs(t, 3)
	p, o := start(t, f, Options{})
	k := startKubelet(t, o.Dir)
	p.Publish([]sriov.Pool{pool, {Resource: "empty"}})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy 1")
	if k.client("spidernet.io/empty") != nil {
		t.Error("a resource that never had a device was registered")
	}

	// a port goes down, a VF into a pod while its port was up, NUMA hints away
	pool.Devices = slices.Clone(pool.Devices)
	pool.Devices[0].PortState = "DOWN"
	pool.Devices[1].Pod, pool.Devices[1].PortState = "default/a", ""
	pool.Devices[2].NUMANode = -1
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Unhealthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy -1")

	// what a pod took while it was down stays so until it can be seen again
	pool.Devices = slices.Clone(pool.Devices)
	pool.Devices[0].Pod, pool.Devices[0].PortState = "default/b", ""
	pool.Devices[2].NUMANode = 0
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Unhealthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy 0")
	pool.Devices = slices.Clone(pool.Devices)
	pool.Devices[0].Pod, pool.Devices[0].PortState = "", "ACTIVE"
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy 0")

	// every VF gone for a while: the resource stays, with nothing
	p.Publish([]sriov.Pool{{Resource: pool.Resource}})
	k.waitFor(t, guideResource)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy 0")
}

func TestRegistersAgainWithEachKubelet(t *testing.T) {
	f, pool := guideVFs(t, 1)
	p, o := start(t, f, Options{})
	p.Publish([]sriov.Pool{pool}) // before any kubelet is there
	for range 3 {
		k := startKubelet(t, o.Dir) // removes our sockets, as a kubelet does
		k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1")
		k.stop()
	}
	k := startKubelet(t, o.Dir)
	k.mu.Lock()
	k.refuse = 2
	k.mu.Unlock()
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1")
}

func TestComesBackWhenItsSocketIsRemoved(t *testing.T) {
	f, pool := guideVFs(t, 1)
	p, o := start(t, f, Options{})
	k := startKubelet(t, o.Dir)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1")
	before := k.client(guideResource)
	must(t, os.Remove(filepath.Join(o.Dir, "spidernet.io_mellanoxibsriov.sock")))
	wait(t, func() bool { return k.client(guideResource) != before },
		func() string { return "it did not register again" })
}

func TestGivesUpResources(t *testing.T) {
	f, pool := guideVFs(t, 1)
	p, o := start(t, f, Options{})
	k := startKubelet(t, o.Dir)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1")
	p.Publish(nil)
	wait(t, func() bool {
		socket, _ := filepath.Glob(filepath.Join(o.Dir, "spidernet.io_*"))
		info, _ := filepath.Glob(filepath.Join(o.InfoDir, "*"))
		return len(socket)+len(info) == 0
	}, func() string { return "socket or device-info file left behind" })
	k.waitFor(t, guideResource)
}

func TestLongNamesFitASocket(t *testing.T) {
	a := socketName("a.rather.long.prefix.example.com", strings.Repeat("x", 62)+"1")
	b := socketName("a.rather.long.prefix.example.com", strings.Repeat("x", 62)+"2")
	if path := filepath.Join(pluginapi.DevicePluginPath, a); len(path) > 107 || a == b {
		t.Errorf("%s has %d octets; the next resource's is %s", path, len(path), b)
	}
	f, pool := guideVFs(t, 1)
	p, o := start(t, f, Options{})
	k := startKubelet(t, o.Dir)
	pool.Resource = strings.Repeat("x", 63)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, "spidernet.io/"+pool.Resource, "0000:86:00.1 Healthy 1")
}

func allocate(k *kubelet, resource string, ids ...string) (*pluginapi.ContainerAllocateResponse, error) {
	r, err := k.client(resource).Allocate(k.ctx,
		&pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	return r.ContainerResponses[0], nil
}

func deviceNodes(r *pluginapi.ContainerAllocateResponse) (out []string) {
	for _, d := range r.Devices {
		out = append(out, fmt.Sprintf("%s %s %s", d.HostPath, d.ContainerPath, d.Permissions))
	}
	return out
}

func TestAllocate(t *testing.T) {
	f, pool := guideVFs(t, 3)
	noted := map[string]string{}
	p, o := start(t, f, Options{Note: func(pci, verbs, umad string) error {
		noted[pci] = verbs + umad
		return nil
	}})
	k := startKubelet(t, o.Dir)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy 1")
	r, err := allocate(k, guideResource, "0000:86:00.2", "0000:86:00.1")
	must(t, err)
	if diff := cmp.Diff(map[string]string{"0000:86:00.1": "uverbs1", "0000:86:00.2": "uverbs2"}, noted); diff != "" {
		t.Errorf("noted: %s", diff)
	}
	// the PF has uverbs0, VFs follow
	want := []string{
		"/dev/infiniband/uverbs2 /dev/infiniband/uverbs2 rw", "/dev/infiniband/rdma_cm /dev/infiniband/rdma_cm rw",
		"/dev/infiniband/uverbs1 /dev/infiniband/uverbs1 rw",
	}
	if diff := cmp.Diff(want, deviceNodes(r)); diff != "" {
		t.Error(diff)
	}
	if given := p.RecentlyGiven(); len(given) != 2 || given["0000:86:00.1"] == "" || given["0000:86:00.2"] == "" {
		t.Errorf("recently given: %v", given)
	}
	if got := r.Envs["PCIDEVICE_SPIDERNET_IO_MELLANOXIBSRIOV"]; got != "0000:86:00.2,0000:86:00.1" || len(r.Envs) != 2 {
		t.Errorf("environment %v", r.Envs)
	}
	var info any
	must(t, json.Unmarshal([]byte(r.Envs["PCIDEVICE_SPIDERNET_IO_MELLANOXIBSRIOV_INFO"]), &info))
	wantInfo := map[string]any{
		"0000:86:00.1": map[string]any{"generic": map[string]any{"deviceID": "0000:86:00.1"},
			"rdma": map[string]any{"rdma_dev": "mlx5_1", "uverbs": "/dev/infiniband/uverbs1",
				"rdma_cm": "/dev/infiniband/rdma_cm"}},
		"0000:86:00.2": map[string]any{"generic": map[string]any{"deviceID": "0000:86:00.2"},
			"rdma": map[string]any{"rdma_dev": "mlx5_2", "uverbs": "/dev/infiniband/uverbs2",
				"rdma_cm": "/dev/infiniband/rdma_cm"}},
	}
	if diff := cmp.Diff(wantInfo, info); diff != "" {
		t.Error(diff)
	}
}

func TestAllocateWithUmadAndShellName(t *testing.T) {
	f, pool := guideVFs(t, 1)
	var noted []string
	p, o := start(t, f, Options{Umad: true, Note: func(_, verbs, umad string) error {
		noted = append(noted, verbs+" "+umad)
		return nil
	}})
	k := startKubelet(t, o.Dir)
	pool.Resource = "ib-a"
	plain := sriov.Pool{Resource: "plain", Devices: slices.Clone(pool.Devices)}
	plain.Devices[0].RDMA = false
	p.Publish([]sriov.Pool{pool, plain})
	k.waitFor(t, "spidernet.io/ib-a", "0000:86:00.1 Healthy 1")
	k.waitFor(t, "spidernet.io/plain", "0000:86:00.1 Healthy 1")
	r, err := allocate(k, "spidernet.io/ib-a", "0000:86:00.1")
	must(t, err)
	if got := strings.Join(deviceNodes(r), "\n"); !strings.Contains(got, "/umad1 ") || strings.Contains(got, "issm") {
		t.Errorf("device nodes:\n%s", got)
	}
	for _, name := range []string{"PCIDEVICE_SPIDERNET_IO_IB-A", "PCIDEVICE_SPIDERNET_IO_IB_A"} {
		if r.Envs[name] != "0000:86:00.1" || r.Envs[name+"_INFO"] == "" {
			t.Errorf("%s is %q", name, r.Envs[name])
		}
	}
	r, err = allocate(k, "spidernet.io/plain", "0000:86:00.1")
	must(t, err)
	if len(r.Devices) > 0 {
		t.Errorf("a policy without RDMA gives %v", deviceNodes(r))
	}
	if diff := cmp.Diff([]string{"uverbs1 umad1", " "}, noted); diff != "" {
		t.Errorf("noted: %s", diff)
	}
}

func TestAllocateRefuses(t *testing.T) {
	f, pool := guideVFs(t, 5)
	p, o := start(t, f, Options{})
	k := startKubelet(t, o.Dir)
	pool.Devices = slices.Delete(pool.Devices, 3, 4)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1", "0000:86:00.2 Healthy 1", "0000:86:00.3 Healthy 1",
		"0000:86:00.5 Healthy 1")

	pod := host.NS("/var/run/netns/pod")
	f.AddNS(pod)
	must(t, f.MoveRDMA(host.NodeNS, "mlx5_1", pod)) // VF 0 goes into a pod
	link, err := f.LinkByPCI(host.NodeNS, "0000:86:00.1")
	must(t, err)
	_, err = f.MoveLink(host.NodeNS, link.Index, pod, "eth0")
	must(t, err)
	named, err := f.RDMAByPCI(host.NodeNS, "0000:86:00.5")
	must(t, err)
	must(t, f.NameRDMA(host.NodeNS, named.Index, ".."))
	must(t, os.Remove(filepath.Join(o.DevDir, "infiniband", "uverbs2")))
	noVerbs := &withoutVerbs{Fake: f}
	p.kernel = noVerbs
	for _, tt := range []struct{ pci, want string }{
		{"0000:86:00.4", "0000:86:00.4 is not offered any more"},
		{"0000:86:00.1", "still in another network namespace"},
		{"0000:86:00.2", "/dev/infiniband/uverbs2 is not on the node"},
		{"0000:86:00.5", "a pod gave it a name that cannot be used"},
		{"0000:86:00.3", "VF 0000:86:00.3 has no verbs device (uverbsN): `modprobe ib_uverbs`"},
	} {
		_, err := allocate(k, guideResource, tt.pci)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), guideResource) {
			t.Errorf("%s: %v; want %q", tt.pci, err, tt.want)
		}
	}
}

// withoutVerbs is a node where VF 2 has lost its verbs device.
type withoutVerbs struct{ *hosttest.Fake }

func (w *withoutVerbs) VFDevices(pci string) (host.VFDevices, error) {
	vf, err := w.Fake.VFDevices(pci)
	if vf.Index == 2 {
		vf.Uverbs = ""
	}
	return vf, err
}

func TestPreferredAllocation(t *testing.T) {
	f, pool := guideVFs(t, 3)
	other := slices.Clone(pool.Devices[:2]) // of a second card
	for i := range other {
		other[i].PCI, other[i].PF = strings.Replace(other[i].PCI, ":86:", ":87:", 1), "0000:87:00.0"
	}
	pool.Devices = append(pool.Devices, other...)
	pool.Devices[1].Pod = "default/leaving"
	pool.Devices[4].PortState = "DOWN"
	p, o := start(t, f, Options{Prefer: sriov.Spread})
	k := startKubelet(t, o.Dir)
	p.Publish([]sriov.Pool{pool})
	var available []string
	for _, d := range pool.Devices {
		available = append(available, d.PCI)
	}
	wait(t, func() bool { return len(k.seen(guideResource)) == 5 },
		func() string { return fmt.Sprint(k.seen(guideResource)) })
	if k.options[guideResource] == nil || !k.options[guideResource].GetPreferredAllocationAvailable {
		t.Errorf("registered with options %v", k.options[guideResource])
	}
	got, err := k.client(guideResource).GetPreferredAllocation(k.ctx,
		&pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{
			{AvailableDeviceIDs: available, AllocationSize: 2},
			{AvailableDeviceIDs: available, MustIncludeDeviceIDs: []string{"0000:86:00.3"}, AllocationSize: 2},
			{AvailableDeviceIDs: available, AllocationSize: 4},
			{AvailableDeviceIDs: []string{"0000:99:00.1"}, AllocationSize: 1},
		}})
	must(t, err)
	want := []string{"0000:86:00.1 0000:87:00.1", "0000:86:00.3 0000:87:00.1",
		"0000:86:00.1 0000:87:00.1 0000:86:00.3 0000:86:00.2", ""}
	for i, r := range got.ContainerResponses {
		if ids := strings.Join(r.DeviceIDs, " "); ids != want[i] {
			t.Errorf("request %d: %q, want %q", i, ids, want[i])
		}
	}
	options, err := newServer(New(f, Options{}), "x").GetDevicePluginOptions(k.ctx, nil)
	if err != nil || options.GetPreferredAllocationAvailable {
		t.Errorf("without a preference: %v, %v", options, err)
	}
}

// A VF that its last pod is still giving back is waited for, and its device nodes are those it has at home.
func TestAllocateWaitsForVFToComeHome(t *testing.T) {
	f, pool := guideVFs(t, 2)
	p, o := start(t, f, Options{})
	k := startKubelet(t, o.Dir)
	p.Publish([]sriov.Pool{pool})
	k.waitFor(t, guideResource, "0000:86:00.1 Healthy 1", "0000:86:00.2 Healthy 1")
	pod := host.NS("/var/run/netns/pod")
	f.AddNS(pod)
	must(t, f.MoveRDMA(host.NodeNS, "mlx5_1", pod))
	go func() {
		time.Sleep(100 * time.Millisecond)
		f.DeleteNS(pod)
	}()
	r, err := allocate(k, guideResource, "0000:86:00.1")
	must(t, err)
	vf, err := f.VF("0000:86:00.1")
	must(t, err)
	if got := deviceNodes(r)[0]; !strings.HasPrefix(got, "/dev/infiniband/"+vf.Uverbs+" ") {
		t.Errorf("handed out %s, the VF has %s", got, vf.Uverbs)
	}
}

func TestDeviceInfoFiles(t *testing.T) {
	f, pool := guideVFs(t, 2)
	p, o := start(t, f, Options{})
	path := filepath.Join(o.InfoDir, "spidernet.io-mellanoxibsriov-0000:86:00.1-device.json")
	stale := filepath.Join(o.InfoDir, "spidernet.io-old-0000:86:00.1-device.json")
	foreign := filepath.Join(o.InfoDir, "example.com-x-0000:86:00.1-device.json")
	must(t, os.MkdirAll(o.InfoDir, 0o755))
	for _, file := range []string{stale, foreign} {
		must(t, os.WriteFile(file, []byte("{}"), 0o444))
	}
	p.Publish([]sriov.Pool{pool})
	const want = `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:86:00.1","rdma-device":"mlx5_1"}}`
	read := func() string {
		text, _ := os.ReadFile(path)
		return string(text)
	}
	wait(t, func() bool { _, err := os.Stat(stale); return read() == want && os.IsNotExist(err) },
		func() string { return read() })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("another plugin's file: %v", err)
	}

	// in a pod, its RDMA device cannot be seen: what is known of it stays
	pool.Devices = slices.Clone(pool.Devices[:1])
	pool.Devices[0].Pod, pool.Devices[0].RDMADevice, pool.Devices[0].PortState = "default/a", "", ""
	p.Publish([]sriov.Pool{pool})
	other := strings.Replace(path, "86:00.1", "86:00.2", 1)
	wait(t, func() bool { _, err := os.Stat(other); return os.IsNotExist(err) },
		func() string { return other + " stays" })
	if read() != want {
		t.Errorf("the file became %s", read())
	}
}
