// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/ledger"
)

// A RoCE card beside the guide's, for the plugin rdma.
const (
	rocePF   = "0000:3b:00.0"
	roceVF   = "0000:3b:00.1"
	roceName = "eth1" // of the VF on the node
)

var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// addRoCE gives the node an Ethernet card with one VF.
func (n *node) addRoCE() {
	n.t.Helper()
	n.fake.AddPF(host.PF{PCI: rocePF, Driver: "mlx5_core", Device: "1017", LinkLayer: host.Ethernet, TotalVFs: 1,
		RDMA: &host.RDMADevice{}}, ib.GUID{})
	must(n.t, n.fake.SetNumVFs(rocePF, 1))
	must(n.t, n.fake.BindVF(roceVF))
	n.fake.Revive()
}

// roceTo moves the VF's interface, as somebody else's sriov plugin does, and returns it.
func (n *node) roceTo(from, to host.NS, name string) host.Link {
	n.t.Helper()
	l, err := n.fake.LinkByPCI(from, roceVF)
	must(n.t, err)
	l, err = n.fake.MoveLink(from, l.Index, to, name)
	must(n.t, err)
	return l
}

// roceIn tells whether the RDMA device of the VF is in a namespace.
func (n *node) roceIn(ns host.NS) bool {
	n.t.Helper()
	_, ok, err := cni.FindRDMA(n.fake, ns, roceVF)
	must(n.t, err)
	return ok
}

// startOnDisk begins an agent that executes plugins on disk where the test can put some and /bin/sh
// is. Options.Root stays: nothing else is to be looked at on this machine.
func (n *node) startOnDisk() {
	n.t.Helper()
	n.start()
	n.service.runner.Root = ""
}

// script puts a plugin on disk.
func script(t *testing.T, dir, name, body string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755))
}

// foreign is the CNI library's way to execute plugins, for another meta plugin or cnitool: those
// that it executes are ours, by their names.
type foreign struct {
	version.PluginDecoder
	n     *node
	calls []string
}

func (f *foreign) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }

func (f *foreign) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	req := cnisock.Request{Plugin: plugin, Stdin: stdin, Env: map[string]string{}}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "CNI_") {
			req.Env[name] = value
		}
	}
	f.calls = append(f.calls, req.Env["CNI_COMMAND"]+" "+plugin)
	resp := f.n.service.Handle(ctx, req)
	if resp.Error != nil {
		return nil, resp.Error
	}
	return resp.Stdout, nil
}

// hostLocal stands for the plugin host-local: it gives one address, and has a file while that is held.
//
//nolint:lll // the lines of a raw string
const hostLocal = `held="$(dirname "$0")/held"
case $CNI_COMMAND in
ADD) touch "$held"; echo '{"cniVersion":"%s","ips":[{"version":"4","address":"172.91.0.100/16","gateway":"172.91.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}' ;;
DEL) rm -f "$held" ;;
esac`

