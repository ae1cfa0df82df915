// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"spidernet.io/spiderpool/internal/text"
)

// Choice says where the addresses of an interface may come from.
type Choice struct {
	// Families that the interface is to have, IPv4 first.
	Families []Family
	// CleanGateway leaves out the default route.
	CleanGateway bool
	// Routes are those of the pod's annotation.
	Routes []Route
}

// Family is the pools of one IP version.
type Family struct {
	// Version is 4 or 6.
	Version int64
	// Source tells who named the pools, for messages.
	Source string
	// Pools that may serve, in the order of trial.
	Pools []*Pool
	// Dropped are the other pools that were named, with the reason.
	Dropped []Drop

	resting    []*Pool // dropped only because they are disabled
	incomplete bool    // a name stands for no pool
}

// Drop is a pool that may not serve, or a name that stands for none.
type Drop struct{ Pool, Reason string }

// source is who named the pools of an interface.
type source struct {
	name         string
	names        poolNames
	cleanGateway bool
	// everyPool means the cluster's default pools, of whatever family there are.
	everyPool bool
	// elsewhere is what the same annotation names for the pod's other interfaces.
	elsewhere []source
}

// Choose finds the pools of an interface. It fails when what was written
// cannot be read, and with a *Refusal when it names a pool that does not
// exist: to fall through to the next pool would hide the mistake until that
// one is full. A family whose pools are all dropped is in the result without
// Pools; see Refuse.
//
// What could be read is in the result beside an error: an interface that has
// its addresses already goes on with it.
func Choose(r Request, f Facts) (Choice, error) {
	s, sourceErr := findSource(r, f)
	choice := Choice{CleanGateway: r.CleanGateway || s.cleanGateway}
	var routesErr, poolsErr error
	if text, ok := r.Pod.Annotations[AnnotationRoutes]; ok {
		if choice.Routes, routesErr = parseRoutesAnnotation(text); routesErr != nil {
			routesErr = fmt.Errorf("annotation %s: %w", AnnotationRoutes, routesErr)
		}
	}
	if sourceErr == nil {
		choice.Families, poolsErr = s.families(r, f)
	}
	return choice, cmp.Or(sourceErr, routesErr, poolsErr)
}

// findSource asks the sources in the order of their precedence.
func findSource(r Request, f Facts) (source, error) {
	for _, name := range refusedAnnotations {
		if _, ok := r.Pod.Annotations[name]; ok {
			return source{},
				fmt.Errorf(
					"annotation %s asks for pools made on demand, which this product does not make; name pools with %s",
					name, AnnotationPool)
		}
	}
	if text, ok := r.Pod.Annotations[AnnotationPools]; ok {
		return poolsSource(text, r)
	}
	if text, ok := r.Pod.Annotations[AnnotationPool]; ok {
		s := source{name: "annotation " + AnnotationPool}
		var err error
		if s.names, err = parsePoolAnnotation(text); err != nil {
			return s, fmt.Errorf("%s: %w", s.name, err)
		}
		return s, nil
	}
	if s, err := namespaceSource(r, f); err != nil || !s.names.empty() {
		return s, err
	}
	s := source{name: "the network's configuration", names: poolNames{IPv4: r.DefaultIPv4, IPv6: r.DefaultIPv6}}
	if !s.names.empty() {
		return s, nil
	}
	return source{name: "the cluster's default pools", everyPool: true}, nil
}

// poolsSource reads the entry of the interface. The other entries come along:
// no interface takes an address when another cannot.
func poolsSource(text string, r Request) (source, error) {
	name := "annotation " + AnnotationPools
	entries, err := parsePoolsAnnotation(text)
	if err != nil {
		return source{}, fmt.Errorf("%s: %w", name, err)
	}
	own, err := entryFor(entries, r)
	if err != nil {
		return source{}, fmt.Errorf("%s: %w", name, err)
	}
	var s source
	var elsewhere []source
	for i, e := range entries {
		entry := source{name: name + ", " + e.title(i), names: poolNames{IPv4: e.IPv4, IPv6: e.IPv6},
			cleanGateway: e.CleanGateway}
		if i == own {
			s = entry
		} else {
			elsewhere = append(elsewhere, entry)
		}
	}
	s.elsewhere = elsewhere
	return s, nil
}

