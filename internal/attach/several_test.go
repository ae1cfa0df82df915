// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/attach/netstatus"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// several is a pod with three networks, one of which takes the default route.
func several() map[string]string {
	return map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ib-sriov",
		cncfv1.AnnotationNetworks: `[{"name":"ib-sriov","namespace":"kube-system"},
		{"name":"ipoib","namespace":"kube-system","interface":"ib9","default-route":["172.91.0.254"]}]`}
}

func TestDefaultRouteOfANetwork(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", several())
	before := n.snapshot()
	var res types100.Result
	must(t, json.Unmarshal(n.mustCall("ADD", "p"), &res))
	if len(res.Routes) > 0 {
		t.Errorf("the first network's result still has routes %v", res.Routes)
	}
	ib9, err := n.fake.LinkByName(podNS, "ib9")
	must(t, err)
	for _, table := range []int{0, 1000 + ib9.Index} {
		var defaults []host.Route
		routes, err := n.fake.Routes(podNS, table)
		must(t, err)
		for _, r := range routes {
			if r.Dst.Bits() == 0 {
				defaults = append(defaults, r)
			}
		}
		if len(defaults) != 1 || defaults[0].Index != ib9.Index || defaults[0].Gateway.String() != "172.91.0.254" {
			t.Errorf("default routes of table %d are %v, want one, by 172.91.0.254 on ib9 (%d)", table, defaults,
				ib9.Index)
		}
	}
	eth0, err := n.fake.LinkByName(podNS, "eth0")
	must(t, err)
	own, err := n.fake.Routes(podNS, 1000+eth0.Index)
	must(t, err)
	if !slices.ContainsFunc(own, func(r host.Route) bool { return r.Dst.Bits() == 0 && r.Index == eth0.Index }) {
		t.Errorf("eth0's own table has %v, want the default route that it had", own)
	}
	must(t, n.service.writeStatus(context.Background(), "sandbox-p"))
	var status []cncfv1.NetworkStatus
	must(t, json.Unmarshal([]byte(n.statuses["default/p"]), &status))
	var got []string
	for _, s := range status {
		got = append(got, fmt.Sprintf("%s default=%t gateway=%v", s.Interface, s.Default, s.Gateway))
	}
	if diff := cmp.Diff([]string{"eth0 default=true gateway=[]", "net1 default=false gateway=[]",
		"ib9 default=false gateway=[172.91.0.254]"}, got); diff != "" {
		t.Errorf("network-status (-want +got):\n%s", diff)
	}
	n.mustCall("CHECK", "p")
	n.mustCall("DEL", "p")
	n.collect()
	n.same(before, "after DEL")
}

// Exactly one element of the network-status is the default network's, whichever interface has the
// pod's default route.
func TestStatusHasOneDefault(t *testing.T) {
	const route = `[{"name":"ipoib","namespace":"kube-system","interface":"main","default-route":["172.91.0.254"]}]`
	for name, c := range map[string]struct{ networks, nic, want string }{
		"one network":             {"", "", "eth0=true"},
		"two networks":            {"kube-system/ipoib", "", "eth0=true net1=false"},
		"by default-route-nic":    {"kube-system/ipoib", "net1", "eth0=true net1=false"},
		"default-route-nic eth0":  {"kube-system/ipoib", "eth0", "eth0=true net1=false"},
		"by default-route":        {route, "", "eth0=true main=false"},
		"the default route's own": {"kube-system/ipoib,kube-system/ipoib@x", "x", "eth0=true net1=false x=false"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			pod := map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib",
				cncfv1.AnnotationNetworks: c.networks}
			if c.nic != "" {
				pod["ipam.spidernet.io/default-route-nic"] = c.nic
			}
			n.pod("p", pod)
			n.mustCall("ADD", "p")
			must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
			var got []string
			for _, s := range n.statusOf("p") {
				got = append(got, fmt.Sprintf("%s=%t", s.Interface, s.Default))
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("%s, want %s", text, c.want)
			}
		})
	}
}

// statusOf reads what was written of a pod's networks.
func (n *node) statusOf(pod string) (status []cncfv1.NetworkStatus) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	must(n.t, json.Unmarshal([]byte(n.statuses["default/"+pod]), &status))
	return status
}

