// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/text"
)

// poolNames are the pools that one source names for one interface, as written.
type poolNames struct {
	IPv4 []string `json:"ipv4"`
	IPv6 []string `json:"ipv6"`
}

// interfacePools is one entry of AnnotationPools.
type interfacePools struct {
	Interface    string   `json:"interface"`
	IPv4         []string `json:"ipv4"`
	IPv6         []string `json:"ipv6"`
	CleanGateway bool     `json:"cleangateway"`
}

func (n poolNames) empty() bool { return len(n.IPv4)+len(n.IPv6) == 0 }

// refusedAnnotations ask for pools made on demand, which this product does not have. Ignoring
// them would give the pod an address of some other network.
var refusedAnnotations = []string{"ipam.spidernet.io/subnet", "ipam.spidernet.io/subnets"}

// IgnoredAnnotations ask for what this product does not do, without harm to the pod's addresses;
// the value says what happens instead.
var IgnoredAnnotations = map[string]string{
	"ipam.spidernet.io/dns": "the pod's resolver is the one of its spec.dnsPolicy and spec.dnsConfig",
	"ipam.spidernet.io/ippool-ip-number": "no pool is made on demand: the pod has an address of an existing pool; " +
		"name pools with " + AnnotationPool,
	"ipam.spidernet.io/ippool-reclaim": "no pool is made on demand, so none is deleted with its application",
}

// Bounds of what one annotation, and one list of pools in it or in a network's configuration, may
// hold: all of it is looked at for each address, and messages list it.
const (
	maxAnnotation = 64 << 10 // octets
	maxEntries    = 100      // pools of one list, or interfaces
	maxRoutes     = 500
	maxPoolName   = 253 // octets, as of every object
)

const (
	poolShape      = `{"ipv4":["pool"],"ipv6":["pool"]}`
	poolsShape     = `[{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"]}]`
	routesShape    = `[{"dst":"10.0.0.0/8","gw":"192.0.2.1"}]`
	namespaceShape = `["pool"]`
)

// parsePoolAnnotation reads AnnotationPool.
func parsePoolAnnotation(value string) (poolNames, error) {
	var names poolNames
	if err := decode(value, &names, poolShape); err != nil {
		return poolNames{}, err
	}
	if names.empty() {
		return poolNames{}, fmt.Errorf("%s names no pool; want for example %s", text.Excerpt(value), poolShape)
	}
	return names, nil
}

// parsePoolsAnnotation reads AnnotationPools: either every entry names its
// interface, each another one, or none does.
func parsePoolsAnnotation(value string) ([]interfacePools, error) {
	var entries []interfacePools
	if err := decode(value, &entries, poolsShape); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s has no entry; want for example %s", text.Excerpt(value), poolsShape)
	}
	if len(entries) > maxEntries {
		return nil, fmt.Errorf("has %d entries: must have at most %d, one for each interface", len(entries), maxEntries)
	}
	seen := map[string]bool{}
	for i, e := range entries {
		switch {
		case len(e.IPv4)+len(e.IPv6) == 0:
			return nil, fmt.Errorf("%s names no pool; add \"ipv4\" or \"ipv6\"", e.title(i))
		case (e.Interface == "") != (entries[0].Interface == ""):
			return nil, fmt.Errorf("%s: name the interface in every entry or in none", e.title(i))
		case e.Interface != "" && seen[e.Interface]:
			return nil, fmt.Errorf("%s is the second one for that interface; leave one", e.title(i))
		}
		seen[e.Interface] = true
	}
	return entries, nil
}

// title names an entry in messages.
func (e interfacePools) title(index int) string {
	if e.Interface == "" {
		return fmt.Sprintf("entry %d", index)
	}
	return fmt.Sprintf("entry %d (interface %s)", index, text.Excerpt(e.Interface))
}

