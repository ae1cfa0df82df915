// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ledger"
)

var errInjected = errors.New("injected")

func annotations(network string) map[string]string {
	return map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/" + network}
}

// guidePods are the two pods of the guide, on both kinds of kernel, in both modes where that matters.
var guidePods = []struct {
	name, network string
	options       hosttest.Options
}{
	{"ib-sriov, netdev made anew on the node", "ib-sriov", hosttest.Options{}},
	{"ib-sriov, netdev following its RDMA device", "ib-sriov", hosttest.Options{FollowRDMA: true}},
	{"ipoib", "ipoib", hosttest.Options{}},
}

func TestGuidePods(t *testing.T) {
	for _, test := range guidePods {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, test.options)
			n.pod("p", annotations(test.network))
			before := n.snapshot()
			out := n.mustCall("ADD", "p")
			if again := n.mustCall("ADD", "p"); string(again) != string(out) {
				t.Errorf("ADD again: %s, first %s", again, out)
			}
			n.checkPod(test.network, out)
			n.mustCall("CHECK", "p")
			n.mustCall("DEL", "p")
			if got, want := n.moved.Load(), map[string]int32{"ib-sriov": 2}[test.network]; got != want {
				t.Errorf("told %d times that a device moved, want %d", got, want)
			}
			n.collect()
			n.same(before, "after DEL")
			n.mustCall("DEL", "p")
			n.collect()
			n.same(before, "after DEL twice")
		})
	}
}

// checkPod looks at what the pod has and what the runtime was told.
func (n *node) checkPod(network string, out []byte) {
	t := n.t
	t.Helper()
	link, err := n.fake.LinkByName(podNS, "eth0")
	must(t, err)
	if !link.Up || len(link.HardwareAddr) != 20 {
		t.Errorf("eth0 = %+v", link)
	}
	addrs, err := n.fake.Addresses(podNS, link.Index)
	must(t, err)
	if !strings.Contains(fmt.Sprint(addrs), "172.91.0.100/16") {
		t.Errorf("addresses %v", addrs)
	}
	routes, err := n.fake.Routes(podNS, 0)
	must(t, err)
	if !strings.Contains(fmt.Sprint(routes), "0.0.0.0/0 172.91.0.1") {
		t.Errorf("routes %v", routes)
	}
	devices, err := n.fake.RDMADevices(podNS)
	must(t, err)
	if want := map[string]int{"ib-sriov": 1, "ipoib": 0}[network]; len(devices) != want {
		t.Errorf("%d RDMA devices in the pod, want %d", len(devices), want)
	}
	var res struct {
		CNIVersion string `json:"cniVersion"`
		Interfaces []struct{ Name, Mac, Sandbox string }
		IPs        []struct {
			Version, Address, Gateway string
			Interface                 int
		}
	}
	must(t, json.Unmarshal(out, &res))
	if res.CNIVersion != "0.3.1" || len(res.Interfaces) != 1 || len(res.IPs) != 1 ||
		res.Interfaces[0].Mac != link.HardwareAddr.String() ||
		res.Interfaces[0].Sandbox != string(podNS) || res.IPs[0].Address != "172.91.0.100/16" ||
		res.IPs[0].Gateway != "172.91.0.1" {
		t.Errorf("result %s", out)
	}
	if len(n.events) != 1 || n.events[0] != "Normal AddedInterface Add eth0 [172.91.0.100/16] from kube-system/"+
		network {
		t.Errorf("events %q", n.events)
	}
	must(t, n.service.writeStatus(context.Background(), "sandbox-p"))
	var status []cncfv1.NetworkStatus
	must(t, json.Unmarshal([]byte(n.statuses["default/p"]), &status))
	want := []cncfv1.NetworkStatus{{Name: "kube-system/" + network, Interface: "eth0", IPs: []string{"172.91.0.100"},
		Mac: link.HardwareAddr.String(),
		Mtu: link.MTU, Default: true, Gateway: []string{"172.91.0.1"}}}
	if network == "ib-sriov" {
		want[0].DeviceInfo = &cncfv1.DeviceInfo{Type: "pci", Version: "1.1.0", Pci: &cncfv1.PciDevice{PciAddress: vf0,
			PfPciAddress: hosttest.GuidePF, RdmaDevice: "mlx5_1"}}
	}
	if diff := cmp.Diff(want, status); diff != "" {
		t.Errorf("network-status: %s", diff)
	}
}

// steps counts the effectful kernel calls of an ADD and of a DEL.
func steps(t *testing.T, network string, o hosttest.Options) (add, del int) {
	n := newNode(t, o)
	n.pod("p", annotations(network))
	n.fake.Revive()
	n.mustCall("ADD", "p")
	add = n.fake.Steps()
	n.fake.Revive()
	n.mustCall("DEL", "p")
	return add, n.fake.Steps()
}