// The MTU in the network-status is the one in the pod, and follows it. It is waited for: joining its
// multicast group lowers that of an interface which is up already.
func TestStatusMTU(t *testing.T) {
	for network, change := range map[string]int{"ipoib": 1500, "ib-sriov": 2000} {
		t.Run(network, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", annotations(network))
			n.mustCall("ADD", "p")
			link, err := n.fake.LinkByName(podNS, "eth0")
			must(t, err)
			written := func(want int, when string) {
				t.Helper()
				must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
				if got := n.statusOf("p"); len(got) != 1 || got[0].Mtu != want {
					t.Errorf("%s: %+v, want mtu %d", when, got, want)
				}
			}
			must(t, n.fake.SetLinkMTU(podNS, link.Index, change)) // after the plugin's result
			written(change, "lowered after ADD")

			n.service.verify(t.Context())
			if sb, _ := n.ledger.Sandbox("sandbox-p"); sb.StatusPending {
				t.Error("the status is to be written again, and nothing has changed")
			}
			must(t, n.fake.SetLinkMTU(podNS, link.Index, change-100))
			n.start() // what was written is known to the next agent
			n.service.verify(t.Context())
			written(change-100, "lowered later")
			n.mustCall("DEL", "p")
		})
	}
}

func settled(n *node) bool {
	sb, _ := n.ledger.Sandbox("sandbox-p")
	return netstatus.Settled(n.fake, sb)
}

// A status waits for the carrier of InfiniBand interfaces, and not for ever.
func TestStatusWaitsForCarrier(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	n.fake.SetCable(hosttest.GuidePF, false)
	n.mustCall("ADD", "p")
	if settled(n) {
		t.Error("an interface without carrier counts as final")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.service.status.run(ctx)
	}()
	for range settleTries - 1 { // which takes the time of the last one alone
		n.service.status.queue.AddRateLimited("sandbox-p")
	}
	eventually(t, "a status in spite of it", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.statuses["default/p"] != ""
	})
	cancel()
	<-done
	n.fake.SetCable(hosttest.GuidePF, true)
	if !settled(n) {
		t.Error("an interface with carrier does not count as final")
	}
}

func TestDefaultRouteRefusals(t *testing.T) {
	for name, test := range map[string]struct{ networks, nic, want string }{
		"two gateways": {`[{"name":"ipoib","namespace":"kube-system","default-route":["172.91.0.1","172.91.0.2"]}]`, "",
			"another one of the same family"},
		"two networks": {
			`[{"name":"ipoib","namespace":"kube-system","default-route":["172.91.0.1"]},{"name":"ipoib","namespace":"kube-system","default-route":["172.91.0.1"]}]`, "",
			"another one of the same family"},
		"two wishes": {`[{"name":"ipoib","namespace":"kube-system","default-route":["172.91.0.1"]}]`, "eth0",
			`is "eth0", and network kube-system/ipoib asks for the default route on net1`},
		"unreachable": {`[{"name":"ipoib","namespace":"kube-system","default-route":["10.9.9.9"]}]`, "",
			"a gateway has to be in a network of net1, whose addresses are [172.91.0.10"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			a := map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib",
				cncfv1.AnnotationNetworks: test.networks}
			if test.nic != "" {
				a["ipam.spidernet.io/default-route-nic"] = test.nic
			}
			n.pod("p", a)
			before := n.snapshot()
			resp := n.call("ADD", "p")
			if resp.Error == nil || resp.Error.Code != cni.CodeInvalidConfig || !strings.Contains(resp.Error.Error(),
				test.want) {
				t.Errorf("error %v, want one with %q", resp.Error, test.want)
			}
			n.collect()
			n.same(before, "after the refusal")
		})
	}
}

