// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// networkOfMACs is an ordinary network, by a plugin on the nodes' disks, with addresses of ours.
var networkOfMACs = documents(
	pool("e2e-95", "  subnet: 172.95.0.0/16\n  gateway: 172.95.0.1\n  ips: [172.95.0.100-172.95.0.120]\n"),
	network("e2e-mac", "  cniType: macvlan\n  macvlan: {master: [eth0], ippools: {ipv4: [e2e-95]}}\n"))

// railsPod has a function of each card, one of them with an address that it asks for, and a macvlan
// interface.
func railsPod(name, node, address string) string {
	return pod{name: name, namespace: "e2e", label: "rails", node: node, devices: []string{guideVFs, lowVFs},
		annotations: map[string]string{
			defaultNetwork: "kube-system/ib-sriov",
			networks: `[{"name":"e2e-low","namespace":"kube-system","interface":"rail2","ips":["` + address +
				`"]},{"name":"e2e-mac","namespace":"kube-system"}]`,
		}}.manifest()
}

// routedPod is on the cluster's own network, and has its default route on the macvlan interface.
func routedPod(node string) string {
	return pod{name: "routed", namespace: "e2e", node: node, annotations: map[string]string{
		networks: `[{"name":"e2e-mac","namespace":"kube-system","default-route":["172.95.0.1"]}]`,
	}}.manifest()
}

// statusOf is what a pod's network-status says, by interface.
func statusOf(t *testing.T, pod string) map[string]networkStatus {
	t.Helper()
	var list []networkStatus
	text := shell(t,
		fmt.Sprintf(
			`kubectl -n e2e get pod %s -o jsonpath='{.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}'`,
			pod))
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("network-status of %s: %v\n%s", pod, err, text)
	}
	out := map[string]networkStatus{}
	for _, s := range list {
		out[s.Interface] = s
	}
	return out
}

type networkStatus struct {
	Name, Interface string
	IPs             []string
	Default         bool
	Gateway         []string
	DeviceInfo      *struct {
		PCI struct {
			Address string `json:"pci-address"`
			RDMA    string `json:"rdma-device"`
		}
	} `json:"device-info"`
}