// Lists of our plugins in somebody else's configuration, as libcni runs them: for a pod with our
// addresses, and without Kubernetes.
func TestForeignLists(t *testing.T) {
	const first = `{"type":"ib-sriov","deviceID":"` + vf0 + `"`
	podArgs := [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "p"},
		{"K8S_POD_UID", "uid-p"}}
	for name, test := range map[string]struct {
		main, ipam string
		args       [][2]string
		options    hosttest.Options
	}{
		"ipoib":                    {`{"type":"ipoib","master":"ibs5f0"`, "spiderpool", podArgs, hosttest.Options{}},
		"ipoib, host-local":        {`{"type":"ipoib","master":"ibs5f0"`, "host-local", nil, hosttest.Options{}},
		"ib-sriov":                 {first, "spiderpool", podArgs, hosttest.Options{}},
		"ib-sriov, netdev follows": {first, "spiderpool", podArgs, hosttest.Options{FollowRDMA: true}},
		"ib-sriov, host-local":     {first, "host-local", nil, hosttest.Options{}},
	} {
		for _, v := range versions {
			t.Run(name+" "+v, func(t *testing.T) {
				t.Parallel()
				n := newNode(t, test.options)
				n.pod("p", nil)
				bin := t.TempDir()
				script(t, bin, "host-local", fmt.Sprintf(hostLocal, v))
				n.startOnDisk()
				before := n.snapshot()
				list, err := libcni.ConfListFromBytes(fmt.Appendf(nil,
					`{"cniVersion":%q,"name":"foreign","plugins":[%s,"ipam":{"type":%q}},{"type":"coordinator"}]}`, v,
					test.main, test.ipam))
				must(t, err)
				f := &foreign{n: n}
				lib := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), f)
				rt := &libcni.RuntimeConf{ContainerID: "sandbox-p", NetNS: string(podNS), IfName: "eth0",
					Args: test.args}
				n.foreignRound(lib, list, rt, bin)
				n.same(before, "after DEL")
				must(t, lib.DelNetworkList(t.Context(), list, rt))
				n.collect()
				n.same(before, "after DEL twice")

				main := list.Plugins[0].Network.Type
				want := []string{"ADD " + main, "ADD coordinator", "CHECK " + main, "CHECK coordinator",
					"STATUS " + main, "STATUS coordinator",
					"DEL coordinator", "DEL " + main, "DEL coordinator", "DEL " + main}
				want = slices.DeleteFunc(want, func(call string) bool {
					return strings.HasPrefix(call, "CHECK") && v == "0.3.1" || strings.HasPrefix(call, "STATUS") &&
						v != "1.1.0"
				})
				if diff := cmp.Diff(want, f.calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// foreignRound runs ADD, CHECK, STATUS and DEL of a list, with an agent that ends between each two.
func (n *node) foreignRound(lib *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf, bin string) {
	t := n.t
	t.Helper()
	next := func() {
		n.collect()
		n.startOnDisk()
		n.collect()
	}
	out, err := lib.AddNetworkList(t.Context(), list, rt)
	must(t, err)
	raw, err := json.Marshal(out)
	must(t, err)
	n.checkForeign(list, raw)
	_, err = os.Stat(filepath.Join(bin, "held"))
	if local := strings.Contains(string(list.Bytes), "host-local"); local != (err == nil) ||
		local == (len(n.held) == 1) {
		t.Errorf("host-local holds an address: %v; our own are %v", err, n.held)
	}
	next()
	if list.CNIVersion != "0.3.1" {
		must(t, lib.CheckNetworkList(t.Context(), list, rt))
	}
	if list.CNIVersion == "1.1.0" {
		must(t, lib.GetStatusNetworkList(t.Context(), list))
	}
	next()
	must(t, lib.DelNetworkList(t.Context(), list, rt))
	if recorded(n) {
		t.Errorf("recorded after DEL: %+v", n.ledger.Sandboxes())
	}
	next()
	if _, err := os.Stat(filepath.Join(bin, "held")); err == nil {
		t.Error("host-local still holds its address")
	}
}

// checkForeign looks at the pod, the node's routes to it, the record and the result.
func (n *node) checkForeign(list *libcni.NetworkConfigList, out []byte) {
	t := n.t
	t.Helper()
	link, err := n.fake.LinkByName(podNS, "eth0")
	must(t, err)
	var res struct {
		CNIVersion string `json:"cniVersion"`
		Interfaces []struct{ Name, Mac, Sandbox string }
		IPs        []struct{ Address, Gateway string }
	}
	must(t, json.Unmarshal(out, &res))
	if res.CNIVersion != list.CNIVersion || len(res.Interfaces) != 1 || len(res.IPs) != 1 ||
		res.Interfaces[0].Mac != link.HardwareAddr.String() ||
		res.Interfaces[0].Sandbox != string(podNS) || res.IPs[0].Address != "172.91.0.100/16" ||
		res.IPs[0].Gateway != "172.91.0.1" {
		t.Errorf("result %s", out)
	}
	if !link.Up || (link.PCI == vf0) != (list.Plugins[0].Network.Type == "ib-sriov") {
		t.Errorf("eth0 = %+v", link)
	}
	if _, err := n.fake.LinkByName(podNS, "veth0"); err != nil {
		t.Error(err)
	}
	if routes := n.hostRoutes(); len(routes) != 1 || routes[0].Dst.String() != "172.91.0.100/32" {
		t.Errorf("the node's routes to its pods: %v", routes)
	}
	var plugins []string
	for _, sb := range n.ledger.Sandboxes() {
		for _, a := range sb.Attachments {
			for _, d := range a.Direct {
				plugins = append(plugins, fmt.Sprintf("%s %s %s %t", a.Network, a.Phase, d.Plugin, d.Done))
			}
		}
	}
	if diff := cmp.Diff([]string{"foreign done " + list.Plugins[0].Network.Type + " true",
		"foreign done coordinator true"}, plugins); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
}

// hostRoutes are the coordinator's routes on the node.
func (n *node) hostRoutes() []host.Route {
	n.t.Helper()
	routes, err := n.fake.Routes(host.NodeNS, 500)
	must(n.t, err)
	return routes
}

// direct calls one plugin of ours for pod p on an interface, behind the result of another, "" for none.
func (n *node) direct(command, plugin, ifname, v, keys, prev string) cnisock.Response {
	req := request(command, "p", "sandbox-p", podNS)
	req.Plugin, req.Env["CNI_IFNAME"] = plugin, ifname
	if prev != "" {
		keys += `,"prevResult":` + prev
	}
	req.Stdin = fmt.Appendf(nil, `{"cniVersion":%q,"name":"foreign","type":%q%s}`, v, plugin, keys)
	return n.service.Handle(context.Background(), req)
}

// prevResult is what a foreign plugin says of an interface, in a version.
func prevResult(v string, l host.Link, address string) string {
	older := ""
	if strings.HasPrefix(v, "0.") {
		older = `"version":"4",`
	}
	out := fmt.Sprintf(
		`{"cniVersion":%q,"interfaces":[{"name":%q,"mac":%q,"sandbox":%q}],"ips":[{%s"address":%q,"interface":0}]`, v,
		l.Name, l.HardwareAddr, podNS, older, address)
	if older != "" {
		out += `,"dns":{}`
	}
	return out + "}"
}

// sameJSON fails the test when a plugin that has to pass the result on did not.
func sameJSON(t *testing.T, want string, got []byte) {
	t.Helper()
	var a, b any
	must(t, json.Unmarshal([]byte(want), &a))
	must(t, json.Unmarshal(got, &b))
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

// The plugin rdma behind somebody else's sriov, found by its device and by the result before it.
func TestDirectRDMA(t *testing.T) {
	for _, v := range versions {
		for name, keys := range map[string]string{"by device": `,"deviceID":"` + roceVF + `"`, "by result": ""} {
			t.Run(v+" "+name, func(t *testing.T) {
				t.Parallel()
				n := newNode(t, hosttest.Options{})
				n.addRoCE()
				n.pod("p", nil)
				before := n.snapshot()
				prev := prevResult(v, n.roceTo(host.NodeNS, podNS, "net1"), "10.9.0.7/24")
				with := n.snapshot() // the interface, which is not ours to bring home
				call := func(command string) cnisock.Response {
					return n.direct(command, "rdma", "net1", v, keys,
						prev)
				}
				for range 2 {
					resp := call("ADD")
					if resp.Error != nil {
						t.Fatal(resp.Error)
					}
					sameJSON(t, prev, resp.Stdout)
				}
				if !n.roceIn(podNS) {
					t.Error("the RDMA device is not in the pod")
				}
				if resp := call("CHECK"); resp.Error != nil {
					t.Error(resp.Error)
				}
				d, err := n.fake.RDMAByPCI(podNS, roceVF)
				must(t, err)
				must(t, n.fake.MoveRDMA(podNS, d.Name, host.NodeNS))
				if resp := call("CHECK"); resp.Error == nil {
					t.Error("CHECK overlooks that the RDMA device has gone")
				}
				must(t, n.fake.MoveRDMA(host.NodeNS, d.Name, podNS))
				n.start()
				n.collect()
				for _, what := range []string{"after DEL", "after DEL twice"} {
					if resp := call("DEL"); resp.Error != nil {
						t.Error(resp.Error)
					}
					n.same(with, what)
				}
				n.roceTo(podNS, host.NodeNS, roceName)
				n.collect()
				n.same(before, "after sriov's DEL")
			})
		}
	}
}

// What rdma refuses leaves neither a record nor a device in the pod. A namespace that dies without
// DEL is finished by the collector.
func TestDirectRDMARefusalsAndEnd(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.addRoCE()
	n.pod("p", nil)
	before := n.snapshot()
	prev := prevResult("1.0.0", n.roceTo(host.NodeNS, podNS, "net1"), "10.9.0.7/24")
	with := n.snapshot()
	for _, test := range []struct {
		keys, prev string
		mode       host.RDMAMode
		says       string
	}{
		{`,"deviceID":"` + roceVF + `"`, "", host.RDMAExclusive, "not chained"},
		{"", prev, host.RDMAShared, "in shared mode"},
		{`,"deviceID":"` + vf0 + `"`, prev, host.RDMAExclusive, vf0 + " is InfiniBand"},
	} {
		n.fake.ForceRDMAMode(test.mode)
		if resp := n.direct("ADD", "rdma", "net1", "1.0.0", test.keys, test.prev); resp.Error == nil ||
			resp.Error.Code != cni.CodeInvalidConfig || !strings.Contains(resp.Error.Msg, test.says) {
			t.Errorf("error %v, want one with %q", resp.Error, test.says)
		}
		n.fake.ForceRDMAMode(host.RDMAExclusive)
		n.collect()
		n.same(with, "after the refusal")
	}
	if resp := n.direct("ADD", "rdma", "net1", "1.0.0", "", prev); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	n.fake.DeleteNS(podNS)
	n.collect()
	l := n.roceTo(host.NodeNS, host.NodeNS, roceName) // it came home under the pod's name
	must(t, n.fake.SetLinkDown(host.NodeNS, l.Index))
	n.same(before, "after the pod's namespace died")
}

// The coordinator behind somebody else's interface.
func TestDirectCoordinator(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, hosttest.Options{})
			n.addRoCE()
			n.pod("p", nil)
			before := n.snapshot()
			link := n.roceTo(host.NodeNS, podNS, "eth0")
			must(t, n.fake.AddAddress(podNS, link.Index, netip.MustParsePrefix("10.9.0.7/24")))
			must(t, n.fake.SetLinkUp(podNS, link.Index))
			with := n.snapshot()
			prev := prevResult(v, link, "10.9.0.7/24")
			call := func(command string) cnisock.Response {
				return n.direct(command, "coordinator", "eth0", v, "",
					prev)
			}
			if resp := n.direct("ADD", "coordinator", "eth0", v, "", ""); resp.Error == nil ||
				resp.Error.Code != cni.CodeInvalidConfig {
				t.Errorf("without a result: %v", resp.Error)
			}
			n.collect()
			n.same(with, "after the refusal")
			for range 2 {
				resp := call("ADD")
				if resp.Error != nil {
					t.Fatal(resp.Error)
				}
				sameJSON(t, prev, resp.Stdout)
			}
			if routes := n.hostRoutes(); len(routes) != 1 || routes[0].Dst.String() != "10.9.0.7/32" {
				t.Errorf("the node's routes to its pods: %v", routes)
			}
			if resp := call("CHECK"); resp.Error != nil {
				t.Error(resp.Error)
			}
			n.start()
			n.collect()
			must(t, n.fake.DeleteRoute(host.NodeNS, n.hostRoutes()[0]))
			if resp := call("CHECK"); resp.Error == nil {
				t.Error("CHECK overlooks that the node's route has gone")
			}
			for _, what := range []string{"after DEL", "after DEL twice"} {
				if resp := call("DEL"); resp.Error != nil {
					t.Error(resp.Error)
				}
				n.same(with, what)
			}
			n.roceTo(podNS, host.NodeNS, roceName)
			n.collect()
			l, err := n.fake.LinkByPCI(host.NodeNS, roceVF)
			must(t, err)
			must(t, n.fake.SetLinkDown(host.NodeNS, l.Index))
			n.same(before, "after the other plugin's DEL")
		})
	}
}