// A kernel call that fails, before or after its effect, at every step of ADD: the host is as it was
// and nothing is recorded.
func TestFaultInAdd(t *testing.T) {
	for _, test := range guidePods {
		add, _ := steps(t, test.network, test.options)
		for k := 1; k <= add; k++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/step %d after=%t", test.name, k, after), func(t *testing.T) {
					t.Parallel()
					n := newNode(t, test.options)
					n.pod("p", annotations(test.network))
					before := n.snapshot()
					inject := n.fake.FailAt
					if after {
						inject = n.fake.FailAfter
					}
					inject(k, errInjected)
					resp := n.call("ADD", "p")
					n.fake.Revive()
					if resp.Error == nil { // the announcement may fail
						n.mustCall("DEL", "p")
					} else if len(n.events) != 1 ||
						!strings.HasPrefix(n.events[0], "Warning FailedAttach attach network kube-system/"+test.network+
							" as eth0: plugin ") {
						t.Errorf("events %q", n.events)
					}
					n.collect()
					n.same(before, "after the fault")
					n.mustCall("ADD", "p")
				})
			}
		}
	}
}

// A kernel call that fails at every step of DEL: DEL says so, and the next one finishes.
func TestFaultInDel(t *testing.T) {
	for _, test := range guidePods {
		_, del := steps(t, test.network, test.options)
		for k := 1; k <= del; k++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/step %d after=%t", test.name, k, after), func(t *testing.T) {
					t.Parallel()
					n := newNode(t, test.options)
					n.pod("p", annotations(test.network))
					before := n.snapshot()
					n.mustCall("ADD", "p")
					if after {
						n.fake.FailAfter(k, errInjected)
					} else {
						n.fake.FailAt(k, errInjected)
					}
					if resp := n.call("DEL", "p"); resp.Error == nil {
						t.Error("DEL hid a fault")
					}
					n.fake.Revive()
					n.mustCall("DEL", "p")
					n.collect()
					n.same(before, "after DEL again")
				})
			}
		}
	}
}

// The agent dies at every step of ADD or DEL; the next agent finishes from the record, with or
// without the pod's namespace.
func TestCrash(t *testing.T) {
	for _, test := range guidePods {
		add, del := steps(t, test.network, test.options)
		for k := 1; k <= add+del; k++ {
			for _, dead := range []bool{false, true} {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/step %d after=%t dead=%t", test.name, k, after, dead), func(t *testing.T) {
						t.Parallel()
						n := newNode(t, test.options)
						n.pod("p", annotations(test.network))
						before := n.snapshot()
						n.fake.CrashAt(k, after)
						if resp := n.call("ADD", "p"); resp.Error == nil {
							n.call("DEL", "p")
						}
						n.fake.Revive()
						if dead {
							n.fake.DeleteNS(podNS)
						}
						n.start()
						n.collect()
						if !dead && recorded(n) { // the crash was in the announcement: the pod works
							n.mustCall("DEL", "p")
							n.collect()
						}
						n.same(before, "after the next agent's first pass")
					})
				}
			}
		}
	}
}

func recorded(n *node) bool {
	return len(n.ledger.Sandboxes()) > 0
}

// The pod's namespace dies just before any step of DEL, or before DEL at all.
func TestNamespaceDies(t *testing.T) {
	for _, test := range guidePods {
		_, del := steps(t, test.network, test.options)
		for k := 0; k <= del; k++ {
			t.Run(fmt.Sprintf("%s/step %d", test.name, k), func(t *testing.T) {
				t.Parallel()
				n := newNode(t, test.options)
				n.pod("p", annotations(test.network))
				before := n.snapshot()
				n.mustCall("ADD", "p")
				n.fake.Revive()
				if k == 0 {
					n.fake.DeleteNS(podNS)
				} else {
					n.fake.Before(k, func() { n.fake.DeleteNS(podNS) })
				}
				if resp := n.call("DEL", "p"); resp.Error != nil {
					n.mustCall("DEL", "p")
				}
				n.collect()
				n.same(before, "after DEL")
			})
		}
	}
}

// The namespace of a pod dies and no DEL comes: the collector finishes. Its VF is given to the next
// pod at once.
func TestForgottenSandbox(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ib-sriov"))
	n.pod("q", annotations("ib-sriov"))
	before := n.snapshot()
	n.mustCall("ADD", "p")
	other := host.NS("/var/run/netns/cni-2")
	n.fake.AddNS(other)
	if resp := n.service.Handle(context.Background(), request("ADD", "q", "sandbox-q", other)); resp.Error == nil ||
		resp.Error.Code != cni.CodeTryAgainLater ||
		!strings.Contains(resp.Error.Msg, "still attached to sandbox sandbox-p of pod default/p") {
		t.Errorf("the VF of a living pod was given away: %+v", resp.Error)
	}
	n.fake.DeleteNS(podNS)
	if resp := n.service.Handle(context.Background(), request("ADD", "q", "sandbox-q", other)); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	if resp := n.service.Handle(context.Background(), request("DEL", "q", "sandbox-q", other)); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	n.fake.DeleteNS(other)
	n.collect()
	n.same(before, "after all")
}

// An API server that is away keeps no pod from stopping; addresses go back later.
func TestDelWithoutAPIServer(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	before := n.snapshot()
	n.mustCall("ADD", "p")
	n.mu.Lock()
	n.apiDown = true
	delete(n.pods, "default/p")
	n.mu.Unlock()
	n.mustCall("DEL", "p")
	if err := n.service.Collect(context.Background()); !errors.Is(err, errAPIDown) {
		t.Errorf("Collect: %v", err)
	}
	n.mu.Lock()
	n.apiDown = false
	n.mu.Unlock()
	n.start()
	n.collect()
	n.same(before, "after the API server came back")
}