// TestSeveralNetworks gives two pods on two nodes a function of each card, and a macvlan interface
// by Debian's plugin with an address of ours: what is sent from an address leaves by its interface,
// and each network reaches the other pod.
func TestSeveralNetworks(t *testing.T) {
	sriovSetup(t)
	apply(t, sriovPolicy("e2e-low", 2, 0, 1)+networkOfMACs)
	eventually(t, configureLimit, func() string {
		return differs("allocatable", offered(t, lowVFs),
			every("2", lowVFs))
	})
	before := remember(t)
	names := topology.Names()
	apply(t, railsPod("a", names[0], "172.93.0.150")+railsPod("b", names[1], "172.93.0.151/16")+routedPod(names[0]))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/a pod/b pod/routed")
	in := func(pod, script string) string {
		t.Helper()
		return shell(t, fmt.Sprintf("kubectl -n e2e exec %s -- sh -c '%s'", pod, script))
	}
	var a, b map[string]networkStatus
	eventually(t, podLimit, func() string {
		a, b = statusOf(t, "a"), statusOf(t, "b")
		return differs("networks in the status of a and b", []int{len(a), len(b)}, []int{3, 3})
	})
	if got := slices.Concat(a["rail2"].IPs, b["rail2"].IPs); !slices.Equal(got,
		[]string{"172.93.0.150", "172.93.0.151"}) {
		t.Errorf("rail2 of a and b have %v, want the addresses that they ask for", got)
	}
	gatewaysOn(t, names[1])
	devices := map[string]bool{}
	for ifname, subnet := range map[string]string{"eth0": "172.91.", "rail2": "172.93.", "net2": "172.95."} {
		from, to := a[ifname], b[ifname]
		if len(from.IPs) != 1 || len(to.IPs) != 1 || !strings.HasPrefix(from.IPs[0], subnet) ||
			!strings.HasPrefix(to.IPs[0], subnet) || (from.DeviceInfo != nil) != (ifname != "net2") {
			t.Fatalf("%s: network-status of a %+v, of b %+v; want an address of %s each", ifname, from, to, subnet)
		}
		if from.DeviceInfo != nil {
			devices[from.DeviceInfo.PCI.Address], devices[from.DeviceInfo.PCI.RDMA] = true, true
		}
		if route := in("a", fmt.Sprintf("ip route get %s from %s", to.IPs[0], from.IPs[0])); !strings.Contains(route,
			"dev "+ifname) {
			t.Errorf("from %s to %s the route is %q, want one by %s", from.IPs[0], to.IPs[0], route, ifname)
		}
		in("a", fmt.Sprintf("ping -c 3 -i 0.2 -W 5 -I %s %s", from.IPs[0], to.IPs[0]))
		// What is in none of the pod's networks goes to the gateway of the address that it is sent
		// from, whichever has the default route.
		gateway := "via " + subnet + "0.1 dev " + ifname
		if route := in("a", fmt.Sprintf("ip route get %s from %s", farAway, from.IPs[0])); !strings.Contains(route,
			gateway) {
			t.Errorf("from %s to %s the route is %q, want one %s", from.IPs[0], farAway, route, gateway)
		}
		in("a", fmt.Sprintf("ping -c 3 -i 0.2 -W 5 -I %s %s", from.IPs[0], farAway))
	}
	if hcas := strings.Count(in("a", "ibv_devinfo"), "hca_id:"); hcas != 2 || len(devices) != 4 {
		t.Errorf("pod a has %d RDMA devices, and devices %v in its status; want 2 of two cards", hcas, devices)
	}
	routes := strings.Split(strings.TrimSpace(in("routed", "ip route show default")), "\n")
	if len(routes) != 1 || !strings.Contains(routes[0], "via 172.95.0.1 dev net1") {
		t.Errorf("default routes of routed: %q, want one, by 172.95.0.1 on net1", routes)
	}
	if s := statusOf(t, "routed"); s["net1"].Default || !s["eth0"].Default ||
		!slices.Equal(s["net1"].Gateway, []string{"172.95.0.1"}) {
		t.Errorf("network-status of routed: %+v, want eth0 alone to be the default network, and net1 with its gateway",
			s)
	}
	// Its node and Services are by the cluster's own network, although the default route is not,
	// and the node finds it there by either address: a macvlan link and the link below it do not
	// hear each other.
	in("routed", "ping -c 2 -W 5 "+topology.Nodes()[0].Address.String())
	in("routed", "timeout 10 bash -c \"</dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT\"")
	for ifname, s := range statusOf(t, "routed") {
		if len(s.IPs) != 1 {
			t.Fatalf("%s of routed has %v, want one address", ifname, s.IPs)
		}
		node(t, names[0], "ping -c 2 -W 5 "+s.IPs[0])
	}
	shell(t,
		"kubectl -n e2e delete pod a b routed --timeout=300s; kubectl -n kube-system delete spidermultusconfig "+
			"e2e-mac; kubectl delete spiderippool e2e-95")
	want := before
	want.Objects = withoutLines(before.Objects, "e2e-95", "e2e-mac")
	eventually(t, configureLimit, func() string { return differs("left behind", look(t), want) })
}

// farAway is an address behind the gateways of all of a pod's networks.
const farAway = "198.51.100.1"

