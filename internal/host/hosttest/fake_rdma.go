// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"slices"
	"syscall"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

func (f *Fake) lowestFreeRDMA() string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("mlx5_%d", i)
		if !slices.ContainsFunc(f.funcs, func(fn *function) bool { return fn.rdma != nil && fn.rdma.Name == name }) {
			return name
		}
	}
}

// openVerbs gives the function the lowest free numbers of its character devices.
func (f *Fake) openVerbs(fn *function) {
	fn.uverbs, fn.umad = -1, -1
	lowest := func(of func(*function) int) int {
		for i := 0; ; i++ {
			if !slices.ContainsFunc(f.funcs, func(x *function) bool { return of(x) == i }) {
				return i
			}
		}
	}
	fn.uverbs = lowest(func(x *function) int { return x.uverbs })
	fn.umad = lowest(func(x *function) int { return x.umad })
}

// VerbsNumbers implements API.
func (f *Fake) VerbsNumbers() (out []int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fn := range f.funcs {
		if fn.uverbs >= 0 {
			out = append(out, fn.uverbs)
		}
	}
	slices.Sort(out)
	return out, nil
}

// serial is a new number for QPNs and MAC addresses.
func (f *Fake) serial() int {
	f.lastSerial++
	return f.lastSerial
}

// reregister moves an RDMA device and has all its clients made anew. dying is a namespace that is
// already out of the node, or nil. The netdev of a RoCE function is none of its clients and stays
// as it is.
func (f *Fake) reregister(fn *function, to host.NS, dying *namespace) {
	if fn.roce {
		fn.rdma.NS = to
		f.openVerbs(fn)
		return
	}
	if fn.link != nil {
		if dying != nil && fn.link.NS == dying.name {
			dying.drop(fn.link)
			for _, l := range slices.Clone(dying.links) {
				if l.parent == fn.link {
					dying.drop(l)
				}
			}
		}
		f.destroy(fn.link)
	}
	fn.rdma.NS = to
	f.openVerbs(fn)
	ns := host.NodeNS
	if f.opts.FollowRDMA {
		ns = to
	}
	f.makeNetdev(fn, ns)
}

// viewRDMA is what a caller in a namespace sees of the function's device.
func (f *Fake) viewRDMA(fn *function, ns host.NS) host.RDMADevice {
	d := host.RDMADevice{
		NS: ns, Index: fn.rdma.Index, Name: fn.rdma.Name, PCI: fn.pci, NodeGUID: fn.live, PortGUID: fn.live,
		LinkLayer: fn.layer, State: "ACTIVE", PhysState: "LINK_UP", SMLID: 1,
	}
	for i, x := range f.funcs {
		if x == fn {
			d.LID = i + 2
		}
	}
	if !host.UsableRDMAName(d.Name) { // sysfs cannot be asked
		d.PortGUID, d.LinkLayer = ib.GUID{}, ""
	}
	switch {
	case fn.roce: // no subnet manager numbers its ports
		d.LID, d.SMLID = 0, 0
	case fn.active():
	case fn.state == host.VFDisable || fn.live.Valid():
		d.State, d.PhysState, d.LID, d.SMLID = "DOWN", "POLLING", 0, 0
	default: // without a GUID no subnet manager brings the port up
		d.State, d.LID, d.SMLID = "INIT", 0, 0
	}
	return d
}

func (f *Fake) nodeRDMA(fn *function) *host.RDMADevice {
	if fn.rdma == nil || f.mode == host.RDMAExclusive && fn.rdma.NS != host.NodeNS {
		return nil
	}
	if !host.UsableRDMAName(fn.rdma.Name) {
		return nil
	}
	d := f.viewRDMA(fn, host.NodeNS)
	return &d
}

// RDMAMode implements API.
func (f *Fake) RDMAMode() (host.RDMAMode, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mode, nil
}

// ForceRDMAMode sets the mode as a boot option would, whatever namespaces exist.
func (f *Fake) ForceRDMAMode(m host.RDMAMode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = m
}