func TestSeveralNetworks(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ib-sriov",
		cncfv1.AnnotationNetworks: "kube-system/ib-sriov, kube-system/ipoib@ib9"})
	before := n.snapshot()
	n.mustCall("ADD", "p")
	for name, pci := range map[string]string{"eth0": vf0, "net1": vf1, "ib9": ""} {
		if l, err := n.fake.LinkByName(podNS, name); err != nil || l.PCI != pci {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	n.mustCall("DEL", "p")
	n.collect()
	n.same(before, "after DEL")

	// The last of three fails: all go.
	n.pod("q", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ib-sriov",
		cncfv1.AnnotationNetworks: "kube-system/ipoib, kube-system/bad"})
	n.network("kube-system", "bad", `{"cniVersion":"1.0.0","name":"bad","type":"ipoib","master":"ib77"}`, "")
	resp := n.call("ADD", "q")
	if resp.Error == nil || resp.Error.Code != cni.CodeInvalidConfig || !strings.Contains(resp.Error.Msg,
		"attach network kube-system/bad as net2") ||
		!strings.Contains(resp.Error.Details, "ibs5f0=ibp134s0f0") {
		t.Errorf("error %+v", resp.Error)
	}
	n.collect()
	n.same(before, "after the failed ADD")
}

// Every refusal says what was found, what was wanted and what to do, where people look: in the pod's event.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		annotations map[string]string
		prepare     func(*node)
		code        uint
		says        []string
	}{
		"network does not exist": {annotations("nix"), nil, cni.CodeInvalidConfig,
			[]string{"NetworkAttachmentDefinition kube-system/nix does not exist", "namespace/name"}},
		"annotation does not parse": {map[string]string{cncfv1.AnnotationDefaultNetwork: `{"name":"x"}`}, nil,
			cni.CodeInvalidConfig,
			[]string{cncfv1.AnnotationDefaultNetwork}},
		"two default networks": {map[string]string{cncfv1.AnnotationDefaultNetwork: "a,b"}, nil, cni.CodeInvalidConfig,
			[]string{"exactly one"}},
		"resource not requested": {annotations("ib-sriov"), func(n *node) { n.devices = nil }, cni.CodeInvalidConfig,
			[]string{resource, "limits"}},
		"shared mode and isolation": {annotations("ib-sriov"), func(n *node) { n.fake.ForceRDMAMode(host.RDMAShared) },
			cni.CodeInvalidConfig,
			[]string{"rdmaIsolation", "shared mode", "netns_mode=0"}},
		"GUID asked for": {
			map[string]string{
				cncfv1.AnnotationDefaultNetwork: `[{"name":"ib-sriov","namespace":"kube-system","infiniband-guid":"02:00:00:00:00:00:00:01"}]`},
			nil, cni.CodeInvalidConfig, []string{"GUID 02:00:00:00:00:00:00:01 is asked for and VF " + vf0 + " has"}},
		"no primary network": {nil, nil, cni.CodeTryAgainLater, []string{"no cluster default network",
			"found nothing"}},
		"namespace isolation": {annotations("ipoib"), func(n *node) { n.options.NamespaceIsolation = true; n.start() },
			cni.CodeInvalidConfig,
			[]string{"namespace isolation", "default/p", "kube-system/ipoib"}},
		"namespace isolation, further network": {map[string]string{cncfv1.AnnotationDefaultNetwork: "default/mine",
			cncfv1.AnnotationNetworks: "kube-system/ipoib"}, func(n *node) {
			n.network("default", "mine", confIPoIB, "")
			n.options.NamespaceIsolation, n.options.GlobalNamespaces = true, []string{"elsewhere"}
			n.start()
		}, cni.CodeInvalidConfig, []string{"namespace isolation", "default/p", "kube-system/ipoib"}},
		"meta plugin as network": {annotations("loop"), func(n *node) {
			n.network("kube-system", "loop", `{"cniVersion":"1.0.0","name":"l","type":"multus"}`, "")
		},
			cni.CodeInvalidConfig, []string{"multus"}},
		"plugin not installed": {annotations("other"), func(n *node) {
			n.network("kube-system", "other", `{"cniVersion":"1.0.0","name":"o","type":"no-such"}`, "")
		},
			cni.CodeInvalidConfig, []string{`failed to find plugin "no-such" in path /opt/cni/bin`}},
		"ipam not installed": {annotations("other"), func(n *node) {
			n.network("kube-system", "other", `{"cniVersion":"0.3.1","name":"wa","type":"ipoib","master":"ibs5f0",
				"ipam":{"type":"whereabouts","range":"192.168.5.225/28"}}`, "")
		}, cni.CodeInvalidConfig, []string{`network "wa": plugin 1: ipam: failed to find plugin "whereabouts"`,
			"install it on the node"}},
		"ipam of a further network not installed": {map[string]string{
			cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib", cncfv1.AnnotationNetworks: "other"}, func(n *node) {
			n.network("default", "other", `{"cniVersion":"0.3.1","name":"wa","plugins":[{"type":"coordinator"},
				{"type":"ipoib","master":"ibs5f0","ipam":{"type":"whereabouts"}}]}`, "")
		}, cni.CodeInvalidConfig, []string{`network "wa": plugin 2: ipam: failed to find plugin "whereabouts"`}},
		"name that is a path": {annotations("other"), func(n *node) {
			n.network("kube-system", "other", `{"cniVersion":"1.0.0","name":"../../../../tmp/x","type":"ipoib",
				"master":"ibs5f0","ipam":{"type":"host-local","subnet":"10.9.0.0/24"}}`, "")
		}, cni.CodeInvalidConfig, []string{`the network's name "../../../../tmp/x" is not valid`}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", test.annotations)
			if test.prepare != nil {
				test.prepare(n)
			}
			before := n.snapshot()
			resp := n.call("ADD", "p")
			if resp.Error == nil || resp.Error.Code != test.code {
				t.Fatalf("error %+v, want code %d", resp.Error, test.code)
			}
			for _, want := range test.says {
				if !strings.Contains(resp.Error.Error(), want) {
					t.Errorf("error %q does not say %q", resp.Error, want)
				}
				if len(n.events) != 1 || !strings.Contains(n.events[0], want) {
					t.Errorf("events %q do not say %q", n.events, want)
				}
			}
			n.collect()
			n.same(before, "after the refusal")
		})
	}
}

