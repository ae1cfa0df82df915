// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ipam"
	"spidernet.io/spiderpool/internal/ledger"
)

// scenario is a way to attach pod p and to take it down again.
type scenario struct {
	name    string
	options hosttest.Options
	prepare func(*node)
	call    func(n *node, command string) cnisock.Response
}

// begin is a node where the scenario can be run, as it is before.
func (s scenario) begin(t *testing.T) (*node, snapshot) {
	t.Helper()
	n := newNode(t, s.options)
	s.prepare(n)
	n.fake.Revive()
	return n, n.snapshot()
}

// must runs a verb that has to succeed.
func (s scenario) must(n *node, command string) {
	n.t.Helper()
	if resp := s.call(n, command); resp.Error != nil {
		n.t.Fatalf("%s: %s", command, resp.Error)
	}
}

// steps counts the effectful kernel calls of an ADD and of a DEL.
func (s scenario) steps(t *testing.T) (add, del int) {
	t.Helper()
	n, _ := s.begin(t)
	s.must(n, "ADD")
	add = n.fake.Steps()
	n.fake.Revive()
	s.must(n, "DEL")
	return add, n.fake.Steps()
}

func viaMeta(n *node, command string) cnisock.Response { return n.call(command, "p") }

// faultyScenarios are those that TestFaultInAdd, TestFaultInDel and TestCrash do not have.
var faultyScenarios = []scenario{
	{"ib-sriov in shared mode", hosttest.Options{}, func(n *node) {
		n.fake.ForceRDMAMode(host.RDMAShared)
		n.network("kube-system", "ib-sriov", strings.Replace(confIBSRIOV, `"rdmaIsolation":true,`, "", 1), resource)
		n.pod("p", annotations("ib-sriov"))
	}, viaMeta},
	{"rdma behind sriov", hosttest.Options{}, prepareRDMA, viaMeta},
	{"ib-sriov by itself", hosttest.Options{}, func(n *node) { n.pod("p", nil) },
		func(n *node, command string) cnisock.Response {
			return n.direct(command, "ib-sriov", "eth0", "1.0.0", `,"deviceID":"`+vf0+
				`","link_state":"enable","ipam":{"type":"spiderpool"}`, "")
		}},
	{"ipoib by itself", hosttest.Options{}, func(n *node) { n.pod("p", nil) },
		func(n *node, command string) cnisock.Response {
			return n.direct(command, "ipoib", "eth0", "1.0.0", `,"master":"ibs5f0","ipam":{"type":"spiderpool"}`, "")
		}},
}

// severalScenarios are of one pod's networks; for their ADD see TestFaultWithSeveralNetworks.
var severalScenarios = []scenario{
	{"three networks", hosttest.Options{}, func(n *node) { n.pod("p", several()) }, viaMeta},
	{"three networks, netdev following its RDMA device", hosttest.Options{FollowRDMA: true},
		func(n *node) { n.pod("p", several()) }, viaMeta},
}

// prepareRDMA has a network of an Ethernet VF with its RDMA device beside one with addresses.
func prepareRDMA(n *node) {
	n.t.Helper()
	n.addRoCE()
	n.options.Plugins["sriov"] = sriov{n.fake}
	n.start()
	n.network("kube-system", "roce",
		`{"cniVersion":"1.0.0","name":"roce","plugins":[{"type":"sriov"},{"type":"rdma","deviceID":"`+roceVF+`"}]}`, "")
	a := annotations("ipoib")
	a[cncfv1.AnnotationNetworks] = "kube-system/roce"
	n.pod("p", a)
}

// sriov stands for the plugin of that name on disk, with the VF of the RoCE card.
type sriov struct{ fake *hosttest.Fake }

func (s sriov) Add(_ context.Context, r *cni.Request) (*types100.Result, error) {
	l, err := s.fake.LinkByPCI(host.NodeNS, roceVF)
	if err != nil {
		return nil, err
	}
	if l, err = s.fake.MoveLink(host.NodeNS, l.Index, r.NetNS, r.IfName); err != nil {
		return nil, err
	}
	return &types100.Result{Interfaces: []*types100.Interface{{Name: r.IfName, Mac: l.HardwareAddr.String(),
		Sandbox: string(r.NetNS)}}}, nil
}

func (s sriov) Del(_ context.Context, r *cni.Request) error {
	for _, ns := range []host.NS{r.NetNS, host.NodeNS} {
		l, err := s.fake.LinkByPCI(ns, roceVF)
		if errors.Is(err, host.ErrNotFound) || errors.Is(err, host.ErrNSGone) || err == nil && ns == host.NodeNS &&
			l.Name == roceName {
			continue
		}
		if err == nil {
			_, err = s.fake.MoveLink(ns, l.Index, host.NodeNS, roceName)
		}
		return err
	}
	return nil
}

