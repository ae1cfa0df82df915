// SPDX-License-Identifier: Apache-2.0

package test

// Statuses of a field, an annotation or a key.
const (
	implemented  = "implemented"
	refused      = "refused"
	warned       = "warned"
	notSet       = "not set"
	refusedByAPI = "refused by the API server"
)

// answer is what becomes of a field.
type answer struct{ status, what string }

// row is a line of a table: on what, and which name.
type row struct {
	on, name string
	answer
}

// unread are the fields that are in the API, since users have them in their manifests, and do nothing.
var unread = map[string]answer{
	"SpiderMultusConfig.spec.ibsriov.pkey": {refused,
		"at admission, in the status of a stored one, and by the plugin at ADD: partitions are not implemented; an " +
			"empty text is none"},
	"SpiderIPPool.spec.ipVersion": {implemented,
		"filled in from the subnet, with which it must agree"},
	"SpiderReservedIP.spec.ipVersion": {implemented,
		"filled in from the first entry, with which all must agree"},
	"SpiderEndpoint.status.current.ips[].mac": {notSet,
		"the hardware address is in the pod's network-status"},
	"NetworkSelectionElement.ipam-claim-reference": {warned,
		"event AnnotationIgnored: the address comes from a pool"},
	"SriovNetworkNodePolicy.spec.needVhostNet": {warned, "pods do not get `/dev/vhost-net`"},
	"SriovNetworkNodeState.spec.interfaces[].name": {implemented,
		"written by the operator for whoever looks; the agent finds the card by pciAddress"},
	"SriovNetworkNodeState.spec.interfaces[].vfGroups[].vdpaType": {warned,
		"the policy's value, which is not applied"},
	"SriovNetworkNodeState.status.interfaces[].linkSpeed":             {notSet, ""},
	"SriovNetworkNodeState.status.interfaces[].eSwitchMode":           {notSet, "Ethernet"},
	"SriovNetworkNodeState.status.interfaces[].Vfs[].assigned":        {notSet, "`pod` names the user of the function"},
	"SriovNetworkNodeState.status.interfaces[].Vfs[].Vlan":            {notSet, "Ethernet"},
	"SriovNetworkNodeState.status.interfaces[].Vfs[].vdpaType":        {notSet, "Ethernet"},
	"SriovNetworkNodeState.status.interfaces[].Vfs[].representorName": {notSet, "Ethernet"},
	"SriovNetworkNodePolicy.spec.bridge": {implemented,
		"empty, as sriov-network-operator stores it: nothing"},
	"SriovNetworkNodePolicy.spec.bridge.ovs": {refusedByAPI, "Ethernet"},
	"SriovNetworkPoolConfig.spec.ovsHardwareOffloadConfig": {implemented,
		"empty, as sriov-network-operator stores it: nothing"},
	"SriovNetworkPoolConfig.spec.ovsHardwareOffloadConfig.name": {refusedByAPI, "Ethernet; an empty text is none"},
	"SriovOperatorConfig.spec.enableInjector": {warned,
		"when true: resources are not injected into pods"},
	"SriovOperatorConfig.spec.enableOperatorWebhook": {implemented,
		"policies and networks are always judged at admission, as `true` asks; `false` cannot be told from an " +
			"absent field"},
	"SriovOperatorConfig.spec.logLevel":          {warned, "the chart's value of this name counts"},
	"SriovOperatorConfig.spec.configurationMode": {warned, "when `systemd`: the agent configures the cards"},
	"SriovOperatorConfig.spec.useCDI": {warned,
		"when true: devices are given to containers without CDI"},
	"SriovOperatorConfig.spec.disablePlugins[]":    {warned, "the agent has no plugins to turn off"},
	"SriovOperatorConfig.spec.featureGates":        {warned, "when one is true: there are no feature gates"},
	"SriovOperatorConfig.spec.configDaemonEnvVars": {warned, "there is no config daemon"},
	"SpiderMultusConfig.spec.macvlan.rdmaResourceName": {warned,
		"resources are not injected into pods: request it in the pod's `resources.limits`"},
	"SpiderMultusConfig.spec.ipvlan.rdmaResourceName": {warned,
		"resources are not injected into pods: request it in the pod's `resources.limits`"},
	"SpiderMultusConfig.spec.vlan.rdmaResourceName": {warned,
		"resources are not injected into pods: request it in the pod's `resources.limits`"},
}

