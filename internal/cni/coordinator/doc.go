// Package coordinator is the CNI plugin "coordinator", chained behind the
// plugin that made an interface. A pod whose interfaces are all on a fabric of
// their own, such as InfiniBand, still needs its node: kubelet's probes come
// from there, and Services are made there. The coordinator joins the two, and
// gives each further interface a routing table of its own.
//
// What it makes for a pod's first interface ("underlay"):
//
//		pod                                        node
//		eth0  172.91.0.100/16 --- fabric           rule 1000: from all lookup 500
//		veth0 (no address) ------- pair ---------- veth0123456789a
//		  10.20.1.10 dev veth0 src 172.91.0.100      table 500: 172.91.0.100 dev veth0123456789a
//		  10.96.0.0/16 via 10.20.1.10 dev veth0      172.91.0.100 is at veth0's hardware address
//		  10.20.1.10 is at the pair's other end
//
//	  - Node to pod: table 500 is looked up before the main table, so that the
//	    node's own network on the same fabric (172.91.0.0/16 on ibs5f0) does not
//	    catch the pod's address. Neighbour entries are permanent on both sides:
//	    ARP on the pair would ask for addresses that are not on it.
//	  - Pod to node: every address of the node is a route of its own through
//	    veth0, with eth0's address as source, since veth0 has none.
//	  - Pod to Services: the service networks go through the node, whose
//	    kube-proxy picks a backend. A backend answers 172.91.0.100, which a
//	    backend on another node would send over the fabric or nowhere, past the
//	    translation. So the node must appear as the sender; kube-proxy does that
//	    for sources outside its --cluster-cidr (proxy/nftables: "masquerade
//	    traffic from outside the cluster"), and pool networks are outside. We
//	    leave it to kube-proxy and add no translation of our own.
//	  - Pod to other pods' own addresses goes through the node as well. Nobody
//	    translates there: it works on the same node, and across nodes where the
//	    primary CNI masquerades or the other node reaches the pool's network
//	    through this one.
//	  - Whatever enters through veth0 is answered through veth0, wherever it
//	    came from: connections are marked and a rule sends the mark to table 100.
//
// Later interfaces get table 1000 + their index, a rule for their addresses,
// and, where veth0 is there, the same routes to node and Services.
//
// It follows gather, decide, apply: decide is pure. Del works from the
// container ID and what Add recorded, without API server, pod or namespace.
// It must not know pools, devices, or how an interface was made.
package coordinator
