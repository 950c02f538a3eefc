package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// What the guarded interface under test has; the neighbour in the same namespace has more.
var (
	here      = Place{Cookie: 1<<32 | 7, Index: 2}
	neighbour = Place{Cookie: 1<<32 | 7, Index: 3}

	hereSource = Source{MAC: pod1, Addresses: []netip.Addr{addr("10.1.0.11"), addr("2001:db8:1::11")}}
	// Of each family more than the fast ones, and prefixes.
	neighbourSource = Source{MAC: pod2, DHCP: true,
		Addresses: []netip.Addr{addr("10.1.0.12"), addr("10.1.0.13"), addr("10.1.0.14"),
			addr("2001:db8:1::12"), addr("2001:db8:1::13"), addr("2001:db8:1::14")},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("2001:db8:9::/48"),
			netip.MustParsePrefix("192.0.2.1/32")}}
)

// sourceBench is a source guard that is attached to nothing.
type sourceBench struct {
	*SourceGuard
	entries map[Place]*ebpf.Program
}

func newSourceBench(t testing.TB) *sourceBench {
	t.Helper()
	g, err := OpenSourceGuard(filepath.Join(mountBPF(t), "berth"), false)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	b := &sourceBench{g, map[Place]*ebpf.Program{}}
	t.Cleanup(func() { g.Close() })
	for at, s := range map[Place]Source{here: hereSource, neighbour: neighbourSource} {
		if err := g.Put(at, s); err != nil {
			t.Fatal(err)
		}
		if b.entries[at], err = g.entry(at); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.entries[at].Close() })
	}
	return b
}

// program of all interfaces, which the entries go on to.
func (b *sourceBench) program(t testing.TB) *ebpf.Program {
	t.Helper()
	var p *ebpf.Program
	if err := b.maps.Programs.Lookup(uint32(0), &p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (b *sourceBench) run(t testing.TB, at Place, packet []byte) outcome {
	t.Helper()
	before, err := b.Counters()
	if err != nil {
		t.Fatal(err)
	}
	options := &ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256)}
	verdict, err := b.entries[at].Run(options)
	if err != nil {
		t.Fatalf("run with %d bytes: %v", len(packet), err)
	}
	after, err := b.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for name := range after {
		after[name] -= before[name]
	}
	maps.DeleteFunc(after, func(_ string, n uint64) bool { return n == 0 })
	return outcome{verdict, options.DataOut, after}
}

var (
	multicast6 = mac{0x33, 0x33, 5: 0x16}
	allRouters = mac{0x33, 0x33, 5: 2}
)

// extended puts extension headers, each with the type of the one behind, before the ICMPv6 message of a packet.
func extended(packet []byte, first byte, headers ...byte) []byte {
	out := slices.Concat(packet[:54], headers, packet[54:])
	out[20] = first
	binary.BigEndian.PutUint16(out[18:], uint16(len(out)-54))
	return out
}

func mldReport(src mac, from string) []byte {
	return extended(icmpv6(multicast6, src, from, "ff02::16", append([]byte{143, 0, 0, 0}, make([]byte, 24)...)...),
		0, 58, 0, 5, 2, 0, 0, 1, 0)
}

func discover(src mac, from string, ports ...byte) []byte {
	return ipv4(broadcast, src, from, "255.255.255.255", append(ports, make([]byte, 8)...)...)
}

