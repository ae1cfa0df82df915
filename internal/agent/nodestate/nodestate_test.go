// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/sriov"
)

const (
	nodeName  = "10-20-1-10"
	namespace = "kube-system"
	podNS     = host.NS("/var/run/netns/pod")
)

// front remembers what it was told to advertise.
type front struct {
	pools   map[string][]string // resource -> PCI addresses
	history []string            // of the numbers published for the guide's resource
	given   map[string]string
	publish func() // runs at each publication
}

func (f *front) Publish(pools []sriov.Pool) {
	f.pools = map[string][]string{}
	for _, p := range pools {
		f.pools[p.Resource] = []string{}
		for _, d := range p.Devices {
			f.pools[p.Resource] = append(f.pools[p.Resource], d.PCI)
		}
	}
	f.history = append(f.history, fmt.Sprint(len(f.pools["mellanoxibsriov"])))
	if f.publish != nil {
		f.publish()
	}
}

func (f *front) RecentlyGiven() map[string]string { return f.given }

// rig is a node, its ledger and its object.
type rig struct {
	*reconciler
	t      *testing.T
	kernel *hosttest.Fake
	book   *ledger.Ledger
	front  *front
	events *events.FakeRecorder
}

func newRig(t *testing.T, kernel *hosttest.Fake) *rig {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, v1.AddToScheme(scheme))
	book, _, err := ledger.Open(filepath.Join(t.TempDir(), "ledger"))
	must(t, err)
	t.Cleanup(func() { book.Close() })
	state := &v1.SriovNetworkNodeState{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: nodeName}}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(state).WithStatusSubresource(state).Build()
	r := &rig{t: t, kernel: kernel, book: book, front: &front{}, events: events.NewFakeRecorder(100)}
	r.reconciler = &reconciler{
		Options: Options{Namespace: namespace, Node: nodeName, Root: t.TempDir(), Kernel: kernel, Ledger: book,
			Front: r.front, Interval: 30e9},
		client: c, events: r.events,
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) state() *v1.SriovNetworkNodeState {
	r.t.Helper()
	state := &v1.SriovNetworkNodeState{}
	must(r.t, r.client.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: nodeName}, state))
	return state
}

// want writes the spec; run makes one pass and returns the object after it.
func (r *rig) want(spec v1.SriovNetworkNodeStateSpec) {
	r.t.Helper()
	state := r.state()
	state.Spec = spec
	must(r.t, r.client.Update(context.Background(), state))
}

func (r *rig) run() (*v1.SriovNetworkNodeState, reconcile.Result) {
	r.t.Helper()
	result, err := r.Reconcile(context.Background(),
		reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: nodeName}})
	must(r.t, err)
	return r.state(), result
}

func guideSpec(n int) v1.SriovNetworkNodeStateSpec {
	return v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: hosttest.GuidePF, Name: "ibs5f0",
		NumVfs: n,
		VfGroups: []v1.VfGroup{{ResourceName: "mellanoxibsriov", DeviceType: "netdevice",
			VfRange: fmt.Sprintf("0-%d", n-1), PolicyName: "ib-sriov", IsRdma: true}}}}}
}

