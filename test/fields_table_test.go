// SPDX-License-Identifier: Apache-2.0

package test

// Statuses of a field, an annotation or a key.
const (
	implemented  = "implemented"
	refused      = "refused"
	warned       = "warned"
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
	"SpiderMultusConfig.spec.ibsriov.pkey":             {refused, "at admission, in the status of a stored one, and by the plugin at ADD: partitions are not implemented; an empty text is none"},
	"SpiderMultusConfig.spec.macvlan.rdmaResourceName": {warned, "resources are not injected into pods: request it in the pod's `resources.limits`"},
	"SpiderMultusConfig.spec.ipvlan.rdmaResourceName":  {warned, "resources are not injected into pods: request it in the pod's `resources.limits`"},
	"SpiderMultusConfig.spec.vlan.rdmaResourceName":    {warned, "resources are not injected into pods: request it in the pod's `resources.limits`"},
}

// passedOn are fields that are part of an object which is written as JSON as a whole; where is who reads it.
var passedOn = map[string]string{}

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
	{"Pod", "k8s.v1.cni.cncf.io/networks", answer{implemented, "further networks; see NetworkSelectionElement for the JSON form"}},
	{"Pod", "k8s.v1.cni.cncf.io/network-status", answer{implemented, "written by the agent"}},
	{"Pod", "ipam.spidernet.io/ippool", answer{implemented, "pools of the interface"}},
	{"Pod", "ipam.spidernet.io/ippools", answer{implemented, "pools by interface"}},
	{"Pod", "ipam.spidernet.io/routes", answer{implemented, "further routes"}},
	{"Pod", "ipam.spidernet.io/default-route-nic", answer{implemented, "the interface with the default route"}},
	{"Pod", "ipam.spidernet.io/subnet", answer{refused, "at ADD: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/subnets", answer{refused, "at ADD: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/ippool-ip-number", answer{warned, "event AnnotationIgnored: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/ippool-reclaim", answer{warned, "event AnnotationIgnored: no pool is made on demand"}},
	{"Pod", "ipam.spidernet.io/dns", answer{warned, "event AnnotationIgnored: `spec.dnsPolicy` and `spec.dnsConfig` count"}},
	{"Pod, Namespace, SpiderMultusConfig", "cni.spidernet.io/rdma-resource-inject", answer{refused, "networks are not injected: a pod that names no network is refused at ADD; one that does, or whose namespace has the annotation, gets event AnnotationIgnored; a SpiderMultusConfig a warning"}},
	{"Pod, Namespace, SpiderMultusConfig", "cni.spidernet.io/network-resource-inject", answer{refused, "as `rdma-resource-inject`"}},
	{"Namespace", "ipam.spidernet.io/default-ipv4-ippool", answer{implemented, "pools of the namespace's pods"}},
	{"Namespace", "ipam.spidernet.io/default-ipv6-ippool", answer{implemented, "pools of the namespace's pods"}},
	{"SpiderMultusConfig", "multus.spidernet.io/cr-name", answer{implemented, "name of the NetworkAttachmentDefinition"}},
	{"SpiderMultusConfig", "multus.spidernet.io/cni-version", answer{implemented, "`cniVersion` of the configuration"}},
	{"SpiderMultusConfig", "cni.spidernet.io/cniconfig-name", answer{implemented, "`name` of the configuration"}},
	{"NetworkAttachmentDefinition", "k8s.v1.cni.cncf.io/resourceName", answer{implemented, "the extended resource whose devices serve the network"}},
	{"NetworkAttachmentDefinition", "sriovnetwork.openshift.io/owner-ref", answer{implemented, "the SriovIBNetwork that it is made of"}},
	{"SriovNetworkNodeState", "sriovnetwork.openshift.io/desired-state", answer{implemented, "written by the operator"}},
	{"SriovNetworkNodeState", "sriovnetwork.openshift.io/current-state", answer{implemented, "written by the operator"}},
	{"Pod (`cni-args`)", "mellanox.infiniband.app", answer{implemented, "with `ibKubernetesEnabled`, ADD waits until it is `configured`"}},
}

// answeredKeys are keys that our plugins parse in order to refuse them.
var answeredKeys = map[string]answer{
	"ib-sriov.pkey":        {refused, "at ADD: partitions are not implemented; an empty text is none"},
	"ipoib.pkey":           {refused, "at ADD: partitions are not implemented; an empty text is none"},
	"ib-sriov.vfioPciMode": {refused, "at ADD when true: functions bound to vfio-pci are not supported"},
}