// entryFor finds the entry of the interface: by name, or by its place when no entry has a name.
func entryFor(entries []interfacePools, r Request) (int, error) {
	if entries[0].Interface != "" {
		var listed []string
		for i, e := range entries {
			if e.Interface == r.Interface {
				return i, nil
			}
			listed = append(listed, e.Interface)
		}
		return 0, fmt.Errorf("interface %s is not listed (found %s); add an entry for it", r.Interface,
			text.List(listed))
	}
	place, err := r.place()
	if err != nil {
		return 0, err
	}
	if place >= len(entries) {
		return 0, fmt.Errorf("has %d entries, and interface %s is number %d; add an entry for it", len(entries),
			r.Interface, place+1)
	}
	return place, nil
}

// place is the interface's index among the pod's interfaces.
func (r Request) place() (int, error) {
	for i, name := range r.Interfaces {
		if name == r.Interface {
			return i, nil
		}
	}
	if len(r.Interfaces) == 0 && r.Interface == "eth0" {
		return 0, nil
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(r.Interface, "net")); err == nil && n > 0 && len(r.Interfaces) == 0 {
		return n, nil
	}
	return 0, fmt.Errorf("cannot tell which entry is for interface %s; name the interface in every entry", r.Interface)
}

// parseNamespaceAnnotation reads one of the two namespace annotations.
func parseNamespaceAnnotation(value string) ([]string, error) {
	var names []string
	if err := decode(value, &names, namespaceShape); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s names no pool; want for example %s, or remove the annotation", text.Excerpt(value),
			namespaceShape)
	}
	return names, nil
}

// parseRoutesAnnotation reads AnnotationRoutes.
func parseRoutesAnnotation(value string) ([]Route, error) {
	var written []v2beta1.Route
	if err := decode(value, &written, routesShape); err != nil {
		return nil, err
	}
	if len(written) > maxRoutes {
		return nil, fmt.Errorf("has %d routes: must have at most %d", len(written), maxRoutes)
	}
	var routes []Route
	for i, w := range written {
		dst, err := v2beta1.ParseCIDR(w.Dst)
		if err != nil {
			return nil, fmt.Errorf("entry %d: dst %s %w", i, text.Quote(w.Dst), err)
		}
		gw, err := v2beta1.ParseAddress(w.Gw)
		if err != nil {
			return nil, fmt.Errorf("entry %d: gw %s %w", i, text.Quote(w.Gw), err)
		}
		if dst.Addr().Is4() != gw.Is4() {
			return nil, fmt.Errorf("entry %d: dst %s and gw %s are of different families", i, dst, gw)
		}
		routes = append(routes, Route{Dst: dst, Gateway: gw})
	}
	return routes, nil
}

// decode reads exactly one JSON value without unknown fields: a misspelt field
// would otherwise silently give the pod an address of another pool.
func decode(value string, into any, shape string) error {
	if len(value) > maxAnnotation {
		return fmt.Errorf("has %d octets: must have at most %d; want for example %s", len(value), maxAnnotation, shape)
	}
	if strings.TrimSpace(value) == "" {
		return fmt.Errorf("the text is empty; want for example %s", shape)
	}
	d := json.NewDecoder(strings.NewReader(value))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the first value")
		}
	}
	if err != nil {
		return fmt.Errorf("does not parse: %w: %s; want for example %s", text.JSONError(value, plain(err)),
			text.Excerpt(value), shape)
	}
	return nil
}

// plain says what is wrong with JSON in words of JSON rather than of Go.
func plain(err error) error {
	var kind *json.UnmarshalTypeError
	switch key, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); {
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("the whole is %s", article(text.Excerpt(kind.Value)))
	case errors.As(err, &kind):
		return fmt.Errorf("%s has %s", kind.Field, article(text.Excerpt(kind.Value)))
	case unknown:
		return fmt.Errorf("unknown key %s", text.Excerpt(key))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends too early")
	}
	return err
}

// article makes "a string" of "string".
func article(kind string) string {
	switch kind {
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	return "a " + kind
}
