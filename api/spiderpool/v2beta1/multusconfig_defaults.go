// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultCNIVersion is the cniVersion of a generated configuration that does not choose one.
const DefaultCNIVersion = "0.3.1"

// Defaults of the ibsriov and vlan stanzas.
const (
	DefaultLinkState = "enable"
	VlanModeManual   = "manual"
	VlanModeAuto     = "auto"
)

// cniStanza is one of the spec fields that describe a network; exactly one of them is given.
type cniStanza struct {
	// field is the name below spec; it differs from cniType for ibsriov and customCNI.
	field, cniType string
	present        func(*MultusCNIConfigSpec) bool
}

var cniStanzas = []cniStanza{
	{"macvlan", MacvlanCNI, func(s *MultusCNIConfigSpec) bool { return s.MacvlanConfig != nil }},
	{"ipvlan", IPVlanCNI, func(s *MultusCNIConfigSpec) bool { return s.IPVlanConfig != nil }},
	{"vlan", VlanCNI, func(s *MultusCNIConfigSpec) bool { return s.VlanConfig != nil }},
	{"sriov", SriovCNI, func(s *MultusCNIConfigSpec) bool { return s.SriovConfig != nil }},
	{"ovs", OvsCNI, func(s *MultusCNIConfigSpec) bool { return s.OvsConfig != nil }},
	{"ibsriov", IBSriovCNI, func(s *MultusCNIConfigSpec) bool { return s.IbSriovConfig != nil }},
	{"ipoib", IPoIBCNI, func(s *MultusCNIConfigSpec) bool { return s.IpoibConfig != nil }},
	{"customCNI", CustomCNI, func(s *MultusCNIConfigSpec) bool {
		return s.CustomCNIConfig != nil &&
			*s.CustomCNIConfig != ""
	}},
}

func (s *MultusCNIConfigSpec) stanzas() []cniStanza {
	var found []cniStanza
	for _, st := range cniStanzas {
		if st.present(s) {
			found = append(found, st)
		}
	}
	return found
}

// stanzaOf is the stanza that a cniType wants; false for an unknown cniType.
func stanzaOf(cniType string) (cniStanza, bool) {
	for _, st := range cniStanzas {
		if st.cniType == cniType {
			return st, true
		}
	}
	return cniStanza{}, false
}

// EffectiveCNIType is the kind of network that the configuration describes:
// the type of its stanza when it has exactly one, else what cniType says,
// else custom. An unknown cniType is returned as it is.
func (s *MultusCNIConfigSpec) EffectiveCNIType() string {
	written := CustomCNI
	if s.CniType != nil {
		written = *s.CniType
	}
	if _, known := stanzaOf(written); !known {
		return written
	}
	if found := s.stanzas(); len(found) == 1 {
		return found[0].cniType
	}
	return written
}

// NADName is the name of the NetworkAttachmentDefinition made from the configuration, in its own namespace.
func (c *SpiderMultusConfig) NADName() string {
	if name := c.Annotations[AnnotationMultusConfigNADName]; name != "" {
		return name
	}
	return c.Name
}

// DefaultMultusConfig fills what the configuration leaves open and returns
// warnings for its author. It is idempotent.
//
// A single stanza that contradicts cniType wins, and cniType is changed to
// match, so that every later reader sees what the network is. The guide's
// IPoIB example depends on it.
func DefaultMultusConfig(c *SpiderMultusConfig) []string {
	s := &c.Spec
	warnings := defaultCNIType(s)
	custom := *s.CniType == CustomCNI
	if s.EnableCoordinator == nil || custom {
		s.EnableCoordinator = new(!custom)
	}
	if custom && s.CoordinatorConfig != nil {
		s.CoordinatorConfig = nil
		warnings = append(warnings,
			`spec.coordinator is dropped: cniType is "custom", whose configuration is used as it is written; put a coordinator plugin into spec.customCNI`)
	}
	if s.DisableIPAM == nil {
		s.DisableIPAM = new(false)
	}
	if s.IbSriovConfig != nil && s.IbSriovConfig.LinkState == nil {
		s.IbSriovConfig.LinkState = new(DefaultLinkState)
	}
	if s.VlanConfig != nil && s.VlanConfig.VlanMode == nil {
		s.VlanConfig.VlanMode = new(VlanModeManual)
	}
	return warnings
}

func defaultCNIType(s *MultusCNIConfigSpec) []string {
	effective := s.EffectiveCNIType()
	written := s.CniType
	s.CniType = &effective
	if written == nil || *written == effective {
		return nil
	}
	wanted, _ := stanzaOf(*written)
	given, _ := stanzaOf(effective)
	origin := ""
	if *written == CustomCNI {
		origin = " (which it also is when not given)"
	}
	return []string{
		fmt.Sprintf(
			"spec.cniType is %q%s, but the only stanza is spec.%s and spec.%s is absent: the stanza wins, and "+
				"spec.cniType is taken as %q; write cniType: %s to be rid of this warning",
			*written, origin, given.field, wanted.field, effective, effective)}
}

func specPath(names ...string) *field.Path {
	p := field.NewPath("spec")
	for _, n := range names {
		p = p.Child(n)
	}
	return p
}

func listFields(stanzas []cniStanza, conjunction string) string {
	names := make([]string, 0, len(stanzas))
	for _, st := range stanzas {
		names = append(names, "spec."+st.field)
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + conjunction + names[len(names)-1]
}