func (s sriov) Check(context.Context, *cni.Request) error { return nil }

// A kernel call that fails, before or after its effect, at every step of ADD: nothing is left behind.
func TestMoreFaultsInAdd(t *testing.T) {
	for _, s := range faultyScenarios {
		add, _ := s.steps(t)
		for k := 1; k <= add; k++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/step %d after=%t", s.name, k, after), func(t *testing.T) {
					t.Parallel()
					n, before := s.begin(t)
					n.inject(k, after)
					resp := s.call(n, "ADD")
					struck := n.lastCall(k)
					n.fake.Revive()
					if resp.Error == nil {
						if !strings.HasPrefix(struck, "Announce ") { // the one call that may fail
							t.Errorf("ADD hid a fault of %s", struck)
						}
						s.must(n, "DEL")
					}
					n.collect()
					n.same(before, "after the fault")
					s.must(n, "ADD")
				})
			}
		}
	}
}

func (n *node) inject(k int, after bool) {
	if after {
		n.fake.FailAfter(k, errInjected)
		return
	}
	n.fake.FailAt(k, errInjected)
}

// lastCall is the k-th effectful kernel call, "" when there was none.
func (n *node) lastCall(k int) string {
	if calls := n.fake.Calls(); k <= len(calls) {
		return calls[k-1]
	}
	return ""
}

// A kernel call that fails at every step of DEL: DEL says so, and the next one finishes, with the
// agent that was hit or the one after it.
func TestMoreFaultsInDel(t *testing.T) {
	for _, s := range slices.Concat(faultyScenarios, severalScenarios) {
		_, del := s.steps(t)
		if del == 0 {
			t.Fatalf("%s: DEL does nothing", s.name)
		}
		for k := 1; k <= del; k++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/step %d after=%t", s.name, k, after), func(t *testing.T) {
					t.Parallel()
					n, before := s.begin(t)
					s.must(n, "ADD")
					n.inject(k, after)
					if resp := s.call(n, "DEL"); resp.Error == nil {
						t.Error("DEL hid a fault")
					}
					n.fake.Revive()
					if !recorded(n) {
						t.Error("what failed is not recorded any more")
					}
					if k%2 == 0 {
						n.start()
					}
					s.must(n, "DEL")
					n.collect()
					n.same(before, "after DEL again")
				})
			}
		}
	}
}

// The agent dies at every step of ADD or DEL; the next one finishes from the record, with or
// without the pod's namespace.
func TestMoreCrashes(t *testing.T) {
	for _, s := range slices.Concat(faultyScenarios, severalScenarios[:1]) {
		add, del := s.steps(t)
		for k := 1; k <= add+del; k++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/step %d after=%t", s.name, k, after), func(t *testing.T) {
					t.Parallel()
					n, before := s.begin(t)
					n.killAt(k, after)
					if resp := s.call(n, "ADD"); resp.Error == nil {
						s.call(n, "DEL")
					}
					n.fake.Revive()
					dead := !after && k%2 == 0
					if dead {
						n.fake.DeleteNS(podNS)
					}
					n.start()
					n.collect()
					// the crash was in the announcement, or in a DEL, which the runtime asks for
					// again
					if !dead && recorded(n) {
						s.must(n, "DEL")
					}
					n.collect()
					n.same(before, "after the next agent's first passes")
				})
			}
		}
	}
}

// killAt ends the agent at its k-th effectful kernel call from now: what it does afterwards reaches
// neither the kernel nor the record.
func (n *node) killAt(k int, after bool) {
	n.fake.CrashAt(k, after)
	n.fake.Before(k, func() { must(n.t, n.ledger.Close()) })
}

// brokenDisk is a ledger whose k-th write fails, before or after its effect, and all that follow
// when it stays broken.
type brokenDisk struct {
	*ledger.Ledger
	mu           sync.Mutex
	writes, at   int
	after, stays bool
}

func (b *brokenDisk) write(do func() error) error {
	b.mu.Lock()
	b.writes++
	strikes := b.at > 0 && (b.writes == b.at || b.stays && b.writes > b.at)
	b.mu.Unlock()
	if strikes && !b.after {
		return errInjected
	}
	err := do()
	if err == nil && strikes {
		return errInjected
	}
	return err
}

func (b *brokenDisk) UpdateSandbox(id string, fn func(*ledger.Sandbox) error) error {
	return b.write(func() error { return b.Ledger.UpdateSandbox(id, fn) })
}

func (b *brokenDisk) PutRelease(r ledger.Release) error {
	return b.write(func() error { return b.Ledger.PutRelease(r) })
}

func (b *brokenDisk) DeleteRelease(r ledger.Release) error {
	return b.write(func() error { return b.Ledger.DeleteRelease(r) })
}

