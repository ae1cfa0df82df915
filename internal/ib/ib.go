// SPDX-License-Identifier: Apache-2.0

// Package ib owns the few values that InfiniBand cards add to networking:
// GUIDs, partition keys, the 20-octet link address, and the PCI address of a
// card's function. It is pure: no kernel, no client, no files.
package ib

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// GUID is a 64-bit globally unique identifier in network byte order (IBTA 4.1).
type GUID [8]byte

// Uint64 is the GUID as the number that its text reads as, most significant octet first.
func (g GUID) Uint64() uint64 { return binary.BigEndian.Uint64(g[:]) }

// GUIDFromUint64 is the inverse of Uint64.
func GUIDFromUint64(v uint64) GUID {
	var g GUID
	binary.BigEndian.PutUint64(g[:], v)
	return g
}

// String writes eight octets with colons: "e8:eb:d3:03:00:93:ae:10".
func (g GUID) String() string { return net.HardwareAddr(g[:]).String() }

// IsZero tells whether no GUID was ever given.
func (g GUID) IsZero() bool { return g == GUID{} }

// Valid tells whether a port can use the GUID: neither zero nor all ones.
func (g GUID) Valid() bool { return !g.IsZero() && g.Uint64() != 1<<64-1 }

// ParseGUID reads eight octets with colons or dashes, sixteen hexadecimal
// digits (with or without 0x), or the kernel's four groups of four digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	for _, sep := range []struct {
		text   string
		groups int
	}{{":", 8}, {"-", 8}, {":", 4}} {
		if parts := strings.Split(s, sep.text); len(parts) == sep.groups && sameLength(parts, 16/sep.groups) {
			digits = strings.Join(parts, "")
			break
		}
	}
	if len(digits) != 16 {
		return g, fmt.Errorf("GUID %q: want eight octets such as 02:00:5e:00:53:00:00:01", s)
	}
	if _, err := hex.Decode(g[:], []byte(digits)); err != nil {
		return GUID{}, fmt.Errorf("GUID %q: want hexadecimal octets such as 02:00:5e:00:53:00:00:01", s)
	}
	return g, nil
}

func sameLength(parts []string, n int) bool {
	for _, p := range parts {
		if len(p) != n {
			return false
		}
	}
	return true
}

// VFGUID derives the permanent GUID of a VF from its PF's port GUID and the
// VF's index (0-based). It is the same after every reboot and re-creation.
//
// The result has the local bit (bit 1 of the first octet, IBTA 4.1.1 and
// IEEE EUI-64) set, so it never equals a manufacturer's GUID; octets 3 and 4,
// which manufacturers keep equal on all their cards, count the VFs, so two
// PFs that differ elsewhere never share one.
func VFGUID(pf GUID, index int) GUID {
	g := pf
	g[0] |= 0x02
	binary.BigEndian.PutUint16(g[3:5], binary.BigEndian.Uint16(pf[3:5])+uint16(index)+1)
	return g
}

// InterfaceID is the IPv6 interface identifier of a port with this GUID:
// the GUID with the universal/local bit set (RFC 4391 section 8).
func (g GUID) InterfaceID() [8]byte {
	id := [8]byte(g)
	id[0] |= 0x02
	return id
}

// LinkLocal is fe80::/64 with the interface identifier of the GUID.
func (g GUID) LinkLocal() netip.Addr {
	var a [16]byte
	a[0], a[1] = 0xfe, 0x80
	id := g.InterfaceID()
	copy(a[8:], id[:])
	return netip.AddrFrom16(a)
}

// LinkAddrLen is the length of an IPoIB hardware address: flags, QPN and GID (RFC 4391 section 9.1.1).
const LinkAddrLen = 20

// LinkAddrGUID is the GUID within a 20-octet IPoIB hardware address.
func LinkAddrGUID(a net.HardwareAddr) (GUID, error) {
	if len(a) != LinkAddrLen {
		return GUID{}, fmt.Errorf("hardware address %s has %d octets: want the %d of IPoIB", a, len(a), LinkAddrLen)
	}
	return GUID(a[12:]), nil
}

// PKey is a partition key: 15 bits of key and, highest, full membership (IBTA 10.9.1).
type PKey uint16

// Partition key constants.
const (
	FullMember  PKey = 0x8000
	DefaultPKey PKey = 0x7fff
)

// Key is the key without the membership bit.
func (p PKey) Key() PKey { return p &^ FullMember }

// String writes "0x8001".
func (p PKey) String() string { return fmt.Sprintf("0x%04x", uint16(p)) }

// ParsePKey reads "0x8001" or "0x1".
func ParsePKey(s string) (PKey, error) {
	digits, ok := strings.CutPrefix(strings.ToLower(s), "0x")
	v, err := strconv.ParseUint(digits, 16, 16)
	if !ok || err != nil || PKey(v).Key() == 0 {
		return 0,
			fmt.Errorf("partition key %q: want 0x0001 to 0x7fff, with 0x8000 added for full membership, such as 0x8001",
				s)
	}
	return PKey(v), nil
}
