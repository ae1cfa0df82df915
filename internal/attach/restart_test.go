// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// running is the guide's two pods and one of three networks, attached and shown, with the result of
// each. Their networks are of a version that has CHECK.
func running(t *testing.T, o hosttest.Options) (*node, map[string]string) {
	t.Helper()
	n := newNode(t, o)
	newer := func(conf string) string { return strings.Replace(conf, "0.3.1", "1.1.0", 1) }
	n.network("kube-system", "ib-sriov", newer(confIBSRIOV), resource)
	n.network("kube-system", "ipoib", newer(confIPoIB), "")
	pf, err := n.fake.PF(hosttest.GuidePF)
	must(t, err)
	n.devicesOf = map[string]map[string][]string{}
	results := map[string]string{}
	for name, pod := range map[string]struct {
		annotations map[string]string
		vfs         []host.VF
	}{"verbs": {annotations("ib-sriov"), pf.VFs[:1]}, "ip": {annotations("ipoib"), nil},
		"many": {several(), pf.VFs[1:3]}} {
		n.pod(name, pod.annotations)
		n.devicesOf[name] = map[string][]string{}
		for _, vf := range pod.vfs {
			n.devicesOf[name][resource] = append(n.devicesOf[name][resource], vf.PCI)
		}
		n.fake.AddNS(nsOf(name))
		results[name] = string(n.callIn("ADD", name))
		must(t, n.service.writeStatus(t.Context(), "sandbox-"+name))
	}
	n.fake.Revive()
	return n, results
}

func nsOf(pod string) host.NS { return host.NS("/var/run/netns/" + pod) }

// callIn is mustCall for a pod in a namespace of its own.
func (n *node) callIn(command, pod string) []byte {
	n.t.Helper()
	resp := n.service.Handle(context.Background(), request(command, pod, "sandbox-"+pod, nsOf(pod)))
	if resp.Error != nil {
		n.t.Fatalf("%s of %s: %s", command, pod, resp.Error)
	}
	return resp.Stdout
}

// untouched fails the test when anything of the node, of its pods or of the record is another than
// before, or was changed and changed back.
func (n *node) untouched(before snapshot, what string) {
	n.t.Helper()
	if diff := cmp.Diff(before, n.snapshot(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		n.t.Errorf("%s (-before +after):\n%s", what, diff)
	}
	if calls := n.fake.Calls(); len(calls) > 0 {
		n.t.Errorf("%s: the kernel was asked for %q", what, calls)
	}
	if told := n.eventsOf(ReasonBroken); len(told) > 0 {
		n.t.Errorf("%s: whole attachments were called broken: %q", what, told)
	}
}

// passes begins an agent and runs it as the process does, until its collector has made the pass at
// the start and two later ones.
func (n *node) passes() {
	n.t.Helper()
	counted := &passCounter{n, make(chan struct{})}
	n.options.CollectEvery, n.options.Devices = 5*time.Millisecond, counted
	n.mu.Lock()
	known := n.pods["default/ip"] // which the API server does not show for a while, so that the collector looks further
	delete(n.pods, "default/ip")
	n.kubeletHas = map[string]bool{"default/ip": true}
	n.mu.Unlock()
	n.start()
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.service.Run(ctx) }()
	counted.wait(n.t, 3)
	cancel()
	must(n.t, <-done)
	n.mu.Lock()
	n.pods["default/ip"] = known
	n.mu.Unlock()
}

// passCounter is a kubelet that counts how often it is asked for its pods, which a pass does once
// when the API server has one less.
type passCounter struct {
	*node
	asked chan struct{}
}

func (p *passCounter) Pods(ctx context.Context) (map[string]bool, error) {
	select {
	case p.asked <- struct{}{}:
	case <-ctx.Done():
	}
	return p.node.Pods(ctx)
}

func (p *passCounter) wait(t testing.TB, passes int) {
	t.Helper()
	for range passes {
		select {
		case <-p.asked:
		case <-time.After(30 * time.Second):
			t.Fatal("the collector makes no more passes")
		}
	}
}

