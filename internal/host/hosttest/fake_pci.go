// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// function is a PCI network function, physical or virtual.
type function struct {
	pci, vendor, device string
	bound               bool
	driver              string // the kernel's default one
	layer               host.LinkLayer
	numa                int
	roce                bool    // Ethernet with an RDMA device
	guid                ib.GUID // as the PF's driver reports it
	live                ib.GUID // as the function took it when it was bound
	link                *link
	rdma                *host.RDMADevice // Index, Name and NS only
	uverbs, umad        int              // -1 when there is none

	// of a PF
	totalVFs  int
	vfs       []*function
	unplugged bool

	// of a VF
	pf    *function
	index int
	state host.VFState
}

// AddPF adds a bound physical function with its netdev, down, and on InfiniBand its RDMA device. Of
// p it takes PCI, Vendor, Device, Driver, TotalVFs, NUMANode and LinkLayer; of its Link name,
// alternative names, MTU and hardware address (Ethernet). RDMA, whatever is in it, gives an
// Ethernet function and its virtual ones RDMA devices (RoCE).
func (f *Fake) AddPF(p host.PF, guid ib.GUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn := &function{
		pci: p.PCI, vendor: p.Vendor, device: p.Device, driver: p.Driver, layer: p.LinkLayer, numa: p.NUMANode,
		roce: p.LinkLayer == host.Ethernet && p.RDMA != nil, totalVFs: p.TotalVFs, guid: guid, uverbs: -1, umad: -1,
		index: -1,
	}
	f.funcs = append(f.funcs, fn)
	f.sortFuncs()
	f.bind(fn)
	if p.Link == nil {
		return
	}
	if p.Link.Name != "" {
		fn.link.Name, fn.link.AltNames = p.Link.Name, slices.Clone(p.Link.AltNames)
	}
	if p.Link.MTU != 0 {
		fn.link.MTU = p.Link.MTU
	}
	if len(p.Link.HardwareAddr) == 6 {
		fn.link.HardwareAddr = slices.Clone(p.Link.HardwareAddr)
	}
}

func (f *Fake) sortFuncs() {
	slices.SortFunc(f.funcs, func(a, b *function) int { return strings.Compare(a.pci, b.pci) })
}

// SetCable plugs or unplugs the cable of a PF's port.
func (f *Fake) SetCable(pf string, plugged bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.tellWatchers()
	if fn := f.function(pf); fn != nil {
		fn.unplugged = !plugged
	}
}

func (f *Fake) function(pci string) *function {
	for _, fn := range f.funcs {
		if fn.pci == pci {
			return fn
		}
	}
	return nil
}

// active tells whether the function's port carries traffic.
func (fn *function) active() bool {
	switch {
	case fn.layer == host.InfiniBand && !fn.live.Valid(), fn.state == host.VFDisable:
		return false
	case fn.state == host.VFEnable:
		return true
	case fn.pf != nil:
		return !fn.pf.unplugged
	}
	return !fn.unplugged
}

// bind gives the function its RDMA device and netdev.
func (f *Fake) bind(fn *function) {
	fn.bound, fn.live = true, fn.guid
	if fn.layer == host.InfiniBand || fn.roce {
		f.lastRDMA++
		fn.rdma = &host.RDMADevice{Index: f.lastRDMA, Name: f.lowestFreeRDMA(), NS: host.NodeNS}
		f.openVerbs(fn)
	}
	f.makeNetdev(fn, host.NodeNS)
}

func (f *Fake) unbind(fn *function) {
	if fn.link != nil {
		f.destroy(fn.link)
	}
	fn.link, fn.rdma, fn.uverbs, fn.umad, fn.bound = nil, nil, -1, -1, false
}

