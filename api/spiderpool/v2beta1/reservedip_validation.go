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
	if spec.IPVersion == nil {
		if len(spec.IPs) == 0 {
			errs = append(errs, field.Required(path.Child("ips"), "name at least one address, or give spec.ipVersion"))
		}
		return set, errs
	}
	for i, text := range spec.IPs {
		if r, err := ParseRange(text); err == nil && versionOf(r.From()) != *spec.IPVersion {
			errs = append(errs, field.Invalid(path.Child("ips").Index(i), text,
				fmt.Sprintf("is IPv%d, but spec.ipVersion is %d; use one object for each family", versionOf(r.From()), *spec.IPVersion)))
		}
	}
	return set, errs
}

// ValidateReservedIP checks a new object.
func ValidateReservedIP(r *SpiderReservedIP, families Families) field.ErrorList {
	_, errs := ParseReservedIPSpec(&r.Spec)
	if v := r.Spec.IPVersion; v != nil && !families.Enabled(*v) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "ipVersion"),
			fmt.Sprintf("IPv%d is not enabled; set enableIPv%d: true in the product's configuration", *v, *v)))
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