// gatewaysOn makes a node the gateway of each of the pods' networks, for the test.
func gatewaysOn(t *testing.T, name string) {
	t.Helper()
	each := func(verb string) string {
		return strings.NewReplacer("VERB", verb, "FAR", farAway, "CARD", secondCard).Replace(
			`ip addr VERB 172.91.0.1/16 dev ibs5f0; ip addr VERB 172.93.0.1/16 dev "$(ls /sys/bus/pci/devices/CARD/net)"; ip addr VERB 172.95.0.1/16 dev eth0; ip addr VERB FAR/32 dev lo`)
	}
	was := strings.TrimSpace(node(t, name, "sysctl -n net.ipv4.conf.all.arp_ignore"))
	t.Cleanup(func() { node(t, name, "set -e; sysctl -qw net.ipv4.conf.all.arp_ignore="+was+"; "+each("del")) })
	node(t, name, "set -e; sysctl -qw net.ipv4.conf.all.arp_ignore=1; "+each("add"))
}

// withoutLines drops the lines that name one of these.
func withoutLines(text string, names ...string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(line, n) }) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// foreign calls plugins of ours as another meta plugin, or cnitool, does: by their own names, with
// another product's address management, for no pod. The function is the last of the second card.
//
//nolint:lll // the lines of a raw string
const foreign = `set -eu
vf=$(basename "$(readlink /sys/bus/pci/devices/` + secondCard + `/virtfn1)")
ip netns add e2e-foreign
trap 'ip netns del e2e-foreign 2>/dev/null; rm -rf /run/e2e-foreign' EXIT
export CNI_CONTAINERID=e2e-foreign CNI_NETNS=/run/netns/e2e-foreign CNI_PATH=/opt/cni/bin
call() { CNI_COMMAND=$1 /opt/cni/bin/$2; }
ipam='{"type":"host-local","dataDir":"/run/e2e-foreign","ranges":[[{"subnet":"172.96.0.0/24"}]]}'
collect() { # the attachment that is valid, or none
	call GC "$(jq -r .type <<<"$conf")" <<<"$(jq --argjson valid "[${1-}]" '. + {"cni.dev/valid-attachments": $valid}' <<<"$conf")"
	echo "GC of all but [${1-}]: $(ip -n e2e-foreign -br link | wc -l) links"
}
try() { # type, version, interface, configuration
	conf=$(jq -n --arg type "$1" --arg version "$2" --argjson ipam "$ipam" --argjson more "$4" '{cniVersion: $version, name: "e2e-foreign", type: $type} + (if $version == "1.1.0" then {} else {ipam: $ipam} end) + $more') # Debian's host-local knows 1.0.0
	export CNI_IFNAME=$3
	result=$(call ADD "$1" <<<"$conf") || { echo "ADD of $1: $result"; exit 1; }
	echo "$1 $2 ADD $(jq -c '[.cniVersion, .interfaces[0].name, (.interfaces[0].mac | length), ((.interfaces[0].mtu // 0) > 0), .interfaces[0].pciID, .ips[0].address]' <<<"$result")"
	ip -n e2e-foreign -br addr show "$3" | awk '{sub(/@.*/, "", $1); print $1, ($3 ~ /^172/ ? $3 : "without an address")}'
	[ "$2" = 0.3.1 ] || { call CHECK "$1" <<<"$(jq --argjson prev "$result" '. + {prevResult: $prev}' <<<"$conf")"; echo "$1 $2 CHECK ok"; }
	[ "$2" != 1.1.0 ] || { call STATUS "$1" <<<"$conf"; collect '{"containerID":"e2e-foreign","ifname":"'"$3"'"}'; collect; }
	call DEL "$1" <<<"$conf"
	call DEL "$1" <<<"$conf"
	echo "$1 $2 left: $(ip -n e2e-foreign -br link | wc -l) link, $(ls /run/e2e-foreign/e2e-foreign | grep -c '^172' || true) addresses"
}
try ipoib 0.3.1 ib0 '{"master":"ibs5f0"}'
try ipoib 0.4.0 ib0 '{"master":"ibs5f0"}'
try ipoib 1.0.0 ib0 '{"master":"ibs5f0","mtu":2044}'
try ib-sriov 1.1.0 ib1 "{\"deviceID\":\"$vf\",\"rdmaIsolation\":true}"
behind() { # type, version, result of the plugin before, more configuration, what to see of it in the pod
	conf=$(jq -n --arg type "$1" --arg version "$2" --argjson prev "$3" --argjson more "$4" '{cniVersion: $version, name: "e2e-foreign", type: $type, prevResult: $prev} + $more')
	result=$(call ADD "$1" <<<"$conf") || { echo "ADD of $1: $result"; exit 1; }
	echo "$1 $2 ADD $(jq -c '[.cniVersion, .interfaces[0].name]' <<<"$result"), in the pod: $(ip netns exec e2e-foreign sh -c "$5")"
	call CHECK "$1" <<<"$conf"
	call DEL "$1" <<<"$conf"
	call DEL "$1" <<<"$conf"
	echo "$1 $2 CHECK ok, DEL ok, in the pod: $(ip netns exec e2e-foreign sh -c "$5")"
}
export CNI_IFNAME=eth0
child=$(jq -n --argjson ipam "$ipam" '{cniVersion: "1.0.0", name: "e2e-foreign", type: "ipoib", master: "ibs5f0", ipam: $ipam}')
behind coordinator 1.0.0 "$(call ADD ipoib <<<"$child")" '{"mode":"auto"}' "ip -br link | grep -c ^veth0 || true"
call DEL ipoib <<<"$child"
rdma=$(jq -n --arg vf "$vf" '{cniVersion: "0.4.0", name: "e2e-foreign", type: "rdma", deviceID: $vf, prevResult: {cniVersion: "0.4.0", interfaces: [{name: "eth0", sandbox: "/run/netns/e2e-foreign"}], ips: []}}')
echo "rdma 0.4.0 ADD $(call ADD rdma <<<"$rdma" | jq -c '[.code, .msg]')" # it is for Ethernet, which has no RDMA here
CNI_COMMAND=VERSION call VERSION coordinator <<<'{"cniVersion":"1.0.0"}' | jq -c .supportedVersions
echo "no agent: $(SPIDERPOOL_SOCKET=/run/e2e-nothing CNI_IFNAME=ib0 call ADD ipoib <<<'{"cniVersion":"1.0.0","name":"x","type":"ipoib"}' | jq .code)"`

