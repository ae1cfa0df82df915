package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
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

	resting []*Pool // dropped only because they are disabled
}

// Drop is a pool that may not serve.
type Drop struct{ Pool, Reason string }

// source is who named the pools of an interface.
type source struct {
	name         string
	names        poolNames
	cleanGateway bool
	// everyPool means the cluster's default pools, of whatever family there are.
	everyPool bool
}

// Choose finds the pools of an interface. It fails when what was written
// cannot be read or names a pool that does not exist. A family whose pools are
// all dropped is in the result without Pools; see Refuse.
func Choose(r Request, f Facts) (Choice, error) {
	s, err := findSource(r, f)
	if err != nil {
		return Choice{}, err
	}
	choice := Choice{CleanGateway: r.CleanGateway || s.cleanGateway}
	if text, ok := r.Pod.Annotations[AnnotationRoutes]; ok {
		if choice.Routes, err = parseRoutesAnnotation(text); err != nil {
			return Choice{}, fmt.Errorf("annotation %s: %w", AnnotationRoutes, err)
		}
	}
	if choice.Families, err = s.families(r, f); err != nil {
		return Choice{}, fmt.Errorf("%s: %w", s.name, err)
	}
	return choice, nil
}

// findSource asks the sources in the order of their precedence.
func findSource(r Request, f Facts) (source, error) {
	for _, name := range refusedAnnotations {
		if _, ok := r.Pod.Annotations[name]; ok {
			return source{}, fmt.Errorf("annotation %s asks for pools made on demand, which this product does not make; name pools with %s", name, AnnotationPool)
		}
	}
	if text, ok := r.Pod.Annotations[AnnotationPools]; ok {
		return poolsSource(text, r, f)
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

// poolsSource reads the entry of the interface, and sees to it that the pools
// of every entry exist: no interface takes an address when another cannot.
func poolsSource(text string, r Request, f Facts) (source, error) {
	s := source{name: "annotation " + AnnotationPools}
	entries, err := parsePoolsAnnotation(text)
	if err != nil {
		return s, fmt.Errorf("%s: %w", s.name, err)
	}
	for i, e := range entries {
		_, err4 := expand(e.IPv4, 4, f)
		_, err6 := expand(e.IPv6, 6, f)
		if err := cmp.Or(err4, err6); err != nil {
			return s, fmt.Errorf("%s: entry %d: %w", s.name, i, err)
		}
	}
	entry, err := entryFor(entries, r)
	if err != nil {
		return s, fmt.Errorf("%s: %w", s.name, err)
	}
	s.names, s.cleanGateway = poolNames{IPv4: entry.IPv4, IPv6: entry.IPv6}, entry.CleanGateway
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

// families filters and orders the named pools of each enabled family.
func (s source) families(r Request, f Facts) ([]Family, error) {
	var families []Family
	for _, version := range []int64{4, 6} {
		if !f.Families.Enabled(version) {
			continue
		}
		pools, err := s.pools(version, f)
		if err != nil {
			return nil, err
		}
		if len(pools) > 0 {
			families = append(families, sift(pools, s.name, question{request: r, facts: f, version: version}))
		}
	}
	if s.everyPool {
		families = withoutUselessDefaults(families)
	}
	if len(families) == 0 && s.everyPool {
		return nil, fmt.Errorf("no pool has spec.default: true, and nothing else names a pool; annotate the pod with %s, or make a pool the default", AnnotationPool)
	}
	if len(families) == 0 {
		return nil, fmt.Errorf("only pools of a family that is not enabled are named (IPv4 enabled: %t, IPv6 enabled: %t)", f.Families.IPv4, f.Families.IPv6)
	}
	return families, nil
}

// pools lists the pools of one family in the order in which they were written.
func (s source) pools(version int64, f Facts) ([]*Pool, error) {
	if !s.everyPool {
		return expand(map[int64][]string{4: s.names.IPv4, 6: s.names.IPv6}[version], version, f)
	}
	var pools []*Pool
	for _, name := range slices.Sorted(maps.Keys(f.Pools)) {
		if p := f.Pools[name]; p.Default && p.Version() == version {
			pools = append(pools, p)
		}
	}
	return pools, nil
}

// withoutUselessDefaults drops a family that no default pool can serve, as
// long as another one can: nobody asked for it by name.
func withoutUselessDefaults(families []Family) []Family {
	useful := slices.DeleteFunc(slices.Clone(families), func(f Family) bool { return len(f.Pools) == 0 })
	if len(useful) > 0 {
		return useful
	}
	return families
}

// expand looks names up and resolves globs, keeping the order as written. A
// glob stands for the matching pools of the family by name.
func expand(written []string, version int64, f Facts) ([]*Pool, error) {
	var pools []*Pool
	named := map[string]bool{}
	for _, name := range written {
		if strings.ContainsAny(name, "*?[") {
			matches, err := match(name, version, f)
			if err != nil {
				return nil, err
			}
			pools = append(pools, matches...)
			continue
		}
		pool, ok := f.Pools[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("pool %q does not exist; see kubectl get spiderippools", name)
		case named[name]:
			return nil, fmt.Errorf("pool %q is listed twice", name)
		}
		named[name] = true
		pools = append(pools, pool)
	}
	return firstOfEach(pools), nil
}

func match(glob string, version int64, f Facts) ([]*Pool, error) {
	var pools []*Pool
	for _, name := range slices.Sorted(maps.Keys(f.Pools)) {
		ok, err := path.Match(glob, name)
		if err != nil {
			return nil, fmt.Errorf("pool pattern %q is malformed; close its brackets", glob)
		}
		if ok && f.Pools[name].Version() == version {
			pools = append(pools, f.Pools[name])
		}
	}
	if len(pools) == 0 {
		return nil, fmt.Errorf("no IPv%d pool matches %q; see kubectl get spiderippools", version, glob)
	}
	return pools, nil
}

func firstOfEach(pools []*Pool) []*Pool {
	var unique []*Pool
	for _, p := range pools {
		if !slices.Contains(unique, p) {
			unique = append(unique, p)
		}
	}
	return unique
}

// sift asks the rules about each pool and orders those that may serve: the
// most specific affinity first, else as written.
func sift(pools []*Pool, from string, q question) Family {
	family := Family{Version: q.version, Source: from}
	for _, p := range pools {
		why := q.reason(p)
		if why == "" {
			family.Pools = append(family.Pools, p)
			continue
		}
		family.Dropped = append(family.Dropped, Drop{Pool: p.Name, Reason: why})
		if enabled := p.enabled(); q.reason(enabled) == "" {
			family.resting = append(family.resting, p)
		}
	}
	slices.SortStableFunc(family.Pools, func(a, b *Pool) int { return cmp.Compare(affinityClass(a), affinityClass(b)) })
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
