// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkMessage is what the kernel says of a link of a PCI function.
func linkMessage(kind string) []byte {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Type, msg.Flags = 3, unix.ARPHRD_INFINIBAND, unix.IFF_UP|unix.IFF_LOWER_UP
	b := msg.Serialize()
	add := func(a *nl.RtAttr) { b = append(b, a.Serialize()...) }
	add(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("ibs5f0")))
	add(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(2044)))
	add(nl.NewRtAttr(unix.IFLA_ADDRESS, append(make([]byte, 19), 9)))
	add(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(0)))
	add(nl.NewRtAttr(unix.IFLA_IFALIAS, nl.ZeroTerminated("spiderpool:c/eth0")))
	add(nl.NewRtAttr(unix.IFLA_PARENT_DEV_NAME, nl.ZeroTerminated("0000:86:00.0")))
	add(nl.NewRtAttr(unix.IFLA_PARENT_DEV_BUS_NAME, nl.ZeroTerminated("pci")))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.ZeroTerminated(kind))
	if kind == "ipoib" {
		data := info.AddRtAttr(unix.IFLA_INFO_DATA, nil)
		data.AddRtAttr(nl.IFLA_IPOIB_PKEY, nl.Uint16Attr(0xffff))
		data.AddRtAttr(nl.IFLA_IPOIB_MODE, nl.Uint16Attr(0))
	}
	add(info)
	names := nl.NewRtAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil)
	names.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated("ibp134s0f0"))
	add(names)
	return b
}

func TestReadLinkMessage(t *testing.T) {
	l, ok := readLinkMessage(unix.RTM_NEWLINK, linkMessage("ipoib"))
	if !ok || l.Index != 3 || l.Name != "ibs5f0" || l.Kind != "ipoib" || l.PCI != "0000:86:00.0" || l.PKey != 0xffff ||
		!l.Up || !l.Carrier || len(l.HardwareAddr) != 20 || len(l.AltNames) != 1 || l.LinkLayer != InfiniBand {
		t.Errorf("%+v, %t", l, ok)
	}
}

// FuzzReadLinkMessage: whatever a message holds, it is of the link in its head, in the state that
// its head says, or it is none; and a tally says of the same message twice that nothing has
// changed.
func FuzzReadLinkMessage(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), linkMessage("ipoib"))
	f.Add(uint16(unix.RTM_DELLINK), linkMessage("veth"))
	f.Add(uint16(unix.RTM_NEWLINK), linkMessage("vlan")[:40])
	f.Add(uint16(unix.RTM_NEWADDR), linkMessage(""))
	bridge := linkMessage("bridge")
	bridge[0] = unix.AF_BRIDGE
	f.Add(uint16(unix.RTM_NEWLINK), bridge)
	f.Add(uint16(unix.RTM_NEWLINK), []byte{})
	long := linkMessage("ipoib")
	long[unix.SizeofIfInfomsg] = 0xff // an attribute that goes on behind the end; the library faulted
	f.Add(uint16(unix.RTM_NEWLINK), long)
	short := nl.NewRtAttr(unix.IFLA_MTU, []byte{1, 2}).Serialize()
	f.Add(uint16(unix.RTM_NEWLINK), append(linkMessage("ipoib")[:unix.SizeofIfInfomsg], short...))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		l, ok := readLinkMessage(kind, data)
		if !ok {
			return
		}
		order := binary.NativeEndian
		index, flags := int(int32(order.Uint32(data[4:]))), order.Uint32(data[8:])
		if l.Index != index || l.Up != (flags&unix.IFF_UP != 0) || l.Carrier != (flags&unix.IFF_LOWER_UP != 0) ||
			l.NS != NodeNS || kind != unix.RTM_NEWLINK && kind != unix.RTM_DELLINK || data[0] != unix.AF_UNSPEC {
			t.Fatalf("%+v of index %d with flags %#x", l, index, flags)
		}
		tally := linkTally{counts: func(rawLink) bool { return true }, known: map[int]linkState{}}
		if !tally.changed(false, l) || tally.changed(false, l) || !tally.changed(true, l) {
			t.Fatalf("the tally of %+v", l)
		}
	})
}