func (r *rig) recorded() (out []string) {
	for {
		select {
		case e := <-r.events.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func wantCondition(t *testing.T, state *v1.SriovNetworkNodeState, sync, reason string, parts ...string) {
	t.Helper()
	c := meta.FindStatusCondition(state.Status.Conditions, v1.ConditionReady)
	if state.Status.SyncStatus != sync || c == nil || c.Reason != reason {
		t.Fatalf("sync status %s, condition %+v; want %s, %s", state.Status.SyncStatus, c, sync, reason)
	}
	for _, part := range parts {
		if !strings.Contains(c.Message, part) {
			t.Errorf("condition lacks %q: %s", part, c.Message)
		}
	}
	if sync == v1.SyncStatusFailed && state.Status.LastSyncError == "" {
		t.Error("failed, but lastSyncError is empty")
	}
}

// attach does what CNI does: the record first, then the VF's devices go into the pod's namespace.
func (r *rig) attach(pci, pod string) {
	r.t.Helper()
	must(r.t, r.book.UpdateSandbox(pod, func(s *ledger.Sandbox) error {
		s.Pod = ledger.Pod{Namespace: "default", Name: pod, UID: pod}
		s.Attachments = []ledger.Attachment{{Network: "ib-sriov", IfName: "eth0", DeviceID: pci, Phase: ledger.Done}}
		return nil
	}))
	r.kernel.AddNS(podNS)
	vf, err := r.kernel.VF(pci)
	must(r.t, err)
	must(r.t, r.kernel.MoveRDMA(host.NodeNS, vf.RDMA.Name, podNS))
	link, err := r.kernel.LinkByPCI(host.NodeNS, pci)
	must(r.t, err)
	_, err = r.kernel.MoveLink(host.NodeNS, link.Index, podNS, "net-"+pod)
	must(r.t, err)
}

func (r *rig) detach(pod string) {
	r.t.Helper()
	r.kernel.DeleteNS(podNS)
	must(r.t, r.book.UpdateSandbox(pod, func(s *ledger.Sandbox) error { s.Attachments = nil; return nil }))
}

// Without any policy the node's cards are shown, nothing is done and nothing is offered.
func TestShowsCards(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "no policy asks for VFs")
	if r.kernel.Steps() != 0 || len(r.front.pools) != 0 {
		t.Errorf("%d steps, offered %v", r.kernel.Steps(), r.front.pools)
	}
	card := state.Status.Interfaces[1]
	if card.PciAddress != hosttest.GuidePF || card.Name != "ibs5f0" || card.TotalVfs != 16 || card.LinkType != "IB" ||
		card.PortState != "ACTIVE" || !slices.Equal(card.AltNames, []string{"ibp134s0f0"}) {
		t.Errorf("the guide's card: %+v", card)
	}
	c := meta.FindStatusCondition(state.Status.Conditions, v1.ConditionRdmaMode)
	if c == nil || c.Status != metav1.ConditionTrue || state.Status.System.RdmaMode != "exclusive" {
		t.Errorf("RDMA mode %q, condition %+v", state.Status.System.RdmaMode, c)
	}
}

func TestMakesTheGuidesVFs(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(12))
	state, result := r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 12 VFs ready")
	if len(r.front.pools["mellanoxibsriov"]) != 12 || result.RequeueAfter != r.Interval || len(state.Status.Plan) != 0 {
		t.Errorf("offered %v, next look after %s, plan %v", r.front.pools, result.RequeueAfter, state.Status.Plan)
	}
	// one GUID before one bind for each, and nothing is bound twice
	calls := r.kernel.Calls()
	if len(calls) != 1+2*12 || calls[0] != "SetNumVFs 12 of 0000:86:00.0" {
		t.Errorf("calls %q", calls)
	}
	for i := range 12 {
		if !strings.HasPrefix(calls[1+2*i], "SetVFGUID "+ib.VFGUID(hosttest.GuidePFGUID, i).String()) ||
			!strings.HasPrefix(calls[2+2*i], "BindVF") {
			t.Errorf("VF %d: %q", i, calls[1+2*i:3+2*i])
		}
	}
	vf := state.Status.Interfaces[1].VFs[3]
	want := v1.VirtualFunction{Name: "ibs5f0v3", Driver: "mlx5_core", PciAddress: "0000:86:00.4", Vendor: "15b3",
		DeviceID: "1018", Mtu: vf.Mtu, VfID: 3,
		GUID: ib.VFGUID(hosttest.GuidePFGUID, 3).String(), RdmaDevice: "mlx5_4", LinkState: "auto", PortState: "ACTIVE",
		Resource: "mellanoxibsriov", Mac: vf.Mac}
	if diff := cmp.Diff(want, vf); diff != "" {
		t.Error(diff)
	}
	if ev := r.recorded(); !slices.ContainsFunc(ev,
		func(e string) bool { return strings.HasPrefix(e, "Normal Configured mellanoxibsriov: 12 VFs ready") }) {
		t.Errorf("events %q", ev)
	}

	// all is well: nothing is done again, and no new event
	r.kernel.Revive()
	if r.run(); r.kernel.Steps() != 0 {
		t.Errorf("a second pass did %q", r.kernel.Calls())
	}
	if ev := r.recorded(); len(ev) > 0 {
		t.Errorf("a second pass told %q", ev)
	}
}

func TestVFInPodStaysCounted(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	r.attach("0000:86:00.2", "a")
	r.kernel.Revive()
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 4 VFs ready")
	if len(r.front.pools["mellanoxibsriov"]) != 4 || r.kernel.Steps() != 0 {
		t.Errorf("offered %v after %q", r.front.pools, r.kernel.Calls())
	}
	if vf := state.Status.Interfaces[1].VFs[1]; vf.Pod != "default/a" || vf.RdmaDevice != "" {
		t.Errorf("the pod's VF is shown as %+v", vf)
	}
	// the same after the agent starts anew
	again := newRig(t, r.kernel)
	again.reconciler.Ledger = r.book
	again.want(guideSpec(4))
	again.run()
	if len(again.front.pools["mellanoxibsriov"]) != 4 || r.kernel.Steps() != 0 {
		t.Errorf("after a restart: offered %v after %q", again.front.pools, r.kernel.Calls())
	}
}

func TestNeverResetsPFWithVFInUse(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	r.attach("0000:86:00.2", "a")
	r.recorded()
	r.kernel.Revive()
	for _, n := range []int{12, 2} {
		r.want(guideSpec(n))
		state, _ := r.run()
		wantCondition(t, state, v1.SyncStatusInProgress, "WaitingForPods", fmt.Sprintf("numVfs 4 -> %d", n),
			"0000:86:00.2 by default/a")
		if r.kernel.Steps() != 0 || len(state.Status.Plan) != 1 || state.Status.Plan[0].Blocked == "" {
			t.Errorf("did %q, plan %+v", r.kernel.Calls(), state.Status.Plan)
		}
		if got, want := len(r.front.pools["mellanoxibsriov"]), min(n, 4); got != want {
			t.Errorf("offered %d, want %d", got, want)
		}
	}
	if ev := strings.Join(r.recorded(), "\n"); !strings.Contains(ev, "Warning WaitingForPods") ||
		!strings.Contains(ev, "default/a") {
		t.Errorf("events:\n%s", ev)
	}
	r.detach("a")
	r.front.history = nil
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 2 VFs ready")
	if got := strings.Join(r.front.history, " "); got != "0 0 2" {
		t.Errorf(
			"published %q; want the old ones withdrawn before they go, none while they are made, then the new ones",
			got)
	}
}

// guidFile writes the administrator's choice of GUIDs; "" removes it.
func (r *rig) guidFile(text string) {
	r.t.Helper()
	path := filepath.Join(r.Root, guidPath)
	must(r.t, os.MkdirAll(filepath.Dir(path), 0o755))
	if text == "" {
		must(r.t, os.Remove(path))
		return
	}
	must(r.t, os.WriteFile(path, []byte(text), 0o644))
}

// guids lists the GUIDs that the VFs of the guide's card show.
func guids(state *v1.SriovNetworkNodeState) (out []string) {
	for _, vf := range state.Status.Interfaces[1].VFs {
		out = append(out, vf.GUID)
	}
	return out
}

func TestAdministratorsGUIDs(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(2))
	r.guidFile(`[{"pci_address": "0000:86:00.0", "guids": ["02:00:00:00:00:00:00:01"]}]`)
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusFailed, "Blocked",
		guidPath+", entry 1 (pci_address 0000:86:00.0): it has 1 GUIDs: want one for each of the 2 VFs")
	if r.kernel.Steps() != 0 {
		t.Errorf("did %q", r.kernel.Calls())
	}
	r.guidFile(
		`[{"pci_address": "0000:86:00.0", "guidsRange": {"start": "02:00:00:00:00:00:00:01", "end": "02:00:00:00:00:00:00:02"}}]`)
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "2 VFs ready")
	if diff := cmp.Diff([]string{"02:00:00:00:00:00:00:01", "02:00:00:00:00:00:00:02"}, guids(state)); diff != "" {
		t.Error(diff)
	}

	// others are wanted, and they change places: the VF in a pod keeps its own until the pod is gone
	r.attach("0000:86:00.2", "a")
	r.guidFile(`[{"pci_address": "0000:86:00.0", "guids": ["02:00:00:00:00:00:00:02", "02:00:00:00:00:00:00:01"]}]`)
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusInProgress, "WaitingForPods", "0000:86:00.2 by default/a")
	if got := guids(state)[0]; got != "02:00:00:00:00:00:00:01" {
		t.Errorf("the free VF has GUID %s while the other bears what it is to have", got)
	}
	r.detach("a")
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "2 VFs ready")
	if diff := cmp.Diff([]string{"02:00:00:00:00:00:00:02", "02:00:00:00:00:00:00:01"}, guids(state)); diff != "" {
		t.Error(diff)
	}
	ids, err := r.book.VFs()
	must(t, err)
	if len(ids) != 2 || ids[0].GUID.String() != "02:00:00:00:00:00:00:02" || ids[0].Adopted {
		t.Errorf("the ledger has %+v", ids)
	}

	// without the file they stay; a file that cannot be read takes nothing out of service
	r.guidFile("")
	r.kernel.Revive()
	if state, _ = r.run(); r.kernel.Steps() != 0 || guids(state)[0] != "02:00:00:00:00:00:00:02" {
		t.Errorf("did %q, GUIDs %v", r.kernel.Calls(), guids(state))
	}
	must(t, os.Mkdir(filepath.Join(r.Root, guidPath), 0o755))
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusFailed, "Blocked", guidPath+" cannot be read")
	if len(r.front.pools["mellanoxibsriov"]) != 2 {
		t.Errorf("offered %v", r.front.pools)
	}
}