// What follows a call does not grow with the pods of the node: those that are whole are looked at
// now and then.
func TestAfterACallOthersAreLeftAlone(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("other", annotations("ipoib"))
	n.mustCall("ADD", "other")
	n.mu.Lock()
	delete(n.pods, "default/other") // so that asking for it is a read
	n.mu.Unlock()
	reads := n.liveReads
	must(t, n.service.finishCalls(context.Background()))
	if n.liveReads != reads {
		t.Errorf("%d reads of a pod that no call was about", n.liveReads-reads)
	}
	n.collect()
	if n.liveReads == reads {
		t.Error("a whole pass did not look for the pod")
	}
}

// A VF without a GUID names the place where GUIDs come from.
func TestVFWithoutGUID(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	must(t, n.fake.UnbindVF(vf0))
	must(t, n.fake.SetVFGUID(hosttest.GuidePF, 0, [8]byte{}))
	must(t, n.fake.BindVF(vf0))
	n.pod("p", annotations("ib-sriov"))
	resp := n.call("ADD", "p")
	if resp.Error == nil || !strings.Contains(resp.Error.Error(), "has no GUID") ||
		!strings.Contains(resp.Error.Error(), "SriovNetworkNodeState") {
		t.Errorf("error %+v", resp.Error)
	}
}

// Isolated, a pod may use networks of its own namespace and of the global ones.
func TestNamespaceIsolationAllows(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.network("default", "mine", confIPoIB, "")
	n.options.NamespaceIsolation, n.options.GlobalNamespaces = true, []string{"kube-system"}
	n.start()
	n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: "default/mine",
		cncfv1.AnnotationNetworks: "kube-system/ipoib"})
	n.mustCall("ADD", "p")
	n.mustCall("DEL", "p")
}

func TestSharedModeWithoutIsolation(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.fake.ForceRDMAMode(host.RDMAShared)
	n.network("kube-system", "ib-sriov", strings.Replace(confIBSRIOV, `"rdmaIsolation":true,`, "", 1), resource)
	n.pod("p", annotations("ib-sriov"))
	for _, dead := range []bool{false, true} {
		before := n.snapshot()
		n.mustCall("ADD", "p")
		if l, err := n.fake.LinkByName(podNS, "eth0"); err != nil || l.PCI != vf0 {
			t.Errorf("eth0: %+v, %v", l, err)
		}
		if dead {
			n.fake.DeleteNS(podNS) // the netdev comes home as eth0
		}
		n.mustCall("DEL", "p")
		n.collect()
		n.same(before, "after DEL")
	}
}

func TestPodOfTheSameName(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	req := request("ADD", "p", "sandbox-p", podNS)
	req.Env["CNI_ARGS"] = strings.Replace(req.Env["CNI_ARGS"], "uid-p", "uid-before", 1)
	resp := n.service.Handle(context.Background(), req)
	if resp.Error == nil || !strings.Contains(resp.Error.Msg, "uid-before") || n.liveReads != 1 {
		t.Errorf("error %+v after %d live reads", resp.Error, n.liveReads)
	}
}

func TestBadCalls(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*cnisock.Request)
		code   uint
	}{
		"stdin":        {func(r *cnisock.Request) { r.Stdin = []byte("{") }, cni.CodeDecode},
		"command":      {func(r *cnisock.Request) { r.Env["CNI_COMMAND"] = "UP" }, cni.CodeInvalidEnv},
		"container ID": {func(r *cnisock.Request) { r.Env["CNI_CONTAINERID"] = "../x" }, cni.CodeInvalidEnv},
		"interface": {func(r *cnisock.Request) { r.Env["CNI_IFNAME"] = "a name/too long for it" },
			cni.CodeInvalidEnv},
		"no netns":   {func(r *cnisock.Request) { r.Env["CNI_NETNS"] = "" }, cni.CodeInvalidEnv},
		"dead netns": {func(r *cnisock.Request) { r.Env["CNI_NETNS"] = "/var/run/netns/gone" }, cni.CodeInvalidNetNS},
		"args":       {func(r *cnisock.Request) { r.Env["CNI_ARGS"] = "x" }, cni.CodeInvalidEnv},
		"plugin":     {func(r *cnisock.Request) { r.Plugin = "nothing" }, cni.CodeInvalidConfig},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", annotations("ipoib"))
			before := n.snapshot()
			req := request("ADD", "p", "sandbox-p", podNS)
			test.change(&req)
			if resp := n.service.Handle(context.Background(), req); resp.Error == nil || resp.Error.Code != test.code {
				t.Errorf("error %+v, want code %d", resp.Error, test.code)
			}
			n.same(before, "after the refusal")
		})
	}
}