// A failure of the second plugin leaves the first to its caller, who undoes the list, or to the collector.
func TestForeignListFails(t *testing.T) {
	for _, caller := range []string{"deletes", "has gone"} {
		t.Run("the caller "+caller, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", nil)
			before := n.snapshot()
			keys := `,"deviceID":"` + vf0 + `","ipam":{"type":"spiderpool"}`
			first := n.direct("ADD", "ib-sriov", "eth0", "1.0.0", keys, "")
			if first.Error != nil {
				t.Fatal(first.Error)
			}
			n.fake.FailAt(2, errInjected)
			if resp := n.direct("ADD", "coordinator", "eth0", "1.0.0", "", string(first.Stdout)); resp.Error == nil ||
				!strings.Contains(resp.Error.Msg, errInjected.Error()) {
				t.Errorf("error %v, want %v", resp.Error, errInjected)
			}
			n.fake.Revive()
			if l, err := n.fake.LinkByName(podNS, "veth0"); err == nil {
				t.Errorf("the coordinator left %+v", l)
			}
			if sb, _ := n.ledger.Sandbox("sandbox-p"); len(sb.Attachments) != 1 || len(sb.Attachments[0].Direct) != 1 ||
				sb.Attachments[0].Phase == ledger.Done {
				t.Errorf("recorded %+v, want what is to be undone", sb.Attachments)
			}
			if caller == "deletes" {
				for _, plugin := range []string{"coordinator", "ib-sriov"} {
					if resp := n.direct("DEL", plugin, "eth0", "1.0.0", keys, ""); resp.Error != nil {
						t.Error(resp.Error)
					}
				}
				if recorded(n) {
					t.Errorf("recorded after DEL: %+v", n.ledger.Sandboxes())
				}
			}
			n.collect()
			n.collect()
			n.same(before, "after all")
		})
	}
}