// makeNetdev gives a function a new netdev: the kernel's lowest free name, and udev's when it is on the node.
func (f *Fake) makeNetdev(fn *function, ns host.NS) {
	n := f.ns[ns]
	l := &link{fn: fn, Link: host.Link{PCI: fn.pci, LinkLayer: fn.layer, Kind: "device", MTU: 1500,
		TxQueueLen: ethernetTxQueueLen}}
	if fn.layer == host.InfiniBand {
		l.Kind, l.MTU, l.TxQueueLen, l.Mode, l.PKey = "ipoib", ipoibMTU, ipoibTxQueueLen, "datagram", 0xffff
		l.HardwareAddr = ipoibAddr(f.serial(), fn.live)
		l.Name = n.lowestFree("ib")
	} else {
		l.HardwareAddr = net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, byte(len(f.funcs))}
		l.Name = n.lowestFree("eth")
	}
	if f.opts.Naming != nil && ns == host.NodeNS {
		if name, alt := f.opts.Naming(fn.pci, fn.index); name != "" && !n.taken(name) {
			l.Name, l.AltNames = name, slices.DeleteFunc(slices.Clone(alt), n.taken)
		}
	}
	n.adopt(l)
	fn.link = l
}

// PFs implements API.
func (f *Fake) PFs() ([]host.PF, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []host.PF
	for _, fn := range f.funcs {
		if fn.pf == nil {
			all = append(all, f.viewPF(fn))
		}
	}
	return all, nil
}

// PF is FindPF, for brevity.
func (f *Fake) PF(pci string) (host.PF, error) { return FindPF(f, pci) }

// VF is FindVF, for brevity.
func (f *Fake) VF(pci string) (host.VF, error) { return FindVF(f, pci) }

// VFDevices implements API.
func (f *Fake) VFDevices(pci string) (host.VFDevices, error) {
	vf, err := f.VF(pci)
	d := host.VFDevices{PF: vf.PF, Index: vf.Index, Driver: vf.Driver, Link: vf.Link, Uverbs: vf.Uverbs, Umad: vf.Umad}
	if vf.RDMA != nil {
		d.RDMA = vf.RDMA.Name
	}
	return d, err
}

// VFState implements API.
func (f *Fake) VFState(pf string, index int) (host.VFState, error) {
	p, err := f.PF(pf)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(p.VFs, func(vf host.VF) bool { return vf.Index == index })
	switch {
	case i < 0:
		return "", fmt.Errorf("%s has no virtual function %d: %w", pf, index, host.ErrNotFound)
	case p.Link == nil:
		return "", fmt.Errorf("the netdev of %s is not on the node: %w", pf, host.ErrNotFound)
	}
	return p.VFs[i].State, nil
}

func (f *Fake) viewPF(fn *function) host.PF {
	p := host.PF{
		PCI: fn.pci, Vendor: fn.vendor, Device: fn.device, Driver: fn.boundDriver(), TotalVFs: fn.totalVFs,
		NumVFs:   len(fn.vfs),
		NUMANode: fn.numa, LinkLayer: fn.layer, Link: fn.nodeLink(), RDMA: f.nodeRDMA(fn),
	}
	for _, vf := range fn.vfs {
		p.VFs = append(p.VFs, f.viewVF(vf))
	}
	for _, r := range f.ns[host.NodeNS].routes {
		p.DefaultRoute = p.DefaultRoute || p.Link != nil && r.Index == p.Link.Index && r.Table == 0 && r.Dst.Bits() == 0
	}
	return p
}

func (f *Fake) viewVF(fn *function) host.VF {
	v := host.VF{
		PCI: fn.pci, PF: fn.pf.pci, Index: fn.index, Vendor: fn.vendor, Device: fn.device, Driver: fn.boundDriver(),
		NodeGUID: fn.guid, PortGUID: fn.guid, State: fn.state, Link: fn.nodeLink(), RDMA: f.nodeRDMA(fn),
	}
	if fn.uverbs >= 0 {
		v.Uverbs = fmt.Sprintf("uverbs%d", fn.uverbs)
	}
	if fn.umad >= 0 {
		v.Umad = fmt.Sprintf("umad%d", fn.umad)
	}
	return v
}

func (fn *function) boundDriver() string {
	if !fn.bound {
		return ""
	}
	return fn.driver
}

func (fn *function) nodeLink() *host.Link {
	if fn.link == nil || fn.link.NS != host.NodeNS {
		return nil
	}
	v := fn.link.view()
	return &v
}

