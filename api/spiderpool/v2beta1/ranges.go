// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ParseAddress reads one IPv4 or IPv6 address without zone. An IPv4 address
// dressed as IPv6 (::ffff:192.0.2.1) is refused, because it would be a second
// spelling of the same address. The error continues a sentence that begins
// with the text; so do those of ParseCIDR and ParseRange.
func ParseAddress(text string) (netip.Addr, error) {
	if strings.ContainsAny(text, " \t\n") {
		return netip.Addr{}, errors.New("has spaces; remove them")
	}
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("is not an IP address; want for example 192.0.2.10 or 2001:db8::10")
	case ip.Is4In6():
		return netip.Addr{}, fmt.Errorf("is an IPv4 address written as IPv6; write %s", ip.Unmap().WithZone(""))
	case ip.Zone() != "":
		return netip.Addr{}, fmt.Errorf("has a zone; write %s", ip.WithZone(""))
	}
	return ip, nil
}

// ParseCIDR reads a network whose host bits are zero.
func ParseCIDR(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("is not a CIDR; want for example 192.0.2.0/24 or 2001:db8::/64")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("is an IPv4 network written as IPv6; write it as IPv4")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("has host bits set; write %s", p.Masked())
	}
	return p, nil
}

// ParseRange reads "address" or "first-last" of one family, first not after last.
func ParseRange(text string) (netipx.IPRange, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		r := netipx.RangeOfPrefix(p.Masked())
		return netipx.IPRange{}, fmt.Errorf("is a CIDR; write the range %s-%s", r.From(), r.To())
	}
	from, to, isRange := strings.Cut(text, "-")
	first, err := ParseAddress(from)
	if !isRange {
		return netipx.IPRangeFrom(first, first), err
	}
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("is not a range: %q %w", from, err)
	}
	last, err := ParseAddress(to)
	switch {
	case err != nil:
		return netipx.IPRange{}, fmt.Errorf("is not a range: %q %w", to, err)
	case first.Is4() != last.Is4():
		return netipx.IPRange{}, errors.New("mixes IPv4 and IPv6; write one range for each family")
	case last.Less(first):
		return netipx.IPRange{}, fmt.Errorf("runs backwards; write %s-%s", last, first)
	}
	return netipx.IPRangeFrom(first, last), nil
}

// FormatRange is the inverse of ParseRange: a single address is written once.
func FormatRange(r netipx.IPRange) string {
	if r.From() == r.To() {
		return r.From().String()
	}
	return r.From().String() + "-" + r.To().String()
}

// FormatRanges writes a set in the syntax of a pool's ips: sorted, nothing twice, neighbours joined.
func FormatRanges(set *netipx.IPSet) []string {
	var texts []string
	for _, r := range set.Ranges() {
		texts = append(texts, FormatRange(r))
	}
	return texts
}

// MergeRanges sorts entries, drops what is there twice and joins neighbours.
func MergeRanges(texts []string) ([]string, error) {
	set, errs := parseRanges(texts, field.NewPath("ips"))
	if err := errs.ToAggregate(); err != nil {
		return nil, err
	}
	return FormatRanges(set), nil
}

// CountAddresses is the number of addresses in a set, at most the largest int64.
func CountAddresses(set *netipx.IPSet) int64 {
	total := new(big.Int)
	for _, r := range set.Ranges() {
		from, to := r.From().As16(), r.To().As16()
		size := new(big.Int).Sub(new(big.Int).SetBytes(to[:]), new(big.Int).SetBytes(from[:]))
		total.Add(total, size.Add(size, big.NewInt(1)))
	}
	if !total.IsInt64() {
		return math.MaxInt64
	}
	return total.Int64()
}

// parseRanges reads every entry and reports each bad one under its index.
func parseRanges(texts []string, path *field.Path) (*netipx.IPSet, field.ErrorList) {
	var errs field.ErrorList
	var builder netipx.IPSetBuilder
	for i, text := range texts {
		r, err := ParseRange(text)
		if err != nil {
			errs = append(errs, field.Invalid(path.Index(i), text, err.Error()))
			continue
		}
		builder.AddRange(r)
	}
	return buildSet(&builder), errs
}

// buildSet drops the builder's error: it only reports invalid input, and ours is made of parsed addresses.
func buildSet(b *netipx.IPSetBuilder) *netipx.IPSet {
	set, err := b.IPSet()
	if err != nil || set == nil {
		return &netipx.IPSet{}
	}
	return set
}

// subtract returns a without b.
func subtract(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.RemoveSet(b)
	return buildSet(&builder)
}

// intersect returns what a and b share.
func intersect(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.Intersect(b)
	return buildSet(&builder)
}

// sample writes a set for a message: its first few ranges and how many more there are.
func sample(set *netipx.IPSet) string {
	const most = 4
	texts := FormatRanges(set)
	if len(texts) > most {
		return fmt.Sprintf("%s and %d more ranges", strings.Join(texts[:most], ", "), len(texts)-most)
	}
	return strings.Join(texts, ", ")
}
