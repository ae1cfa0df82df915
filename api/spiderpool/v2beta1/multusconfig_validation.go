// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CNIVersions are the versions of the CNI specification that a configuration may ask for.
var CNIVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// cniNetworkName is the CNI specification's rule for the name of a network.
var cniNetworkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// maxLinkName is ALTIFNAMSIZ-1: masters may be given by alternative name (linux/if.h).
const maxLinkName = 127

// ValidateMultusConfig checks a defaulted configuration by itself, without
// looking at other objects. Warnings are for what is allowed and yet probably not meant.
func ValidateMultusConfig(c *SpiderMultusConfig) (errs field.ErrorList, warnings []string) {
	errs = append(errs, validateMultusAnnotations(c)...)
	s := &c.Spec
	stanza, stanzaErrs := validateStanzaCount(s)
	errs = append(errs, stanzaErrs...)
	if len(stanzaErrs) == 0 {
		errs = append(errs, validateStanza(s, stanza)...)
	}
	errs = append(errs, validateChain(s)...)
	if s.CoordinatorConfig != nil {
		errs = append(errs, ValidateCoordinatorSpec(s.CoordinatorConfig, specPath("coordinator"))...)
	}
	return errs, multusWarnings(c, stanza)
}

// ValidateMultusConfigUpdate checks what may not change, beside ValidateMultusConfig of the new object.
func ValidateMultusConfigUpdate(before, after *SpiderMultusConfig) field.ErrorList {
	path := field.NewPath("metadata", "annotations").Key(AnnotationMultusConfigNADName)
	was, had := before.Annotations[AnnotationMultusConfigNADName]
	is, has := after.Annotations[AnnotationMultusConfigNADName]
	switch {
	case was == is && had == has:
		return nil
	case !had:
		return field.ErrorList{field.Invalid(path, is, "cannot be added after creation, pods may already name "+
			before.NADName()+": delete the object and create it anew")}
	default:
		return field.ErrorList{field.Invalid(path, is,
			fmt.Sprintf("is immutable, pods may already name %s: put %q back, or delete the object and create it anew",
				before.NADName(), was))}
	}
}

// validateStanzaCount finds the one stanza; cniType custom alone may have none, and then names a
// file on the node.
func validateStanzaCount(s *MultusCNIConfigSpec) (cniStanza, field.ErrorList) {
	cniType := s.EffectiveCNIType()
	wanted, known := stanzaOf(cniType)
	if !known {
		return cniStanza{}, field.ErrorList{field.NotSupported(specPath("cniType"), cniType, knownCNITypes())}
	}
	found := s.stanzas()
	switch {
	case len(found) == 1, len(found) == 0 && cniType == CustomCNI:
		return wanted, nil
	case len(found) == 0:
		return wanted, field.ErrorList{field.Required(specPath(wanted.field),
			fmt.Sprintf("spec.cniType is %q and no stanza is present: give spec.%s", cniType, wanted.field))}
	}
	return wanted, field.ErrorList{field.Forbidden(specPath(), tooManyStanzas(cniType, wanted, found))}
}

func tooManyStanzas(cniType string, wanted cniStanza, found []cniStanza) string {
	msg := fmt.Sprintf("%d stanzas are present, %s: want exactly one; spec.cniType is %q: ", len(found),
		listFields(found, " and "), cniType)
	others := slices.DeleteFunc(slices.Clone(found), func(st cniStanza) bool { return st.field == wanted.field })
	if len(others) == len(found) {
		return msg + fmt.Sprintf("give spec.%s and remove %s, or keep one of them and set cniType to match",
			wanted.field, listFields(found, " and "))
	}
	return msg + "remove " + listFields(others, " and ")
}

func knownCNITypes() []string {
	var types []string
	for _, st := range cniStanzas {
		types = append(types, st.cniType)
	}
	return types
}