// SetNumVFs implements API.
func (f *Fake) SetNumVFs(pf string, n int) error {
	return f.effect(fmt.Sprintf("SetNumVFs %d of %s", n, pf), func() error {
		fn := f.function(pf)
		switch {
		case fn == nil || fn.pf != nil:
			return fmt.Errorf("%s is not a physical network function: %w", pf, host.ErrNotFound)
		case n < 0 || n > fn.totalVFs:
			return fmt.Errorf("%s can make %d virtual functions, not %d: %w", pf, fn.totalVFs, n, host.ErrUnsupported)
		case n == len(fn.vfs):
			return nil
		}
		f.removeVFs(fn)
		for i := range n {
			f.addVF(fn, i)
		}
		f.sortFuncs()
		return nil
	})
}

func (f *Fake) removeVFs(pf *function) {
	for _, vf := range pf.vfs {
		f.unbind(vf)
		f.funcs = slices.DeleteFunc(f.funcs, func(x *function) bool { return x == vf })
	}
	pf.vfs = nil
}

func (f *Fake) addVF(pf *function, index int) {
	vf := &function{
		pci: vfAddress(pf.pci, index), vendor: pf.vendor, device: vfDevice(pf.device), driver: pf.driver,
		layer: pf.layer,
		numa:  pf.numa, roce: pf.roce, uverbs: -1, umad: -1, pf: pf, index: index, state: host.VFAuto,
	}
	pf.vfs = append(pf.vfs, vf)
	f.funcs = append(f.funcs, vf)
}

// vfAddress counts functions on from the PF's: offset 1, stride 1.
func vfAddress(pf string, index int) string {
	var domain, bus, device, fn int
	if _, err := fmt.Sscanf(pf, "%x:%x:%x.%x", &domain, &bus, &device, &fn); err != nil {
		panic(fmt.Sprintf("PCI address %q: %v", pf, err))
	}
	at := bus<<8 | device<<3 | fn + index + 1
	return fmt.Sprintf("%04x:%02x:%02x.%x", domain, at>>8, at>>3&0x1f, at&7)
}

// vfDevice is the device ID after the PF's, as Mellanox numbers them.
func vfDevice(pf string) string {
	var id int
	if _, err := fmt.Sscanf(pf, "%x", &id); err != nil {
		panic(fmt.Sprintf("PCI device ID %q: %v", pf, err))
	}
	return fmt.Sprintf("%04x", id+1)
}

// setVF runs a call that goes through the PF's netdev.
func (f *Fake) setVF(pf string, index int, call string, do func(*function) error) error {
	return f.effect(fmt.Sprintf("%s of VF %d of %s", call, index, pf), func() error {
		fn := f.function(pf)
		if fn == nil || fn.pf != nil {
			return fmt.Errorf("%s is not a physical network function: %w", pf, host.ErrNotFound)
		}
		if fn.nodeLink() == nil {
			return fmt.Errorf("%s has no netdev in the node's namespace: %w", pf, host.ErrNotFound)
		}
		if index < 0 || index >= len(fn.vfs) {
			return fmt.Errorf("%s has %d virtual functions: %w", pf, len(fn.vfs), host.ErrNotFound)
		}
		return do(fn.vfs[index])
	})
}

// SetVFGUID implements API. The PF reports the GUID at once; the VF takes it when it is next bound.
func (f *Fake) SetVFGUID(pf string, index int, guid ib.GUID) error {
	return f.setVF(pf, index, "SetVFGUID "+guid.String(), func(vf *function) error {
		if vf.layer != host.InfiniBand {
			return fmt.Errorf("%s is not InfiniBand: %w", vf.pci, host.ErrUnsupported)
		}
		vf.guid = guid
		return nil
	})
}

// SetVFState implements API.
func (f *Fake) SetVFState(pf string, index int, state host.VFState) error {
	return f.setVF(pf, index, "SetVFState "+string(state), func(vf *function) error {
		vf.state = state
		return nil
	})
}

func (f *Fake) bindOrUnbind(pci, call string, want bool, do func(*function)) error {
	return f.effect(call+" "+pci, func() error {
		fn := f.function(pci)
		if fn == nil || fn.pf == nil {
			return fmt.Errorf("%s is not a virtual function: %w", pci, host.ErrNotFound)
		}
		if fn.bound != want {
			do(fn)
		}
		return nil
	})
}

// BindVF implements API.
func (f *Fake) BindVF(pci string) error { return f.bindOrUnbind(pci, "BindVF", true, f.bind) }

// UnbindVF implements API.
func (f *Fake) UnbindVF(pci string) error { return f.bindOrUnbind(pci, "UnbindVF", false, f.unbind) }
