// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"fmt"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ParseReservedIPSpec reads the addresses and reports everything wrong with them.
func ParseReservedIPSpec(spec *ReservedIPSpec) (*netipx.IPSet, field.ErrorList) {
	path := field.NewPath("spec")
	set, errs := parseRanges(spec.IPs, path.Child("ips"))
	version, from := spec.version()
	switch {
	case version == 0 && len(spec.IPs) == 0:
		return set, append(errs, field.Required(path.Child("ips"), "name at least one address, or give spec.ipVersion"))
	case version == 0: // no entry can be read, and each is told so
		return set, errs
	case version != 4 && version != 6:
		return set, append(errs, field.Invalid(path.Child("ipVersion"), version,
			"is no IP version; write 4 or 6, or leave the field out"))
	}
	for i, text := range spec.IPs {
		if r, err := ParseRange(text); err == nil && versionOf(r.From()) != version {
			errs = append(errs, field.Invalid(path.Child("ips").Index(i), text,
				fmt.Sprintf("is IPv%d, but %s is %d; use one object for each family", versionOf(r.From()), from,
					version)))
		}
	}
	return set, errs
}

// version is the family of the object, and where that is written: spec.ipVersion, else the first
// entry that can be read. 0: nowhere.
func (s *ReservedIPSpec) version() (version int64, from string) {
	if s.IPVersion != nil {
		return *s.IPVersion, "spec.ipVersion"
	}
	for i, text := range s.IPs {
		if r, err := ParseRange(text); err == nil {
			return versionOf(r.From()), fmt.Sprintf("the version of spec.ips[%d]", i)
		}
	}
	return 0, ""
}

// ValidateReservedIP checks a new object.
func ValidateReservedIP(r *SpiderReservedIP, families Families) field.ErrorList {
	_, errs := ParseReservedIPSpec(&r.Spec)
	if v, _ := r.Spec.version(); (v == 4 || v == 6) && !families.Enabled(v) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "ipVersion"),
			fmt.Sprintf("IPv%d is not enabled; set enableIPv%d: true in the product's configuration", v, v)))
	}
	return errs
}

// ValidateReservedIPUpdate checks a change; one that leaves the spec alone is always admitted.
func ValidateReservedIPUpdate(old, r *SpiderReservedIP, families Families) field.ErrorList {
	if equality.Semantic.DeepEqual(old.Spec, r.Spec) {
		return nil
	}
	if v := old.Spec.IPVersion; v != nil && (r.Spec.IPVersion == nil || *r.Spec.IPVersion != *v) {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "ipVersion"), r.Spec.IPVersion,
			fmt.Sprintf("cannot be changed from %d; create another object", *v))}
	}
	return ValidateReservedIP(r, families)
}