// breakDisk has the k-th write from now fail; 0 counts them.
func (n *node) breakDisk(k int, after, stays bool) *brokenDisk {
	n.t.Helper()
	b := &brokenDisk{Ledger: n.ledger, at: k, after: after, stays: stays}
	o := n.options
	o.Ledger = b
	var err error
	n.service, err = New(o)
	must(n.t, err)
	return b
}

// diskFaults are the ways in which a write fails: a disk that is full for a moment or for good, and
// one that says so after it wrote.
var diskFaults = []struct {
	name         string
	after, stays bool
}{{"once", false, false}, {"written all the same", true, false}, {"from then on", false, true}}

// diskScenarios are all ways to attach a pod.
func diskScenarios() []scenario {
	all := slices.Concat(faultyScenarios, severalScenarios[:1])
	for _, test := range guidePods {
		all = append(all, scenario{test.name, test.options, func(n *node) { n.pod("p", annotations(test.network)) },
			viaMeta})
	}
	return all
}

// A write of the record that fails, at each of an ADD: the ADD fails, and once the disk is well
// nothing is left behind.
func TestDiskFailsInAdd(t *testing.T) {
	for _, s := range diskScenarios() {
		whole, _ := s.begin(t)
		counted := whole.breakDisk(0, false, false)
		s.must(whole, "ADD")
		for k := 1; k <= counted.writes; k++ {
			for _, fault := range diskFaults {
				t.Run(fmt.Sprintf("%s/write %d %s", s.name, k, fault.name), func(t *testing.T) {
					t.Parallel()
					n, before := s.begin(t)
					n.breakDisk(k, fault.after, fault.stays)
					if resp := s.call(n, "ADD"); resp.Error == nil || !strings.Contains(resp.Error.Error(),
						errInjected.Error()) {
						t.Errorf("error %v, want %v", resp.Error, errInjected)
					}
					n.start()
					n.collect()
					n.same(before, "after the disk failed")
					s.must(n, "ADD")
				})
			}
		}
	}
}

// And at each write of a DEL: DEL says so, and the next one, or the collector, finishes.
func TestDiskFailsInDel(t *testing.T) {
	for _, s := range diskScenarios() {
		whole, _ := s.begin(t)
		s.must(whole, "ADD")
		counted := whole.breakDisk(0, false, false)
		s.must(whole, "DEL")
		for k := 1; k <= counted.writes; k++ {
			for _, fault := range diskFaults {
				t.Run(fmt.Sprintf("%s/write %d %s", s.name, k, fault.name), func(t *testing.T) {
					t.Parallel()
					n, before := s.begin(t)
					s.must(n, "ADD")
					n.breakDisk(k, fault.after, fault.stays)
					if resp := s.call(n, "DEL"); resp.Error == nil || !strings.Contains(resp.Error.Error(),
						errInjected.Error()) {
						t.Errorf("error %v, want %v", resp.Error, errInjected)
					}
					n.start()
					s.must(n, "DEL")
					n.collect()
					n.same(before, "after DEL again")
				})
			}
		}
	}
}

// The collector's own writes fail: the next pass finishes.
func TestDiskFailsInCollector(t *testing.T) {
	begin := func(t *testing.T) (*node, snapshot) {
		n := newNode(t, hosttest.Options{})
		n.pod("p", several())
		before := n.snapshot()
		n.mustCall("ADD", "p")
		n.fake.DeleteNS(podNS)
		return n, before
	}
	whole, _ := begin(t)
	counted := whole.breakDisk(0, false, false)
	whole.collect()
	for k := 1; k <= counted.writes; k++ {
		for _, fault := range diskFaults {
			t.Run(fmt.Sprintf("write %d %s", k, fault.name), func(t *testing.T) {
				t.Parallel()
				n, before := begin(t)
				n.breakDisk(k, fault.after, fault.stays)
				if err := n.service.Collect(t.Context()); !errors.Is(err, errInjected) {
					t.Errorf("error %v, want %v", err, errInjected)
				}
				n.start()
				n.collect()
				n.same(before, "after the next pass")
			})
		}
	}
}

// pools refuses the k-th request for an address.
type pools struct {
	Addresses
	mu        sync.Mutex
	asked, at int
}

func (p *pools) Allocate(ctx context.Context, r ipam.Request) (ipam.Allocation, error) {
	p.mu.Lock()
	p.asked++
	refuses := p.asked == p.at
	p.mu.Unlock()
	if refuses {
		return ipam.Allocation{}, cni.Errorf(cni.CodeTryAgainLater, "wait for an address", "no address is free")
	}
	return p.Addresses.Allocate(ctx, r)
}