// Every version of the specification, as the runtime's configuration and as the network's.
func TestVersions(t *testing.T) {
	versions := []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}
	for _, outer := range versions {
		for _, inner := range versions {
			t.Run(outer+" over "+inner, func(t *testing.T) {
				n := newNode(t, hosttest.Options{})
				n.network("kube-system", "ib-sriov", strings.Replace(confIBSRIOV, "0.3.1", inner, 1), resource)
				n.pod("p", annotations("ib-sriov"))
				req := request("ADD", "p", "sandbox-p", podNS)
				req.Stdin = []byte(strings.Replace(string(req.Stdin), "0.3.1", outer, 1))
				resp := n.service.Handle(context.Background(), req)
				if resp.Error != nil {
					t.Fatal(resp.Error)
				}
				var got map[string]any
				must(t, json.Unmarshal(resp.Stdout, &got))
				iface := got["interfaces"].([]any)[0].(map[string]any)
				_, hasPCI := iface["pciID"]
				_, hasMTU := iface["mtu"]
				_, hasVersion := got["ips"].([]any)[0].(map[string]any)["version"]
				if got["cniVersion"] != outer || hasPCI != (outer == "1.1.0") || hasMTU != hasPCI ||
					hasVersion != strings.HasPrefix(outer, "0.") {
					t.Errorf("result %s", resp.Stdout)
				}
			})
		}
	}
}

func TestStatusAndGC(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	ask := func(command, extra string) cnisock.Response {
		return n.service.Handle(context.Background(), cnisock.Request{Plugin: MetaPlugin,
			Env:   map[string]string{"CNI_COMMAND": command},
			Stdin: []byte(`{"cniVersion":"1.1.0","name":"m","type":"multus"` + extra + `}`)})
	}
	if resp := ask("STATUS", ""); resp.Error == nil || resp.Error.Code != 50 {
		t.Errorf("STATUS without a primary network: %+v", resp.Error)
	}
	n.writeConf("00-multus.conf", `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus"}`)
	n.writeConf("10-primary.conf", `{"cniVersion":"0.3.1","name":"primary","type":"ipoib","master":"ibs5f0"}`)
	if resp := ask("STATUS", ""); resp.Error != nil {
		t.Errorf("STATUS: %+v", resp.Error)
	}
	n.pod("p", annotations("ib-sriov"))
	before := n.snapshot()
	n.mustCall("ADD", "p")
	if resp := ask("GC", `,"cni.dev/valid-attachments":[{"containerID":"sandbox-p","ifname":"eth0"}]`); resp.Error !=
		nil || !recorded(n) {
		t.Errorf("GC took a valid attachment: %+v", resp.Error)
	}
	for _, bad := range []string{"", `,"cni.dev/valid-attachments":{}`} {
		if resp := ask("GC", bad); resp.Error == nil || !recorded(n) {
			t.Errorf("GC with the list %q: %+v", bad, resp.Error)
		}
	}
	if resp := ask("GC", `,"cni.dev/valid-attachments":[]`); resp.Error != nil {
		t.Errorf("GC: %+v", resp.Error)
	}
	n.collect()
	n.same(before, "after GC")
}

// A pod without annotations gets the node's own network; what the meta plugin never recorded is
// taken down by its conf.
func TestPrimaryNetwork(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.writeConf("00-multus.conf", `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus"}`)
	n.writeConf("10-primary.conf",
		`{"cniVersion":"0.3.1","name":"primary","type":"ipoib","master":"ibs5f0","ipam":{"type":"spiderpool"}}`)
	n.pod("p", nil)
	before := n.snapshot()
	n.mustCall("ADD", "p")
	n.mustCall("DEL", "p")
	n.collect()
	n.same(before, "after DEL")
	n.pod("q", nil)
	n.mustCall("DEL", "q")
	n.collect()
	n.same(before, "after DEL of an unknown sandbox")
}

// DEL waits for another call no longer than the runtime does, and for an API server that is away not at all.
func TestDelWaitsForNothing(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	unlock, err := n.service.locks.Meta(t.Context(), "sandbox-p")
	must(t, err)
	gone, giveUp := context.WithCancel(t.Context())
	giveUp()
	del := request("DEL", "p", "sandbox-p", podNS)
	if resp := ended(t, func() cnisock.Response { return n.service.Handle(gone, del) }); resp.Error == nil ||
		resp.Error.Code != cni.CodeTryAgainLater {
		t.Errorf("DEL behind another call: %+v", resp.Error)
	}
	unlock()

	lookupTimeout = time.Millisecond
	defer func() { lookupTimeout = 10 * time.Second }()
	n.options.ClusterNetwork, n.options.Networks = "kube-system/primary", silent{}
	n.start()
	if resp := ended(t, func() cnisock.Response { return n.service.Handle(t.Context(), del) }); resp.Error != nil {
		t.Errorf("DEL of an unknown sandbox without the API server: %+v", resp.Error)
	}
}

