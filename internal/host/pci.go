// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/ib"
)

// sysfs is the path of a mounted sysfs (sysfs-bus-pci in the kernel's ABI documents).
type sysfs string

// device is the folder of a PCI function.
func (s sysfs) device(pci string) string { return filepath.Join(string(s), "bus/pci/devices", pci) }

// read returns an attribute's text without the final newline: of sysfs or below /proc/sys, which
// hold at most a page and give it in one go (sysfs_kf_seq_show, proc_dostring). os.ReadFile would
// ask for the file's size, its end and whether it can be waited for besides, and a look at a node's
// cards reads hundreds.
func read(path ...string) (string, error) {
	name := filepath.Join(path...)
	fd, err := openRead(name)
	if err != nil {
		return "", kernelError(err)
	}
	defer unix.Close(fd)
	var n int
	text := make([]byte, unix.Getpagesize())
	err = again(func() (err error) {
		n, err = unix.Read(fd, text)
		return err
	})
	if err != nil {
		return "", kernelError(&fs.PathError{Op: "read", Path: name, Err: err})
	}
	return strings.TrimSpace(string(text[:n])), nil
}

// write writes a sysfs attribute in one go.
func write(value string, path ...string) error {
	f, err := os.OpenFile(filepath.Join(path...), os.O_WRONLY, 0)
	if err != nil {
		return kernelError(err)
	}
	_, err = f.WriteString(value)
	return kernelError(errors.Join(err, f.Close()))
}

// entries lists the names in a folder, none when it does not exist.
func entries(path ...string) ([]string, error) {
	found, err := os.ReadDir(filepath.Join(path...))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names, nil
}

// linkBase is the last part of a symbolic link's target, "" when there is no link.
func linkBase(path ...string) string {
	target, err := os.Readlink(filepath.Join(path...))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// checkPCI refuses text that is not a PCI address as the kernel writes it, before it becomes a path.
func checkPCI(pci string) error {
	if !ib.IsPCIAddress(pci) {
		return fmt.Errorf("PCI address %q: want domain:bus:device.function in lower case, such as 0000:86:00.0: %w",
			pci, ErrNotFound)
	}
	return nil
}

// isNetworkClass tells whether the text of a class file, such as 0x020700, is
// of base class 02, network controller (PCI Code and ID Assignment
// Specification), and whether it is the InfiniBand sub-class.
func isNetworkClass(class string) (network, infiniband bool) {
	v, err := strconv.ParseUint(strings.TrimPrefix(class, "0x"), 16, 32)
	if err != nil || v > 0xffffff {
		return false, false
	}
	return v>>16 == 0x02, v>>8 == 0x0207
}

// virtfnIndex reads the N of virtfnN.
func virtfnIndex(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "virtfn")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0 && strconv.Itoa(n) == digits
}

// intFile reads a number, def when the file is absent or holds something else.
func intFile(def int, path ...string) int {
	text, err := read(path...)
	if err != nil {
		return def
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return def
	}
	return n
}

// hexID reads 0x15b3 as "15b3".
func hexID(path ...string) string {
	text, _ := read(path...)
	return strings.TrimPrefix(text, "0x")
}

// isVF tells whether a function's folder has a physfn link.
func (s sysfs) isVF(pci string) bool { return linkBase(s.device(pci), "physfn") != "" }

// isPF tells whether the function is a network controller and no VF.
func (s sysfs) isPF(pci string) bool {
	class, err := read(s.device(pci), "class")
	if err != nil || s.isVF(pci) {
		return false
	}
	network, _ := isNetworkClass(class)
	return network
}

// vfAddresses lists the PCI addresses of a PF's VFs by index.
func (s sysfs) vfAddresses(pf string) (map[int]string, error) {
	names, err := entries(s.device(pf))
	if err != nil {
		return nil, fmt.Errorf("listing the virtual functions of %s: %w", pf, err)
	}
	vfs := map[int]string{}
	for _, name := range names {
		if i, ok := virtfnIndex(name); ok {
			if pci := linkBase(s.device(pf), name); pci != "" {
				vfs[i] = pci
			}
		}
	}
	return vfs, nil
}

