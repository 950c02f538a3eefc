package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Builders of packets, each the plainest that the kernel would send. Tests then bend single bytes.

type mac = [6]byte

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func ethernet(dst, src mac, protocol int, payload ...[]byte) []byte {
	return slices.Concat(dst[:], src[:], be16(protocol), slices.Concat(payload...))
}

func arp(dst, src mac, operation int, senderMAC mac, sender string, targetMAC mac, target string) []byte {
	return ethernet(dst, src, 0x0806, be16(1), be16(0x0800), []byte{6, 4}, be16(operation),
		senderMAC[:], addr(sender).AsSlice(), targetMAC[:], addr(target).AsSlice())
}

func whoHas(src mac, sender, target string) []byte {
	return arp(broadcast, src, 1, src, sender, mac{}, target)
}

func ipv4(dst, src mac, from, to string, payload ...byte) []byte {
	header := slices.Concat([]byte{0x45, 0}, be16(20+len(payload)), []byte{0, 1, 0, 0, 64, 17, 0, 0},
		addr(from).AsSlice(), addr(to).AsSlice())
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return ethernet(dst, src, 0x0800, header, payload)
}

func ipv6(dst, src mac, from, to string, nextHeader, hopLimit byte, payload ...byte) []byte {
	a, b := addr(from).As16(), addr(to).As16()
	return ethernet(dst, src, 0x86dd, []byte{0x60, 0, 0, 0}, be16(len(payload)), []byte{nextHeader, hopLimit}, a[:], b[:], payload)
}

func icmpv6(dst, src mac, from, to string, message ...byte) []byte {
	a, b := addr(from).As16(), addr(to).As16()
	pseudo := slices.Concat(a[:], b[:], []byte{0, 0}, be16(len(message)), []byte{0, 0, 0, 58}, message)
	binary.BigEndian.PutUint16(message[2:], checksum(pseudo))
	return ipv6(dst, src, from, to, 58, 255, message...)
}

// solicit asks for target by multicast, as a kernel does at first.
func solicit(src mac, from, target string, options ...[]byte) []byte {
	t := addr(target).As16()
	group := mac{0x33, 0x33, 0xff, t[13], t[14], t[15]}
	to := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	return icmpv6(group, src, from, to.String(), nd(135, 0, target, options...)...)
}

func nd(kind byte, flags byte, target string, options ...[]byte) []byte {
	t := addr(target).As16()
	return slices.Concat([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, t[:], slices.Concat(options...))
}

func sourceOption(m mac) []byte { return append([]byte{1, 1}, m[:]...) }
func targetOption(m mac) []byte { return append([]byte{2, 1}, m[:]...) }

var nonceOption = []byte{14, 1, 1, 2, 3, 4, 5, 6}

// checksum is RFC 1071's, with the field itself still zero.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// bent returns a copy with bytes replaced from offset on.
func bent(packet []byte, offset int, with ...byte) []byte {
	out := slices.Clone(packet)
	copy(out[offset:], with)
	return out
}
