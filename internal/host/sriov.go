// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/ib"
)

// SetNumVFs makes n VFs with driver autoprobe off, so that none is bound. A change between two non-zero
// numbers goes through 0 and destroys all VFs.
func (h *Host) SetNumVFs(pf string, n int) error {
	if err := h.checkPF(pf); err != nil {
		return err
	}
	dir := h.sys().device(pf)
	total := intFile(0, dir, "sriov_totalvfs")
	switch have := intFile(0, dir, "sriov_numvfs"); {
	case n == have:
		return nil
	case n < 0 || n > total:
		return fmt.Errorf(
			"%s can make %d virtual functions, not %d (raise NUM_OF_VFS and set SRIOV_EN in its firmware): %w", pf,
			total, n, ErrUnsupported)
	case have != 0:
		if err := writeNumVFs(dir, pf, 0); err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	return makeVFs(dir, pf, n)
}

// makeVFs keeps autoprobe off while the VFs are made, and on afterwards: the
// kernel refuses every bind of a VF while it is off (pci_device_can_probe).
func makeVFs(dir, pf string, n int) error {
	err := write("0", dir, "sriov_drivers_autoprobe")
	if err != nil {
		return fmt.Errorf("turning driver autoprobe of the virtual functions of %s off: %w", pf, err)
	}
	err = writeNumVFs(dir, pf, n)
	if back := write("1", dir, "sriov_drivers_autoprobe"); back != nil {
		err = errors.Join(err, fmt.Errorf("turning driver autoprobe of the virtual functions of %s on: %w", pf, back))
	}
	return err
}

func writeNumVFs(dir, pf string, n int) error {
	if err := write(strconv.Itoa(n), dir, "sriov_numvfs"); err != nil {
		return fmt.Errorf("writing %d to sriov_numvfs of %s: %w%s", n, pf, err, explainNumVFs(err))
	}
	return nil
}

// explainNumVFs says what stands behind an errno of sriov_numvfs.
func explainNumVFs(err error) string {
	for errno, why := range map[unix.Errno]string{
		unix.ENOMEM: "the firmware left too little memory address space or too few bus numbers for the virtual " +
			"functions: enable SR-IOV (and ARI) in the BIOS, or boot with pci=realloc",
		unix.ENOSPC: "the firmware left too little memory address space for the virtual functions: enable SR-IOV in " +
			"the BIOS, or boot with pci=realloc",
		unix.EBUSY:  "other virtual functions exist, or one is in use",
		unix.EINVAL: "the number is beyond what card and driver allow",
		unix.EPERM:  "a virtual function is assigned to a guest, or kernel lockdown forbids it",
		unix.EACCES: "sysfs is mounted read-only, or the process lacks privilege",
		unix.ENOENT: "the driver cannot do SR-IOV, or none is bound",
		unix.EIO:    "the driver made fewer than asked for: see the kernel log",
	} {
		if errors.Is(err, errno) {
			return " (" + why + ")"
		}
	}
	return ""
}

// pfNetdev is the PF's netdev, through which its VFs are set.
func (h *Host) pfNetdev(pf string, index int) (*netlink.GenericLink, error) {
	if err := h.checkPF(pf); err != nil {
		return nil, err
	}
	if linkBase(h.sys().device(pf), fmt.Sprintf("virtfn%d", index)) == "" {
		return nil, fmt.Errorf("%s has no virtual function %d: %w", pf, index, ErrNotFound)
	}
	l, err := h.LinkByPCI(NodeNS, pf)
	if err != nil {
		return nil, fmt.Errorf("its netdev sets the virtual functions of %s: %w", pf, err)
	}
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: l.Index, Name: l.Name}}, nil
}

// SetVFGUID sets node and port GUID of a VF through the PF's netdev.
//
// Wire form: IFLA_VF_IB_NODE_GUID and IFLA_VF_IB_PORT_GUID, struct
// ifla_vf_guid, whose 64-bit GUID is a number in host byte order.
func (h *Host) SetVFGUID(pf string, index int, guid ib.GUID) error {
	return h.setVF(pf, index, "the GUID "+guid.String(), func(l netlink.Link) error {
		if err := netlink.LinkSetVfNodeGUID(l, index, net.HardwareAddr(guid[:])); err != nil {
			return fmt.Errorf("node GUID: %w", err)
		}
		if err := netlink.LinkSetVfPortGUID(l, index, net.HardwareAddr(guid[:])); err != nil {
			return fmt.Errorf("port GUID: %w", err)
		}
		return nil
	})
}

var vfStates = map[VFState]uint32{VFAuto: nl.IFLA_VF_LINK_STATE_AUTO, VFEnable: nl.IFLA_VF_LINK_STATE_ENABLE,
	VFDisable: nl.IFLA_VF_LINK_STATE_DISABLE}

// SetVFState sets the link state of a VF through the PF's netdev.
func (h *Host) SetVFState(pf string, index int, state VFState) error {
	value, ok := vfStates[state]
	if !ok {
		return fmt.Errorf("link state %q of virtual function %d of %s: want auto, enable or disable: %w", state, index,
			pf, ErrUnsupported)
	}
	return h.setVF(pf, index, "the link state "+string(state), func(l netlink.Link) error {
		return netlink.LinkSetVfState(l, index, value)
	})
}

func (h *Host) setVF(pf string, index int, what string, set func(netlink.Link) error) error {
	l, err := h.pfNetdev(pf, index)
	if err != nil {
		return err
	}
	if err := h.in(NodeNS, func() error { return set(l) }); err != nil {
		return fmt.Errorf("giving virtual function %d of %s %s through %s: %w", index, pf, what, l.Name,
			kernelError(err))
	}
	return nil
}

