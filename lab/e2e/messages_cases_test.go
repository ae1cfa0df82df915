// SPDX-License-Identifier: Apache-2.0

package e2e

// place is where the user looks first.
type place string

const (
	refused place = "kubectl's answer: refused"
	warned  place = "kubectl's answer: a warning, and the object is made"
	atPod   place = "the pod's events: FailedAttach"
)

// badInput is one thing that users get wrong, and what they are told.
type badInput struct {
	title    string // what is wrong, as a heading
	group    string // heading above it
	where    place
	manifest string // what is applied; for atPod the pod's metadata.annotations and resources, see pod
	pod      pod
	// message is the whole message, from the field on for kubectl's answers. Words in angle
	// brackets stand for what differs from run to run; see placeholders.
	message string
	remedy  string
}

// pod is what matters of a pod: its name, annotations and the number of VFs that it asks for.
type pod struct {
	name        string
	annotations map[string]string
	vfs         int // of the guide's resource
	// The rest is for tests of other things. namespace is badinput when it is empty, label the
	// value of label e2e, node where the pod is to run, and devices are resources of which it gets
	// one each.
	namespace, label, node string
	devices                []string
}

const (
	groupNetwork = "SpiderMultusConfig"
	groupPool    = "SpiderIPPool"
	groupPolicy  = "SriovNetworkNodePolicy"
	groupIB      = "SriovIBNetwork"
	groupPod     = "Pod"
)

// Keys of annotations that users write.
const (
	defaultNetwork = "v1.multus-cni.io/default-network"
	networks       = "k8s.v1.cni.cncf.io/networks"
	poolOf         = "ipam.spidernet.io/ippool"
	poolsOf        = "ipam.spidernet.io/ippools"
	routesOf       = "ipam.spidernet.io/routes"
	defaultRouteOf = "ipam.spidernet.io/default-route-nic"
)

// common is what the pods below refer to. All of it is good input.
const common = `
apiVersion: v1
kind: Namespace
metadata: {name: badinput}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: badinput-one}
spec: {subnet: 172.92.0.0/24, gateway: 172.92.0.1, ips: [172.92.0.100]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: badinput-disabled}
spec: {subnet: 172.92.1.0/24, ips: [172.92.1.100-172.92.1.120], disable: true}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: ib, namespace: badinput}
spec:
  cniType: ib-sriov
  ibsriov: {resourceName: spidernet.io/mellanoxibsriov, ippools: {ipv4: [v4-91]}}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: isolated, namespace: badinput}
spec:
  cniType: ib-sriov
  ibsriov: {resourceName: spidernet.io/mellanoxibsriov, rdmaIsolation: true, ippools: {ipv4: [v4-91]}}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: tcp, namespace: badinput}
spec:
  cniType: ipoib
  ipoib: {master: ibs5f0, ippools: {ipv4: [v4-91]}}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: no-master, namespace: badinput}
spec:
  cniType: ipoib
  ipoib: {master: ib9, ippools: {ipv4: [v4-91]}}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: no-pool, namespace: badinput}
spec:
  cniType: ipoib
  ipoib: {master: ibs5f0, ippools: {ipv4: [v4-92]}}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: disabled, namespace: badinput}
spec:
  cniType: ipoib
  ipoib: {master: ibs5f0, ippools: {ipv4: [badinput-disabled]}}
`

// goodPods run beside the bad ones: the first has the only address of a pool, the second shows that
// an explicit rdmaIsolation is right on a node in exclusive mode.
var goodPods = []pod{
	{name: "holder", annotations: map[string]string{defaultNetwork: "badinput/tcp",
		poolOf: `{"ipv4":["badinput-one"]}`}},
	{name: "isolated", annotations: map[string]string{defaultNetwork: "badinput/isolated"}, vfs: 1},
}

func network(name, spec string) string {
	return "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderMultusConfig\nmetadata:\n  name: " + name +
		"\n  namespace: kube-system\nspec:\n" + spec
}