// A VF that is given away between plan and step is seen.
func TestGivenAwayAtTheLastMoment(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	r.kernel.Revive()
	r.want(guideSpec(12))
	r.front.publish = func() { r.front.given = map[string]string{"0000:86:00.1": "a pod that the kubelet is starting"} }
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusInProgress, "WaitingForPods",
		"0000:86:00.1 by a pod that the kubelet is starting")
	if r.kernel.Steps() != 0 || len(r.front.pools["mellanoxibsriov"]) != 4 {
		t.Errorf("did %q, offered %v", r.kernel.Calls(), r.front.pools)
	}
}

func TestPromisedVFsCount(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	r.kernel.Revive()
	r.want(guideSpec(12))
	var allocated map[string]string
	var kubelet error
	r.Allocated = func(context.Context) (map[string]string, error) { return allocated, kubelet }
	allocated = map[string]string{"0000:86:00.3": "default/b"}
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusInProgress, "WaitingForPods", "0000:86:00.3 by default/b")
	allocated, kubelet = nil, errors.New("the kubelet does not answer")
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusInProgress, "WaitingForPods", "the kubelet does not answer")
	if r.kernel.Steps() != 0 {
		t.Errorf("did %q", r.kernel.Calls())
	}
	kubelet = nil
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "12 VFs")
}

