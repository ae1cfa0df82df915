// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The files of testdata/messages are what passes between a little-endian machine of 64 bits and its
// kernel. amd64 and arm64 have to read and write the very same octets: `make test-arm64` runs this
// file as an arm64 program.

var update = flag.Bool("update", false, "write the golden files of messages that this package makes")

// messages are in the test program, because the lab runs it in a machine that has no sources.
//
//go:embed testdata/messages
var messages embed.FS

// messageFile reads a golden file of hexadecimal digits.
func messageFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := messages.ReadFile("testdata/messages/" + name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKernelLinkMessages reads answers to RTM_GETLINK that a kernel gave (Linux 6.18, amd64), for
// links made with
//
//	ip link add net0 type veth peer name peer0
//	ip link set net0 mtu 1450 address 02:00:00:00:00:09 alias spiderpool:c/eth0
//	ip link property add dev net0 altname spiderpool-net0; ip link set net0 up; ip link set peer0 up
//	ip link add link net0 name mv0 type macvlan mode bridge
func TestKernelLinkMessages(t *testing.T) {
	macvlanAddress, err := net.ParseMAC("96:ef:20:ed:91:3d")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]Link{
		"veth.hex": {
			Index: 3, Name: "net0", AltNames: []string{"spiderpool-net0"}, Alias: "spiderpool:c/eth0", Kind: "veth",
			LinkLayer:    Ethernet,
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}, MTU: 1450, TxQueueLen: 1000, Up: true, Carrier: true,
			Parent: 2,
		},
		"macvlan.hex": {
			Index: 4, Name: "mv0", Kind: "macvlan", LinkLayer: Ethernet, HardwareAddr: macvlanAddress, MTU: 1450,
			TxQueueLen: 1000, Parent: 3,
		},
	} {
		message := messageFile(t, file)
		got, ok := readLinkMessage(unix.RTM_NEWLINK, message)
		if diff := cmp.Diff(want, got.Link); !ok || diff != "" {
			t.Errorf("%s: read: %t\n%s", file, ok, diff)
		}
		broadcast, err := linkAttribute(message, unix.IFLA_BROADCAST)
		if err != nil || !bytes.Equal(broadcast, bytes.Repeat([]byte{0xff}, 6)) {
			t.Errorf("%s: broadcast address %x, %v", file, broadcast, err)
		}
	}
}

// TestMessagesToTheKernel compares what this package writes, octet for octet, with golden files.
func TestMessagesToTheKernel(t *testing.T) {
	vfs := linkRequest(unix.NLM_F_ACK, 7)
	vfs.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF|rtextFilterSkipStats)))
	vfs.Seq = 0 // counts on in the process
	ipoib := append(make(net.HardwareAddr, 19), 9)
	for file, got := range map[string][]byte{
		"get-vfs.hex":            vfs.Serialize(),
		"sockaddr-ethernet.hex":  linkLayerAddress(0x01020304, unix.ETH_P_ARP, net.HardwareAddr{2, 0, 0, 0, 0, 9}),
		"sockaddr-ipoib.hex":     linkLayerAddress(0x01020304, unix.ETH_P_ARP, ipoib),
		"control-hop-limit.hex":  hopLimitMessage(ndHopLimit),
		"nftables-mark-link.hex": markMessages(t, "net1", 0x01020304),
	} {
		if *update {
			if err := os.WriteFile(filepath.Join("testdata/messages", file), lines(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(lines(messageFile(t, file))), string(lines(got))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	if got := networkOrder(unix.ETH_P_ARP); got != 0x0608 {
		t.Errorf("ETH_P_ARP in network order is 0x%04x, want 0x0608", got)
	}
}

// lines are octets as 64 hexadecimal digits a line.
func lines(b []byte) []byte {
	var out bytes.Buffer
	for ; len(b) > 0; b = b[min(32, len(b)):] {
		fmt.Fprintf(&out, "%x\n", b[:min(32, len(b))])
	}
	return out.Bytes()
}

// markMessages are the types and contents of the messages with which markTable's table is made.
func markMessages(t *testing.T, link string, mark uint32) (sent []byte) {
	t.Helper()
	c, err := nftables.New(nftables.WithTestDial(func(messages []mdlayher.Message) ([]mdlayher.Message, error) {
		for _, m := range messages {
			sent = binary.NativeEndian.AppendUint16(sent, uint16(m.Header.Type))
			sent = append(sent, m.Data...)
		}
		return messages, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	markTable(c, link, mark)
	if err := c.Flush(); err != nil && len(sent) == 0 {
		t.Fatal(err)
	}
	return sent
}

// TestStructures holds the structures that are handed to the kernel, or read from it, to the sizes
// and offsets of its headers, which are the same on amd64 and arm64.
func TestStructures(t *testing.T) {
	var (
		filter  unix.ICMPv6Filter
		drvinfo unix.EthtoolDrvinfo
		utsname unix.Utsname
		statfs  unix.Statfs_t
	)
	for name, c := range map[string]struct{ got, want uintptr }{
		"struct ifinfomsg":                      {unix.SizeofIfInfomsg, 16},
		"struct ifinfomsg of the library":       {unsafe.Sizeof(nl.IfInfomsg{}.IfInfomsg), 16},
		"struct rtattr":                         {unix.SizeofRtAttr, 4},
		"struct nlmsghdr":                       {unix.SizeofNlMsghdr, 16},
		"struct sockaddr_ll":                    {unix.SizeofSockaddrLinklayer, 20},
		"struct icmp6_filter":                   {unsafe.Sizeof(filter), 32},
		"struct ethtool_drvinfo":                {unsafe.Sizeof(drvinfo), 196},
		"struct ethtool_drvinfo: bus_info":      {unsafe.Offsetof(drvinfo.Bus_info), 100},
		"struct utsname":                        {unsafe.Sizeof(utsname), 390},
		"struct utsname: release":               {unsafe.Offsetof(utsname.Release), 130},
		"struct statfs":                         {unsafe.Sizeof(statfs), 120},
		"struct statfs: f_type":                 {unsafe.Sizeof(statfs.Type), 8},
		"control message of four octets":        {uintptr(unix.CmsgLen(4)), 20},
		"control message of four, with padding": {uintptr(unix.CmsgSpace(4)), 24},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d octets, want %d", name, c.got, c.want)
		}
	}
}
