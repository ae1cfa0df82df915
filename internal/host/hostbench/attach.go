// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// Names and addresses that no node or pod has: RFC 5737, RFC 2544.
const (
	ifname    = "eth0"
	podVeth   = "veth0"
	nodeVeth  = "vethhostbench"
	childName = "hostbench0"
	nodeTable = 777
	podTable  = 100
	mark      = 0x1
)

var (
	podAddress = netip.MustParsePrefix("192.0.2.10/24")
	gateway    = netip.MustParseAddr("192.0.2.1")
	nodeAddrs  = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}
	// viaNode are as many as the lab's cluster has: Services, two nodes' pods, link-local.
	viaNode = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/24"), netip.MustParsePrefix("198.18.1.0/24"),
		netip.MustParsePrefix("198.18.2.0/24"), netip.MustParsePrefix("198.18.3.0/24")}
	everywhere = netip.MustParsePrefix("0.0.0.0/0")
)

// target is the VF and the card to work with, as found.
type target struct {
	pf        host.PF
	vf        host.VF
	exclusive bool
}

// chooseTarget takes the last VF that is wholly in the node's namespace: kubelets give the first ones.
func chooseTarget(k kernel, pci string) (target, error) {
	pfs, err := k.PFs()
	if err != nil {
		return target{}, fmt.Errorf("listing the cards: %w", err)
	}
	mode, err := k.RDMAMode()
	if err != nil {
		return target{}, err
	}
	for _, pf := range pfs {
		if pf.LinkLayer != host.InfiniBand || pf.Link == nil || pci != "" && pf.PCI != pci {
			continue
		}
		for i := len(pf.VFs) - 1; i >= 0; i-- {
			if vf := pf.VFs[i]; vf.Link != nil && vf.RDMA != nil {
				return target{pf: pf, vf: vf, exclusive: mode == host.RDMAExclusive}, nil
			}
		}
	}
	return target{},
		fmt.Errorf("no InfiniBand card %s with a VF that no pod has: apply a SriovNetworkNodePolicy, or delete a pod",
			pci)
}

// nodeRule makes the rule that the first pod on a node makes; later ones find it there, as the
// measured rounds do.
func (b *bench) nodeRule() (undo func() error, err error) {
	rule := host.Rule{Priority: 1000, Table: nodeTable}
	if err := b.kernel.AddRule(host.NodeNS, rule); err != nil {
		return nil, fmt.Errorf("adding the node's rule: %w", err)
	}
	return func() error { return b.kernel.DeleteRule(host.NodeNS, rule) }, nil
}

// virtualFunction is one round with the VF: into a fresh namespace with all that a pod gets, and back.
func (b *bench) virtualFunction(t target, round int) (err error) {
	ns, closeNS, err := b.newNS()
	if err != nil {
		return err
	}
	defer closeNS()
	defer func() { err = errors.Join(err, b.giveBack(t, ns)) }()
	var link host.Link
	steps := b.vfSteps(t, ns, &link)
	steps = append(steps, b.addressSteps(ns, &link)...)
	steps = append(steps, b.coordinatorSteps(ns)...)
	if err := b.measure("ib-sriov", round, "ADD", steps); err != nil {
		return err
	}
	return b.measure("ib-sriov", round, "DEL", append(b.pairGone(), b.vfStepsBack(t, ns)...))
}

func (b *bench) vfSteps(t target, ns host.NS, link *host.Link) []step {
	var steps []step
	if t.exclusive {
		steps = append(steps, step{"device-move", "RDMA device moved",
			func() error { return b.kernel.MoveRDMA(host.NodeNS, t.vf.RDMA.Name, ns) }})
	}
	return append(steps,
		step{"link", "netdev found by its PCI address", func() (err error) {
			*link, err = b.findLink(t.vf.PCI, ns)
			return err
		}},
		step{"link", "netdev moved and renamed", func() (err error) {
			if link.NS == ns {
				return b.kernel.RenameLink(ns, link.Index, ifname)
			}
			*link, err = b.kernel.MoveLink(host.NodeNS, link.Index, ns, ifname)
			return err
		}})
}