func pool(name, spec string) string {
	return "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderIPPool\nmetadata:\n  name: " + name + "\nspec:\n" +
		spec
}

func policy(name, spec string) string {
	return "apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetworkNodePolicy\nmetadata:\n  name: " + name +
		"\n  namespace: kube-system\nspec:\n" + spec
}

func ibNetwork(name, spec string) string {
	return "apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovIBNetwork\nmetadata:\n  name: " + name +
		"\n  namespace: kube-system\nspec:\n" + spec
}

var badInputs = []badInput{
	{
		title: "Unknown cniType", group: groupNetwork, where: refused,
		manifest: network("bad", "  cniType: ibsriov\n  ibsriov:\n    resourceName: spidernet.io/mellanoxibsriov\n"),
		message:  `spec.cniType: Unsupported value: "ibsriov": supported values: "macvlan", "ipvlan", "vlan", "sriov", "ovs", "ib-sriov", "ipoib", "custom"`,
		remedy:   "Write one of the types that the message lists.",
	},
	{
		title: "Two stanzas", group: groupNetwork, where: refused,
		manifest: network("bad",
			"  cniType: ib-sriov\n  ibsriov:\n    resourceName: spidernet.io/mellanoxibsriov\n  ipoib:\n    master: "+
				"ibs5f0\n"),
		message: `spec: Forbidden: 2 stanzas are present, spec.ibsriov and spec.ipoib: want exactly one; spec.cniType is "ib-sriov": remove spec.ipoib`,
		remedy:  "Keep the stanza that cniType names.",
	},
	{
		title: "No stanza", group: groupNetwork, where: refused,
		manifest: network("bad", "  cniType: ib-sriov\n"),
		message:  `spec.ibsriov: Required value: spec.cniType is "ib-sriov" and no stanza is present: give spec.ibsriov`,
		remedy:   "Add the stanza.",
	},
	{
		title: "The stanza contradicts cniType", group: groupNetwork, where: warned,
		manifest: network("bad",
			"  cniType: ib-sriov\n  ipoib:\n    master: ibs5f0\n    ippools:\n      ipv4: [v4-91]\n"),
		message: `spec.cniType is "ib-sriov", but the only stanza is spec.ipoib and spec.ibsriov is absent: the stanza wins, and spec.cniType is taken as "ipoib"; write cniType: ipoib to be rid of this warning`,
		remedy:  "Nothing: the network is made as the stanza says. Write `cniType: ipoib` to be rid of the warning.",
	},
	{
		title: "No resourceName", group: groupNetwork, where: refused,
		manifest: network("bad", "  cniType: ib-sriov\n  ibsriov:\n    ippools:\n      ipv4: [v4-91]\n"),
		message: "spec.ibsriov.resourceName: Required value: want the extended resource with its prefix, such as " +
			"spidernet.io/mellanoxibsriov (`kubectl get node -o yaml` lists them under allocatable)",
		remedy: "Name the resource that the policy made, with its prefix.",
	},
	{
		title: "resourceName without its prefix", group: groupNetwork, where: refused,
		manifest: network("bad", "  cniType: ib-sriov\n  ibsriov:\n    resourceName: mellanoxibsriov\n"),
		message: "spec.ibsriov.resourceName: Invalid value: \"mellanoxibsriov\": has no prefix: want the extended " +
			"resource with its prefix, such as spidernet.io/mellanoxibsriov (`kubectl get node -o yaml` lists them " +
			"under allocatable)",
		remedy: "Write the prefix, `spidernet.io/` unless the installation sets another.",
	},
	{
		title: "Partition key", group: groupNetwork, where: refused,
		manifest: network("bad",
			"  cniType: ib-sriov\n  ibsriov:\n    resourceName: spidernet.io/mellanoxibsriov\n    pkey: \"0x8001\"\n"),
		message: "spec.ibsriov.pkey: Forbidden: partitions are not implemented, and the pod would be in the default " +
			"partition: remove the field",
		remedy: "Remove the field. An empty text, which Spiderpool's webhook writes, is none.",
	},
	{
		title: "Resource of a macvlan network", group: groupNetwork, where: warned,
		manifest: network("bad",
			"  cniType: macvlan\n  macvlan:\n    master: [eth0]\n    rdmaResourceName: spidernet.io/shared\n"),
		message: "spec.macvlan.rdmaResourceName has no effect: resources are not injected into pods; request " +
			"spidernet.io/shared in the pod's resources.limits",
		remedy: "Request the resource in the pods.",
	},
	{
		title: "No master", group: groupNetwork, where: refused,
		manifest: network("bad", "  cniType: ipoib\n  ipoib:\n    ippools:\n      ipv4: [v4-91]\n"),
		message: "spec.ipoib.master: Required value: want the name of an IPoIB interface of the node, such as " +
			"ibs5f0 (`ip -br link show type ipoib` lists them)",
		remedy: "Name the node's IPoIB interface.",
	},
	{
		title: "Gateway outside the subnet", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.93.0.0/16\n  gateway: 172.94.0.1\n  ips: [172.93.0.100-172.93.0.120]\n"),
		message:  `spec.gateway: Invalid value: "172.94.0.1": lies outside the subnet 172.93.0.0/16; use addresses from 172.93.0.0 to 172.93.255.255`,
		remedy:   "Correct the gateway or the subnet.",
	},
	{
		title: "Gateway inside the ranges", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.93.0.0/16\n  gateway: 172.93.0.110\n  ips: [172.93.0.100-172.93.0.120]\n"),
		message:  `spec.gateway: Invalid value: "172.93.0.110": is one of the addresses in spec.ips, so a pod could be given it; add 172.93.0.110 to spec.excludeIPs`,
		remedy:   "Exclude the gateway's address, or leave it out of the ranges.",
	},
	{
		title: "Range backwards", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.93.0.0/16\n  ips: [172.93.0.120-172.93.0.100]\n"),
		message:  `spec.ips[0]: Invalid value: "172.93.0.120-172.93.0.100": runs backwards; write 172.93.0.100-172.93.0.120`,
		remedy:   "Write the lower address first.",
	},
	{
		title: "Address outside the subnet", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.93.0.0/16\n  ips: [172.94.0.100-172.94.0.120]\n"),
		message:  `spec.ips[0]: Invalid value: "172.94.0.100-172.94.0.120": lies outside the subnet 172.93.0.0/16; use addresses from 172.93.0.0 to 172.93.255.255`,
		remedy:   "Correct the range or the subnet.",
	},
	{
		title: "Host bits in the subnet", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.93.0.1/16\n  ips: [172.93.0.100-172.93.0.120]\n"),
		message:  `spec.subnet: Invalid value: "172.93.0.1/16": has host bits set; write 172.93.0.0/16`,
		remedy:   "Write the subnet as the message does.",
	},
	{
		title: "Addresses of another pool", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.91.0.0/16\n  ips: [172.91.0.110-172.91.0.130]\n"),
		message: "spec.ips: Forbidden: 172.91.0.110-172.91.0.120 belong to pool v4-91 already; take them out of " +
			"one of the two pools",
		remedy: "Take the addresses out of one of the two pools.",
	},
	{
		title: "Subnet that overlaps another pool's", group: groupPool, where: refused,
		manifest: pool("bad", "  subnet: 172.91.4.0/24\n  ips: [172.91.4.100-172.91.4.120]\n"),
		message:  `spec.subnet: Invalid value: "172.91.4.0/24": overlaps the subnet 172.91.0.0/16 of pool v4-91; use that very subnet or one apart from it`,
		remedy:   "Use the other pool's subnet to the letter, or one apart from it.",
	},
	{
		title: "Addresses of nodes", group: groupPool, where: warned,
		manifest: pool("bad-nodes", "  subnet: 10.20.1.0/24\n  ips: [10.20.1.10-10.20.1.20]\n"),
		message: "spec.ips has 10.20.1.10, which is the address of node 10-20-1-10: a pod that is given it takes " +
			"the node's traffic; add it to spec.excludeIPs\n" +
			"spec.ips has 10.20.1.20, which is the address of node 10-20-1-20: a pod that is given it takes the " +
			"node's traffic; add it to spec.excludeIPs",
		remedy: "Exclude the addresses of nodes, in the pool or for all pools by a SpiderReservedIP.",
	},
	{
		title: "Pool without addresses", group: groupPool, where: warned,
		manifest: pool("bad-empty", "  subnet: 172.93.0.0/16\n"),
		message:  "spec.ips is empty: the pool gives out no address; add ranges of its subnet",
		remedy:   "Add ranges, if pods are to get addresses of the pool.",
	},
	{
		title: "numVfs above what the card supports", group: groupPolicy, where: refused,
		manifest: policy("bad",
			"  nodeSelector:\n    kubernetes.io/os: linux\n  resourceName: bad\n  priority: 90\n  numVfs: 64\n  "+
				"nicSelector:\n    vendor: \"15b3\"\n    rootDevices: [\"0000:86:00.0\"]\n"),
		message: "spec.numVfs: Invalid value: 64: card 0000:86:00.0 on node 10-20-1-10 supports at most 16; card " +
			"0000:86:00.0 on node 10-20-1-20 supports at most 16: lower numVfs, or raise the card's limit in its " +
			"firmware (NVIDIA: `mstconfig -d <pci> set SRIOV_EN=True NUM_OF_VFS=<n>`, then reboot)",
		remedy: "Lower numVfs, or have the card's firmware allow more.",
	},
	{
		title: "Policy that selects no card", group: groupPolicy, where: warned,
		manifest: policy("bad",
			"  nodeSelector:\n    kubernetes.io/os: linux\n  resourceName: bad\n  numVfs: 4\n  nicSelector:\n    "+
				"vendor: \"15b3\"\n    deviceID: \"1019\"\n"),
		message: "spec.nicSelector: selects no card on any node, so nothing happens until one fits; correct it by " +
			"what the nodes have\n" +
			"node 10-20-1-10 has 0000:86:00.0 (ibs5f0, 15b3:1017, at most 16 VFs): its deviceID is 1017, not 1019; " +
			"0000:87:00.0 (ibs6f0, 15b3:1017, at most 16 VFs): its deviceID is 1017, not 1019\n" +
			"node 10-20-1-20 has 0000:86:00.0 (ibs5f0, 15b3:1017, at most 16 VFs): its deviceID is 1017, not 1019; " +
			"0000:87:00.0 (ibs6f0, 15b3:1017, at most 16 VFs): its deviceID is 1017, not 1019",
		remedy: "Correct nicSelector by what the message says of each node.",
	},
	{
		title: "Policy that selects no node", group: groupPolicy, where: warned,
		manifest: policy("bad",
			"  nodeSelector:\n    kubernetes.io/os: beos\n  resourceName: bad\n  numVfs: 4\n  nicSelector:\n    "+
				"vendor: \"15b3\"\n"),
		message: "spec.nodeSelector: no node has kubernetes.io/os=beos, so nothing happens until one has; `kubectl " +
			"get nodes --show-labels` lists what they have",
		remedy: "Correct nodeSelector, or label the nodes.",
	},
	{
		title: "Two policies for the same VFs", group: groupPolicy, where: refused,
		manifest: policy("bad",
			"  nodeSelector:\n    kubernetes.io/os: linux\n  resourceName: bad\n  numVfs: 4\n  nicSelector:\n    "+
				"vendor: \"15b3\"\n"),
		message: `spec.nicSelector: Invalid value: "card 0000:86:00.0 on node 10-20-1-10: VFs 0-3 and 0-11": policy ib-sriov claims the same VFs at the same priority 99: give each policy its own range in pfNames (such as ibs5f0#0-5 and ibs5f0#6-11), other cards or nodes, or another priority (the smaller number wins)`,
		remedy:  "Divide the VFs by ranges in pfNames, or give one policy a lower priority number.",
	},
	{
		title: "PCI address without its domain", group: groupPolicy, where: refused,
		manifest: policy("bad",
			"  nodeSelector:\n    kubernetes.io/os: linux\n  resourceName: bad\n  numVfs: 4\n  nicSelector:\n    "+
				"rootDevices: [\"86:00.0\"]\n"),
		message: "spec.nicSelector.rootDevices[0]: Invalid value: \"86:00.0\": the PCI domain is missing: want " +
			"0000:86:00.0 (`lspci -D` prints it)",
		remedy: "Write the address as the message does.",
	},
	{
		title: "IPAM that is no JSON", group: groupIB, where: refused,
		manifest: ibNetwork("bad", "  resourceName: mellanoxibsriov\n  ipam: '{\"type\": spiderpool}'\n"),
		message:  `spec.ipam: Invalid value: "{\"type\": spiderpool}": line 1, column 10: invalid character 's' looking for beginning of value: want the JSON object that configures an IPAM plugin, such as {"type": "spiderpool"}`,
		remedy:   "Correct the text at the place that the message names.",
	},
	{
		title: "Meta plugins that are not separated", group: groupIB, where: refused,
		manifest: ibNetwork("bad",
			"  resourceName: mellanoxibsriov\n  metaPlugins: '{\"type\": \"coordinator\"} {\"type\": \"tuning\"}'\n"),
		message: `spec.metaPlugins: Invalid value: "{\"type\": \"coordinator\"} {\"type\": \"tuning\"}": line 1, column 25: invalid character '{' after array element: want JSON objects that configure plugins, separated by commas, such as {"type": "coordinator"}, {"type": "tuning"}`,
		remedy:  "Put a comma between the plugins.",
	},
	{
		title: "Resource with its prefix", group: groupIB, where: refused,
		manifest: ibNetwork("bad", "  resourceName: spidernet.io/mellanoxibsriov\n"),
		message:  `spec.resourceName: Invalid value: "spidernet.io/mellanoxibsriov": want a policy's resourceName, without a prefix: 1 to 63 letters, digits, '-' and '_', such as mellanoxibsriov`,
		remedy:   "Leave the prefix out; it is the product's.",
	},
	{
		title: "Network that does not exist", group: groupPod, where: atPod,
		pod: pod{name: "no-network", annotations: map[string]string{defaultNetwork: "kube-system/ibsriov"}},
		message: "NetworkAttachmentDefinition kube-system/ibsriov does not exist (the pod is in namespace " +
			"badinput); create it, or write the network as namespace/name in the pod's annotation; see kubectl get " +
			"network-attachment-definitions -A",
		remedy: "Create the network, or correct its name in the annotation.",
	},
	{
		title: "default-network that does not parse", group: groupPod, where: atPod,
		pod: pod{name: "default-unreadable",
			annotations: map[string]string{defaultNetwork: "kube-system/IB_SRIOV"}},
		message: `annotation v1.multus-cni.io/default-network: network 1: "kube-system/IB_SRIOV": name "IB_SRIOV": want lower-case letters, digits and '-', with a letter or digit at both ends`,
		remedy:  "Write `namespace/name`.",
	},
	{
		title: "default-network with two networks", group: groupPod, where: atPod,
		pod: pod{name: "default-two", annotations: map[string]string{defaultNetwork: "badinput/ib,badinput/tcp"}},
		message: "annotation v1.multus-cni.io/default-network names 2 networks: want exactly one; further networks " +
			"belong into annotation k8s.v1.cni.cncf.io/networks",
		remedy: "Move the second one to the other annotation.",
	},
	{
		title: "Networks by injection", group: groupPod, where: atPod,
		pod: pod{name: "injection",
			annotations: map[string]string{"cni.spidernet.io/rdma-resource-inject": "rdma-network"}},
		message: "annotation cni.spidernet.io/rdma-resource-inject: networks and resources are not injected into " +
			"pods: name the networks with annotation v1.multus-cni.io/default-network or " +
			"k8s.v1.cni.cncf.io/networks, and their resources in resources.limits",
		remedy: "Name the networks and request their resources; remove the annotation.",
	},
	{
		title: "networks that does not parse", group: groupPod, where: atPod,
		pod:     pod{name: "networks-unreadable", annotations: map[string]string{networks: `[{"name":"tcp"`}},
		message: `annotation k8s.v1.cni.cncf.io/networks: line 1, column 14: unexpected end of JSON input: want a JSON list such as [{"name":"ib-sriov"}], or a comma-separated list; found [{"name":"tcp"`,
		remedy:  "Correct the JSON, or write a comma-separated list.",
	},
	{
		title: "networks with a value of the wrong kind", group: groupPod, where: atPod,
		pod: pod{name: "networks-kind",
			annotations: map[string]string{networks: `[{"name":"tcp","ips":"172.91.0.100"}]`}},
		message: `annotation k8s.v1.cni.cncf.io/networks: network 1: key "ips" has a string: want a list of strings`,
		remedy:  "Write what the message wants.",
	},
	{
		title: "GUID that does not parse", group: groupPod, where: atPod,
		pod: pod{name: "guid-unreadable",
			annotations: map[string]string{networks: `[{"name":"ib","infiniband-guid":"02:00:5e:00:53:00:01"}]`},
			vfs:         1},
		message: `annotation k8s.v1.cni.cncf.io/networks, network 1: infiniband-guid: GUID "02:00:5e:00:53:00:01": want eight octets such as 02:00:5e:00:53:00:00:01`,
		remedy:  "Leave it out: every VF has a GUID.",
	},
	{
		title: "GUID that the VF does not have", group: groupPod, where: atPod,
		pod: pod{name: "guid-other",
			annotations: map[string]string{networks: `[{"name":"ib","infiniband-guid":"02:00:5e:00:53:00:00:01"}]`},
			vfs:         1},
		message: "attach network badinput/ib as net1: plugin ib-sriov: GUID 02:00:5e:00:53:00:00:01 is asked for " +
			"and VF <PCI address> has <GUID>: a VF keeps its GUID for good; remove the GUID from the pod's " +
			"annotation; the GUIDs of a node's VFs are in its SriovNetworkNodeState",
		remedy: "Leave it out: every VF has a GUID.",
	},
	{
		title: "ippool that does not parse", group: groupPod, where: atPod,
		pod: pod{name: "ippool-unreadable", annotations: map[string]string{defaultNetwork: "badinput/tcp",
			poolOf: `{"ipv4":"v4-91"}`}},
		message: `attach network badinput/tcp as eth0: plugin ipoib: ipam spiderpool: annotation ipam.spidernet.io/ippool: does not parse: ipv4 has a string: {"ipv4":"v4-91"}; want for example {"ipv4":["pool"],"ipv6":["pool"]}`,
		remedy:  "Write a list of names.",
	},
	{
		title: "ippools that leaves the interface out", group: groupPod, where: atPod,
		pod: pod{name: "ippools-interface", annotations: map[string]string{defaultNetwork: "badinput/tcp",
			poolsOf: `[{"interface":"net1","ipv4":["v4-91"]}]`}},
		message: "attach network badinput/tcp as eth0: plugin ipoib: ipam spiderpool: annotation " +
			"ipam.spidernet.io/ippools: interface eth0 is not listed (found net1); add an entry for it",
		remedy: "Add an entry for the interface.",
	},
	{
		title: "routes that do not parse", group: groupPod, where: atPod,
		pod: pod{name: "routes-unreadable", annotations: map[string]string{defaultNetwork: "badinput/tcp",
			routesOf: `[{"dst":"10.0.0.1/8","gw":"172.91.0.1"}]`}},
		message: `attach network badinput/tcp as eth0: plugin ipoib: ipam spiderpool: annotation ipam.spidernet.io/routes: entry 0: dst "10.0.0.1/8" has host bits set; write 10.0.0.0/8`,
		remedy:  "Write the route as the message does.",
	},
	{
		title: "default-route-nic names an interface that the pod does not have", group: groupPod, where: atPod,
		pod: pod{name: "default-route", annotations: map[string]string{defaultNetwork: "badinput/tcp",
			defaultRouteOf: "net1"}},
		message: `attach network badinput/tcp as eth0: plugin coordinator: annotation ipam.spidernet.io/default-route-nic is "net1", and the pod's interfaces are eth0; name one of them, or remove the annotation`,
		remedy:  "Name an interface of the pod, or attach the network that is to be net1.",
	},
	{
		title: "Resource not requested", group: groupPod, where: atPod,
		pod:     pod{name: "no-resource", annotations: map[string]string{defaultNetwork: "badinput/ib"}},
		message: `network badinput/ib needs a device of spidernet.io/mellanoxibsriov: the pod's networks need 1 and it was allocated 0; add "resources: {limits: {spidernet.io/mellanoxibsriov: 1}}" to a container of the pod`,
		remedy:  "Add the limit to a container, one for each attachment.",
	},
	{
		title: "Pool exhausted", group: groupPod, where: atPod,
		pod: pod{name: "exhausted", annotations: map[string]string{defaultNetwork: "badinput/tcp",
			poolOf: `{"ipv4":["badinput-one"]}`}},
		message: "attach network badinput/tcp as eth0: plugin ipoib: ipam spiderpool: no IPv4 address from " +
			"annotation ipam.spidernet.io/ippool: pool badinput-one has no free address: all 1 are in use; add " +
			"addresses to spec.ips, or delete pods",
		remedy: "Add addresses to the pool, or delete pods; the pod starts by itself then.",
	},
	{
		title: "Pool that does not exist", group: groupPod, where: atPod,
		pod:     pod{name: "no-pool", annotations: map[string]string{defaultNetwork: "badinput/no-pool"}},
		message: `attach network badinput/no-pool as eth0: plugin ipoib: ipam spiderpool: no IPv4 address from the network's configuration: pool v4-92 does not exist; see kubectl get spiderippools`,
		remedy:  "Create the pool, or correct its name in the SpiderMultusConfig.",
	},
	{
		title: "One pool of several does not exist", group: groupPod, where: atPod,
		pod: pod{name: "pools-missing", annotations: map[string]string{defaultNetwork: "badinput/tcp",
			poolOf: `{"ipv4":["v4-91","badinput-disabled","v4-92"]}`}},
		message: "attach network badinput/tcp as eth0: plugin ipoib: ipam spiderpool: no IPv4 address from " +
			"annotation ipam.spidernet.io/ippool: " +
			"pool v4-91 would be tried, but nothing is given out while a pool named beside it is missing; " +
			"pool badinput-disabled is disabled; set its spec.disable to false, or name another pool; pool v4-92 " +
			"does not exist; see kubectl get spiderippools",
		remedy: "Create the pool, or take its name out: a name that stands for nothing is a mistake, and the other " +
			"pools would hide it until they are full.",
	},
	{
		title: "Pool that is disabled", group: groupPod, where: atPod,
		pod: pod{name: "disabled", annotations: map[string]string{defaultNetwork: "badinput/disabled"}},
		message: "attach network badinput/disabled as eth0: plugin ipoib: ipam spiderpool: no IPv4 address from the " +
			"network's configuration: pool badinput-disabled is disabled; set its spec.disable to false, or name " +
			"another pool",
		remedy: "Enable the pool, or name another one.",
	},
	{
		title: "IPoIB master that does not exist", group: groupPod, where: atPod,
		pod: pod{name: "no-master", annotations: map[string]string{defaultNetwork: "badinput/no-master"}},
		message: "attach network badinput/no-master as eth0: plugin ipoib: master ib9 does not exist on this node; " +
			"the IPoIB interfaces of this node are ibs5f0=ibp134s0f0, ibs6f0=ibp135s0f0",
		remedy: "Name one of the interfaces that the message lists.",
	},
}