// readInPart are fields that code reads and of which some values are not served.
var readInPart = map[string]answer{
	"SriovNetworkNodePolicy.spec.nicSelector.netFilter": {warned,
		"it selects virtual cards of clouds, which are not supported: the policy selects nothing"},
	"SriovNetworkNodePolicy.spec.deviceType": {implemented,
		"netdevice; `vfio-pci` is warned of: its functions are made, but neither bound nor advertised"},
	"SriovNetworkNodePolicy.spec.vdpaType": {warned, "not applied; refused with `linkType: ib`"},
	"SriovNetworkNodePolicy.spec.eSwitchMode": {implemented,
		"legacy; `switchdev` is warned of, the card keeps its mode; refused with `linkType: ib`"},
}

// asJSON marks fields of an object that goes to a plugin as a whole.
const asJSON = "JSON"

// Functions of api that read a field for other packages: poolParser most of a pool's spec, networkTexts
// what becomes JSON in a network's configuration.
const (
	poolParser   = "api/spiderpool/v2beta1.ParseIPPoolSpec"
	networkTexts = "(*api/sriovnetwork/v1.SriovIBNetwork).Validate"
)

// passedOn are fields that no selector of product code outside the API's own rules names: they are
// part of an object that is written as JSON as a whole, or a function beside the rules reads them,
// whose name is given and which some product code must call.
var passedOn = map[string]string{
	"NetworkSelectionElement.portMappings[].protocol": asJSON, "NetworkSelectionElement.portMappings[].hostIP": asJSON,
	"NetworkSelectionElement.bandwidth.ingressRate": asJSON, "NetworkSelectionElement.bandwidth.ingressBurst": asJSON,
	"NetworkSelectionElement.bandwidth.egressRate": asJSON, "NetworkSelectionElement.bandwidth.egressBurst": asJSON,
	"SpiderMultusConfig.spec.macvlan.bond.mode": asJSON, "SpiderMultusConfig.spec.macvlan.bond.options": asJSON,
	"SpiderMultusConfig.spec.ipvlan.bond.mode": asJSON, "SpiderMultusConfig.spec.ipvlan.bond.options": asJSON,
	"SpiderMultusConfig.spec.vlan.bond.mode": asJSON, "SpiderMultusConfig.spec.vlan.bond.options": asJSON,
	"SpiderMultusConfig.spec.ovs.trunk[].minID": asJSON, "SpiderMultusConfig.spec.ovs.trunk[].maxID": asJSON,
	"SpiderMultusConfig.spec.ovs.trunk[].id": asJSON,
	"SpiderIPPool.spec.subnet":               poolParser, "SpiderIPPool.spec.gateway": poolParser,
	"SpiderIPPool.spec.ips[]": poolParser, "SpiderIPPool.spec.excludeIPs[]": poolParser,
	"SpiderIPPool.spec.routes[]":       poolParser,
	"SpiderMultusConfig.spec.cniType":  "(*api/spiderpool/v2beta1.MultusCNIConfigSpec).EffectiveCNIType",
	"SpiderReservedIP.spec.ips[]":      "api/spiderpool/v2beta1.ParseReservedIPSpec",
	"SriovIBNetwork.spec.capabilities": networkTexts, "SriovIBNetwork.spec.ipam": networkTexts,
	"SriovIBNetwork.spec.metaPlugins":      networkTexts,
	"SriovNetworkNodePolicy.spec.priority": "(*api/sriovnetwork/v1.SriovNetworkNodePolicySpec).PriorityOrDefault",
}