// TestForeignCallers shows that plugins of ours work in another's hands, alone and in a chain, in
// every version of the specification.
func TestForeignCallers(t *testing.T) {
	sriovSetup(t)
	apply(t, sriovPolicy("e2e-low", 2, 0, 1))
	eventually(t, configureLimit, func() string {
		return differs("allocatable", offered(t, lowVFs),
			every("2", lowVFs))
	})
	name := topology.Names()[0]
	before := look(t)
	got, err := term.Node(t.Context(), name, foreign)
	if err != nil {
		t.Fatalf("%s%v", got, err)
	}
	const want = `ipoib 0.3.1 ADD ["0.3.1","ib0",59,false,null,"172.96.0.2/24"]
ib0 172.96.0.2/24
ipoib 0.3.1 left: 1 link, 0 addresses
ipoib 0.4.0 ADD ["0.4.0","ib0",59,false,null,"172.96.0.3/24"]
ib0 172.96.0.3/24
ipoib 0.4.0 CHECK ok
ipoib 0.4.0 left: 1 link, 0 addresses
ipoib 1.0.0 ADD ["1.0.0","ib0",59,false,null,"172.96.0.4/24"]
ib0 172.96.0.4/24
ipoib 1.0.0 CHECK ok
ipoib 1.0.0 left: 1 link, 0 addresses
ib-sriov 1.1.0 ADD ["1.1.0","ib1",59,true,"PCI",null]
ib1 without an address
ib-sriov 1.1.0 CHECK ok
GC of all but [{"containerID":"e2e-foreign","ifname":"ib1"}]: 2 links
GC of all but []: 1 links
ib-sriov 1.1.0 left: 1 link, 0 addresses
coordinator 1.0.0 ADD ["1.0.0","eth0"], in the pod: 1
coordinator 1.0.0 CHECK ok, DEL ok, in the pod: 0
rdma 0.4.0 ADD [7,"PCI is InfiniBand: moving its RDMA device would take its network interface away"]
["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]
no agent: 11
`
	pci := strings.TrimSpace(node(t, name, `basename "$(readlink /sys/bus/pci/devices/`+secondCard+`/virtfn1)"`))
	if diff := differs("what the plugins answered", got, strings.ReplaceAll(want, "PCI", pci)); diff != "" {
		t.Error(diff)
	}
	eventually(t, configureLimit, func() string { return differs("left behind", look(t), before) })
}

