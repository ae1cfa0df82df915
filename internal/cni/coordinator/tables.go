// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// checkTable refuses a table of the network's own that something else on the node uses: a rule for
// it would send the node's traffic by routes that were made for less. Ours lead to single addresses.
func checkTable(set settings, routes []host.Route) error {
	if !set.ownTable {
		return nil
	}
	i := slices.IndexFunc(routes, func(r host.Route) bool { return !r.Dst.IsSingleIP() })
	if i < 0 {
		return nil
	}
	return cni.Errorf(cni.CodeInvalidConfig, "leave hostRuleTable out, or name a table that nothing else uses "+
		"(`ip route show table all`)",
		"hostRuleTable is %d, and something else on this node uses that table: it has a route to %s", set.hostTable,
		routes[i].Dst)
}

// deleteRules removes the rule that leads to a table of a network's own, or to one that was the
// cluster's when the pod was attached, from the node, for each family of which no pod has a route in
// the table any more.
func (p *Plugin) deleteRules(ctx context.Context, st state) error {
	if st.HostTable == 0 || !st.OwnTable && !p.formerTable(ctx, st.HostTable) {
		return nil
	}
	p.tables.Lock()
	defer p.tables.Unlock()
	routes, err := p.Kernel.Routes(host.NodeNS, st.HostTable)
	if err != nil {
		return fmt.Errorf("list the node's routes of table %d: %w", st.HostTable, err)
	}
	var errs []error
	for _, v6 := range []bool{false, true} {
		used := func(r host.Route) bool { return r.Dst.IsSingleIP() && r.Dst.Addr().Is6() == v6 }
		if slices.ContainsFunc(routes, used) {
			continue
		}
		if err := p.Kernel.DeleteRule(host.NodeNS, NodeRule(st.HostTable, v6)); err != nil {
			errs = append(errs, fmt.Errorf("delete the node's rule for table %d: %w", st.HostTable, err))
		}
	}
	return errors.Join(errs...)
}

// formerTable reports whether a table is not the cluster's any more. While that is not known the
// rule stays: DEL does not wait for the API server.
func (p *Plugin) formerTable(ctx context.Context, table int) bool {
	if p.Cluster == nil {
		return false
	}
	spec, _, err := p.Cluster.Coordinator(ctx)
	return err == nil && clusterTable(spec) != table
}