func TestRemovesVFsOfAPolicyThatIsGone(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	state, _ := r.run()
	if !state.Status.Interfaces[1].Managed {
		t.Fatal("VFs that we made are not shown as ours")
	}
	r.want(v1.SriovNetworkNodeStateSpec{})
	r.kernel.Revive()
	if r.run(); r.kernel.Steps() != 0 || len(r.front.pools) != 0 {
		t.Errorf("an empty spec did %q and offers %v", r.kernel.Calls(), r.front.pools)
	}
	r.want(v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: hosttest.GuidePF}}})
	state, _ = r.run()
	if state.Status.Interfaces[1].NumVfs != 0 || state.Status.Interfaces[1].Managed {
		t.Errorf("VFs are left: %+v", state.Status.Interfaces[1])
	}
	// made again, they have the same GUIDs
	r.want(guideSpec(4))
	state, _ = r.run()
	if got := state.Status.Interfaces[1].VFs[2].GUID; got != ib.VFGUID(hosttest.GuidePFGUID, 2).String() {
		t.Errorf("GUID %s", got)
	}
}

func TestPersonIsToldWhatToMend(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(32))
	state, result := r.run()
	wantCondition(t, state, v1.SyncStatusFailed, "Blocked", "supports at most 16", "mstconfig")
	if r.kernel.Steps() != 0 || result.RequeueAfter != r.Interval {
		t.Errorf("did %q, next look after %s", r.kernel.Calls(), result.RequeueAfter)
	}
	if ev := strings.Join(r.recorded(), "\n"); !strings.Contains(ev, "Warning Blocked") {
		t.Errorf("events:\n%s", ev)
	}
}