var sourceTests = []struct {
	name   string
	at     Place
	packet []byte
	reason string // "": passes
}{
	// IPv4
	{"IPv4", here, ipv4(alien, pod1, "10.1.0.11", "8.8.8.8"), ""},
	{"to a group", here, ipv4(mac{1, 0, 0x5e, 0, 0, 1}, pod1, "10.1.0.11", "224.0.0.1"), ""},
	{"to all", here, ipv4(broadcast, pod1, "10.1.0.11", "255.255.255.255"), ""},
	{"first fragment", here, bent(ipv4(alien, pod1, "10.1.0.11", "8.8.8.8"), 20, 0x20), ""},
	{"later fragment", here, bent(ipv4(alien, pod1, "10.1.0.11", "8.8.8.8"), 20, 0, 185), ""},
	{"padded", here, append(ipv4(alien, pod1, "10.1.0.11", "8.8.8.8"), make([]byte, 18)...), ""},
	{"another MAC", here, ipv4(alien, alien, "10.1.0.11", "8.8.8.8"), "source_mac"},
	{"neighbour's MAC", here, ipv4(alien, pod2, "10.1.0.12", "8.8.8.8"), "source_mac"},
	{"group MAC", here, ipv4(alien, broadcast, "10.1.0.11", "8.8.8.8"), "source_mac"},
	{"neighbour's address", here, ipv4(alien, pod1, "10.1.0.12", "8.8.8.8"), "source_ipv4"},
	{"spoofed fragment", here, bent(ipv4(alien, pod1, "10.1.0.12", "8.8.8.8"), 20, 0, 185), "source_ipv4"},
	{"from zero", here, ipv4(alien, pod1, "0.0.0.0", "8.8.8.8"), "source_ipv4"},
	{"from a group", here, ipv4(alien, pod1, "224.0.0.1", "8.8.8.8"), "source_ipv4"},
	{"from link-local", here, ipv4(alien, pod1, "169.254.1.1", "8.8.8.8"), "source_ipv4"},
	{"discover", here, discover(pod1, "0.0.0.0", 0, 68, 0, 67), "source_ipv4"},
	{"version 6 in IPv4", here, bent(ipv4(alien, pod1, "10.1.0.11", "8.8.8.8"), 14, 0x65), "source_malformed"},

	// An interface with more
	{"first", neighbour, ipv4(alien, pod2, "10.1.0.12", "8.8.8.8"), ""},
	{"second", neighbour, ipv4(alien, pod2, "10.1.0.13", "8.8.8.8"), ""},
	{"third", neighbour, ipv4(alien, pod2, "10.1.0.14", "8.8.8.8"), ""},
	{"fourth", neighbour, ipv4(alien, pod2, "10.1.0.15", "8.8.8.8"), "source_ipv4"},
	{"single allowed", neighbour, ipv4(alien, pod2, "192.0.2.1", "8.8.8.8"), ""},
	{"beside the single allowed", neighbour, ipv4(alien, pod2, "192.0.2.2", "8.8.8.8"), "source_ipv4"},
	{"in the prefix", neighbour, ipv4(alien, pod2, "10.9.255.255", "8.8.8.8"), ""},
	{"beside the prefix", neighbour, ipv4(alien, pod2, "10.10.0.0", "8.8.8.8"), "source_ipv4"},
	{"prefix of another", here, ipv4(alien, pod1, "10.9.0.1", "8.8.8.8"), "source_ipv4"},
	{"third6", neighbour, ipv6(alien, pod2, "2001:db8:1::14", "2001:4860::1", 6, 64), ""},
	{"in the prefix6", neighbour, ipv6(alien, pod2, "2001:db8:9:ffff::1", "2001:4860::1", 6, 64), ""},
	{"beside the prefix6", neighbour, ipv6(alien, pod2, "2001:db8:a::1", "2001:4860::1", 6, 64), "source_ipv6"},
	{"lease of IPv4, mapped", neighbour, ipv6(alien, pod2, "::ffff:10.1.0.14", "2001:4860::1", 6, 64), "source_ipv6"},
	{"ARP of the third", neighbour, whoHas(pod2, "10.1.0.14", "10.1.0.1"), ""},
	{"announcement of the allowed", neighbour, whoHas(pod2, "192.0.2.1", "192.0.2.1"), ""},
	{"advertisement of the allowed", neighbour, icmpv6(alien, pod2, "2001:db8:1::12", "ff02::1", nd(136, 0x20, "2001:db8:9::1", targetOption(pod2))...), ""},

	// DHCP
	{"discover of a client", neighbour, discover(pod2, "0.0.0.0", 0, 68, 0, 67), ""},
	{"renewal", neighbour, discover(pod2, "10.1.0.12", 0, 68, 0, 67), ""},
	{"from zero, other ports", neighbour, discover(pod2, "0.0.0.0", 0, 67, 0, 68), "source_ipv4"},
	{"from zero, TCP", neighbour, bent(discover(pod2, "0.0.0.0", 0, 68, 0, 67), 23, 6), "source_ipv4"},
	{"from zero, later fragment", neighbour, bent(discover(pod2, "0.0.0.0", 0, 68, 0, 67), 20, 0, 185), "source_ipv4"},
	{"from zero, first fragment", neighbour, bent(discover(pod2, "0.0.0.0", 0, 68, 0, 67), 20, 0x20), "source_ipv4"},
	{"from zero, no ports", neighbour, bent(ipv4(broadcast, pod2, "0.0.0.0", "255.255.255.255"), 14, 0x4f), "source_ipv4"},
	{"discover, options", neighbour, bent(discover(pod2, "0.0.0.0", 0, 0, 0, 0, 0, 68, 0, 67), 14, 0x46), ""},

	// ARP
	{"ARP", here, whoHas(pod1, "10.1.0.11", "10.1.0.1"), ""},
	{"announcement", here, whoHas(pod1, "10.1.0.11", "10.1.0.11"), ""},
	{"announcement by reply", here, arp(broadcast, pod1, 2, pod1, "10.1.0.11", broadcast, "10.1.0.11"), ""},
	{"reply", here, arp(alien, pod1, 2, pod1, "10.1.0.11", alien, "10.1.0.99"), ""},
	{"probe", here, whoHas(pod1, "0.0.0.0", "10.1.0.11"), ""},
	{"padded ARP", here, append(whoHas(pod1, "10.1.0.11", "10.1.0.1"), make([]byte, 18)...), ""},
	{"RARP", here, bent(arp(broadcast, pod1, 3, pod1, "0.0.0.0", pod1, "0.0.0.0"), 12, 0x80, 0x35), ""},
	{"reply from zero", here, arp(alien, pod1, 2, pod1, "0.0.0.0", alien, "10.1.0.99"), "source_arp"},
	{"reply for the router", here, arp(alien, pod1, 2, pod1, "10.1.0.1", alien, "10.1.0.99"), "source_arp"},
	{"announcement of another", here, whoHas(pod1, "10.1.0.12", "10.1.0.12"), "source_arp"},
	{"reply of the gateway", here, arp(alien, pod1, 2, pod1, "169.254.1.1", alien, "10.1.0.99"), "source_arp"},
	{"another sender MAC", here, arp(broadcast, pod1, 1, alien, "10.1.0.11", mac{}, "10.1.0.1"), "source_arp"},
	{"another sender MAC in a probe", here, arp(broadcast, pod1, 1, alien, "0.0.0.0", mac{}, "10.1.0.1"), "source_arp"},
	{"RARP of another", here, bent(arp(broadcast, pod1, 3, alien, "0.0.0.0", alien, "0.0.0.0"), 12, 0x80, 0x35), "source_arp"},
	{"another frame MAC", here, arp(broadcast, alien, 1, pod1, "10.1.0.11", mac{}, "10.1.0.1"), "source_mac"},
	{"ARP hardware", here, bent(whoHas(pod1, "10.1.0.11", "10.1.0.1"), 15, 6), "source_malformed"},
	{"ARP protocol", here, bent(whoHas(pod1, "10.1.0.11", "10.1.0.1"), 16, 0x86), "source_malformed"},
	{"ARP lengths", here, bent(whoHas(pod1, "10.1.0.11", "10.1.0.1"), 18, 8), "source_malformed"},
	{"short ARP", here, whoHas(pod1, "10.1.0.11", "10.1.0.1")[:41], "source_truncated"},

	// IPv6
	{"IPv6", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 6, 64), ""},
	{"link-local", here, ipv6(alien, pod1, "fe80::11", "fe80::99", 17, 64), ""},
	{"last link-local", here, ipv6(alien, pod1, "febf::11", "fe80::99", 17, 64), ""},
	{"after link-local", here, ipv6(alien, pod1, "fec0::11", "fe80::99", 17, 64), "source_ipv6"},
	{"the service gateway", here, ipv6(alien, pod1, "fe80::1", "fe80::99", 17, 64), "source_ipv6"},
	{"neighbour's address6", here, ipv6(alien, pod1, "2001:db8:1::12", "2001:4860::1", 6, 64), "source_ipv6"},
	{"self-made address", here, ipv6(alien, pod1, "2001:db8:1:0:0:ff:fe00:101", "2001:4860::1", 6, 64), "source_ipv6"},
	{"from nobody", here, ipv6(alien, pod1, "::", "2001:4860::1", 17, 64), "source_ipv6"},
	{"from loopback", here, ipv6(alien, pod1, "::1", "2001:4860::1", 17, 64), "source_ipv6"},
	{"from a group6", here, ipv6(alien, pod1, "ff02::1", "2001:4860::1", 17, 64), "source_ipv6"},
	{"mapped", here, ipv6(alien, pod1, "::ffff:10.1.0.11", "2001:4860::1", 17, 64), "source_ipv6"},
	{"another MAC6", here, ipv6(alien, alien, "2001:db8:1::11", "2001:4860::1", 6, 64), "source_mac"},
	{"version 4 in IPv6", here, bent(ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 6, 64), 14, 0x40), "source_malformed"},
	{"first fragment6", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 44, 64, 17, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4), ""},
	{"later fragment6", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 44, 64, 58, 0, 0, 8, 0, 0, 0, 1), ""},
	{"spoofed fragment6", here, ipv6(alien, pod1, "2001:db8:1::12", "2001:4860::1", 44, 64, 58, 0, 0, 8, 0, 0, 0, 1), "source_ipv6"},
	{"options6", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 60, 64, 17, 0, 1, 4, 0, 0, 0, 0), ""},
	{"options cut off", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 60, 64, 17, 0), "source_truncated"},
	{"authentication header", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 51, 64, append([]byte{17, 4}, make([]byte, 22)...)...), ""},
	{"headers without end", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 60, 64, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 9)...), "source_malformed"},
	{"echo", here, icmpv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 128, 0, 0, 0, 0, 1, 0, 1), ""},
	{"echo from nobody", here, icmpv6(alien, pod1, "::", "2001:4860::1", 128, 0, 0, 0, 0, 1, 0, 1), "source_ipv6"},
	{"ICMPv6 without type", here, ipv6(alien, pod1, "2001:db8:1::11", "2001:4860::1", 58, 64), "source_truncated"},

	// Neighbour discovery
	{"solicitation", here, solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(pod1)), ""},
	{"solicitation from link-local", here, solicit(pod1, "fe80::11", "2001:db8:1::1", sourceOption(pod1)), ""},
	{"solicitation without option", here, solicit(pod1, "fe80::11", "2001:db8:1::1"), ""},
	{"solicitation, nonce", here, solicit(pod1, "fe80::11", "2001:db8:1::1", nonceOption, sourceOption(pod1)), ""},
	{"duplicate address detection", here, solicit(pod1, "::", "2001:db8:1::11", nonceOption), ""},
	{"duplicate address detection, link-local", here, solicit(pod1, "::", "fe80::11"), ""},
	{"duplicate address detection of another's", here, solicit(pod1, "::", "2001:db8:1::12"), "source_nd"},
	{"duplicate address detection of the gateway's", here, solicit(pod1, "::", "fe80::1"), "source_nd"},
	{"another's option", here, solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(alien)), "source_nd"},
	{"another's option behind", here, solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(pod1), nonceOption, sourceOption(alien)), "source_nd"},
	{"another's option behind an extension header", here, extended(solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(alien)), 60, 58, 0, 1, 4, 0, 0, 0, 0), "source_nd"},
	{"behind an extension header", here, extended(solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(pod1)), 60, 58, 0, 1, 4, 0, 0, 0, 0), ""},
	{"in an atomic fragment", here, extended(solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(pod1)), 44, 58, 0, 0, 0, 0, 0, 0, 1), ""},
	{"in fragments", here, extended(solicit(pod1, "2001:db8:1::11", "2001:db8:1::1", sourceOption(pod1)), 44, 58, 0, 0, 1, 0, 0, 0, 1), "source_nd"},
	{"hidden by a header that is cut off", here, ipv6(alien, pod1, "2001:db8:1::11", "ff02::1", 44, 255, 60, 0, 0, 1, 0, 0, 0, 1, 58, 9, 1, 4, 0, 0, 0, 0), "source_truncated"},
	{"hidden by a header at the end of the first fragment", here, append(bent(ipv6(alien, pod1, "2001:db8:1::11", "ff02::1", 44, 255, 60, 0, 0, 1, 0, 0, 0, 1, 58, 0, 1, 4, 0, 0, 0, 0), 19, 16), 128, 0, 0, 0), "source_truncated"},
	{"ICMPv6 behind the payload", here, append(ipv6(alien, pod1, "2001:db8:1::11", "ff02::1", 58, 255), 128, 0, 0, 0), "source_truncated"},
	{"header behind the payload", here, append(ipv6(alien, pod1, "2001:db8:1::11", "ff02::1", 60, 255), 17, 0, 1, 4, 0, 0, 0, 0), "source_truncated"},
	{"option of length zero", here, solicit(pod1, "fe80::11", "2001:db8:1::1", []byte{14, 0, 0, 0, 0, 0, 0, 0}), "source_malformed"},
	{"option beyond the packet", here, solicit(pod1, "fe80::11", "2001:db8:1::1", []byte{1, 1, 2, 0}), "source_malformed"},
	{"option beyond the payload", here, bent(solicit(pod1, "fe80::11", "2001:db8:1::1", sourceOption(alien)), 18, 0, 24), ""},
	{"options without end", here, solicit(pod1, "fe80::11", "2001:db8:1::1", bytes.Repeat(nonceOption, 9)), "source_malformed"},
	{"advertisement", here, icmpv6(alien, pod1, "2001:db8:1::11", "2001:db8:1::1", nd(136, 0x60, "2001:db8:1::11", targetOption(pod1))...), ""},
	{"announcement6", here, icmpv6(alien, pod1, "2001:db8:1::11", "ff02::1", nd(136, 0x20, "2001:db8:1::11", targetOption(pod1))...), ""},
	{"advertisement of link-local", here, icmpv6(alien, pod1, "fe80::11", "2001:db8:1::1", nd(136, 0x60, "fe80::11", targetOption(pod1))...), ""},
	{"advertisement of another's", here, icmpv6(alien, pod1, "fe80::11", "2001:db8:1::1", nd(136, 0x60, "2001:db8:1::12", targetOption(pod1))...), "source_nd"},
	{"advertisement of the gateway's", here, icmpv6(alien, pod1, "fe80::11", "ff02::1", nd(136, 0x60, "fe80::1", targetOption(pod1))...), "source_nd"},
	{"advertisement for another MAC", here, icmpv6(alien, pod1, "fe80::11", "ff02::1", nd(136, 0x60, "2001:db8:1::11", targetOption(alien))...), "source_nd"},
	{"advertisement from nobody", here, icmpv6(alien, pod1, "::", "ff02::1", nd(136, 0x60, "2001:db8:1::11", targetOption(pod1))...), "source_ipv6"},
	{"advertisement of IPv4, mapped", here, icmpv6(alien, pod1, "fe80::11", "ff02::1", nd(136, 0x60, "::ffff:10.1.0.11", targetOption(pod1))...), "source_nd"},
	{"advertisement without target", here, bent(icmpv6(alien, pod1, "fe80::11", "ff02::1", nd(136, 0x60, "2001:db8:1::11")[:20]...), 19, 20), "source_malformed"},
	{"advertisement, cut off", here, icmpv6(alien, pod1, "fe80::11", "ff02::1", nd(136, 0x60, "2001:db8:1::11")...)[:70], "source_truncated"},
	{"router solicitation", here, icmpv6(allRouters, pod1, "fe80::11", "ff02::2", append([]byte{133, 7: 0}, sourceOption(pod1)...)...), ""},
	{"router solicitation from nobody", here, icmpv6(allRouters, pod1, "::", "ff02::2", []byte{133, 7: 0}...), ""},
	{"router solicitation for another MAC", here, icmpv6(allRouters, pod1, "fe80::11", "ff02::2", append([]byte{133, 7: 0}, sourceOption(alien)...)...), "source_nd"},
	{"router advertisement", here, icmpv6(mac{0x33, 0x33, 5: 1}, pod1, "fe80::11", "ff02::1", []byte{134, 15: 0}...), "source_router"},
	{"router advertisement behind an extension header", here, extended(icmpv6(mac{0x33, 0x33, 5: 1}, pod1, "fe80::11", "ff02::1", []byte{134, 15: 0}...), 0, 58, 0, 1, 4, 0, 0, 0, 0), "source_router"},
	{"redirect", here, icmpv6(alien, pod1, "fe80::11", "2001:db8:1::1", nd(137, 0, "fe80::99", make([]byte, 16))...), "source_router"},
	{"listener report", here, mldReport(pod1, "fe80::11"), ""},
	{"listener report from nobody", here, mldReport(pod1, "::"), ""},
	{"listener report of another", here, mldReport(pod1, "2001:db8:1::12"), "source_ipv6"},

	// Neither
	{"802.1Q", here, slices.Concat(service4[:12], []byte{0x81, 0, 0, 10}, service4[12:]), "source_vlan"},
	{"802.1ad", here, slices.Concat(service4[:12], []byte{0x88, 0xa8, 0, 10}, service4[12:]), "source_vlan"},
	{"LLDP", here, ethernet(alien, pod1, 0x88cc, make([]byte, 46)), "source_not_ip"},
	{"EAPOL", here, ethernet(alien, pod1, 0x888e, make([]byte, 46)), "source_not_ip"},
	{"802.3", here, ethernet(alien, pod1, 38, make([]byte, 46)), "source_not_ip"},
}