// detectionNetwork has addresses of which the first is somebody's, and a gateway.
var detectionNetwork = documents(
	pool("e2e-97", "  subnet: 172.97.0.0/16\n  gateway: 172.97.0.1\n  ips: [172.97.0.10-172.97.0.12]\n"),
	network("e2e-detect", "  cniType: ipoib\n  ipoib: {master: ibs5f0, ippools: {ipv4: [e2e-97]}}\n"))

func detectionPod(node string) string {
	return pod{name: "detect", namespace: "e2e", node: node,
		annotations: map[string]string{defaultNetwork: "kube-system/e2e-detect"}}.manifest()
}

// TestDetection has another machine on the InfiniBand fabric use an address of a pool, which a pod
// is not given then; and a gateway that is silent first.
func TestDetection(t *testing.T) {
	sriovSetup(t)
	here, there := topology.Names()[0], topology.Names()[1]
	detection := func(on string) {
		upgrade(t, "--set ipam.enableIPConflictDetection="+on+",ipam.enableGatewayDetection="+on)
	}
	detection("true")
	t.Cleanup(func() {
		node(t, there,
			"sysctl -qw net.ipv4.conf.all.arp_ignore=0; ip addr del 172.97.0.10/16 dev ibs5f0 2>/dev/null; ip addr "+
				"del 172.97.0.1/16 dev ibs5f0 2>/dev/null; true")
		shell(t,
			"kubectl -n e2e delete pod detect --ignore-not-found --timeout=300s; kubectl -n kube-system delete "+
				"--ignore-not-found spidermultusconfig e2e-detect; kubectl delete --ignore-not-found "+
				"spiderippool e2e-97")
		detection("false")
	})
	// Else each of its cards answers for the address, and which one is first is chance.
	node(t, there, "sysctl -qw net.ipv4.conf.all.arp_ignore=1; ip addr add 172.97.0.10/16 dev ibs5f0")
	hw := strings.TrimSpace(node(t, there, "cat /sys/class/net/ibs5f0/address"))
	apply(t, detectionNetwork+detectionPod(here))
	told := func(reason, want string) {
		t.Helper()
		eventually(t, podLimit, func() string {
			notes := shell(t, "kubectl -n e2e get events --field-selector involvedObject.name=detect,reason="+reason+
				" -o jsonpath='{.items[*].message}'")
			if !strings.Contains(notes, want) {
				return fmt.Sprintf("events %s say %q, want %q", reason, notes, want)
			}
			return ""
		})
	}
	told("AddressConflict", "address 172.97.0.10 of pool e2e-97 is in use in its network, by "+hw)
	told("FailedAttach", "gateway 172.97.0.1 of pool e2e-97 does not answer on eth0")
	node(t, there, "ip addr add 172.97.0.1/16 dev ibs5f0")
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/detect")
	if out := shell(t, "kubectl -n e2e exec detect -- ip -br addr show eth0"); !strings.Contains(out,
		"172.97.0.11/16") && !strings.Contains(out, "172.97.0.12/16") {
		t.Errorf("the pod has %q, want an address that nobody uses", out)
	}
}