// VFState tells the link state of a VF as the PF's driver reports it; "" when it does not.
func (h *Host) VFState(pf string, index int) (VFState, error) {
	l, err := h.pfNetdev(pf, index)
	if err != nil {
		return "", err
	}
	infos, err := h.vfInfos(&Link{Index: l.Index, Name: l.Name})
	return infos[index].state, err
}

// rtextFilterSkipStats is RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h): drivers ask the card for
// each VF's. Kernels that know it only for links ignore it here.
const rtextFilterSkipStats = 1 << 3

// vfInfos asks a PF's netdev what it reports of its VFs, by index. Without a netdev there is nothing to ask.
func (h *Host) vfInfos(pf *Link) (map[int]vfInfo, error) {
	if pf == nil {
		return nil, nil
	}
	var list []byte
	err := h.in(NodeNS, func() error {
		req := linkRequest(unix.NLM_F_ACK, pf.Index)
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF|rtextFilterSkipStats)))
		answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if err == nil && len(answers) > 0 {
			list, err = linkAttribute(answers[0], unix.IFLA_VFINFO_LIST)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking %s about its virtual functions: %w", pf.Name, kernelError(err))
	}
	infos, err := parseVFInfoList(list)
	if err != nil {
		return nil, fmt.Errorf("reading what %s reports of its virtual functions: %w", pf.Name, err)
	}
	return infos, nil
}

// parseVFInfoList reads IFLA_VFINFO_LIST: per VF an IFLA_VF_INFO of attributes that each begin with
// the VF's index.
func parseVFInfoList(data []byte) (map[int]vfInfo, error) {
	infos := map[int]vfInfo{}
	err := eachAttribute(data, func(_ uint16, entry []byte) error {
		return eachAttribute(entry, func(kind uint16, value []byte) error {
			if len(value) >= 4 {
				vf := int(nl.NativeEndian().Uint32(value))
				info := infos[vf]
				info.take(int(kind), value)
				infos[vf] = info
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

func (i *vfInfo) take(kind int, value []byte) {
	switch {
	case kind == nl.IFLA_VF_IB_NODE_GUID && len(value) >= 16:
		i.node = ib.GUIDFromUint64(nl.NativeEndian().Uint64(value[8:]))
	case kind == nl.IFLA_VF_IB_PORT_GUID && len(value) >= 16:
		i.port = ib.GUIDFromUint64(nl.NativeEndian().Uint64(value[8:]))
	case kind == nl.IFLA_VF_LINK_STATE && len(value) >= 8:
		for name, v := range vfStates {
			if v == nl.NativeEndian().Uint32(value[4:]) {
				i.state = name
			}
		}
	}
}

// Bounds of the wait for a VF's devices after its driver took it.
const (
	bindWait = 15 * time.Second
	bindPoll = 10 * time.Millisecond
)

// BindVF binds the VF to the kernel's default driver (drivers_probe) and waits, bounded, until its
// RDMA device and netdev are there when the PF has such. A VF that is bound already is left as it
// is: its devices may be in a pod's namespace.
func (h *Host) BindVF(pci string) error {
	pf, _, err := h.findVF(pci)
	if err != nil {
		return err
	}
	sys, dir := h.sys(), h.sys().device(pci)
	if linkBase(dir, "driver") != "" {
		return nil
	}
	if err := h.probe(pci, pf); err != nil {
		return err
	}
	driver := linkBase(dir, "driver")
	if driver == "" {
		return fmt.Errorf("binding %s: no driver of this kernel takes it: %w", pci, ErrUnsupported)
	}
	if driver != linkBase(sys.device(pf), "driver") {
		return nil // such as vfio-pci, which makes no devices
	}
	return h.waitForDevices(pci, pf)
}

func (h *Host) probe(pci, pf string) error {
	sys := h.sys()
	if override, _ := read(sys.device(pci), "driver_override"); override != "" && override != "(null)" {
		if err := write("\n", sys.device(pci), "driver_override"); err != nil {
			return fmt.Errorf("clearing driver_override (%s) of %s: %w", override, pci, err)
		}
	}
	if auto, _ := read(sys.device(pf), "sriov_drivers_autoprobe"); auto == "0" {
		if err := write("1", sys.device(pf), "sriov_drivers_autoprobe"); err != nil {
			return fmt.Errorf("allowing the virtual functions of %s to be bound: %w", pf, err)
		}
	}
	h.numbers.Lock()
	defer h.numbers.Unlock()
	if err := write(pci, string(sys), "bus/pci/drivers_probe"); err != nil {
		return fmt.Errorf("binding %s to its default driver: %w", pci, err)
	}
	return nil
}

func (h *Host) waitForDevices(pci, pf string) error {
	have := func(of, class string) bool {
		names, _ := entries(h.sys().device(of), class)
		return len(names) > 0
	}
	for deadline := time.Now().Add(bindWait); ; time.Sleep(bindPoll) {
		missing := ""
		for _, class := range []string{"infiniband_verbs", "net"} {
			if have(pf, class) && !have(pci, class) {
				missing = class
			}
		}
		if missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf(
				"%s was bound, but within %s no device of class %s appeared below it, as %s has one: see the "+
					"kernel log", pci, bindWait, missing, pf)
		}
	}
}

// UnbindVF takes the driver off.
func (h *Host) UnbindVF(pci string) error {
	if _, _, err := h.findVF(pci); err != nil {
		return err
	}
	dir := h.sys().device(pci)
	driver := linkBase(dir, "driver")
	if driver == "" {
		return nil
	}
	if err := write(pci, dir, "driver/unbind"); err != nil && linkBase(dir, "driver") != "" {
		return fmt.Errorf("taking driver %s off %s: %w", driver, pci, err)
	}
	return nil
}