func TestRdmaModeDrift(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.kernel.AddNS(podNS) // pods run, so the kernel refuses
	spec := guideSpec(1)
	spec.System.RdmaMode = v1.RdmaModeShared
	r.want(spec)
	state, _ := r.run()
	c := meta.FindStatusCondition(state.Status.Conditions, v1.ConditionRdmaMode)
	if c.Status != metav1.ConditionFalse || c.Reason != "RdmaModeDrift" || !strings.Contains(c.Message,
		"netns_mode=1") || !strings.Contains(c.Message, "reboot") {
		t.Errorf("condition %+v", c)
	}
	calls := len(r.kernel.Calls())
	if r.run(); len(r.kernel.Calls()) != calls {
		t.Error("the mode is tried again and again")
	}
	r.kernel.DeleteNS(podNS)
	r.triedMode = "" // as after a restart
	state, _ = r.run()
	if c := meta.FindStatusCondition(state.Status.Conditions, v1.ConditionRdmaMode); c.Status != metav1.ConditionTrue ||
		state.Status.System.RdmaMode != "shared" {
		t.Errorf("condition %+v", c)
	}
}

func TestPortEventsAndRestlessness(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(2))
	r.run()
	r.recorded()
	r.kernel.SetCable(hosttest.GuidePF, false)
	for _, want := range []float64{1, 2, 4, 8, 16, 30, 30} {
		if _, result := r.run(); result.RequeueAfter.Seconds() != want {
			t.Errorf("next look after %s, want %v s", result.RequeueAfter, want)
		}
	}
	if ev := r.recorded(); len(ev) != 2 || !strings.HasPrefix(ev[0],
		"Warning PortDown the port of 0000:86:00.0 (mlx5_0) is DOWN") {
		t.Errorf("events %q", ev)
	}
	wantCondition(t, r.state(), v1.SyncStatusSucceeded, "Configured", "2 VFs ready",
		"the ports of 2 free VFs of 0000:86:00.0 are DOWN", "check the cable")
	r.kernel.SetCable(hosttest.GuidePF, true)
	if _, result := r.run(); result.RequeueAfter != r.Interval {
		t.Errorf("next look after %s", result.RequeueAfter)
	}
	if ev := r.recorded(); len(ev) != 2 || !strings.HasPrefix(ev[1], "Normal PortActive") {
		t.Errorf("events %q", ev)
	}
}

// A port that wakes is looked after closely again, however long it has slept: its VFs' ports follow
// a moment later.
func TestPatienceBeginsAnewWithThePort(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(2))
	r.run()
	r.kernel.SetCable(hosttest.GuidePF, false)
	for range 6 {
		r.run()
	}
	r.kernel.SetCable(hosttest.GuidePF, true)
	r.reconciler.Kernel = lateVF{r.kernel}
	if _, result := r.run(); result.RequeueAfter != firstWait {
		t.Errorf("next look after %s", result.RequeueAfter)
	}
}