// An API server that does not answer holds the collector up once, and costs no release.
func TestCollectWaitsOnce(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	for _, pod := range []string{"p", "q", "r"} {
		must(t, n.service.releaseLater("uid-"+pod, "sandbox-"+pod, "eth0"))
	}
	deaf := &deafAddresses{Addresses: n}
	n.options.Addresses = deaf
	n.start()
	releaseTimeout = time.Millisecond
	defer func() { releaseTimeout = 10 * time.Second }()
	err := n.service.Collect(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) || deaf.asked != 1 {
		t.Errorf("asked %d times, error %v", deaf.asked, err)
	}
	if left, err := n.ledger.Releases(); err != nil || len(left) != 3 {
		t.Errorf("%d releases are left, want 3 (%v)", len(left), err)
	}
}

// A pod's network-status waits until the API server shows its addresses: the controller relies on that order.
func TestStatusWaitsForTheAddresses(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.settleFails = true
	n.pod("p", annotations("ipoib"))
	n.mustCall("ADD", "p")
	if err := n.service.writeStatus(t.Context(), "sandbox-p"); err == nil {
		t.Error("the status was written although the addresses are not shown")
	}
	if got := n.statuses["default/p"]; got != "" {
		t.Errorf("status %s", got)
	}
	n.settleFails = false
	must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
	if got := n.statuses["default/p"]; got == "" {
		t.Error("no status once the addresses are shown")
	}
}

// deafAddresses never gives an answer to a release.
type deafAddresses struct {
	Addresses
	asked int
}

func (d *deafAddresses) Release(ctx context.Context, _, _, _ string) error {
	d.asked++
	<-ctx.Done()
	return ctx.Err()
}

// ended waits for a call that must end by itself.
func ended(t *testing.T, call func() cnisock.Response) cnisock.Response {
	t.Helper()
	done := make(chan cnisock.Response, 1)
	go func() { done <- call() }()
	select {
	case resp := <-done:
		return resp
	case <-time.After(time.Minute):
		t.Fatal("the call does not end")
	}
	return cnisock.Response{}
}

// silent is a network source whose answer never comes.
type silent struct{}