// view is what one look at the node's namespace gave.
type view struct {
	sys    sysfs
	links  []rawLink
	rdma   []RDMADevice
	routes []Route // default routes
}

// look sees the RDMA devices, the links and the default routes.
func (h *Host) look() (view, error) {
	v := view{sys: h.sys()}
	var err error
	if v.links, err = h.rawLinks(NodeNS); err != nil {
		return v, err
	}
	if v.rdma, err = h.RDMADevices(NodeNS); err != nil {
		return v, err
	}
	routes, err := h.Routes(NodeNS, 0)
	v.routes = slices.DeleteFunc(routes, func(r Route) bool { return r.Dst.Bits() != 0 })
	return v, err
}

// PFs lists physical network functions (PCI class 02xx, not a VF), in order of PCI address, with their VFs.
func (h *Host) PFs() ([]PF, error) {
	v, err := h.look()
	if err != nil {
		return nil, fmt.Errorf("looking for network functions: %w", err)
	}
	addresses, err := entries(string(v.sys), "bus/pci/devices")
	if err != nil {
		return nil, fmt.Errorf("listing PCI functions: %w", err)
	}
	slices.Sort(addresses)
	var pfs []PF
	for _, pci := range addresses {
		if !v.sys.isPF(pci) {
			continue
		}
		pf, err := h.readPF(v, pci)
		if err != nil {
			return nil, err
		}
		pfs = append(pfs, pf)
	}
	return pfs, nil
}

func (h *Host) checkPF(pci string) error {
	if err := checkPCI(pci); err != nil {
		return err
	}
	if !h.sys().isPF(pci) {
		return fmt.Errorf("%s is not a physical network function (PCI class 02, without physfn): %w", pci, ErrNotFound)
	}
	return nil
}

func (h *Host) readPF(v view, pci string) (PF, error) {
	dir := v.sys.device(pci)
	pf := PF{
		PCI: pci, Vendor: hexID(dir, "vendor"), Device: hexID(dir, "device"), Driver: linkBase(dir, "driver"),
		TotalVFs: intFile(0, dir, "sriov_totalvfs"), NumVFs: intFile(0, dir, "sriov_numvfs"), NUMANode: intFile(-1, dir,
			"numa_node"),
		Link: v.linkOf(pci), RDMA: v.rdmaOf(pci),
	}
	pf.LinkLayer = v.linkLayer(pci, pf.Link, pf.RDMA)
	pf.DefaultRoute = pf.Link != nil && v.carriesDefault(pf.Link.Index)
	addresses, err := v.sys.vfAddresses(pci)
	if err != nil || len(addresses) == 0 {
		return pf, err
	}
	infos, err := h.vfInfos(pf.Link)
	if err != nil {
		return pf, err
	}
	for i, vf := range addresses {
		pf.VFs = append(pf.VFs, v.readVF(vf, pci, i, infos[i]))
	}
	slices.SortFunc(pf.VFs, func(a, b VF) int { return a.Index - b.Index })
	return pf, nil
}

func (v view) readVF(pci, pf string, index int, info vfInfo) VF {
	dir := v.sys.device(pci)
	uverbs, umad := v.sys.verbs(pci)
	return VF{
		PCI: pci, PF: pf, Index: index, Vendor: hexID(dir, "vendor"), Device: hexID(dir, "device"),
		Driver:   linkBase(dir, "driver"),
		NodeGUID: info.node, PortGUID: info.port, State: info.state, Link: v.linkOf(pci), RDMA: v.rdmaOf(pci),
		Uverbs: uverbs, Umad: umad,
	}
}