func validateStanza(s *MultusCNIConfigSpec, stanza cniStanza) field.ErrorList {
	path := specPath(stanza.field)
	switch stanza.cniType {
	case MacvlanCNI:
		m := s.MacvlanConfig
		return validateMasterStanza(path, masterStanza{m.Master, m.Bond, m.MTU, m.VlanID, m.SpiderpoolConfigPools})
	case IPVlanCNI:
		m := s.IPVlanConfig
		return validateMasterStanza(path, masterStanza{m.Master, m.Bond, m.MTU, m.VlanID, m.SpiderpoolConfigPools})
	case VlanCNI:
		return validateVlan(path, s.VlanConfig)
	case SriovCNI:
		return validateSriov(path, s.SriovConfig)
	case OvsCNI:
		return validateOvs(path, s.OvsConfig)
	case IBSriovCNI:
		return validateIBSriov(path, s)
	case IPoIBCNI:
		return validateIPoIB(path, s.IpoibConfig)
	default:
		return validateCustom(path, s.CustomCNIConfig)
	}
}

func validateIBSriov(path *field.Path, s *MultusCNIConfigSpec) field.ErrorList {
	c := s.IbSriovConfig
	errs := validateResourceName(path.Child("resourceName"), c.ResourceName)
	errs = append(errs, refusePKey(path.Child("pkey"), c.Pkey)...)
	if states := []string{"auto", "enable", "disable"}; c.LinkState != nil && !slices.Contains(states, *c.LinkState) {
		errs = append(errs, field.NotSupported(path.Child("linkState"), *c.LinkState, states))
	}
	isolated := c.RdmaIsolation == nil || *c.RdmaIsolation
	for i, text := range s.ChainCNIJsonData {
		if t, err := pluginType(text); err == nil && t == "rdma" && isolated {
			errs = append(errs, field.Forbidden(specPath("chainCNIJsonData").Index(i),
				`the rdma plugin would move the RDMA device a second time: remove it, ib-sriov isolates by itself; or set spec.ibsriov.rdmaIsolation to false`))
		}
	}
	return append(errs, validatePools(path.Child("ippools"), c.SpiderpoolConfigPools)...)
}

// pkeyRefused is of the webhook alone: a rule in the CRD would make the API server add a line on
// unchecked rules to every other refusal.
const pkeyRefused = "partitions are not implemented, and the pod would be in the default partition: remove the field"

// refusePKey: a network that isolates tenants by partition must not silently put them into one.
// Spiderpool's webhook writes an empty text where the user wrote nothing.
func refusePKey(path *field.Path, pkey *string) field.ErrorList {
	if pkey == nil || *pkey == "" {
		return nil
	}
	return field.ErrorList{field.Forbidden(path, pkeyRefused)}
}

// Unimplemented refuses what a stored network asks for and nothing does: it may be older than the rule.
func (s *MultusCNIConfigSpec) Unimplemented() field.ErrorList {
	if s.IbSriovConfig == nil {
		return nil
	}
	return refusePKey(specPath("ibsriov", "pkey"), s.IbSriovConfig.Pkey)
}

func validateIPoIB(path *field.Path, c *SpiderIPoIBCniConfig) field.ErrorList {
	errs := validateMasterName(path.Child("master"), c.Master,
		"the name of an IPoIB interface of the node, such as ibs5f0 (`ip -br link show type ipoib` lists them)")
	return append(errs, validatePools(path.Child("ippools"), c.SpiderpoolConfigPools)...)
}

func validateSriov(path *field.Path, c *SpiderSRIOVCniConfig) field.ErrorList {
	errs := validateResourceName(path.Child("resourceName"), c.ResourceName)
	errs = append(errs, validateRange(path.Child("mtu"), c.MTU, 1<<16)...)
	errs = append(errs, validateRange(path.Child("vlanID"), c.VlanID, 4094)...)
	if c.MinTxRateMbps != nil && c.MaxTxRateMbps != nil && *c.MinTxRateMbps > *c.MaxTxRateMbps {
		errs = append(errs, field.Invalid(path.Child("minTxRateMbps"), *c.MinTxRateMbps,
			fmt.Sprintf("must not be above maxTxRateMbps, which is %d", *c.MaxTxRateMbps)))
	}
	return append(errs, validatePools(path.Child("ippools"), c.SpiderpoolConfigPools)...)
}

