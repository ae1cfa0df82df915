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

// missing tells what the node needs to reach the pod's addresses and has not; "" when it has all. Network managers of the node take away what
// they did not make, such as systemd-networkd, which removes rules and routes of others when it starts again (ManageForeignRoutingPolicyRules).
func (p *Plugin) missing(st state, nodeEnd host.Link) (string, error) {
	rules, err := p.Kernel.Rules(host.NodeNS)
	if err != nil {
		return "", fmt.Errorf("list the node's rules: %w", err)
	}
	routes, err := p.Kernel.Routes(host.NodeNS, st.HostTable)
	if err != nil {
		return "", fmt.Errorf("list the node's routes of table %d: %w", st.HostTable, err)
	}
	for _, a := range st.Addresses {
		if !slices.ContainsFunc(rules, func(x host.Rule) bool { return leadsTo(x, st.HostTable, a.Is6()) }) {
			return fmt.Sprintf("the node has no rule that leads to table %d, where its routes to pods are", st.HostTable), nil
		}
		if !slices.ContainsFunc(routes, func(x host.Route) bool { return x.Dst == single(a) && x.Index == nodeEnd.Index }) {
			return fmt.Sprintf("the node's table %d has no route to %s through %s", st.HostTable, a, nodeEnd.Name), nil
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
		if err := p.Kernel.AddRule(host.NodeNS, NodeRule(st.HostTable, a.Is6())); err != nil {
			errs = append(errs, fmt.Errorf("add the node's rule for table %d: %w", st.HostTable, err))
		}
		if err := p.Kernel.AddNeighbor(host.NodeNS, host.Neighbor{Index: nodeEnd.Index, IP: a, HardwareAddr: podEnd.HardwareAddr}); err != nil {
			errs = append(errs, fmt.Errorf("add %s as a neighbour of the node: %w", a, err))
		}
		if err := p.Kernel.AddRoute(host.NodeNS, host.Route{Dst: single(a), Index: nodeEnd.Index, Table: st.HostTable}); err != nil {
			errs = append(errs, fmt.Errorf("add the node's route to %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
