// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// nodeEnd is the node's end of the pair that the record says there is; nil for an overlay pod,
// which has none.
func (p *Plugin) nodeEnd(r *cni.Request, st state) (*host.Link, error) {
	if len(st.Addresses) == 0 {
		return nil, nil
	}
	l, err := p.Kernel.LinkByName(host.NodeNS, hostVeth(r.ContainerID))
	if err != nil {
		return nil, fmt.Errorf("look for the node's end of the pair: %w", err)
	}
	return &l, nil
}

// routesOnNode is what the record says of the node: the routes to the pod, which no other pod has,
// whosever the addresses are by now. Those to a first interface, and to others beside it, go by the
// pair; those of an overlay pod are recorded as they are. Older records have their source too,
// which may be none of the node's any more.
func routesOnNode(st state, nodeEnd *host.Link) []host.Route {
	routes := sourceless(st.Routes)
	if nodeEnd == nil {
		return routes
	}
	for _, a := range st.Addresses {
		routes = append(routes, host.Route{Dst: single(a), Index: nodeEnd.Index, Table: st.HostTable})
	}
	return routes
}

// seeTable is what the routes on the node are compared with: those of its table, and for ways back
// its addresses.
func (p *Plugin) seeTable(st state) (f facts, err error) {
	if f.nodeRoutes, err = p.Kernel.Routes(host.NodeNS, st.HostTable); err != nil {
		return facts{}, fmt.Errorf("list the node's routes of table %d: %w", st.HostTable, err)
	}
	if len(st.Routes) == 0 {
		return f, nil
	}
	return f, p.seeNode(&f)
}

// onNodeAlready finds a wanted route on the node, whatever its source.
func (f facts) onNodeAlready(want host.Route) (host.Route, bool) {
	i := slices.IndexFunc(f.nodeRoutes, func(x host.Route) bool {
		return x.Dst == want.Dst && x.Gateway == want.Gateway && x.Index == want.Index
	})
	if i < 0 {
		return host.Route{}, false
	}
	return f.nodeRoutes[i], true
}

// missing tells what the node needs to reach the pod's addresses and has not; "" when it has all.
// Network managers of the node take away what they did not make, such as systemd-networkd, which
// removes rules and routes of others when it starts again (ManageForeignRoutingPolicyRules).
func (p *Plugin) missing(st state, want []host.Route) (string, error) {
	if len(want) == 0 {
		return "", nil
	}
	rules, err := p.Kernel.Rules(host.NodeNS)
	if err != nil {
		return "", fmt.Errorf("list the node's rules: %w", err)
	}
	f, err := p.seeTable(st)
	if err != nil {
		return "", err
	}
	for _, w := range want {
		if !slices.ContainsFunc(rules, func(x host.Rule) bool { return leadsTo(x, st.HostTable, w.Dst.Addr().Is6()) }) {
			return fmt.Sprintf("the node has no rule that leads to table %d, where its routes to pods are",
				st.HostTable), nil
		}
		if text := f.lacks(w); text != "" {
			return fmt.Sprintf("the node's table %d has %s", st.HostTable, text), nil
		}
	}
	return "", nil
}

// lacks says what is amiss with a route that the node is to have; "" when nothing is.
func (f facts) lacks(want host.Route) string {
	have, ok := f.onNodeAlready(want)
	switch {
	case !ok && want.Gateway.IsValid():
		return fmt.Sprintf("no route to %s via %s", want.Dst.Addr(), want.Gateway)
	case !ok:
		return fmt.Sprintf("no route to %s through its link %d", want.Dst.Addr(), want.Index)
	case want.Gateway.IsValid() && f.staleSource(have) && have.Src.IsValid():
		return fmt.Sprintf("a route to %s from %s, which is no address of the node any more", want.Dst.Addr(), have.Src)
	case want.Gateway.IsValid() && f.staleSource(have):
		return fmt.Sprintf("a route to %s from no particular address of the node", want.Dst.Addr())
	}
	return ""
}

// leadsTo tells a rule for everything of a family, whatever its priority.
func leadsTo(r host.Rule, table int, v6 bool) bool {
	return r.Table == table && r.IPv6 == v6 && r.From == (netip.Prefix{}) && r.To == (netip.Prefix{}) && r.Mark == 0
}

// Mend implements cni.Mender: the node's rule, its neighbour entries and its routes to the pod are
// made again. A pair that has gone is not, since the pod's routes through it went with it.
func (p *Plugin) Mend(_ context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return err
	}
	nodeEnd, err := p.nodeEnd(r, st)
	if err != nil {
		return err
	}
	f, err := p.seeTable(st)
	if err != nil {
		return err
	}
	p.tables.Lock()
	defer p.tables.Unlock()
	errs := []error{p.mendNeighbors(r, st, nodeEnd)}
	if nodeEnd != nil {
		errs = append(errs, cni.DistrustPod(p.Kernel, nodeEnd.Name))
	}
	for _, want := range routesOnNode(st, nodeEnd) {
		if err := p.Kernel.AddRule(host.NodeNS, NodeRule(st.HostTable, want.Dst.Addr().Is6())); err != nil {
			errs = append(errs, fmt.Errorf("add the node's rule for table %d: %w", st.HostTable, err))
		}
		errs = append(errs, p.mendRoute(f, want))
	}
	return errors.Join(errs...)
}

// mendRoute makes a route on the node again. A way back gets a source of the present addresses,
// unless the one that it has is still good.
func (p *Plugin) mendRoute(f facts, want host.Route) error {
	if f.lacks(want) == "" {
		return nil
	}
	if _, ok := f.onNodeAlready(want); ok {
		if err := p.Kernel.DeleteRoute(host.NodeNS, want); err != nil {
			return fmt.Errorf("delete the node's route to %s: %w", want.Dst.Addr(), err)
		}
	}
	if want.Gateway.IsValid() {
		want.Src = firstOf(f.nodeAddrs, want.Dst.Addr().Is6())
	}
	if err := p.Kernel.AddRoute(host.NodeNS, want); err != nil {
		return fmt.Errorf("add the node's route to %s: %w", want.Dst.Addr(), err)
	}
	return nil
}

// mendNeighbors tells the node again where on the pair the pod's addresses are.
func (p *Plugin) mendNeighbors(r *cni.Request, st state, nodeEnd *host.Link) error {
	if nodeEnd == nil {
		return nil
	}
	podEnd, err := p.Kernel.LinkByName(r.NetNS, podVeth)
	if err != nil {
		return fmt.Errorf("look for the pod's end of the pair: %w", err)
	}
	var errs []error
	for _, a := range st.Addresses {
		if err := p.Kernel.AddNeighbor(host.NodeNS, host.Neighbor{Index: nodeEnd.Index, IP: a,
			HardwareAddr: podEnd.HardwareAddr}); err != nil {
			errs = append(errs, fmt.Errorf("add %s as a neighbour of the node: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
