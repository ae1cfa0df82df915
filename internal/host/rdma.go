// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"spidernet.io/spiderpool/internal/ib"
)

// RDMAMode tells the mode of the RDMA subsystem; ErrUnsupported when there is none (ib_core is not loaded).
func (h *Host) RDMAMode() (RDMAMode, error) {
	var mode string
	err := h.in(NodeNS, func() (err error) {
		mode, err = netlink.RdmaSystemGetNetnsMode()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("asking for the mode of the RDMA subsystem: %w", kernelError(err))
	}
	return RDMAMode(mode), nil
}

// SetRDMAMode returns ErrBusy when other network namespaces exist.
func (h *Host) SetRDMAMode(m RDMAMode) error {
	if m != RDMAShared && m != RDMAExclusive {
		return fmt.Errorf("RDMA mode %q: want shared or exclusive: %w", m, ErrUnsupported)
	}
	if now, err := h.RDMAMode(); err != nil || now == m {
		return err
	}
	err := h.in(NodeNS, func() error { return netlink.RdmaSystemSetNetnsMode(string(m)) })
	if err != nil {
		return fmt.Errorf("setting the RDMA subsystem to %s mode: %w", m, kernelError(err))
	}
	return nil
}

// RDMADevices lists the devices visible in a namespace, in order of index; none when the node has
// no RDMA subsystem.
//
// Index, name and what changes of the port come from RDMA netlink, whose socket must be opened in the
// namespace; the rest comes from a sysfs of the namespace, since netlink tells neither
// the PCI function nor the port's GUID.
func (h *Host) RDMADevices(ns NS) ([]RDMADevice, error) {
	return h.rdmaDevices(ns, func(string) bool { return true })
}

// RDMAByPCI is the device of a PCI function, seen from a namespace; ErrNotFound when it is not
// there. It reads no other device's attributes: each costs the driver a question to its card.
func (h *Host) RDMAByPCI(ns NS, pci string) (RDMADevice, error) {
	devices, err := h.rdmaDevices(ns, func(of string) bool { return of == pci })
	if err == nil && (len(devices) == 0 || pci == "") {
		err = fmt.Errorf("RDMA device of PCI function %s in %s: %w", pci, ns.where(), ErrNotFound)
	}
	if err != nil {
		return RDMADevice{}, err
	}
	return devices[0], nil
}

// rdmaDevices reads those whose PCI function, "" for a software device, is wanted.
func (h *Host) rdmaDevices(ns NS, want func(pci string) bool) ([]RDMADevice, error) {
	found, err := h.rdmaLinks(ns)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	var devices []RDMADevice
	err = h.withSysfs(ns, func(sys sysfs) error {
		for _, l := range found {
			pci := sys.functionOf(l.Attrs.Name)
			if !want(pci) {
				continue
			}
			d, err := sys.describeRDMA(l, pci)
			if err == nil {
				d.NS, d.Index = ns, int(l.Attrs.Index)
				err = h.addPort(&d)
			}
			if errors.Is(err, ErrNotFound) {
				continue // it left since the list was made
			}
			if err != nil {
				return err
			}
			devices = append(devices, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the RDMA devices of %s: %w", ns.where(), err)
	}
	slices.SortFunc(devices, func(a, b RDMADevice) int { return a.Index - b.Index })
	return devices, nil
}

func (h *Host) rdmaLinks(ns NS) ([]*netlink.RdmaLink, error) {
	var found []*netlink.RdmaLink
	err := h.in(ns, func() (err error) {
		found, err = listRDMALinks()
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the RDMA devices of %s: %w", ns.where(), kernelError(err))
	}
	return found, nil
}

// rdma is the folder of an RDMA device.
func (s sysfs) rdma(name string) string { return filepath.Join(string(s), "class/infiniband", name) }

// UsableRDMAName reports whether sysfs can show a device of that name. The kernel takes any text of
// up to 63 octets from whoever has CAP_NET_ADMIN in the device's namespace (nldev_set_doit,
// ib_device_rename), and makes folders of that name. One that is called ".." or "a/b" cannot be
// opened, neither by us nor by libibverbs.
func UsableRDMAName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.Contains(name, "/")
}

// functionOf is the PCI function of an RDMA device, "" when it has none. Where the name cannot be
// part of a path, the device's verbs and management devices tell: they lie below the function too
// and have the name in their attribute ibdev. Names are unique on a machine, over all namespaces.
func (s sysfs) functionOf(name string) string {
	if UsableRDMAName(name) {
		return pciOf(s.rdma(name))
	}
	for _, class := range []string{"class/infiniband_verbs", "class/infiniband_mad"} {
		clients, _ := entries(string(s), class) // without the class there are none
		for _, client := range clients {
			dir := filepath.Join(string(s), class, client)
			// read would take off blanks that are part of the name
			text, err := os.ReadFile(filepath.Join(dir, "ibdev"))
			if err == nil && strings.TrimSuffix(string(text), "\n") == name {
				return pciOf(dir)
			}
		}
	}
	return ""
}

// describeRDMA reads what stays of a device. Of one whose folder cannot be opened, the kernel's own
// answer is all there is.
func (s sysfs) describeRDMA(l *netlink.RdmaLink, pci string) (RDMADevice, error) {
	if UsableRDMAName(l.Attrs.Name) {
		return s.readRDMA(l.Attrs.Name)
	}
	guid, _ := ib.ParseGUID(l.Attrs.NodeGuid) // unknown rather than a reason not to see the device
	return RDMADevice{Name: l.Attrs.Name, PCI: pci, NodeGUID: guid}, nil
}

// readRDMA reads what stays of a device and its first port (sysfs-class-infiniband in the kernel's
// ABI documents).
func (s sysfs) readRDMA(name string) (RDMADevice, error) {
	dir := s.rdma(name)
	guid, err := read(dir, "node_guid")
	if err != nil {
		return RDMADevice{}, fmt.Errorf("RDMA device %s: %w", name, err)
	}
	d := RDMADevice{Name: name, PCI: pciOf(dir)}
	if d.NodeGUID, err = ib.ParseGUID(guid); err != nil {
		return d, fmt.Errorf("node GUID of RDMA device %s: %w", name, err)
	}
	layer, _ := read(dir, "ports/1/link_layer")
	gid, _ := read(dir, "ports/1/gids/0")
	d.LinkLayer = LinkLayer(strings.ToLower(layer))
	d.PortGUID, _ = guidOfGID(gid)
	return d, nil
}

// rdmaPortGet is RDMA_NLDEV_CMD_PORT_GET (linux/rdma/rdma_netlink.h).
const rdmaPortGet = 5

// addPort asks for the first port's states and LIDs. In sysfs each of them is a file of its own,
// for which the driver asks its card anew. A card that does not answer, or a device without a port,
// leaves them unknown: it still is a device, which can be moved, and other cards are not to suffer
// from it.
func (h *Host) addPort(d *RDMADevice) error {
	req := nl.NewNetlinkRequest(nl.RDMA_NL_NLDEV<<nl.RDMA_NL_GET_CLIENT_SHIFT|rdmaPortGet, unix.NLM_F_ACK)
	req.AddData(nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_DEV_INDEX, nl.Uint32Attr(uint32(d.Index))))
	req.AddData(nl.NewRtAttr(nl.RDMA_NLDEV_ATTR_PORT_INDEX, nl.Uint32Attr(1)))
	var answers [][]byte
	err := h.in(d.NS, func() (err error) {
		answers, err = req.Execute(unix.NETLINK_RDMA, 0)
		return err
	})
	if errors.Is(err, ErrNSGone) {
		return err
	}
	for _, m := range answers {
		if err := eachAttribute(m, d.takePort); err != nil { // there is no header before them
			return fmt.Errorf("reading what the kernel says of the port of RDMA device %s: %w", d.Name, err)
		}
	}
	return nil
}

// takePort reads one attribute of a port. The subnet's, the LIDs, are there on InfiniBand alone.
func (d *RDMADevice) takePort(kind uint16, value []byte) error {
	switch {
	case kind == nl.RDMA_NLDEV_ATTR_LID && len(value) >= 4:
		d.LID = int(nl.NativeEndian().Uint32(value))
	case kind == nl.RDMA_NLDEV_ATTR_SM_LID && len(value) >= 4:
		d.SMLID = int(nl.NativeEndian().Uint32(value))
	case kind == nl.RDMA_NLDEV_ATTR_PORT_STATE && len(value) >= 1:
		d.State = portStates[value[0]]
	case kind == nl.RDMA_NLDEV_ATTR_PORT_PHYS_STATE && len(value) >= 1:
		d.PhysState = physStates[value[0]]
	}
	return nil
}

// portStates are the names of enum ib_port_state, and physStates those that rdma(8) has for enum
// ib_port_phys_state (rdma/ib_verbs.h).
var (
	portStates = map[byte]string{0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
	physStates = map[byte]string{1: "SLEEP", 2: "POLLING", 3: "DISABLED", 4: "PORT_CONFIGURATION_TRAINING",
		5: "LINK_UP", 6: "LINK_ERROR_RECOVER", 7: "PHY_TEST"}
)

// pciOf is the PCI function that a class device such as class/infiniband/mlx5_1 lies below, "" when none is
// (software devices). Its link is read, not followed: below a mount that is attached nowhere, the path of a
// followed link is another file's.
func pciOf(dir string) string {
	target, err := os.Readlink(dir)
	if err != nil {
		return ""
	}
	return lastPCI(target)
}

// lastPCI is the last part of a path that is a PCI address.
func lastPCI(path string) string {
	for _, part := range slices.Backward(strings.Split(path, "/")) {
		if checkPCI(part) == nil {
			return part
		}
	}
	return ""
}

// guidOfGID is the lower half of a GID such as "fe80:0000:0000:0000:e8eb:d303:0093:ae10".
func guidOfGID(text string) (ib.GUID, error) {
	ip := net.ParseIP(text)
	if ip == nil || !strings.Contains(text, ":") {
		return ib.GUID{}, fmt.Errorf("GID %q: want eight groups of four hexadecimal digits", text)
	}
	return ib.GUID(ip.To16()[8:]), nil
}

// VerbsNumber is N of "uverbsN".
func VerbsNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "uverbs")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil
}

// VerbsNumbers lists the numbers of all verbs devices: their class is not tagged with a namespace.
func (h *Host) VerbsNumbers() ([]int, error) {
	h.numbers.Lock()
	defer h.numbers.Unlock()
	names, err := entries(string(h.sys()), "class/infiniband_verbs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // ib_uverbs is not loaded
	}
	if err != nil {
		return nil, fmt.Errorf("listing verbs devices: %w", err)
	}
	var out []int
	for _, name := range names {
		if n, ok := VerbsNumber(name); ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// RenameRDMA gives a device, which is known by its index, another name. ErrExists when a device of
// any namespace has that.
func (h *Host) RenameRDMA(ns NS, index int, name string) error {
	found, err := h.rdmaLinks(ns)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(l *netlink.RdmaLink) bool { return int(l.Attrs.Index) == index })
	switch {
	case i < 0:
		return fmt.Errorf("RDMA device with index %d in %s: %w", index, ns.where(), ErrNotFound)
	case found[i].Attrs.Name == name:
		return nil
	case !UsableRDMAName(name) || len(name) > maxRDMAName:
		err = fmt.Errorf("want 1 to %d octets without a slash, and neither \".\" nor \"..\": %w", maxRDMAName,
			unix.EINVAL)
	default:
		err = h.in(ns, func() error { return netlink.RdmaLinkSetName(found[i], name) })
	}
	if err != nil {
		return fmt.Errorf("renaming RDMA device %q in %s to %q: %w", found[i].Attrs.Name, ns.where(), name,
			kernelError(err))
	}
	return nil
}

// maxRDMAName is IB_DEVICE_NAME_MAX without the final zero; the kernel cuts off what is longer.
const maxRDMAName = 63

// MoveRDMA moves a device by name. The kernel tears down all its clients and makes them anew. One
// device moves at a time.
func (h *Host) MoveRDMA(from NS, name string, to NS) error {
	target, err := h.open(to)
	if err == nil {
		defer target.Close()
		err = h.moveRDMA(from, name, to, target)
	}
	if err != nil {
		return fmt.Errorf("moving RDMA device %s from %s to %s: %w", name, from.where(), to.where(), kernelError(err))
	}
	return nil
}

func (h *Host) moveRDMA(from NS, name string, to NS, target *os.File) error {
	found, err := h.rdmaLinks(from)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(l *netlink.RdmaLink) bool { return l.Attrs.Name == name })
	if i < 0 {
		return fmt.Errorf("it is not visible in %s: %w", from.where(), ErrNotFound)
	}
	if from == to {
		return nil
	}
	h.numbers.Lock()
	defer h.numbers.Unlock()
	err = h.in(from, func() error { return netlink.RdmaLinkSetNsFd(found[i], uint32(target.Fd())) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf(
			"the RDMA subsystem is in shared mode, or the driver cannot part with its users "+
				"(disassociate_ucontext): %w", err)
	}
	return err
}
