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

// routesOnNode is what the record says of the node: the routes to the pod. Those to a first interface, and to others beside it, go by the
// pair; those of an overlay pod are recorded as they are.
func (p *Plugin) routesOnNode(r *cni.Request, st state) (routes []host.Route, err error) {
	routes = slices.Clone(st.Routes)
	if len(st.Addresses) == 0 {
		return routes, nil
	}
	nodeEnd, err := p.Kernel.LinkByName(host.NodeNS, hostVeth(r.ContainerID))
	if err != nil {
		return nil, fmt.Errorf("look for the node's end of the pair: %w", err)
	}
	for _, a := range st.Addresses {
		routes = append(routes, host.Route{Dst: single(a), Index: nodeEnd.Index, Table: st.HostTable})
	}
	return routes, nil
}

// missing tells what the node needs to reach the pod's addresses and has not; "" when it has all. Network managers of the node take away what
// they did not make, such as systemd-networkd, which removes rules and routes of others when it starts again (ManageForeignRoutingPolicyRules).
func (p *Plugin) missing(st state, want []host.Route) (string, error) {
	if len(want) == 0 {
		return "", nil
	}
	rules, err := p.Kernel.Rules(host.NodeNS)
	if err != nil {
		return "", fmt.Errorf("list the node's rules: %w", err)
	}
	routes, err := p.Kernel.Routes(host.NodeNS, st.HostTable)
	if err != nil {
		return "", fmt.Errorf("list the node's routes of table %d: %w", st.HostTable, err)
	}
	for _, w := range want {
		if !slices.ContainsFunc(rules, func(x host.Rule) bool { return leadsTo(x, st.HostTable, w.Dst.Addr().Is6()) }) {
			return fmt.Sprintf("the node has no rule that leads to table %d, where its routes to pods are", st.HostTable), nil
		}
		if !slices.ContainsFunc(routes, func(x host.Route) bool { return x.Dst == w.Dst && x.Gateway == w.Gateway && x.Index == w.Index }) {
			by := fmt.Sprint("through its link ", w.Index)
			if w.Gateway.IsValid() {
				by = fmt.Sprint("via ", w.Gateway)
			}
			return fmt.Sprintf("the node's table %d has no route to %s %s", st.HostTable, w.Dst.Addr(), by), nil
		}
	}
	return "", nil
}

// leadsTo tells a rule for everything of a family, whatever its priority.
func leadsTo(r host.Rule, table int, v6 bool) bool {
	return r.Table == table && r.IPv6 == v6 && r.From == (netip.Prefix{}) && r.To == (netip.Prefix{}) && r.Mark == 0
}

// Mend implements cni.Mender: the node's rule, its neighbour entries and its routes to the pod are made again. A pair that has gone is not, since
// the pod's routes through it went with it.
func (p *Plugin) Mend(_ context.Context, r *cni.Request) error {
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return err
	}
	routes, err := p.routesOnNode(r, st)
	if err != nil {
		return err
	}
	errs := []error{p.mendNeighbors(r, st)}
	for _, want := range routes {
		if err := p.Kernel.AddRule(host.NodeNS, NodeRule(st.HostTable, want.Dst.Addr().Is6())); err != nil {
			errs = append(errs, fmt.Errorf("add the node's rule for table %d: %w", st.HostTable, err))
		}
		if err := p.Kernel.AddRoute(host.NodeNS, want); err != nil {
			errs = append(errs, fmt.Errorf("add the node's route to %s: %w", want.Dst.Addr(), err))
		}
	}
	return errors.Join(errs...)
}

// mendNeighbors tells the node again where on the pair the pod's addresses are.
func (p *Plugin) mendNeighbors(r *cni.Request, st state) error {
	if len(st.Addresses) == 0 {
		return nil
	}
	nodeEnd, err := p.Kernel.LinkByName(host.NodeNS, hostVeth(r.ContainerID))
	if err != nil {
		return fmt.Errorf("look for the node's end of the pair: %w", err)
	}
	podEnd, err := p.Kernel.LinkByName(r.NetNS, podVeth)
	if err != nil {
		return fmt.Errorf("look for the pod's end of the pair: %w", err)
	}
	var errs []error
	for _, a := range st.Addresses {
		if err := p.Kernel.AddNeighbor(host.NodeNS, host.Neighbor{Index: nodeEnd.Index, IP: a, HardwareAddr: podEnd.HardwareAddr}); err != nil {
			errs = append(errs, fmt.Errorf("add %s as a neighbour of the node: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