func (b *bench) vfStepsBack(t target, ns host.NS) []step {
	var steps []step
	if t.exclusive {
		steps = append(steps, step{"device-move", "RDMA device moved back",
			func() error { return b.kernel.MoveRDMA(ns, t.vf.RDMA.Name, host.NodeNS) }})
	}
	return append(steps, step{"link", "netdev back under its name", func() error { return b.linkHome(t, ns) }})
}

// findLink waits for the netdev that the kernel makes anew when an RDMA device has moved.
func (b *bench) findLink(pci string, ns host.NS) (host.Link, error) {
	for deadline := time.Now().Add(2 * time.Second); ; {
		for _, in := range []host.NS{host.NodeNS, ns} {
			link, err := b.kernel.LinkByPCI(in, pci)
			if !errors.Is(err, host.ErrNotFound) {
				return link, err
			}
		}
		if time.Now().After(deadline) {
			return host.Link{}, fmt.Errorf("VF %s has no netdev: %w", pci, host.ErrNotFound)
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *bench) linkHome(t target, ns host.NS) error {
	link, err := b.findLink(t.vf.PCI, ns)
	if err != nil {
		return err
	}
	if link.NS == ns {
		if link, err = b.kernel.MoveLink(ns, link.Index, host.NodeNS, t.vf.Link.Name); err != nil {
			return err
		}
	}
	if link.Name != t.vf.Link.Name {
		if err := b.kernel.RenameLink(host.NodeNS, link.Index, t.vf.Link.Name); err != nil {
			return err
		}
	}
	if t.vf.Link.Up {
		return b.kernel.SetLinkUp(host.NodeNS, link.Index)
	}
	return b.kernel.SetLinkDown(host.NodeNS, link.Index)
}

// giveBack returns whatever of the VF is still in the namespace, after a round that failed half way too.
func (b *bench) giveBack(t target, ns host.NS) error {
	errs := []error{b.pairGone()[0].do()}
	inside, err := b.kernel.RDMADevices(ns)
	errs = append(errs, err)
	for _, d := range inside {
		if t.exclusive && d.PCI == t.vf.PCI {
			errs = append(errs, b.kernel.MoveRDMA(ns, d.Name, host.NodeNS))
		}
	}
	return errors.Join(append(errs, b.linkHome(t, ns))...)
}

// child is one round with an IPoIB child of the card's interface.
func (b *bench) child(t target, round int) (err error) {
	ns, closeNS, err := b.newNS()
	if err != nil {
		return err
	}
	defer closeNS()
	defer func() {
		err = errors.Join(err, b.pairGone()[0].do(), b.deleteLink(host.NodeNS, childName), b.deleteLink(ns, ifname))
	}()
	var link host.Link
	steps := []step{
		{"link", "IPoIB child made", func() (err error) {
			link, err = b.kernel.AddIPoIBChild(t.pf.Link.Index, childName, uint16(ib.PKey(t.pf.Link.PKey).Key()))
			return err
		}},
		{"link", "IPoIB child moved and renamed", func() (err error) {
			link, err = b.kernel.MoveLink(host.NodeNS, link.Index, ns, ifname)
			return err
		}},
		{"link", "IPv6 identifier set", func() error {
			return b.kernel.SetIPv6LinkLocalGUID(ns, link.Index, ib.VFGUID(t.pf.RDMA.PortGUID, 200))
		}},
	}
	steps = append(steps, b.addressSteps(ns, &link)...)
	steps = append(steps, b.coordinatorSteps(ns)...)
	if err := b.measure("ipoib", round, "ADD", steps); err != nil {
		return err
	}
	return b.measure("ipoib", round, "DEL", append(b.pairGone(),
		step{"link", "IPoIB child deleted", func() error { return b.kernel.DeleteLink(ns, link.Index) }}))
}

func (b *bench) deleteLink(ns host.NS, name string) error {
	link, err := b.kernel.LinkByName(ns, name)
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.kernel.DeleteLink(ns, link.Index)
}

func (b *bench) addressSteps(ns host.NS, link *host.Link) []step {
	return []step{
		{"address", "address added", func() error { return b.kernel.AddAddress(ns, link.Index, podAddress) }},
		{"address", "link set up", func() error { return b.kernel.SetLinkUp(ns, link.Index) }},
		{"address", "default route added", func() error {
			return b.kernel.AddRoute(ns, host.Route{Dst: everywhere, Gateway: gateway, Index: link.Index})
		}},
	}
}

// coordinatorSteps do what a pod's first interface gets so that the node reaches it, in the same number.
func (b *bench) coordinatorSteps(ns host.NS) []step {
	var node, pod host.Link
	return []step{
		{"coordinator", "veth pair made", func() (err error) {
			node, pod, err = b.kernel.AddVeth(host.NodeNS, nodeVeth, ns, podVeth, 1500)
			return err
		}},
		{"coordinator", "reverse-path filters off", func() error {
			return each([]string{"all", ifname, podVeth}, func(name string) error {
				return b.kernel.SetSysctl(ns, "net/ipv4/conf/"+name+"/rp_filter", "0")
			})
		}},
		{"coordinator", "node's neighbour, rule and route", func() error {
			dst := netip.PrefixFrom(podAddress.Addr(), 32)
			return errors.Join(
				b.kernel.AddNeighbor(host.NodeNS, host.Neighbor{Index: node.Index, IP: podAddress.Addr(),
					HardwareAddr: pod.HardwareAddr}),
				b.kernel.AddRule(host.NodeNS, host.Rule{Priority: 1000, Table: nodeTable}),
				b.kernel.AddRoute(host.NodeNS, host.Route{Dst: dst, Index: node.Index, Table: nodeTable}))
		}},
		{"coordinator", "pod's neighbours and routes", func() error { return b.podRoutes(ns, node, pod) }},
		{"coordinator", "replies marked", func() error {
			err := b.kernel.MarkReplies(ns, podVeth, mark)
			if errors.Is(err, host.ErrUnsupported) {
				return nil // the coordinator goes on without, too
			}
			return err
		}},
		{"coordinator", "pod's rule added",
			func() error { return b.kernel.AddRule(ns, host.Rule{Priority: 1000, Mark: mark, Table: podTable}) }},
	}
}

func (b *bench) podRoutes(ns host.NS, node, pod host.Link) error {
	err := each(nodeAddrs, func(a netip.Addr) error {
		return errors.Join(
			b.kernel.AddNeighbor(ns, host.Neighbor{Index: pod.Index, IP: a, HardwareAddr: node.HardwareAddr}),
			b.kernel.AddRoute(ns, host.Route{Dst: netip.PrefixFrom(a, 32), Src: podAddress.Addr(), Index: pod.Index}))
	})
	if err != nil {
		return err
	}
	err = each(viaNode, func(p netip.Prefix) error {
		return b.kernel.AddRoute(ns, host.Route{Dst: p, Gateway: nodeAddrs[0], Src: podAddress.Addr(),
			Index: pod.Index})
	})
	if err != nil {
		return err
	}
	return b.kernel.AddRoute(ns, host.Route{Dst: everywhere, Gateway: nodeAddrs[0], Index: pod.Index, Table: podTable})
}

// pairGone deletes the node's end of the pair, which takes the rest along.
func (b *bench) pairGone() []step {
	return []step{{"coordinator", "veth pair deleted", func() error { return b.deleteLink(host.NodeNS, nodeVeth) }}}
}

func each[T any](list []T, do func(T) error) error {
	for _, x := range list {
		if err := do(x); err != nil {
			return err
		}
	}
	return nil
}