// A kernel call that fails at every step of an ADD of three networks, which run beside each other,
// and an agent that dies there.
func TestFaultWithSeveralNetworks(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", several())
	n.fake.Revive()
	n.mustCall("ADD", "p")
	steps := n.fake.Steps()
	for k := 1; k <= steps; k++ {
		t.Run(fmt.Sprintf("fault/step %d", k), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, hosttest.Options{FollowRDMA: k%2 == 0})
			n.pod("p", several())
			before := n.snapshot()
			if k%3 == 0 {
				n.fake.FailAfter(k, errInjected)
			} else {
				n.fake.FailAt(k, errInjected)
			}
			resp := n.call("ADD", "p")
			n.fake.Revive()
			switch {
			case resp.Error == nil: // the announcement may fail
				n.mustCall("DEL", "p")
			case !strings.Contains(resp.Error.Error(), errInjected.Error()) || strings.Contains(resp.Error.Error(),
				errGivenUp.Error()):
				t.Errorf("error %q, want the cause and no other", resp.Error)
			}
			n.collect()
			n.same(before, "after the fault")
			n.mustCall("ADD", "p")
		})
		t.Run(fmt.Sprintf("crash/step %d", k), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, hosttest.Options{FollowRDMA: k%2 == 1})
			n.pod("p", several())
			before := n.snapshot()
			n.fake.CrashAt(k, k%3 == 0)
			n.call("ADD", "p")
			n.fake.Revive()
			if k%4 == 0 {
				n.fake.DeleteNS(podNS)
			}
			n.start()
			n.collect()
			if k%4 != 0 && recorded(n) {
				n.mustCall("DEL", "p")
				n.collect()
			}
			n.same(before, "after the next agent's first pass")
		})
	}
}

// meeting is a plugin that goes on once all have come, and then says in which order they got their turn.
type meeting struct {
	come  sync.WaitGroup
	mu    sync.Mutex
	order []string
}

func (m *meeting) RunsBeside() {}

func (m *meeting) Add(ctx context.Context, r *cni.Request) (*types100.Result, error) {
	m.come.Done()
	all := make(chan struct{})
	go func() { m.come.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		return nil, errors.New("the others did not come")
	}
	if strings.HasPrefix(r.IfName, "slow") {
		time.Sleep(50 * time.Millisecond)
	}
	if err := r.WaitTurn(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order = append(m.order, r.IfName)
	if strings.HasPrefix(r.IfName, "bad") {
		return nil, errInjected
	}
	return &types100.Result{CNIVersion: types100.ImplementedSpecVersion}, nil
}

func (m *meeting) Del(context.Context, *cni.Request) error   { return nil }
func (m *meeting) Check(context.Context, *cni.Request) error { return nil }

// alone is a plugin that may not run beside another: it looks at what the ones before it did.
type alone struct{ meeting *meeting }

func (a alone) Add(_ context.Context, r *cni.Request) (*types100.Result, error) {
	a.meeting.mu.Lock()
	defer a.meeting.mu.Unlock()
	a.meeting.order = append(a.meeting.order, r.IfName+", alone")
	return r.Prev, nil
}

func (a alone) Del(context.Context, *cni.Request) error   { return nil }
func (a alone) Check(context.Context, *cni.Request) error { return nil }

func TestNetworksAttachBesideEachOther(t *testing.T) {
	for name, test := range map[string]struct {
		interfaces []string
		want       []string
		failure    string
	}{
		"in order": {[]string{"slow1", "fast2", "slow3", "fast4"},
			[]string{"slow1", "slow1, alone", "fast2", "fast2, alone", "slow3", "slow3, alone", "fast4",
				"fast4, alone"}, ""},
		"one fails": {[]string{"slow1", "bad2", "fast3"}, []string{"slow1", "slow1, alone", "bad2"},
			"attach network kube-system/meet as bad2: plugin meet: injected"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			m := &meeting{}
			n.options.Plugins["meet"], n.options.Plugins["alone"] = m, alone{m}
			n.start()
			n.network("kube-system", "meet",
				`{"cniVersion":"1.0.0","name":"meet","plugins":[{"type":"meet"},{"type":"alone"}]}`, "")
			a := annotations("ipoib")
			var list []string
			for _, i := range test.interfaces {
				list = append(list, "kube-system/meet@"+i)
			}
			a[cncfv1.AnnotationNetworks] = strings.Join(list, ",")
			n.pod("p", a)
			before := n.snapshot()
			m.come.Add(len(test.interfaces))
			resp := n.call("ADD", "p")
			if (resp.Error == nil) != (test.failure == "") || resp.Error != nil && resp.Error.Msg != test.failure {
				t.Errorf("error %v, want %q", resp.Error, test.failure)
			}
			if diff := cmp.Diff(test.want, m.order); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			n.mustCall("DEL", "p")
			n.collect()
			n.same(before, "after DEL")
		})
	}
}