// lateVF is a kernel whose VFs' ports never become ACTIVE.
type lateVF struct{ *hosttest.Fake }

func (k lateVF) PFs() ([]host.PF, error) {
	pfs, err := k.Fake.PFs()
	for i := range pfs {
		for j := range pfs[i].VFs {
			if d := pfs[i].VFs[j].RDMA; d != nil {
				d.State = "INIT"
			}
		}
	}
	return pfs, err
}

// A pulled cable calls for a look at once, and however many changes come, for no more than one in a while.
func TestFollowsLinks(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	ctx, stop := context.WithCancel(t.Context())
	looks, ended := make(chan time.Time, 100), make(chan struct{})
	const pause = 200 * time.Millisecond
	go func() {
		defer close(ended)
		r.followLinks(ctx, pause, func() { looks <- time.Now() })
	}()
	next := func(what string) time.Time {
		t.Helper()
		select {
		case at := <-looks:
			return at
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no look", what)
		}
		panic("unreachable")
	}
	plugged := false
	for deadline := time.Now().Add(10 * time.Second); len(looks) == 0 &&
		time.Now().Before(deadline); plugged = !plugged {
		r.kernel.SetCable(hosttest.GuidePF, plugged) // until the watch has begun
		time.Sleep(time.Millisecond)
	}
	first := next("the cable")
	for range 50 {
		r.kernel.SetCable(hosttest.GuidePF, plugged)
		plugged = !plugged
	}
	if second := next("the cable again"); second.Sub(first) < pause {
		t.Errorf("two looks within %s", second.Sub(first))
	}
	if time.Sleep(2 * pause); len(looks) > 1 {
		t.Errorf("%d more looks", len(looks))
	}
	stop()
	<-ended
}

// Ports that sleep although the PF's does not are the subnet manager's fault.
func TestSleepingPorts(t *testing.T) {
	state := &v1.SriovNetworkNodeState{Status: v1.SriovNetworkNodeStateStatus{
		Interfaces: v1.InterfaceExts{{PciAddress: "p", LinkType: "IB", PortState: "ACTIVE",
			VFs: []v1.VirtualFunction{{Resource: "r", PortState: "INIT"}, {Resource: "r", PortState: "ACTIVE"},
				{Resource: "r", PortState: "INIT", Pod: "default/a"}, {PortState: "INIT"}}}}}}
	if got := sleepingPorts(state); !strings.Contains(got, "1 free VFs of p are INIT") ||
		!strings.Contains(got, "virt_enabled") {
		t.Error(got)
	}
}

// twoCards is the guide's node with a second card.
func twoCards() (*hosttest.Fake, v1.SriovNetworkNodeStateSpec) {
	f := hosttest.GuideNode()
	guid := hosttest.GuidePFGUID
	guid[7]++
	f.AddPF(host.PF{PCI: "0000:87:00.0", Vendor: "15b3", Device: "1017", Driver: "mlx5_core",
		LinkLayer: host.InfiniBand, TotalVFs: 16,
		Link: &host.Link{Name: "ibs6f0"}}, guid)
	f.Revive()
	spec := guideSpec(3)
	second := *spec.Interfaces[0].DeepCopy()
	second.PciAddress, second.Name = "0000:87:00.0", "ibs6f0"
	spec.Interfaces = append(spec.Interfaces, second)
	return f, spec
}

// node pictures the kernel's side and the ledger's, without what depends on the order of binding.
func (r *rig) picture() (out []string) {
	pfs, err := r.kernel.PFs()
	must(r.t, err)
	for _, pf := range pfs {
		for _, vf := range pf.VFs {
			out = append(out, fmt.Sprintf("%s %s %s %s %t", vf.PCI, vf.PortGUID, vf.NodeGUID, vf.Driver,
				vf.RDMA != nil && vf.RDMA.PortGUID == vf.PortGUID))
		}
	}
	ids, err := r.book.VFs()
	must(r.t, err)
	for _, id := range ids {
		out = append(out, fmt.Sprintf("%s %s", id.PCI, id.GUID))
	}
	return out
}