// absentKinds are kinds of Spiderpool and sriov-network-operator that are not installed.
var absentKinds = []row{
	{"", "SpiderSubnet", answer{refusedByAPI, "no pool is made on demand: make SpiderIPPools"}},
	{"", "SpiderClaimParameter", answer{refusedByAPI, "there is no DRA driver"}},
	{"", "SriovNetwork", answer{refusedByAPI, "Ethernet: make a SpiderMultusConfig with cniType sriov"}},
	{"", "OVSNetwork", answer{refusedByAPI, "Ethernet: make a SpiderMultusConfig with cniType ovs"}},
}

// labels have the same prefixes as annotations.
var labels = map[string]bool{"ipam.spidernet.io/ippool-cidr": true}

var annotations = []row{
	{"Pod", "v1.multus-cni.io/default-network", answer{implemented, "the network of `eth0`"}},
	{"Pod", "k8s.v1.cni.cncf.io/networks",
		answer{implemented, "further networks; see NetworkSelectionElement for the JSON form"}},
	{"Pod", "k8s.v1.cni.cncf.io/network-status", answer{implemented, "written by the agent"}},
	{"Pod", "ipam.spidernet.io/ippool", answer{implemented, "pools of the interface"}},
	{"Pod", "ipam.spidernet.io/ippools", answer{implemented, "pools by interface"}},
	{"Pod", "ipam.spidernet.io/routes", answer{implemented, "further routes"}},
	{"Pod", "ipam.spidernet.io/default-route-nic", answer{implemented, "the interface with the default route"}},
	{"Pod", "ipam.spidernet.io/subnet", answer{refused, "at ADD: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/subnets", answer{refused, "at ADD: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/ippool-ip-number", answer{warned, "event AnnotationIgnored: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/ippool-reclaim", answer{warned, "event AnnotationIgnored: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/dns",
		answer{warned, "event AnnotationIgnored: `spec.dnsPolicy` and `spec.dnsConfig` count"}},
	{"Pod, Namespace, SpiderMultusConfig", "cni.spidernet.io/rdma-resource-inject",
		answer{refused,
			"networks are not injected: a pod that names no network is refused at ADD; one that does, or whose " +
				"namespace has the annotation, gets event AnnotationIgnored; a SpiderMultusConfig a warning"}},
	{"Pod, Namespace, SpiderMultusConfig", "cni.spidernet.io/network-resource-inject",
		answer{refused, "as `rdma-resource-inject`"}},
	{"Namespace", "ipam.spidernet.io/default-ipv4-ippool", answer{implemented, "pools of the namespace's pods"}},
	{"Namespace", "ipam.spidernet.io/default-ipv6-ippool", answer{implemented, "pools of the namespace's pods"}},
	{"SpiderMultusConfig", "multus.spidernet.io/cr-name",
		answer{implemented, "name of the NetworkAttachmentDefinition"}},
	{"SpiderMultusConfig", "multus.spidernet.io/cni-version", answer{implemented, "`cniVersion` of the configuration"}},
	{"SpiderMultusConfig", "cni.spidernet.io/cniconfig-name", answer{implemented, "`name` of the configuration"}},
	{"NetworkAttachmentDefinition", "k8s.v1.cni.cncf.io/resourceName",
		answer{implemented, "the extended resource whose devices serve the network"}},
	{"NetworkAttachmentDefinition", "sriovnetwork.openshift.io/owner-ref",
		answer{implemented, "the SriovIBNetwork that it is made of"}},
	{"SriovNetworkNodeState", "sriovnetwork.openshift.io/desired-state",
		answer{implemented, "written by the operator"}},
	{"SriovNetworkNodeState", "sriovnetwork.openshift.io/current-state",
		answer{implemented, "written by the operator"}},
	{"Pod (`cni-args`)", "mellanox.infiniband.app",
		answer{implemented, "with `ibKubernetesEnabled`, ADD waits until it is `configured`"}},
}

// answeredKeys are keys that our plugins parse in order to refuse them.
var answeredKeys = map[string]answer{
	"ib-sriov.pkey":        {refused, "at ADD: partitions are not implemented; an empty text is none"},
	"ipoib.pkey":           {refused, "at ADD: partitions are not implemented; an empty text is none"},
	"ib-sriov.vfioPciMode": {refused, "at ADD when true: functions bound to vfio-pci are not supported"},
}