// One of three networks gets no address: the pod gets none of them, and is told why.
func TestNoAddressForOneOfSeveral(t *testing.T) {
	for k := 1; k <= 3; k++ {
		for _, o := range []hosttest.Options{{}, {FollowRDMA: true}} {
			t.Run(fmt.Sprintf("request %d FollowRDMA=%t", k, o.FollowRDMA), func(t *testing.T) {
				n := newNode(t, o)
				n.pod("p", several())
				before := n.snapshot()
				p := &pools{Addresses: n, at: k}
				n.options.Addresses = p
				n.start()
				resp := n.call("ADD", "p")
				if resp.Error == nil || resp.Error.Code != cni.CodeTryAgainLater || !strings.Contains(resp.Error.Msg,
					"ipam spiderpool: no address is free") {
					t.Errorf("error %+v", resp.Error)
				}
				if len(n.events) != 1 || !strings.HasPrefix(n.events[0],
					"Warning FailedAttach attach network kube-system/ib-sriov as ") &&
					!strings.HasPrefix(n.events[0], "Warning FailedAttach attach network kube-system/ipoib as ib9: ") {
					t.Errorf("events %q", n.events)
				}
				if p.asked < k {
					t.Errorf("%d requests for addresses, want %d at least", p.asked, k)
				}
				n.collect()
				n.same(before, "after the refusal")
				n.mustCall("ADD", "p")
				if len(n.held) != 3 {
					t.Errorf("held %v, want three addresses", n.held)
				}
			})
		}
	}
}

// A plugin on disk fails behind one of ours: both are undone.
func TestPluginOnDiskFailsSecond(t *testing.T) {
	for _, test := range guidePods {
		for name, says := range map[string]string{
			"with an error object": `echo '{"cniVersion":"0.3.1","code":7,"msg":"no such tuning","details":"see its manual"}'; exit 1`,
			"with text":            `echo no such tuning >&2; exit 3`,
			"without a word":       `exit 1`,
		} {
			t.Run(test.name+" "+name, func(t *testing.T) {
				t.Parallel()
				n := newNode(t, test.options)
				bin := t.TempDir()
				script(t, bin, "tuning",
					`echo "$CNI_COMMAND $CNI_IFNAME" >> "$(dirname "$0")/log"; test "$CNI_COMMAND" = DEL && exit 0; `+
						says)
				conf := map[string]string{"ib-sriov": confIBSRIOV, "ipoib": confIPoIB}[test.network]
				n.network("kube-system", test.network, strings.Replace(conf, `{"type":"coordinator"}`,
					`{"type":"tuning"},{"type":"coordinator"}`, 1),
					map[string]string{"ib-sriov": resource}[test.network])
				n.pod("p", annotations(test.network))
				n.startOnDisk()
				before := n.snapshot()
				req := request("ADD", "p", "sandbox-p", podNS)
				req.Env["CNI_PATH"] = bin
				resp := n.service.Handle(t.Context(), req)
				want := "attach network kube-system/" + test.network + " as eth0: plugin tuning: "
				if resp.Error == nil || !strings.HasPrefix(resp.Error.Msg, want) || name != "without a word" &&
					!strings.Contains(resp.Error.Msg, "no such tuning") {
					t.Errorf("error %+v, want it to begin with %q", resp.Error, want)
				}
				if name == "with an error object" && (resp.Error.Code != 7 || resp.Error.Details != "see its manual") {
					t.Errorf("error %+v, want the plugin's own", resp.Error)
				}
				log, err := os.ReadFile(filepath.Join(bin, "log"))
				must(t, err)
				if diff := cmp.Diff("ADD eth0\nDEL eth0\n", string(log)); diff != "" {
					t.Errorf("calls of the plugin on disk (-want +got):\n%s", diff)
				}
				if recorded(n) {
					t.Errorf("recorded after the failure: %+v", n.ledger.Sandboxes())
				}
				n.collect()
				n.same(before, "after the failure")
			})
		}
	}
}

// An agent that dies with its networks attached, before the pod's default route is where it was
// asked for, has not attached the pod.
func TestDefaultRouteIsPartOfTheAttachment(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", several())
	before := n.snapshot()
	n.fake.Revive()
	n.mustCall("ADD", "p")
	move := 0 // the step that takes the default route off its first holder
	for i, call := range n.fake.Calls() {
		if strings.HasPrefix(call, "DeleteRoute 0.0.0.0/0 ") && strings.Contains(call, " table 0 ") {
			move = i + 1
		}
	}
	if move == 0 {
		t.Fatalf("no default route is moved: %q", n.fake.Calls())
	}
	n.mustCall("DEL", "p")
	n.collect()
	n.killAt(move, false)
	if resp := n.call("ADD", "p"); resp.Error == nil {
		t.Error("ADD of a dead agent")
	}
	n.fake.Revive()
	n.start()
	if sb, _ := n.ledger.Sandbox("sandbox-p"); !n.service.leftOver(sb) {
		t.Errorf("the attachments count as whole: %+v", sb.Attachments)
	}
	n.collect()
	n.same(before, "after the next agent's first pass")
}