// Whatever step fails, before or after its effect, and whenever the agent dies: the next pass comes
// to the same end.
func TestFaultsAtEveryStep(t *testing.T) {
	kernel, spec := twoCards()
	clean := newRig(t, kernel)
	clean.want(spec)
	clean.run()
	want, steps := clean.picture(), kernel.Steps()
	if len(want) != 12 || steps < 15 {
		t.Fatalf("%d steps to %q", steps, want)
	}
	inject := map[string]func(*hosttest.Fake, int){
		"fails":         func(f *hosttest.Fake, k int) { f.FailAt(k, host.ErrBusy) },
		"fails late":    func(f *hosttest.Fake, k int) { f.FailAfter(k, host.ErrBusy) },
		"dies before":   func(f *hosttest.Fake, k int) { f.CrashAt(k, false) },
		"dies after it": func(f *hosttest.Fake, k int) { f.CrashAt(k, true) },
	}
	for _, name := range slices.Sorted(maps.Keys(inject)) {
		for k := 1; k <= steps; k++ {
			kernel, spec := twoCards()
			r := newRig(t, kernel)
			r.want(spec)
			inject[name](kernel, k)
			state, result := r.run()
			if state.Status.SyncStatus != v1.SyncStatusFailed || state.Status.LastSyncError == "" ||
				result.RequeueAfter.Seconds() != 1 {
				t.Fatalf("step %d %s: status %s, %q, next look after %s", k, name, state.Status.SyncStatus,
					state.Status.LastSyncError, result.RequeueAfter)
			}
			if pf, err := kernel.PF("0000:87:00.0"); strings.HasPrefix(name, "fails") && k == 1 &&
				(err != nil || pf.NumVFs != 3) {
				t.Errorf("a step that failed on one card stopped the other: %+v, %v", pf, err)
			}
			kernel.Revive()
			state, _ = r.run()
			wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "6 VFs ready")
			if diff := cmp.Diff(want, r.picture()); diff != "" {
				t.Fatalf("step %d %s: %s", k, name, diff)
			}
		}
	}
}

// stubborn is a kernel that says yes and does nothing.
type stubborn struct{ *hosttest.Fake }

func (stubborn) BindVF(string) error { return nil }

func TestStepWithoutEffectIsAnError(t *testing.T) {
	f := hosttest.GuideNode()
	r := newRig(t, f)
	r.reconciler.Kernel = stubborn{f}
	r.want(guideSpec(1))
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusFailed, "Failed", "bind the kernel's driver", "without effect")
}

// A reboot leaves the ledger and the kubelet's promises; VFs come back under their GUIDs although
// pods are said to have them.
func TestReboot(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(3))
	r.run()
	r.attach("0000:86:00.2", "a")
	before, err := r.book.VFs()
	must(t, err)
	after := newRig(t, hosttest.GuideNode())
	after.reconciler.Ledger = r.book
	after.want(guideSpec(3))
	state, _ := after.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "3 VFs ready")
	again, err := r.book.VFs()
	must(t, err)
	if diff := cmp.Diff(before, again, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("identities changed: %s", diff)
	}
}

// A look waits for pods that are being attached, but a node on which that never ends is looked at as well.
func TestLooksWaitForPods(t *testing.T) {
	busy := false
	r := &reconciler{Options: Options{Busy: func() bool { return busy }}}
	now := time.Now()
	steps := []struct {
		after       time.Duration
		busy, waits bool
	}{
		{0, false, false}, {1, true, true}, {busyPatience - 1, true, true}, {busyPatience, false, false}, // their end
		{busyPatience, true, true}, {2*busyPatience - 1, true, true}, {2 * busyPatience, true, false}, // no end
		{2*busyPatience + 1, true, true}, {3 * busyPatience, true, true}, {3*busyPatience + 1, true, false},
	}
	for _, s := range steps {
		if busy = s.busy; r.waits(now.Add(s.after)) != s.waits {
			t.Errorf("after %s, busy %t: waits %t", s.after, s.busy, !s.waits)
		}
	}
}