func namespaceSource(r Request, f Facts) (source, error) {
	s := source{name: "the annotations of namespace " + r.Pod.Namespace}
	for _, a := range []struct {
		key string
		to  *[]string
	}{{AnnotationNamespaceIPv4, &s.names.IPv4}, {AnnotationNamespaceIPv6, &s.names.IPv6}} {
		text, ok := f.NamespaceAnnotations[a.key]
		if !ok {
			continue
		}
		names, err := parseNamespaceAnnotation(text)
		if err != nil {
			return s, fmt.Errorf("annotation %s of namespace %s: %w", a.key, r.Pod.Namespace, err)
		}
		*a.to = names
	}
	return s, nil
}

// families filters the named pools of each enabled family. When a name stands
// for no pool, of this interface or of another one of the pod, it fails with a
// Refusal of every family that gets no address.
func (s source) families(r Request, f Facts) ([]Family, error) {
	families, err := s.sift(question{request: r, facts: f})
	if err != nil {
		return nil, err
	}
	if s.everyPool {
		families = withoutUselessDefaults(families, r)
	}
	if len(families) == 0 {
		return nil, s.nothingNamed(f)
	}
	if err := s.wantedElsewhere(r, families, f); err != nil {
		return nil, err
	}
	all := slices.Clone(families)
	for _, other := range s.elsewhere {
		theirs, err := other.sift(question{request: r, facts: f, elsewhere: true})
		if err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(theirs, func(x Family) bool { return !x.incomplete })...)
	}
	if slices.ContainsFunc(all, func(x Family) bool { return x.incomplete }) {
		return nil, Refuse(all)
	}
	return families, nil
}

// nothingNamed is why there is no family at all.
func (s source) nothingNamed(f Facts) error {
	if s.everyPool {
		return fmt.Errorf(
			"%s: no pool has spec.default: true, and nothing else names a pool; annotate the pod with %s, make a "+
				"pool the default, "+
				"or set disableIPAM: true in the network's SpiderMultusConfig for an interface without an address",
			s.name, AnnotationPool)
	}
	return fmt.Errorf("%s: only pools of a family that is not enabled are named (IPv4 enabled: %t, IPv6 enabled: %t)",
		s.name, f.Families.IPv4, f.Families.IPv6)
}