func validateOvs(path *field.Path, c *SpiderOvsCniConfig) field.ErrorList {
	errs := validateMasterName(path.Child("bridge"), c.BrName, "the name of an Open vSwitch bridge of the node")
	errs = append(errs, validateRange(path.Child("vlan"), c.VlanTag, 4094)...)
	for i, t := range c.Trunk {
		p := path.Child("trunk").Index(i)
		switch {
		case t == nil:
			errs = append(errs, field.Required(p, "want an id, or minID and maxID"))
		case t.MinID != nil && t.MaxID != nil && *t.MinID > *t.MaxID:
			errs = append(errs, field.Invalid(p.Child("minID"), *t.MinID,
				fmt.Sprintf("must not be above maxID, which is %d", *t.MaxID)))
		}
	}
	return append(errs, validatePools(path.Child("ippools"), c.SpiderpoolConfigPools)...)
}

// masterStanza is what macvlan, ipvlan and vlan have in common.
type masterStanza struct {
	master      []string
	bond        *BondConfig
	mtu, vlanID *int32
	pools       *SpiderpoolPools
}

func validateMasterStanza(path *field.Path, c masterStanza) field.ErrorList {
	errs := validateMasters(path, c.master, c.bond)
	errs = append(errs, validateRange(path.Child("mtu"), c.mtu, 1<<16)...)
	errs = append(errs, validateRange(path.Child("vlanID"), c.vlanID, 4094)...)
	errs = append(errs, validatePools(path.Child("ippools"), c.pools)...)
	if c.pools.matchesMaster() {
		errs = append(errs, field.Invalid(path.Child("ippools", "matchMasterSubnet"), true,
			"is only for sriov, ib-sriov and ovs networks: remove it"))
	}
	return errs
}

func (p *SpiderpoolPools) matchesMaster() bool {
	return p != nil && p.MatchMasterSubnet != nil && *p.MatchMasterSubnet
}

func validateVlan(path *field.Path, c *SpiderVlanCniConfig) field.ErrorList {
	errs := validateMasterStanza(path, masterStanza{c.Master, c.Bond, c.MTU, c.VlanID, c.SpiderpoolConfigPools})
	mode := VlanModeManual
	if c.VlanMode != nil {
		mode = *c.VlanMode
	}
	switch {
	case mode != VlanModeManual && mode != VlanModeAuto:
		errs = append(errs, field.NotSupported(path.Child("vlanMode"), mode, []string{VlanModeManual, VlanModeAuto}))
	case mode == VlanModeManual && c.VlanID == nil:
		errs = append(errs, field.Required(path.Child("vlanID"),
			`vlanMode is "manual": give the VLAN, 0 to 4094, or set vlanMode to "auto"`))
	case mode == VlanModeAuto && c.VlanID != nil:
		errs = append(errs, field.Invalid(path.Child("vlanID"), *c.VlanID,
			`vlanMode is "auto", which finds the VLAN by itself: remove vlanID, or set vlanMode to "manual"`))
	}
	return errs
}

func validateMasters(path *field.Path, masters []string, bond *BondConfig) field.ErrorList {
	var errs field.ErrorList
	if len(masters) == 0 {
		return field.ErrorList{field.Required(path.Child("master"), "want the name of an interface of the node")}
	}
	for i, m := range masters {
		errs = append(errs, validateMasterName(path.Child("master").Index(i), m,
			"the name of an interface of the node")...)
		if slices.Index(masters, m) < i {
			errs = append(errs, field.Duplicate(path.Child("master").Index(i), m))
		}
	}
	switch {
	case bond == nil && len(masters) > 1:
		errs = append(errs, field.Required(path.Child("bond"),
			fmt.Sprintf("master names %d interfaces: give bond.name and bond.mode to join them, or keep one interface",
				len(masters))))
	case bond != nil && bond.Name == "":
		errs = append(errs, field.Required(path.Child("bond", "name"), "want the name of the bond interface to make"))
	case bond != nil && (bond.Mode < 0 || bond.Mode > 6):
		errs = append(errs, field.Invalid(path.Child("bond", "mode"), bond.Mode, "want 0 to 6"))
	}
	return errs
}