// VFDevices returns where a VF's devices are; ErrNotFound when it is not a virtual function. PFs
// costs far more: the PF's driver asks the card about all of its virtual functions. The netdev
// comes first, since it is the last to be made when an RDMA device comes home.
func (h *Host) VFDevices(pci string) (d VFDevices, err error) {
	if d.PF, d.Index, err = h.findVF(pci); err != nil {
		return VFDevices{}, err
	}
	link, err := h.LinkByPCI(NodeNS, pci)
	switch {
	case err == nil:
		d.Link = &link
	case !errors.Is(err, ErrNotFound):
		return VFDevices{}, err
	}
	dir := h.sys().device(pci)
	d.Driver, d.RDMA = linkBase(dir, "driver"), firstWith("", dir, "infiniband")
	if !UsableRDMAName(d.RDMA) {
		d.RDMA = ""
	}
	d.Uverbs, d.Umad = h.sys().verbs(pci)
	return d, nil
}

// verbs are the names of a function's devices under /dev/infiniband, "" where there is none.
func (s sysfs) verbs(pci string) (uverbs, umad string) {
	dir := s.device(pci)
	return firstWith("uverbs", dir, "infiniband_verbs"), firstWith("umad", dir, "infiniband_mad")
}

// firstWith is the first entry of a folder that begins with prefix, "" when there is none.
//
// The classes of uverbs and umad devices are not tagged with a namespace, so
// these folders below a PCI function are there wherever its RDMA device is.
func firstWith(prefix string, path ...string) string {
	names, _ := entries(path...)
	for _, n := range names {
		if strings.HasPrefix(n, prefix) {
			return n
		}
	}
	return ""
}

// linkLayer believes the RDMA port, then the netdev, then the PCI class.
func (v view) linkLayer(pci string, l *Link, r *RDMADevice) LinkLayer {
	class, _ := read(v.sys.device(pci), "class")
	_, infiniband := isNetworkClass(class)
	switch {
	case r != nil && r.LinkLayer != "":
		return r.LinkLayer
	case l != nil:
		return l.LinkLayer
	case infiniband:
		return InfiniBand
	}
	return Ethernet
}

// carriesDefault tells whether a default route leaves through the link, its master (bond, bridge)
// or a link on top of it (VLAN).
func (v view) carriesDefault(index int) bool {
	through := map[int]bool{index: true}
	for range len(v.links) { // until nothing is added: stacks are short
		n := len(through)
		for _, l := range v.links {
			if through[l.Parent] && l.Parent != 0 {
				through[l.Index] = true
			}
			if through[l.Index] && l.master != 0 {
				through[l.master] = true
			}
		}
		if len(through) == n {
			break
		}
	}
	return slices.ContainsFunc(v.routes, func(r Route) bool { return through[r.Index] })
}

func (v view) linkOf(pci string) *Link {
	l, ok := v.sys.byPCI(v.links, pci)
	if !ok {
		return nil
	}
	return &l.Link
}

func (v view) rdmaOf(pci string) *RDMADevice {
	for _, d := range v.rdma {
		if d.PCI == pci && UsableRDMAName(d.Name) {
			return &d
		}
	}
	return nil
}

// findVF gives the PF and the index of a VF.
func (h *Host) findVF(pci string) (pf string, index int, err error) {
	if err := checkPCI(pci); err != nil {
		return "", 0, err
	}
	if pf = linkBase(h.sys().device(pci), "physfn"); pf == "" {
		return "", 0, fmt.Errorf("%s is not a virtual function (no physfn in sysfs): %w", pci, ErrNotFound)
	}
	addresses, err := h.sys().vfAddresses(pf)
	if err != nil {
		return "", 0, err
	}
	for i, a := range addresses {
		if a == pci {
			return pf, i, nil
		}
	}
	return "", 0, fmt.Errorf("%s is not among the virtual functions of %s: %w", pci, pf, ErrNotFound)
}

// vfInfo is what a PF's driver reports of a VF.
type vfInfo struct {
	node, port ib.GUID
	state      VFState
}
