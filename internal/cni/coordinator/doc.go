// SPDX-License-Identifier: Apache-2.0

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
// Where it is not, the first interface is of the cluster's own network
// ("overlay"), and node and Services are reached as that interface reaches them:
//
//		pod                                        node
//		eth0  10.244.0.7/24 ------ veth ---------- cni0 10.244.0.1/24
//		net1  172.91.0.100/16 --- fabric           rule 1000: from all lookup 500
//		main table, src 10.244.0.7, and net1's:      table 500: 172.91.0.100 via 10.244.0.7 dev cni0
//		  10.20.1.10 via 10.244.0.1 dev eth0
//		  10.96.0.0/16 via 10.244.0.1 dev eth0
//
//	  - The ways are copies: each destination takes the gateway of the route by
//	    which eth0 has it now, mostly its default route, or none where that has
//	    none. A plain "10.20.1.10 dev eth0" would ask on the link for an address
//	    that is not on it, which only some networks answer. What eth0 has no way
//	    to stays as it is.
//	  - In the main table they hold whoever gets the default route, now or later
//	    (SetDefaultRoutes), and where the fabric is the node's own network too:
//	    what eth0's address answers the node would leave by the fabric, and a
//	    macvlan link does not reach its own node. Routes that eth0's plugin made
//	    stay. In the interface's own table they serve what is sent from its
//	    addresses, its own networks and policyRoutes first.
//	  - The node needs a way back, or its reverse-path filter drops what comes
//	    from net1's address through eth0. It has eth0's address as gateway, so
//	    that no neighbour is asked for that the link does not have (IPv6
//	    answers for the interface's own addresses alone). Where eth0 is no veth,
//	    or the node reaches it otherwise than by a bridge or by eth0's other end
//	    (through a gateway, a switch's port, Cilium's programs), there is none;
//	    then the node's own addresses are left out of net1's table, for they and
//	    net1 may reach each other over the fabric. The way's source is an address
//	    of the node, chosen again when the node has lost it.
//	  - As with veth0, all addresses of the node are reached so, the one that it
//	    has on the fabric too: RDMA between a pod and its own node, by IP
//	    address, is not to be had.
//
// An interface also gets the cluster's txQueueLen and, when it is Ethernet and
// has an IPv4 address, a hardware address with podMACPrefix.
//
// It follows gather, decide, apply: decide is pure. Del works from the
// container ID and what Add recorded, without API server, pod or namespace.
// It must not know pools, devices, or how an interface was made.
package coordinator