func validateMasterName(path *field.Path, name, want string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "want "+want)}
	}
	if len(name) > maxLinkName || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\r\n") {
		return field.ErrorList{field.Invalid(path, name, "want "+want)}
	}
	return nil
}

// validateRange refuses a number below zero or above high; nil is fine.
func validateRange(path *field.Path, v *int32, high int32) field.ErrorList {
	if v != nil && (*v < 0 || *v > high) {
		return field.ErrorList{field.Invalid(path, *v, fmt.Sprintf("want 0 to %d", high))}
	}
	return nil
}

func validateResourceName(path *field.Path, name *string) field.ErrorList {
	const want = "want the extended resource with its prefix, such as spidernet.io/mellanoxibsriov (`kubectl get " +
		"node -o yaml` lists them under allocatable)"
	if name == nil || *name == "" {
		return field.ErrorList{field.Required(path, want)}
	}
	if problems := validation.IsQualifiedName(*name); len(problems) > 0 {
		return field.ErrorList{field.Invalid(path, *name, want+"; "+strings.Join(problems, "; "))}
	}
	if !strings.Contains(*name, "/") {
		return field.ErrorList{field.Invalid(path, *name, "has no prefix: "+want)}
	}
	return nil
}

func validatePools(path *field.Path, p *SpiderpoolPools) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validatePoolNames(path.Child("ipv4"), p.IPv4IPPool)
	return append(errs, validatePoolNames(path.Child("ipv6"), p.IPv6IPPool)...)
}

func validatePoolNames(path *field.Path, names []string) field.ErrorList {
	var errs field.ErrorList
	for i, n := range names {
		if problems := validation.IsDNS1123Subdomain(n); len(problems) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), n, "want the name of a SpiderIPPool; "+
				strings.Join(problems, "; ")))
		}
	}
	return errs
}

func validateCustom(path *field.Path, text *string) field.ErrorList {
	if text == nil || *text == "" {
		return nil
	}
	var conf map[string]json.RawMessage
	if err := json.Unmarshal([]byte(*text), &conf); err != nil {
		return field.ErrorList{field.Invalid(path, *text, "want a CNI configuration as a JSON object: "+err.Error())}
	}
	list, isList := conf["plugins"]
	if !isList {
		if _, err := pluginType(*text); err != nil {
			return field.ErrorList{field.Invalid(path, *text,
				`want a CNI configuration: it has neither "type" nor "plugins"`)}
		}
		return nil
	}
	var plugins []json.RawMessage
	if err := json.Unmarshal(list, &plugins); err != nil || len(plugins) == 0 {
		return field.ErrorList{field.Invalid(path, *text, `want a list of at least one CNI plugin under "plugins"`)}
	}
	for i, plugin := range plugins {
		if _, err := pluginType(string(plugin)); err != nil {
			return field.ErrorList{field.Invalid(path, *text, fmt.Sprintf("plugins[%d]: %v", i, err))}
		}
	}
	return nil
}

func validateChain(s *MultusCNIConfigSpec) field.ErrorList {
	var errs field.ErrorList
	for i, text := range s.ChainCNIJsonData {
		if _, err := pluginType(text); err != nil {
			errs = append(errs, field.Invalid(specPath("chainCNIJsonData").Index(i), text, err.Error()))
		}
	}
	return errs
}

// pluginType is the "type" of one plugin object.
func pluginType(text string) (string, error) {
	const want = `want one CNI plugin as a JSON object with a "type", such as {"type":"tuning"}`
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		return "", fmt.Errorf(want+": %w", err)
	}
	var t string
	if err := json.Unmarshal(object["type"], &t); err != nil || t == "" {
		return "", fmt.Errorf(`the plugin has no "type": %s`, want)
	}
	return t, nil
}