// sift asks the rules about the pools that the source names, family by family.
func (s source) sift(q question) ([]Family, error) {
	var families []Family
	for _, version := range []int64{4, 6} {
		if !q.facts.Families.Enabled(version) {
			continue
		}
		candidates, err := s.candidates(version, q.facts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if len(candidates) > 0 {
			q.version = version
			families = append(families, sift(candidates, s.name, q))
		}
	}
	return families, nil
}

// candidate is one pool that is named for a family, or a name that stands for none.
type candidate struct {
	name string
	pool *Pool
	// missing is why there is no pool.
	missing string
}

// candidates lists what one family may take from, in the order of trial.
func (s source) candidates(version int64, f Facts) ([]candidate, error) {
	if !s.everyPool {
		return expand(map[int64][]string{4: s.names.IPv4, 6: s.names.IPv6}[version], version, f)
	}
	return f.poolsWhere(version, func(p *Pool) bool { return p.Default }), nil
}

// withoutUselessDefaults drops a family that no default pool can serve, as
// long as another one can: nobody asked for it by name, nor for an address of it.
func withoutUselessDefaults(families []Family, r Request) []Family {
	useful := slices.DeleteFunc(slices.Clone(families), func(f Family) bool {
		return len(f.Pools) == 0 &&
			!r.wanted(f.Version).IsValid()
	})
	if len(useful) > 0 {
		return useful
	}
	return families
}

// expand looks names up and resolves globs. What the user wrote is the order
// of trial; a glob stands in its place for the pools of the family that it matches.
func expand(written []string, version int64, f Facts) ([]candidate, error) {
	if len(written) > maxEntries {
		return nil, fmt.Errorf("%d IPv%d pools are named: must be at most %d; a pattern such as \"team-a-*\" stands "+
			"for many", len(written), version, maxEntries)
	}
	var candidates []candidate
	named := map[string]bool{}
	for _, name := range written {
		switch {
		case len(name) > maxPoolName:
			return nil, fmt.Errorf("a pool's name has %d octets: must have at most %d; found %s", len(name),
				maxPoolName, text.Quote(name))
		case name == "":
			return nil, fmt.Errorf("an IPv%d pool has an empty name; write the name of a pool, or remove the entry",
				version)
		case strings.ContainsAny(name, "*?["):
			if named[name] {
				continue // it stands for the same pools again
			}
			named[name] = true
			matches, err := match(name, version, f)
			if err != nil {
				return nil, err
			}
			candidates = append(candidates, matches...)
			continue
		case named[name]:
			return nil, fmt.Errorf("pool %s is listed twice", text.Quote(name))
		}
		named[name] = true
		c := candidate{name: name, pool: f.Pools[name]}
		if c.pool == nil {
			c.missing = "does not exist; see kubectl get spiderippools"
		}
		candidates = append(candidates, c)
	}
	return firstOfEach(candidates), nil
}

func match(glob string, version int64, f Facts) ([]candidate, error) {
	if _, err := path.Match(glob, ""); err != nil {
		return nil, fmt.Errorf("pool pattern %s is malformed; close its brackets", text.Quote(glob))
	}
	matches := f.poolsWhere(version, func(p *Pool) bool {
		ok, _ := path.Match(glob, p.Name) // the pattern is well-formed
		return ok
	})
	if len(matches) == 0 {
		return []candidate{{name: glob, missing: fmt.Sprintf("stands for no IPv%d pool; see kubectl get spiderippools",
			version)}}, nil
	}
	return matches, nil
}

// poolsWhere lists pools of a family that nobody put in order: those meant
// most narrowly for some pods first, else by name. A pool that cannot be read
// may be of any family, and is listed so that it is named among the reasons.
func (f Facts) poolsWhere(version int64, wanted func(*Pool) bool) []candidate {
	var found []candidate
	for _, name := range slices.Sorted(maps.Keys(f.Pools)) {
		if p := f.Pools[name]; (p.Version() == version || p.Version() == 0) && wanted(p) {
			found = append(found, candidate{name: name, pool: p})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Compare(affinityClass(a.pool),
			affinityClass(b.pool))
	})
	return found
}

func firstOfEach(candidates []candidate) []candidate {
	var unique []candidate
	have := map[string]bool{}
	for _, c := range candidates {
		if !have[c.name] {
			have[c.name] = true
			unique = append(unique, c)
		}
	}
	return unique
}

// withheld is why a pool that may serve does not, beside a name that stands for no pool.
const withheld = "would be tried, but nothing is given out while a pool named beside it is missing"

// sift asks the rules about each candidate. It keeps their order.
func sift(candidates []candidate, from string, q question) Family {
	family := Family{Version: q.version, Source: from}
	family.incomplete = slices.ContainsFunc(candidates, func(c candidate) bool { return c.pool == nil })
	for _, c := range candidates {
		why := c.missing
		if c.pool != nil {
			why = q.reason(c.pool)
		}
		switch {
		case why != "":
			family.Dropped = append(family.Dropped, Drop{Pool: c.name, Reason: why})
			if c.pool != nil && q.reason(c.pool.enabled()) == "" {
				family.resting = append(family.resting, c.pool)
			}
		case family.incomplete:
			family.Dropped = append(family.Dropped, Drop{Pool: c.name, Reason: withheld})
		default:
			family.Pools = append(family.Pools, c.pool.only(q.wanted()))
		}
	}
	return family
}

// Keeps tells whether an address that its owner has in the pool may stay:
// the pool may serve, or only spec.disable, which stops new allocations, speaks against it.
func (f Family) Keeps(pool string) bool {
	named := func(p *Pool) bool { return p.Name == pool }
	return slices.ContainsFunc(f.Pools, named) || slices.ContainsFunc(f.resting, named)
}

// Build completes addresses to an allocation: the default route of each
// gateway unless a clean one is wanted, the routes of the pools, and those of
// the pod's annotation whose gateway is in the subnet of one of the addresses.
func (c Choice) Build(addresses []Address, pools map[string]*Pool) Allocation {
	a := Allocation{Addresses: slices.Clone(addresses)}
	slices.SortStableFunc(a.Addresses, func(x, y Address) int { return x.IP.Addr().Compare(y.IP.Addr()) })
	for _, address := range a.Addresses {
		subnet := address.IP.Masked()
		for _, r := range c.Routes {
			if subnet.Contains(r.Gateway) {
				a.addRoute(r)
			}
		}
		if pool := pools[address.Pool]; pool != nil {
			for _, r := range pool.Routes {
				a.addRoute(r)
			}
		}
		if address.Gateway.IsValid() && !c.CleanGateway {
			a.addRoute(Route{Dst: netip.PrefixFrom(unspecified(address.Gateway), 0), Gateway: address.Gateway})
		}
	}
	return a
}

// addRoute keeps the first route to a destination: the pod's own come before the pool's.
func (a *Allocation) addRoute(r Route) {
	if !slices.ContainsFunc(a.Routes, func(have Route) bool { return have.Dst == r.Dst }) {
		a.Routes = append(a.Routes, r)
	}
}

func unspecified(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