// What an interface may send as is found in the hash map, and then in a seat.
func TestSource(t *testing.T) {
	b := newSourceBench(t)
	seen := map[string]bool{}
	for _, where := range []string{"", "seated/"} {
		for _, tt := range sourceTests {
			t.Run(where+tt.name, func(t *testing.T) {
				seen[tt.reason] = true
				want := outcome{next, tt.packet, map[string]uint64{}}
				if tt.reason != "" {
					want.Verdict, want.Counted[tt.reason] = drop, 1
				}
				before, err := b.Refused(tt.at)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, b.run(t, tt.at, tt.packet)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if after, err := b.Refused(tt.at); err != nil || after-before != uint64(len(want.Counted)) {
					t.Errorf("refused %d of the interface, want %d (%v)", after-before, len(want.Counted), err)
				}
			})
		}
		if err := b.Seat(); err != nil {
			t.Fatal(err)
		}
	}
	for _, reason := range Refusals() {
		if !seen[reason] && reason != "source_unknown" {
			t.Errorf("no test for %s", reason)
		}
	}
}

// What an interface may send as can be changed and taken away while it sends.
func TestSourceChanges(t *testing.T) {
	b := newSourceBench(t)
	send := func(from, reason string) {
		t.Helper()
		want := map[string]uint64{}
		if reason != "" {
			want[reason] = 1
		}
		packet := ipv4(alien, pod1, from, "8.8.8.8")
		if addr(from).Is6() {
			packet = ipv6(alien, pod1, from, "2001:4860::1", 6, 64)
		}
		if diff := cmp.Diff(want, b.run(t, here, packet).Counted); diff != "" {
			t.Errorf("from %s (-want +got):\n%s", from, diff)
		}
	}
	put := func(s Source) {
		t.Helper()
		if err := b.Put(here, s); err != nil {
			t.Fatal(err)
		}
	}
	all := netip.MustParsePrefix("::/0")
	put(Source{MAC: pod1, Prefixes: []netip.Prefix{all}})
	send("2001:db8:77::1", "")
	send("10.1.0.11", "source_ipv4") // ::/0 says nothing of IPv4
	put(Source{MAC: pod1, Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	send("2001:db8:77::1", "source_ipv6")
	send("10.77.0.1", "")
	send("0.0.0.0", "source_ipv4")
	put(hereSource)
	send("10.77.0.1", "source_ipv4")
	send("10.1.0.11", "")
	if n, err := b.Refused(here); n != 4 || err != nil {
		t.Errorf("refused %d, want 4: counted on through changes (%v)", n, err)
	}
	put(Source{})
	send("10.1.0.11", "source_mac")
	if err := b.Delete(here); err != nil {
		t.Fatal(err)
	}
	send("10.1.0.11", "source_unknown")
	if err := b.Delete(here); err != nil {
		t.Errorf("again: %v", err)
	}
	left, err := contents[furtherKey, uint32](b.maps.Further)
	if err != nil || len(left) != 5 { // the neighbour's
		t.Errorf("%v left, %v", left, err)
	}
}

// A new agent takes over what is there, its program included.
func TestSourceReopened(t *testing.T) {
	b := newSourceBench(t)
	again, err := OpenSourceGuard(filepath.Dir(b.dir), false)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := b.run(t, neighbour, ipv4(alien, pod2, "10.9.0.1", "8.8.8.8")); got.Verdict != next {
		t.Errorf("after: %v", got)
	}
	places, err := again.Places()
	slices.SortFunc(places, func(a, b Place) int { return a.Index - b.Index })
	if diff := cmp.Diff([]Place{here, neighbour}, places); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := again.Put(neighbour, Source{MAC: pod2, Addresses: neighbourSource.Addresses[:1]}); err != nil {
		t.Fatal(err)
	}
	if got := b.run(t, neighbour, ipv4(alien, pod2, "10.9.0.1", "8.8.8.8")); got.Verdict != drop {
		t.Errorf("a prefix of the earlier agent is still there: %v", got)
	}
	if err := RemoveSourceGuard(filepath.Dir(b.dir)); err != nil {
		t.Fatal(err)
	}
}

func TestSourceVerifierCost(t *testing.T) {
	const limit = 1_000_000
	info, err := newSourceBench(t).program(t).Info()
	if err != nil {
		t.Fatal(err)
	}
	n, ok := info.VerifiedInstructions()
	t.Logf("source: %d instructions verified, %.2f %% of the limit", n, 100*float64(n)/limit)
	if !ok || n > limit/2 {
		t.Errorf("%d instructions verified, more than half of the limit", n)
	}
}

// FuzzSource holds what passes against a reading of the frame that knows nothing of the program.
func FuzzSource(f *testing.F) {
	for _, tt := range sourceTests {
		f.Add(tt.packet, tt.at == neighbour)
	}
	b := newSourceBench(f)
	if err := b.Seat(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte, second bool) {
		if len(packet) < 14 || len(packet) > 1514 || len(packet) < shortest(packet) {
			return // the kernel takes no such test run
		}
		at, s := here, hereSource
		if second {
			at, s = neighbour, neighbourSource
		}
		got := b.run(t, at, packet)
		if !bytes.Equal(got.Packet, packet) {
			t.Fatalf("changed to %x", got.Packet)
		}
		switch {
		case got.Verdict == drop && len(got.Counted) == 1:
		case got.Verdict == next && len(got.Counted) == 0:
			if err := claims(packet, s); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("verdict %d, counted %v", int32(got.Verdict), got.Counted)
		}
	})
}

// claims says what a frame claims that is not the source's.
func claims(p []byte, s Source) error {
	has := func(a netip.Addr) bool {
		return slices.Contains(s.Addresses, a) || slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if !bytes.Equal(p[6:12], s.MAC[:]) {
		return fmt.Errorf("from %x", p[6:12])
	}
	switch binary.BigEndian.Uint16(p[12:]) {
	case 0x0800:
		if a := netip.AddrFrom4([4]byte(p[26:30])); !has(a) && !(s.DHCP && a.IsUnspecified()) {
			return fmt.Errorf("from %s", a)
		}
	case 0x0806, 0x8035:
		if a := netip.AddrFrom4([4]byte(p[28:32])); !bytes.Equal(p[22:28], s.MAC[:]) || !has(a) && !a.IsUnspecified() {
			return fmt.Errorf("ARP by %x of %s", p[22:28], a)
		}
	case 0x86dd:
		a := netip.AddrFrom16([16]byte(p[22:38]))
		if !has(a) && !a.IsLinkLocalUnicast() && !a.IsUnspecified() {
			return fmt.Errorf("from %s", a)
		}
		kind, at := p[20], 54
	headers:
		for at+8 <= len(p) { // what a receiver would find
			switch kind {
			case 0, 43, 60:
				kind, at = p[at], at+8+8*int(p[at+1])
			case 51:
				kind, at = p[at], at+8+4*int(p[at+1])
			case 44:
				if binary.BigEndian.Uint16(p[at+2:])>>3 != 0 {
					return nil
				}
				kind, at = p[at], at+8
			default:
				break headers
			}
		}
		if kind != 58 || at+24 > len(p) {
			return nil
		}
		target := netip.AddrFrom16([16]byte(p[at+8 : at+24]))
		switch {
		case p[at] == 134 || p[at] == 137:
			return fmt.Errorf("ICMPv6 %d", p[at])
		case p[at] == 136 && !has(target) && !target.IsLinkLocalUnicast():
			return fmt.Errorf("advertisement of %s", target)
		}
		if p[at] != 135 && p[at] != 136 {
			return nil
		}
		end := min(len(p), 54+int(binary.BigEndian.Uint16(p[18:])))
		for o := at + 24; o+8 <= end && p[o+1] != 0; o += 8 * int(p[o+1]) {
			if (p[o] == 1 || p[o] == 2) && !bytes.Equal(p[o+2:o+8], s.MAC[:]) {
				return fmt.Errorf("option of %x", p[o+2:o+8])
			}
		}
	default:
		return fmt.Errorf("protocol %x", p[12:14])
	}
	return nil
}