func (silent) Network(ctx context.Context, _, _ string) (*cncfv1.NetworkAttachmentDefinition, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A runtime asks for DEL again and again; the default network's plugins hear of it once.
func TestDelAgainIsCheap(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	counted := &counter{}
	n.options.Plugins["counted"] = counted
	n.start()
	n.writeConf("10-primary.conf", `{"cniVersion":"1.0.0","name":"primary","type":"counted"}`)
	n.pod("p", annotations("ipoib"))
	n.pod("q", nil)
	n.mustCall("ADD", "p")
	for range 3 {
		n.mustCall("DEL", "p") // on ipoib: never the default network's business
		n.mustCall("DEL", "q") // not known: asked once
	}
	if counted.dels != 1 {
		t.Errorf("%d DEL reached the default network's plugin, want 1", counted.dels)
	}
	n.mustCall("ADD", "q")
	n.mustCall("DEL", "q")
	if counted.dels != 2 {
		t.Errorf("%d DEL reached the default network's plugin, want 2", counted.dels)
	}
	var f finished
	for i := range keepFinished + 1 {
		f.add(fmt.Sprint(i))
	}
	if f.has("0") || !f.has("1") || len(f.ids) != keepFinished {
		t.Errorf("%d remembered; the oldest: %t", len(f.ids), f.has("0"))
	}
}

// counter is a plugin that counts DEL.
type counter struct{ dels int }

func (c *counter) Add(context.Context, *cni.Request) (*types100.Result, error) {
	return &types100.Result{}, nil
}

func (c *counter) Del(context.Context, *cni.Request) error {
	c.dels++
	return nil
}

func (c *counter) Check(context.Context, *cni.Request) error { return nil }

// A plugin called by its own name, as another meta plugin or cnitool does.
func TestDirect(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", nil)
	before := n.snapshot()
	conf := `{"cniVersion":"1.1.0","name":"foreign","type":"ib-sriov","deviceID":"` + vf0 +
		`","ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]}}`
	call := func(command, plugin, stdin string) cnisock.Response {
		r := request(command, "p", "sandbox-p", podNS)
		r.Plugin, r.Stdin = plugin, []byte(stdin)
		return n.service.Handle(context.Background(), r)
	}
	first := call("ADD", "ib-sriov", conf)
	if first.Error != nil {
		t.Fatal(first.Error)
	}
	var res types100.Result
	must(t, json.Unmarshal(first.Stdout, &res))
	if len(res.Interfaces) != 1 || res.Interfaces[0].PciID != vf0 || res.Interfaces[0].Mtu == 0 {
		t.Errorf("result %s", first.Stdout)
	}
	if again := call("ADD", "ib-sriov", conf); again.Error != nil || string(again.Stdout) != string(first.Stdout) {
		t.Errorf("ADD again: %+v", again)
	}
	if resp := call("CHECK", "ib-sriov", conf); resp.Error != nil {
		t.Error(resp.Error)
	}
	used := n.ledger.DevicesInUse()
	if _, ok := used[vf0]; !ok {
		t.Errorf("devices in use: %v", used)
	}
	n.start()
	n.collect()
	for range 2 {
		if resp := call("DEL", "ib-sriov", conf); resp.Error != nil {
			t.Error(resp.Error)
		}
		n.collect()
		n.same(before, "after DEL")
	}

	// The device as a capability argument.
	inArgs := strings.Replace(conf, `"deviceID":"`+vf0+`"`, `"runtimeConfig":{"deviceID":"`+vf0+`"}`, 1)
	if resp := call("ADD", "ib-sriov", inArgs); resp.Error != nil || n.ledger.DevicesInUse()[vf0].Name != "p" {
		t.Errorf("ADD with the device in runtimeConfig: %+v, devices in use %v", resp.Error, n.ledger.DevicesInUse())
	}
	if resp := call("DEL", "ib-sriov", inArgs); resp.Error != nil {
		t.Error(resp.Error)
	}
	n.collect()

	// Address management alone, with the configuration of the plugin that uses it.
	macvlan := `{"cniVersion":"0.4.0","name":"m","type":"macvlan","master":"eno1","ipam":{"type":"spiderpool"}}`
	resp := call("ADD", "spiderpool", macvlan)
	if resp.Error != nil || !strings.Contains(string(resp.Stdout), "172.91.0.100/16") {
		t.Errorf("ADD spiderpool: %s %+v", resp.Stdout, resp.Error)
	}
	n.fake.DeleteNS(podNS) // and no DEL: the collector must not execute macvlan
	n.collect()
	n.same(before, "after the namespace of a direct call died")
}

// A kernel call that fails at any step of a plugin that was called by itself costs neither an
// address nor a function.
func TestFaultInDirectAdd(t *testing.T) {
	const conf = `{"cniVersion":"1.0.0","name":"direct","type":"ib-sriov","deviceID":"` + vf0 +
		`","ipam":{"type":"spiderpool"}}`
	call := func(n *node, command string) cnisock.Response {
		req := request(command, "p", "direct", podNS)
		req.Plugin, req.Stdin = "ib-sriov", []byte(conf)
		return n.service.Handle(context.Background(), req)
	}
	whole := newNode(t, hosttest.Options{})
	whole.pod("p", nil)
	whole.fake.Revive()
	if resp := call(whole, "ADD"); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	steps := whole.fake.Steps()
	if steps < 4 {
		t.Fatalf("%d steps", steps)
	}
	for k := 1; k <= steps; k++ {
		n := newNode(t, hosttest.Options{})
		n.pod("p", nil)
		before := n.snapshot()
		n.fake.FailAt(k, errInjected)
		if resp := call(n, "ADD"); resp.Error == nil {
			n.fake.Revive()
			continue // the plugin does without this step
		}
		n.fake.Revive()
		n.collect()
		n.same(before, fmt.Sprintf("after a fault at step %d", k))
	}
}

// Each write of the record is two synced ones on the disk: an attachment takes one before its first
// effect, and one with its result.
func TestWritesOfAnAdd(t *testing.T) {
	for _, test := range guidePods {
		n := newNode(t, test.options)
		n.pod("p", annotations(test.network))
		before := commits(t, n.path)
		n.mustCall("ADD", "p")
		if got := commits(t, n.path) - before; got != 2 {
			t.Errorf("%s: %d writes, want 2", test.name, got)
		}
	}
}

// commits is the number of the last transaction in a bbolt file, whose two meta pages begin with a
// header of 16 octets; see its type meta.
func commits(t *testing.T, path string) (last uint64) {
	t.Helper()
	file, err := os.ReadFile(path)
	must(t, err)
	for page := range 2 {
		last = max(last, binary.NativeEndian.Uint64(file[page*os.Getpagesize()+16+48:]))
	}
	return last
}

// A plugin on disk that delegates its addresses to us calls back while our meta plugin waits for it.
func TestNestedAddressRequest(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("nested"))
	n.options.Plugins["outer"] = &outer{n}
	n.start()
	n.network("kube-system", "nested", `{"cniVersion":"1.0.0","name":"nested","type":"outer"}`, "")
	before := n.snapshot()
	n.mustCall("ADD", "p")
	if len(n.held) != 1 {
		t.Errorf("held %v", n.held)
	}
	if sb, _ := n.ledger.Sandbox("sandbox-p"); len(sb.Attachments) != 1 || sb.Attachments[0].Phase != ledger.Done ||
		len(sb.Attachments[0].Direct) > 0 {
		t.Errorf("recorded %+v, want one attachment, of the meta plugin", sb.Attachments)
	}
	n.mustCall("DEL", "p")
	n.collect()
	n.same(before, "after DEL")

	n.mustCall("ADD", "p") // and through the collector
	n.fake.DeleteNS(podNS)
	n.collect()
	n.collect()
	n.same(before, "after the collector")
}

// outer stands for a plugin on disk: it calls the socket's handler for its addresses.
type outer struct{ n *node }

func (o *outer) delegate(command string, r *cni.Request) cnisock.Response {
	req := request(command, "p", r.ContainerID, r.NetNS)
	req.Plugin, req.Stdin = "spiderpool", r.Conf
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return o.n.service.Handle(ctx, req)
}