// An agent that starts again, was killed in the middle of something else, or finds neither API
// server nor kubelet, leaves running pods alone.
func TestRestartLeavesRunningPodsAlone(t *testing.T) {
	for name, test := range map[string]struct {
		options hosttest.Options
		during  string // what the agent was killed in the middle of, for another pod
	}{
		"stopped":                         {hosttest.Options{}, ""},
		"stopped, netdevs follow":         {hosttest.Options{FollowRDMA: true}, ""},
		"killed while it attached a pod":  {hosttest.Options{}, "ADD"},
		"killed while it took a pod down": {hosttest.Options{FollowRDMA: true}, "DEL"},
	} {
		t.Run(name, func(t *testing.T) {
			n, results := running(t, test.options)
			before := n.snapshot()
			for range 2 {
				if test.during != "" {
					n.killed(test.during)
				}
				n.fake.Revive()
				n.passes()
				if _, left := n.ledger.Sandbox("sandbox-p"); left != (test.during == "DEL") {
					t.Errorf("the other pod is recorded: %t", left)
				}
				if test.during != "" { // the passes undid its ADD; for DEL its runtime asks again
					n.mustCall("DEL", "p")
					n.collect()
					n.fake.DeleteNS(podNS)
					n.fake.AddNS(podNS)
					n.fake.Revive()
				}
				n.untouched(before, "after a restart")
				for pod, first := range results {
					n.callIn("CHECK", pod)
					if again := string(n.callIn("ADD", pod)); again != first {
						t.Errorf("ADD of %s again: %s, first %s", pod, again, first)
					}
				}
				n.untouched(before, "after CHECK and another ADD")
			}
			n.checkSees()
		})
	}
}

// killed has the agent die in the middle of another pod's call.
func (n *node) killed(command string) {
	n.t.Helper()
	pf, err := n.fake.PF(hosttest.GuidePF)
	must(n.t, err)
	n.pod("p", annotations("ib-sriov"))
	n.devicesOf["p"] = map[string][]string{resource: {pf.VFs[7].PCI}}
	if command == "DEL" {
		n.mustCall("ADD", "p")
		n.mu.Lock()
		n.pods["default/p"].DeletionTimestamp = &metav1.Time{Time: time.Now()}
		n.mu.Unlock()
	}
	n.killAt(2, false)
	if resp := n.call(command, "p"); resp.Error == nil {
		n.t.Errorf("%s of a dead agent", command)
	}
}

// checkSees makes sure that CHECK says more than yes.
func (n *node) checkSees() {
	n.t.Helper()
	for _, pod := range []string{"verbs", "ip", "many"} {
		l, err := n.fake.LinkByName(nsOf(pod), "eth0")
		must(n.t, err)
		must(n.t, n.fake.SetLinkDown(nsOf(pod), l.Index))
		if resp := n.service.Handle(context.Background(), request("CHECK", pod, "sandbox-"+pod,
			nsOf(pod))); resp.Error == nil {
			n.t.Errorf("CHECK of %s overlooks that its interface is down", pod)
		}
	}
}

// An agent that starts while neither API server nor kubelet answers knows of no pod, and leaves all alone.
func TestRestartWithoutAPIServer(t *testing.T) {
	n, _ := running(t, hosttest.Options{})
	before := n.snapshot()
	n.apiDown, n.kubeletDown = true, true
	n.options.Pods = uncached{n}
	n.start()
	for _, later := range []time.Duration{0, time.Minute, 24 * time.Hour} {
		at := time.Now().Add(later)
		n.service.now = func() time.Time { return at }
		if err := n.service.Collect(t.Context()); !errors.Is(err, errAPIDown) {
			t.Errorf("Collect: %v", err)
		}
	}
	n.untouched(before, "after passes without the API server")
}

// uncached is a pod source whose cache is empty.
type uncached struct{ *node }

func (u uncached) Cached(context.Context, string, string) (*corev1.Pod, error) {
	return nil, ErrNotFound
}