// An address that somebody in the network has is passed over, whatever fails meanwhile; without a
// gateway nothing is attached.
func TestAddressInUse(t *testing.T) {
	hw := net.HardwareAddr{0x80, 0, 0x10, 1, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xe8, 0xeb, 0xd3, 3, 0, 0x93, 0xae, 0x10}
	begin := func(t *testing.T) *node {
		n := newNode(t, hosttest.Options{})
		n.options.ConflictDetection, n.options.GatewayDetection = true, true
		n.start()
		n.fake.Answer(netip.MustParseAddr("172.91.0.100"), hw)
		n.fake.Answer(netip.MustParseAddr("172.91.0.1"), hw)
		n.fake.Revive()
		n.pod("p", annotations("ipoib"))
		return n
	}
	n := begin(t)
	before := n.snapshot()
	n.mustCall("ADD", "p")
	eth0, err := n.fake.LinkByName(podNS, "eth0")
	must(t, err)
	if addresses, err := n.fake.Addresses(podNS, eth0.Index); err != nil || !strings.Contains(fmt.Sprint(addresses),
		"172.91.0.101/16") || strings.Contains(fmt.Sprint(addresses), "172.91.0.100/") {
		t.Errorf("the pod has %v, %v; want 172.91.0.101", addresses, err)
	}
	want := []string{"Warning AddressConflict address 172.91.0.100 of pool v4-91 is in use in its network, by " +
		hw.String(), "Normal AddedInterface Add eth0 [172.91.0.101/16] from kube-system/ipoib"}
	if len(n.events) != 2 || !strings.HasPrefix(n.events[0], want[0]) || n.events[1] != want[1] {
		t.Errorf("events %q, want %q", n.events, want)
	}
	steps := n.fake.Steps()
	n.mustCall("DEL", "p")
	n.collect()
	n.same(before, "after DEL")

	n.fake.Answer(netip.MustParseAddr("172.91.0.1"), nil)
	if resp := n.call("ADD", "p"); resp.Error == nil || !strings.Contains(resp.Error.Msg,
		"gateway 172.91.0.1 of pool v4-91 does not answer on eth0") {
		t.Errorf("error %v, want one about the gateway", resp.Error)
	}
	n.collect()
	n.same(before, "without a gateway")

	for k := 1; k <= steps; k++ {
		t.Run(fmt.Sprintf("fault at step %d", k), func(t *testing.T) {
			t.Parallel()
			n := begin(t)
			before := n.snapshot()
			n.fake.FailAt(k, errInjected)
			if resp := n.call("ADD", "p"); resp.Error == nil { // the announcement may fail
				n.mustCall("DEL", "p")
			}
			n.fake.Revive()
			n.collect()
			n.same(before, "after the fault")
		})
	}
}

// What an annotation or a key asks for in vain is answered with an event, and a pod that would run
// without its networks is refused.
func TestIgnoredWishes(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.options.NamespaceAnnotations = func(string) map[string]string {
		return map[string]string{"cni.spidernet.io/network-resource-inject": "group"}
	}
	n.start()
	a := annotations("ipoib")
	a["ipam.spidernet.io/ippool-reclaim"] = "true"
	n.pod("p", a)
	n.mustCall("ADD", "p")
	var got []string
	for _, e := range n.events {
		if strings.HasPrefix(e, "Warning AnnotationIgnored ") {
			got = append(got, strings.TrimPrefix(e, "Warning AnnotationIgnored "))
		}
	}
	want := []string{
		"annotation ipam.spidernet.io/ippool-reclaim has no effect: no pool is made on demand, so none is deleted " +
			"with its application",
		"annotation cni.spidernet.io/network-resource-inject of namespace default has no effect: networks and " +
			"resources are not injected into pods; the pod has the networks that it names itself",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	n.mustCall("DEL", "p")
	n.pod("p", map[string]string{"cni.spidernet.io/rdma-resource-inject": "group"})
	if resp := n.call("ADD", "p"); resp.Error == nil || !strings.Contains(resp.Error.Msg,
		"annotation cni.spidernet.io/rdma-resource-inject: networks and resources are not injected into pods") {
		t.Errorf("a pod without networks: %v", resp.Error)
	}
}
