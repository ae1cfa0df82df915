// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Types of the plugins that a configuration is made of, beside those that cniType names.
const (
	TypeIPAM        = "spiderpool"
	TypeCoordinator = "coordinator"
	TypeRDMA        = "rdma"
	typeIfacer      = "ifacer"
	typeTuning      = "tuning"
)

// ovsResourcePrefix and a bridge's name make the resource under which Open vSwitch's marker reports
// the bridge.
const ovsResourcePrefix = "ovs-cni.network.kubevirt.io/"

// lastApplied describes the SpiderMultusConfig; on the NetworkAttachmentDefinition it would mislead
// kubectl apply.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// confList is a CNI network configuration list.
type confList struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

type ipamConf struct {
	Type              string   `json:"type"`
	IPv4Pools         []string `json:"default_ipv4_ippool,omitempty"`
	IPv6Pools         []string `json:"default_ipv6_ippool,omitempty"`
	MatchMasterSubnet bool     `json:"match_master_subnet,omitempty"`
}

// ibSriovConf leaves rdmaIsolation out where the SpiderMultusConfig does: then the node's RDMA mode
// decides at attach time.
type ibSriovConf struct {
	Type                string          `json:"type"`
	LinkState           string          `json:"link_state"`
	RDMAIsolation       *bool           `json:"rdmaIsolation,omitempty"`
	IBKubernetesEnabled bool            `json:"ibKubernetesEnabled"`
	Capabilities        map[string]bool `json:"capabilities,omitempty"`
	IPAM                *ipamConf       `json:"ipam,omitempty"`
}

type ipoibConf struct {
	Type         string          `json:"type"`
	Master       string          `json:"master"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	IPAM         *ipamConf       `json:"ipam,omitempty"`
}

// masterConf is macvlan, ipvlan and vlan.
type masterConf struct {
	Type         string          `json:"type"`
	Master       string          `json:"master"`
	Mode         string          `json:"mode,omitempty"`
	VlanMode     string          `json:"vlanMode,omitempty"`
	VlanID       *int32          `json:"vlanId,omitempty"`
	MTU          int32           `json:"mtu,omitempty"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	IPAM         *ipamConf       `json:"ipam,omitempty"`
}

type ifacerConf struct {
	Type       string              `json:"type"`
	Interfaces []string            `json:"interfaces"`
	VlanID     int32               `json:"vlanID,omitempty"`
	Bond       *v2beta1.BondConfig `json:"bond,omitempty"`
}

