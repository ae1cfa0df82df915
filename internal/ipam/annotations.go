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

const (
	poolShape      = `{"ipv4":["pool"],"ipv6":["pool"]}`
	poolsShape     = `[{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"]}]`
	routesShape    = `[{"dst":"10.0.0.0/8","gw":"192.0.2.1"}]`
	namespaceShape = `["pool"]`
)

// parsePoolAnnotation reads AnnotationPool.
func parsePoolAnnotation(text string) (poolNames, error) {
	var names poolNames
	if err := decode(text, &names, poolShape); err != nil {
		return poolNames{}, err
	}
	if names.empty() {
		return poolNames{}, fmt.Errorf("%s names no pool; want for example %s", text, poolShape)
	}
	return names, nil
}

// parsePoolsAnnotation reads AnnotationPools: either every entry names its
// interface, each another one, or none does.
func parsePoolsAnnotation(text string) ([]interfacePools, error) {
	var entries []interfacePools
	if err := decode(text, &entries, poolsShape); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s has no entry; want for example %s", text, poolsShape)
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
	return fmt.Sprintf("entry %d (interface %s)", index, e.Interface)
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
			strings.Join(listed, ", "))
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
func parseNamespaceAnnotation(text string) ([]string, error) {
	var names []string
	if err := decode(text, &names, namespaceShape); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s names no pool; want for example %s, or remove the annotation", text, namespaceShape)
	}
	return names, nil
}

// parseRoutesAnnotation reads AnnotationRoutes.
func parseRoutesAnnotation(text string) ([]Route, error) {
	var written []v2beta1.Route
	if err := decode(text, &written, routesShape); err != nil {
		return nil, err
	}
	var routes []Route
	for i, w := range written {
		dst, err := v2beta1.ParseCIDR(w.Dst)
		if err != nil {
			return nil, fmt.Errorf("entry %d: dst %q %w", i, w.Dst, err)
		}
		gw, err := v2beta1.ParseAddress(w.Gw)
		if err != nil {
			return nil, fmt.Errorf("entry %d: gw %q %w", i, w.Gw, err)
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
func decode(text string, into any, shape string) error {
	if strings.TrimSpace(text) == "" {
		return fmt.Errorf("the text is empty; want for example %s", shape)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the first value")
		}
	}
	if err != nil {
		return fmt.Errorf("%s does not parse: %w; want for example %s", text, plain(err), shape)
	}
	return nil
}

// plain says what is wrong with JSON in words of JSON rather than of Go.
func plain(err error) error {
	var kind *json.UnmarshalTypeError
	switch key, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); {
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("the whole is %s", article(kind.Value))
	case errors.As(err, &kind):
		return fmt.Errorf("%s has %s", kind.Field, article(kind.Value))
	case unknown:
		return fmt.Errorf("unknown key %s", key)
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