// SetRDMAMode implements API.
func (f *Fake) SetRDMAMode(m host.RDMAMode) error {
	return f.effect("SetRDMAMode "+string(m), func() error {
		switch {
		case m != host.RDMAShared && m != host.RDMAExclusive:
			return fmt.Errorf("RDMA mode %q: want shared or exclusive: %w", m, host.ErrUnsupported)
		case m == f.mode:
			return nil
		case len(f.ns) > 1:
			return fmt.Errorf("%d other network namespaces exist: %w", len(f.ns)-1, host.ErrBusy)
		}
		f.mode = m
		return nil
	})
}

// RDMADevices implements API.
func (f *Fake) RDMADevices(ns host.NS) ([]host.RDMADevice, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.namespace(ns); err != nil {
		return nil, err
	}
	var all []host.RDMADevice
	for _, fn := range f.funcs {
		if fn.rdma != nil && (f.mode == host.RDMAShared || fn.rdma.NS == ns) {
			all = append(all, f.viewRDMA(fn, ns))
		}
	}
	slices.SortFunc(all, func(a, b host.RDMADevice) int { return a.Index - b.Index })
	return all, nil
}

// RDMAByPCI implements API.
func (f *Fake) RDMAByPCI(ns host.NS, pci string) (host.RDMADevice, error) {
	devices, err := f.RDMADevices(ns)
	if err != nil {
		return host.RDMADevice{}, err
	}
	for _, d := range devices {
		if d.PCI == pci && pci != "" {
			return d, nil
		}
	}
	return host.RDMADevice{}, fmt.Errorf("RDMA device of PCI function %s in %s: %w", pci, where(ns), host.ErrNotFound)
}

// MoveRDMA implements API.
func (f *Fake) MoveRDMA(from host.NS, name string, to host.NS) error {
	return f.effect(fmt.Sprintf("MoveRDMA %s from %s to %s", name, where(from), where(to)), func() error {
		for _, ns := range []host.NS{from, to} {
			if _, err := f.namespace(ns); err != nil {
				return err
			}
		}
		i := slices.IndexFunc(f.funcs, func(fn *function) bool { return fn.rdma != nil && fn.rdma.Name == name })
		switch {
		case i < 0, f.mode == host.RDMAExclusive && f.funcs[i].rdma.NS != from:
			return fmt.Errorf("RDMA device %s in %s: %w", name, where(from), host.ErrNotFound)
		case f.mode == host.RDMAShared:
			return fmt.Errorf("the RDMA subsystem is in shared mode: %w", host.ErrUnsupported)
		case from == to:
			return nil
		}
		f.reregister(f.funcs[i], to, nil)
		return nil
	})
}

// rdmaAt finds the function whose device is visible in a namespace under an index, with the lock held.
func (f *Fake) rdmaAt(ns host.NS, index int) (*function, error) {
	if _, err := f.namespace(ns); err != nil {
		return nil, err
	}
	for _, fn := range f.funcs {
		if fn.rdma != nil && fn.rdma.Index == index && (f.mode == host.RDMAShared || fn.rdma.NS == ns) {
			return fn, nil
		}
	}
	return nil, fmt.Errorf("RDMA device with index %d in %s: %w", index, where(ns), host.ErrNotFound)
}

// nameRDMA is ib_device_rename, with the lock held.
func (f *Fake) nameRDMA(ns host.NS, index int, name string) error {
	fn, err := f.rdmaAt(ns, index)
	if err != nil || fn.rdma.Name == name {
		return err
	}
	if slices.ContainsFunc(f.funcs, func(x *function) bool { return x.rdma != nil && x.rdma.Name == name }) {
		return fmt.Errorf("name %q: %w", name, host.ErrExists)
	}
	fn.rdma.Name = name
	return nil
}

// RenameRDMA implements API.
func (f *Fake) RenameRDMA(ns host.NS, index int, name string) error {
	return f.effect(fmt.Sprintf("RenameRDMA %d in %s to %q", index, where(ns), name), func() error {
		if fn, err := f.rdmaAt(ns, index); err == nil && fn.rdma.Name != name && !host.UsableRDMAName(name) {
			return fmt.Errorf("name %q: %w", name, syscall.EINVAL)
		}
		return f.nameRDMA(ns, index, name)
	})
}

// NameRDMA names a device as a pod may, with any text.
func (f *Fake) NameRDMA(ns host.NS, index int, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nameRDMA(ns, index, name)
}