func TestNoObject(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	must(t, r.client.Delete(context.Background(), r.state()))
	if _, err := r.Reconcile(context.Background(),
		reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: nodeName}}); err != nil ||
		len(r.front.history) > 0 {
		t.Errorf("error %v, published %q", err, r.front.history)
	}
}

// slowBind is a kernel that looks around before it binds a VF.
type slowBind struct {
	*hosttest.Fake
	before func()
}

func (k slowBind) BindVF(pci string) error {
	k.before()
	return k.Fake.BindVF(pci)
}

// An agent that starts again offers what is ready before it turns to a VF whose driver takes its time.
func TestReadyVFsDoNotWait(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	// the last: those after a gap in the verbs numbers wait until it is closed
	must(t, r.kernel.UnbindVF("0000:86:00.4"))
	r.front.pools = nil // a new process
	bound := 0
	r.Kernel = slowBind{r.kernel, func() {
		bound++
		if got := r.front.pools["mellanoxibsriov"]; len(got) != 3 {
			t.Errorf("offered while a driver is being bound: %v, want the other three", got)
		}
	}}
	r.run()
	if got := r.front.pools["mellanoxibsriov"]; bound != 1 || len(got) != 4 {
		t.Errorf("%d bound, offered %v", bound, got)
	}
}

// The operator says that the node is being drained: nothing of the card is offered until the pods
// are gone and it has changed.
func TestDraining(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	r.attach("0000:86:00.2", "a")
	r.want(guideSpec(12))
	state, _ := r.run()
	if p := state.Status.Plan; len(p) != 1 || !p[0].InUse || !slices.Equal(p[0].WaitsFor, []string{"default/a"}) {
		t.Fatalf("plan %+v", p)
	}
	annotate := func(value string) {
		state := r.state()
		metav1.SetMetaDataAnnotation(&state.ObjectMeta, v1.AnnotationCurrentState, value)
		must(t, r.client.Update(context.Background(), state))
	}
	annotate(v1.StateDraining)
	state, _ = r.run()
	if got := len(r.front.pools["mellanoxibsriov"]); got != 0 || state.Status.Interfaces[1].VFs[0].Resource != "" {
		t.Errorf("%d offered, VF shown as %+v", got, state.Status.Interfaces[1].VFs[0])
	}
	annotate(v1.StateIdle)
	r.run()
	if got := len(r.front.pools["mellanoxibsriov"]); got != 4 {
		t.Errorf("%d offered after the drain was stopped", got)
	}
	annotate(v1.StateDraining)
	r.detach("a")
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 12 VFs ready")
}

// A status made from an old copy of the object is not written: it would take the operator's conditions back.
func TestStaleStatusIsNotWritten(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	old := r.state()
	state := r.state()
	state.Status.Conditions = []metav1.Condition{{Type: v1.ConditionDrained, Status: metav1.ConditionFalse,
		Reason: "Draining", LastTransitionTime: metav1.Now()}}
	must(t, r.client.Status().Update(context.Background(), state))
	first := old.DeepCopy()
	if err := r.report(context.Background(), first, old, r.converge(context.Background(),
		old)); !apierrors.IsConflict(err) {
		t.Errorf("error %v, want a conflict", err)
	}
	after, _ := r.run()
	if meta.FindStatusCondition(after.Status.Conditions, v1.ConditionDrained) == nil ||
		meta.FindStatusCondition(after.Status.Conditions, v1.ConditionReady) == nil {
		t.Errorf("conditions %+v, want the operator's and the agent's", after.Status.Conditions)
	}
}