// An API server that is away keeps no pod from starting whose object is cached; one that is not is
// to be tried again.
func TestAddWithoutAPIServer(t *testing.T) {
	for _, test := range guidePods {
		n := newNode(t, test.options)
		n.pod("p", annotations(test.network))
		before := n.snapshot()
		n.apiDown = true
		reads := n.liveReads
		n.options.Pods = uncached{n}
		n.start()
		resp := n.call("ADD", "p")
		if resp.Error == nil || resp.Error.Code != 11 || !strings.Contains(resp.Error.Msg, "default/p") ||
			n.liveReads != reads+1 {
			t.Errorf("%s: the pod is not cached: error %+v after %d reads", test.name, resp.Error, n.liveReads-reads)
		}
		n.same(before, "after the refusal")

		reads = n.liveReads
		n.options.Pods = n
		n.start()
		n.mustCall("ADD", "p")
		if len(n.held) != 1 {
			t.Errorf("%s: held %v, want an address", test.name, n.held)
		}
		if err := n.service.writeStatus(t.Context(), "sandbox-p"); !errors.Is(err, errAPIDown) {
			t.Errorf("%s: the network-status: %v", test.name, err)
		}
		if n.liveReads != reads {
			t.Errorf("%s: %d reads from the API server for a pod that is cached", test.name, n.liveReads-reads)
		}
		n.apiDown = false
		n.start() // the agent after it writes what is still to be written
		n.collect()
		must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
		if n.statuses["default/p"] == "" {
			t.Errorf("%s: no network-status once the API server is back", test.name)
		}
	}
}

// A network that is not cached, and a kubelet that does not answer, are to be tried again.
func TestAddTriesAgainLater(t *testing.T) {
	for name, prepare := range map[string]func(*node){
		"the network is not cached": func(n *node) { n.options.Networks = away{n} },
		"the kubelet is away":       func(n *node) { n.options.Devices = away{n} },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", annotations("ib-sriov"))
			before := n.snapshot()
			prepare(n)
			n.start()
			if resp := n.call("ADD", "p"); resp.Error == nil || resp.Error.Code != cni.CodeTryAgainLater ||
				!strings.Contains(resp.Error.Msg, errAPIDown.Error()) {
				t.Errorf("error %+v", resp.Error)
			}
			n.same(before, "after the refusal")
		})
	}
}

// away answers nothing.
type away struct{ *node }

func (away) Network(context.Context, string, string) (*cncfv1.NetworkAttachmentDefinition, error) {
	return nil, errAPIDown
}

func (away) Devices(context.Context, string, string) (map[string][]string, error) {
	return nil, errAPIDown
}

// A static pod's object in the API server has another UID than the kubelet and its runtime know;
// its addresses are held for the object.
func TestStaticPod(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	a := annotations("ipoib")
	a[corev1.MirrorPodAnnotationKey] = "0123456789abcdef"
	n.pod("p", a)
	before := n.snapshot()
	call := func(command string) cnisock.Response {
		req := request(command, "p", "sandbox-p", podNS)
		req.Env["CNI_ARGS"] = strings.Replace(req.Env["CNI_ARGS"], "uid-p", "0123456789abcdef", 1)
		return n.service.Handle(t.Context(), req)
	}
	reads := n.liveReads
	if resp := call("ADD"); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	if _, ok := n.held[heldKey("uid-p", "eth0", "sandbox-p")]; !ok || n.liveReads != reads {
		t.Errorf("held %v after %d reads, want an address of uid-p and no read", n.held, n.liveReads-reads)
	}
	must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
	if n.statuses["default/p"] == "" || !n.settled["uid-p"] {
		t.Errorf("network-status %q, settled %v; want that of uid-p", n.statuses["default/p"], n.settled)
	}
	now := time.Now()
	for range 3 { // it is not missed
		now = now.Add(forgottenAfter)
		n.service.now = func() time.Time { return now }
		n.collect()
	}
	if !recorded(n) {
		t.Error("the collector took a static pod for one that is gone")
	}
	for range 2 {
		if resp := call("DEL"); resp.Error != nil {
			t.Error(resp.Error)
		}
	}
	n.collect()
	n.same(before, "after DEL")
}