type sriovConf struct {
	Type         string          `json:"type"`
	Vlan         *int32          `json:"vlan,omitempty"`
	MinTxRate    *int            `json:"min_tx_rate,omitempty"`
	MaxTxRate    *int            `json:"max_tx_rate,omitempty"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	IPAM         *ipamConf       `json:"ipam,omitempty"`
}

type ovsConf struct {
	Type         string           `json:"type"`
	Bridge       string           `json:"bridge"`
	Vlan         *int32           `json:"vlan,omitempty"`
	Trunk        []*v2beta1.Trunk `json:"trunk,omitempty"`
	DeviceID     string           `json:"deviceID,omitempty"`
	Capabilities map[string]bool  `json:"capabilities,omitempty"`
	IPAM         *ipamConf        `json:"ipam,omitempty"`
}

type tuningConf struct {
	Type string `json:"type"`
	MTU  int32  `json:"mtu"`
}

type typeOnly struct {
	Type string `json:"type"`
}

// coordinatorConf holds what a network sets itself; all else comes from the SpiderCoordinator.
// The default-route key ends in "Nic" here and in "NIC" in the objects.
type coordinatorConf struct {
	Type               string          `json:"type"`
	Mode               *string         `json:"mode,omitempty"`
	TunePodRoutes      *bool           `json:"tunePodRoutes,omitempty"`
	TxQueueLen         *int            `json:"txQueueLen,omitempty"`
	VethLinkAddress    *string         `json:"vethLinkAddress,omitempty"`
	VethMTU            *int            `json:"vethMTU,omitempty"`
	PodMACPrefix       *string         `json:"podMACPrefix,omitempty"`
	PodDefaultRouteNIC *string         `json:"podDefaultRouteNic,omitempty"`
	PodRPFilter        *int            `json:"podRPFilter,omitempty"`
	HostRuleTable      *int            `json:"hostRuleTable,omitempty"`
	HijackCIDR         []string        `json:"hijackCIDR,omitempty"`
	PolicyRoutes       []v2beta1.Route `json:"policyRoutes,omitempty"`
}

// Render makes the NetworkAttachmentDefinition of a network: name, namespace,
// annotations and spec, without an owner. The configuration is one line of
// JSON whose plugins stand in the order ifacer, main plugin, rdma, the chained
// ones as given, coordinator, tuning.
func Render(c *v2beta1.SpiderMultusConfig) (*cncfv1.NetworkAttachmentDefinition, error) {
	out := &cncfv1.NetworkAttachmentDefinition{
		TypeMeta: metav1.TypeMeta{APIVersion: cncfv1.GroupVersion.String(), Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: metav1.ObjectMeta{
			Name: c.NADName(), Namespace: c.Namespace,
			Annotations: annotations(c),
		},
	}
	if c.Spec.EffectiveCNIType() == v2beta1.CustomCNI {
		if c.Spec.CustomCNIConfig != nil {
			out.Spec.Config = *c.Spec.CustomCNIConfig
		}
		return out, nil
	}
	if errs := c.Spec.Unimplemented(); len(errs) > 0 {
		return nil, fmt.Errorf("rendering SpiderMultusConfig %s/%s: %w", c.Namespace, c.Name, errs.ToAggregate())
	}
	plugins, err := chain(&c.Spec)
	if err != nil {
		return nil, fmt.Errorf("rendering SpiderMultusConfig %s/%s: %w", c.Namespace, c.Name, err)
	}
	list := confList{CNIVersion: v2beta1.DefaultCNIVersion, Name: out.Name, Plugins: plugins}
	if v := c.Annotations[v2beta1.AnnotationMultusConfigCNIVersion]; v != "" {
		list.CNIVersion = v
	}
	if name := c.Annotations[v2beta1.AnnotationCNIConfigName]; name != "" {
		list.Name = name
	}
	config, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("rendering SpiderMultusConfig %s/%s: %w", c.Namespace, c.Name, err)
	}
	out.Spec.Config = string(config)
	return out, nil
}

func annotations(c *v2beta1.SpiderMultusConfig) map[string]string {
	a := map[string]string{}
	maps.Copy(a, c.Annotations)
	delete(a, lastApplied)
	if resource := resourceName(&c.Spec); resource != "" {
		a[cncfv1.AnnotationResourceName] = resource
	}
	return a
}

// resourceName is the extended resource whose devices serve the network, "" when it needs none.
func resourceName(s *v2beta1.MultusCNIConfigSpec) string {
	switch cniType := s.EffectiveCNIType(); {
	case cniType == v2beta1.IBSriovCNI && s.IbSriovConfig != nil:
		return deref(s.IbSriovConfig.ResourceName)
	case cniType == v2beta1.SriovCNI && s.SriovConfig != nil:
		return deref(s.SriovConfig.ResourceName)
	case cniType == v2beta1.OvsCNI && s.OvsConfig != nil && s.OvsConfig.DeviceID != "":
		return ovsResourcePrefix + s.OvsConfig.BrName
	}
	return ""
}

func chain(s *v2beta1.MultusCNIConfigSpec) ([]any, error) {
	plugins, err := mainPlugins(s)
	if err != nil {
		return nil, err
	}
	for i, text := range s.ChainCNIJsonData {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(text)); err != nil {
			return nil, fmt.Errorf("spec.chainCNIJsonData[%d]: want a JSON object: %w", i, err)
		}
		plugins = append(plugins, json.RawMessage(compact.Bytes()))
	}
	if s.EnableCoordinator == nil || *s.EnableCoordinator {
		plugins = append(plugins, coordinator(s.CoordinatorConfig))
	}
	if s.SriovConfig != nil && deref(s.SriovConfig.MTU) > 0 {
		plugins = append(plugins, tuningConf{Type: typeTuning, MTU: *s.SriovConfig.MTU})
	}
	return plugins, nil
}

// mainPlugins are the plugins that the stanza stands for: the main one, with ifacer before or rdma
// after it where needed.
func mainPlugins(s *v2beta1.MultusCNIConfigSpec) ([]any, error) {
	cniType := s.EffectiveCNIType()
	switch {
	case cniType == v2beta1.IBSriovCNI && s.IbSriovConfig != nil:
		return []any{ibSriov(s)}, nil
	case cniType == v2beta1.IPoIBCNI && s.IpoibConfig != nil:
		c := s.IpoibConfig
		return []any{ipoibConf{Type: v2beta1.IPoIBCNI, Master: c.Master, Capabilities: takes(s),
			IPAM: ipam(s, c.SpiderpoolConfigPools)}}, nil
	case cniType == v2beta1.MacvlanCNI && s.MacvlanConfig != nil:
		c := s.MacvlanConfig
		conf := masterConf{Type: cniType, Mode: "bridge", MTU: deref(c.MTU), Capabilities: takes(s, "mac"),
			IPAM: ipam(s, c.SpiderpoolConfigPools)}
		return onMaster(conf, c.Master, c.Bond, deref(c.VlanID)), nil
	case cniType == v2beta1.IPVlanCNI && s.IPVlanConfig != nil:
		c := s.IPVlanConfig
		conf := masterConf{Type: cniType, MTU: deref(c.MTU), Capabilities: takes(s),
			IPAM: ipam(s, c.SpiderpoolConfigPools)}
		return onMaster(conf, c.Master, c.Bond, deref(c.VlanID)), nil
	case cniType == v2beta1.VlanCNI && s.VlanConfig != nil:
		c := s.VlanConfig
		conf := masterConf{Type: cniType, VlanMode: deref(c.VlanMode), VlanID: c.VlanID, MTU: deref(c.MTU),
			Capabilities: takes(s), IPAM: ipam(s, c.SpiderpoolConfigPools)}
		// The vlan plugin makes the VLAN itself: ifacer makes at most the bond below it.
		return onMaster(conf, c.Master, c.Bond, 0), nil
	case cniType == v2beta1.SriovCNI && s.SriovConfig != nil:
		return sriov(s), nil
	case cniType == v2beta1.OvsCNI && s.OvsConfig != nil:
		c := s.OvsConfig
		return []any{ovsConf{Type: cniType, Bridge: c.BrName, Vlan: c.VlanTag, Trunk: c.Trunk, DeviceID: c.DeviceID,
			Capabilities: takes(s, "mac"), IPAM: ipam(s, c.SpiderpoolConfigPools)}}, nil
	}
	return nil, fmt.Errorf("cniType %q has no stanza of its own", cniType)
}

func ibSriov(s *v2beta1.MultusCNIConfigSpec) ibSriovConf {
	c := s.IbSriovConfig
	conf := ibSriovConf{
		Type: v2beta1.IBSriovCNI, LinkState: deref(c.LinkState),
		RDMAIsolation: c.RdmaIsolation, IBKubernetesEnabled: deref(c.IbKubernetesEnabled),
		Capabilities: takes(s, "infinibandGUID"),
		IPAM:         ipam(s, c.SpiderpoolConfigPools),
	}
	if conf.LinkState == "" {
		conf.LinkState = v2beta1.DefaultLinkState
	}
	return conf
}

func sriov(s *v2beta1.MultusCNIConfigSpec) []any {
	c := s.SriovConfig
	plugins := []any{sriovConf{
		Type: v2beta1.SriovCNI, Vlan: c.VlanID, MinTxRate: c.MinTxRateMbps, MaxTxRate: c.MaxTxRateMbps,
		Capabilities: takes(s, "mac"), IPAM: ipam(s, c.SpiderpoolConfigPools),
	}}
	if deref(c.RdmaIsolation) {
		plugins = append(plugins, typeOnly{TypeRDMA})
	}
	return plugins
}

// onMaster puts a plugin on the interface that its masters, bond and VLAN make together.
func onMaster(conf masterConf, masters []string, bond *v2beta1.BondConfig, vlan int32) []any {
	if bond != nil {
		conf.Master = bond.Name
	} else if len(masters) > 0 {
		conf.Master = masters[0]
	}
	if bond == nil && vlan == 0 {
		return []any{conf}
	}
	if vlan > 0 {
		conf.Master = fmt.Sprintf("%s.%d", conf.Master, vlan)
	}
	return []any{ifacerConf{Type: typeIfacer, Interfaces: masters, VlanID: vlan, Bond: bond}, conf}
}

// takes declares which wishes of a pod reach the main plugin: those that it knows itself, and an
// address if our IPAM is to give one.
func takes(s *v2beta1.MultusCNIConfigSpec, own ...string) map[string]bool {
	if !deref(s.DisableIPAM) {
		own = append(own, "ips")
	}
	all := map[string]bool{}
	for _, capability := range own {
		all[capability] = true
	}
	return all
}

func ipam(s *v2beta1.MultusCNIConfigSpec, pools *v2beta1.SpiderpoolPools) *ipamConf {
	if deref(s.DisableIPAM) {
		return nil
	}
	conf := &ipamConf{Type: TypeIPAM}
	if pools != nil {
		conf.IPv4Pools, conf.IPv6Pools = pools.IPv4IPPool, pools.IPv6IPPool
		// The device tells which interface is the physical one, and an IPoIB child has no device.
		conf.MatchMasterSubnet = deref(pools.MatchMasterSubnet) && s.EffectiveCNIType() != v2beta1.IPoIBCNI
	}
	return conf
}

func coordinator(c *v2beta1.CoordinatorSpec) coordinatorConf {
	conf := coordinatorConf{Type: TypeCoordinator}
	if c == nil {
		return conf
	}
	conf.Mode, conf.TunePodRoutes, conf.TxQueueLen = c.Mode, c.TunePodRoutes, c.TxQueueLen
	conf.VethLinkAddress, conf.VethMTU = c.VethLinkAddress, c.VethMTU
	conf.PodMACPrefix, conf.PodDefaultRouteNIC = c.PodMACPrefix, c.PodDefaultRouteNIC
	conf.PodRPFilter, conf.HostRuleTable = c.PodRPFilter, c.HostRuleTable
	conf.HijackCIDR, conf.PolicyRoutes = c.HijackCIDR, c.PolicyRoutes
	return conf
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