func (o *outer) Add(_ context.Context, r *cni.Request) (*types100.Result, error) {
	if sb, _ := o.n.ledger.Sandbox(r.ContainerID); sb.Attachment("nested", "eth0") == nil {
		o.n.t.Error("a plugin that records nothing runs before the attachment is on disk")
	}
	resp := o.delegate("ADD", r)
	if resp.Error != nil {
		return nil, resp.Error
	}
	var res types100.Result
	return &res, json.Unmarshal(resp.Stdout, &res)
}

func (o *outer) Del(_ context.Context, r *cni.Request) error {
	if resp := o.delegate("DEL", r); resp.Error != nil {
		return resp.Error
	}
	return nil
}

func (o *outer) Check(context.Context, *cni.Request) error { return nil }

// Run writes the status behind the call and passes the collector by itself.
func TestRun(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	before := n.snapshot()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.service.Run(ctx) }()
	eventually(t, "status", func() bool {
		n.mustCall("ADD", "p")
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.statuses["default/p"] != ""
	})
	n.mustCall("DEL", "p")
	eventually(t, "address back", func() bool { return cmp.Equal(n.snapshot().Releases, before.Releases) })
	cancel()
	must(t, <-done)
	n.same(before, "after DEL")
	var phases []string
	for _, timing := range n.service.Timings() {
		if timing.Verb == "ADD" && timing.Plugin == MetaPlugin && len(timing.Phases) > 2 {
			for _, p := range timing.Phases {
				phases = append(phases, p.Name)
			}
			break
		}
	}
	if diff := cmp.Diff([]string{"gather", "record", "link", "address", "coordinator"}, phases); diff != "" {
		t.Errorf("phases: %s", diff)
	}
}

// Ten pods at once, each with its own VF, start and stop; half of them are asked for twice at the same time.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.devicesOf = map[string]map[string][]string{}
	before := n.snapshot()
	pf, err := n.fake.PF(hosttest.GuidePF)
	must(t, err)
	for i := range 10 {
		name := fmt.Sprintf("p%d", i)
		n.pod(name, annotations("ib-sriov"))
		n.devicesOf[name] = map[string][]string{resource: {pf.VFs[i].PCI}}
		n.fake.AddNS(host.NS("/var/run/netns/" + name))
	}
	all := func(command string) {
		var calls sync.WaitGroup
		for i := range 15 {
			calls.Go(func() {
				name := fmt.Sprintf("p%d", i%10)
				if resp := n.service.Handle(context.Background(), request(command, name, "sandbox-"+name,
					host.NS("/var/run/netns/"+name))); resp.Error != nil {
					t.Errorf("%s of %s: %s", command, name, resp.Error)
				}
			})
		}
		calls.Wait()
	}
	all("ADD")
	addresses := map[netip.Addr]bool{}
	for _, a := range n.snapshot().Held {
		addresses[a] = true
	}
	if len(addresses) != 10 {
		t.Errorf("%d addresses for ten pods", len(addresses))
	}
	all("DEL")
	for i := range 10 {
		n.fake.DeleteNS(host.NS(fmt.Sprintf("/var/run/netns/p%d", i)))
	}
	n.collect()
	n.same(before, "after DEL of all")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func FuzzHandle(f *testing.F) {
	f.Add("ADD", `{"cniVersion":"0.3.1","name":"m","type":"multus"}`,
		"K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_UID=uid-p", `[{"name":"ipoib","namespace":"kube-system"}]`,
		confIPoIB)
	f.Add("DEL", `{}`, "", "a/b@c", `{"type":"ib-sriov"}`)
	f.Add("GC", `{"cni.dev/valid-attachments":[{}]}`, "IgnoreUnknown=1", "", "")
	n := newNode(f, hosttest.Options{})
	before := n.snapshot()
	f.Fuzz(func(t *testing.T, command, stdin, args, annotation, config string) {
		n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: annotation})
		n.network("kube-system", "ipoib", config, "")
		req := request(command, "p", "s", podNS)
		req.Stdin, req.Env["CNI_ARGS"] = []byte(stdin), args
		n.service.Handle(context.Background(), req)
		n.service.Handle(context.Background(), request("DEL", "p", "s", podNS))
		n.t = t
		n.collect()
		n.same(before, "after DEL")
	})
}

// A result that the runtime's version cannot tell fails the call, and nothing of it stays.
func TestVersionThatCannotTell(t *testing.T) {
	for name, c := range map[string]struct{ version, network, want string }{
		"unknown": {"9.9.9", "ib-sriov",
			`cniVersion "9.9.9" of the network configuration is not supported`},
		"too old for no IPv4": {"0.2.0", "bare", "convert the result to version 0.2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.network("kube-system", "bare",
				`{"cniVersion":"1.0.0","name":"bare","plugins":[{"type":"ipoib","master":"ibs5f0"}]}`, "")
			n.pod("p", annotations(c.network))
			before := n.snapshot()
			req := request("ADD", "p", "sandbox-p", podNS)
			req.Stdin = []byte(strings.Replace(string(req.Stdin), "0.3.1", c.version, 1))
			resp := n.service.Handle(context.Background(), req)
			if resp.Error == nil || resp.Error.Code != cni.CodeIncompatibleVersion ||
				!strings.Contains(resp.Error.Error(), c.want) {
				t.Errorf("answer %+v, want %q", resp.Error, c.want)
			}
			n.same(before, "after the refusal")
			n.mustCall("DEL", "p")
		})
	}
}