func validateMultusAnnotations(c *SpiderMultusConfig) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata", "annotations")
	if name, ok := c.Annotations[AnnotationMultusConfigNADName]; ok {
		for _, problem := range validation.IsDNS1123Subdomain(name) {
			errs = append(errs, field.Invalid(path.Key(AnnotationMultusConfigNADName), name, problem))
		}
	}
	if v, ok := c.Annotations[AnnotationMultusConfigCNIVersion]; ok && !slices.Contains(CNIVersions, v) {
		errs = append(errs, field.Invalid(path.Key(AnnotationMultusConfigCNIVersion), v,
			"want one of "+strings.Join(CNIVersions, ", ")))
	}
	if name, ok := c.Annotations[AnnotationCNIConfigName]; ok && !cniNetworkName.MatchString(name) {
		errs = append(errs, field.Invalid(path.Key(AnnotationCNIConfigName), name,
			"want letters, digits, '_', '.' and '-', the first a letter or digit"))
	}
	return errs
}

func multusWarnings(c *SpiderMultusConfig, stanza cniStanza) []string {
	var warnings []string
	s := &c.Spec
	if stanza.cniType == CustomCNI && (s.CustomCNIConfig == nil || *s.CustomCNIConfig == "") {
		warnings = append(warnings,
			fmt.Sprintf(
				"spec.customCNI is not given: pods of this network use the file in the node's CNI configuration "+
					"directory whose name is %q", c.NADName()))
	}
	if strings.Contains(c.NADName(), ".") {
		warnings = append(warnings,
			fmt.Sprintf("the network's name %q has a dot: pods can name it only in the JSON form of the annotation",
				c.NADName()))
	}
	warnings = append(warnings, withoutInjection(c, stanza)...)
	if s.CoordinatorConfig != nil && s.CoordinatorConfig.PodCIDRType != nil {
		warnings = append(warnings,
			"spec.coordinator.podCIDRType has no effect here: only the SpiderCoordinator's counts")
	}
	if s.CoordinatorConfig != nil && s.EnableCoordinator != nil && !*s.EnableCoordinator &&
		stanza.cniType != CustomCNI {
		warnings = append(warnings, "spec.coordinator has no effect: spec.enableCoordinator is false")
	}
	if c := s.IpoibConfig; stanza.cniType == IPoIBCNI && c != nil && c.SpiderpoolConfigPools.matchesMaster() {
		warnings = append(warnings,
			"spec.ipoib.ippools.matchMasterSubnet has no effect: it is for networks whose pods get a virtual "+
				"function; name the pools of the master's subnet")
	}
	return warnings
}

// withoutInjection warns of what only serves Spiderpool's webhook that puts networks and resources
// into pods, which this product does not have.
func withoutInjection(c *SpiderMultusConfig, stanza cniStanza) []string {
	var warnings []string
	for _, key := range InjectAnnotations {
		if c.Annotations[key] != "" {
			warnings = append(warnings,
				fmt.Sprintf(
					"annotation %s has no effect: networks and resources are not injected into pods; name the "+
						"network in the pod's annotation k8s.v1.cni.cncf.io/networks, and its resource in "+
						"resources.limits", key))
		}
	}
	if name := c.Spec.rdmaResourceName(stanza.cniType); name != "" {
		warnings = append(warnings,
			fmt.Sprintf(
				"spec.%s.rdmaResourceName has no effect: resources are not injected into pods; request %s in the "+
					"pod's resources.limits", stanza.field, name))
	}
	return warnings
}

func (s *MultusCNIConfigSpec) rdmaResourceName(cniType string) string {
	var name *string
	switch {
	case cniType == MacvlanCNI && s.MacvlanConfig != nil:
		name = s.MacvlanConfig.RdmaResourceName
	case cniType == IPVlanCNI && s.IPVlanConfig != nil:
		name = s.IPVlanConfig.RdmaResourceName
	case cniType == VlanCNI && s.VlanConfig != nil:
		name = s.VlanConfig.RdmaResourceName
	}
	if name == nil {
		return ""
	}
	return *name
}
