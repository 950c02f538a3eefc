package bpf

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// What the programs under test are told: one vmac, two pods.
var (
	vmac   = mac{2, 0, 0, 0, 0, 1}
	pod1   = mac{2, 0, 0, 0, 1, 1}
	pod2   = mac{2, 0, 0, 0, 1, 2}
	alien  = mac{2, 0, 0, 0, 9, 9}
	parent = mac{2, 0, 0, 0, 0, 2} // the host's own

	knownEndpoints = []Endpoint{
		{addr("10.1.0.11"), pod1}, {addr("2001:db8:1::11"), pod1},
		{addr("10.1.0.12"), pod2}, {addr("2001:db8:1::12"), pod2},
	}
	knownPrefixes = map[netip.Prefix]Class{
		netip.MustParsePrefix("10.96.0.0/12"):       ClassService,
		netip.MustParsePrefix("10.244.0.0/16"):      ClassPod,
		netip.MustParsePrefix("192.168.1.5/32"):     ClassNode,
		netip.MustParsePrefix("192.168.2.0/24"):     ClassNode,
		netip.MustParsePrefix("203.0.113.0/24"):     ClassUser,
		netip.MustParsePrefix("198.51.100.1/32"):    ClassUser,
		netip.MustParsePrefix("2001:db8:6::6/128"):  ClassUser,
		netip.MustParsePrefix("fd00:96::/108"):      ClassService,
		netip.MustParsePrefix("fd00:244::/56"):      ClassPod,
		netip.MustParsePrefix("2001:db8:5::5/128"):  ClassNode,
		netip.MustParsePrefix("2001:db8:2::/64"):    ClassNode,
		netip.MustParsePrefix("2001:db8:ffff::/48"): ClassUser,
	}
)

// Verdicts, as prog.Run returns them.
const (
	next     = ^uint32(0) // TCX_NEXT
	drop     = 2          // TCX_DROP
	redirect = 7          // what bpf_redirect returns
)

// bench is the programs, attached to nothing.
type bench struct {
	*Steer
	programPrograms
}

func newBench(t testing.TB, endpoints []Endpoint, prefixes map[netip.Prefix]Class) *bench {
	t.Helper()
	spec, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	if err := configure(spec, vmac); err != nil {
		t.Fatal(err)
	}
	var objects programObjects
	if err := spec.LoadAndAssign(&objects, nil); err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(func() { objects.Close() })
	b := &bench{&Steer{maps: objects.programMaps}, objects.programPrograms}
	if err := b.fillSeats(); err != nil {
		t.Fatal(err)
	}
	if err := b.SyncEndpoints(endpoints); err != nil {
		t.Fatal(err)
	}
	if err := b.SyncPrefixes(prefixes); err != nil {
		t.Fatal(err)
	}
	if err := b.SyncWatched(knownWatched); err != nil {
		t.Fatal(err)
	}
	return b
}

// skBuff is the part of __sk_buff that a test run may set.
type skBuff struct {
	_       [176]byte
	GSOSize uint32
	_       [12]byte
}

// outcome of a packet. Counted holds all counters that are not zero.
type outcome struct {
	Verdict uint32
	Packet  []byte
	Counted map[string]uint64
}

func (b *bench) run(t testing.TB, program *ebpf.Program, packet []byte, context *skBuff) outcome {
	t.Helper()
	before, err := b.Counters()
	if err != nil {
		t.Fatal(err)
	}
	options := &ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256)}
	if context != nil {
		options.Context = context
	}
	verdict, err := program.Run(options)
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

type packetTest struct {
	name    string
	packet  []byte
	reason  string // the one counter that moves, by 1; none if empty
	answer  []byte // instead of the packet unchanged
	context *skBuff
}

// verdicts by what is counted.
func (tt packetTest) want() outcome {
	want := outcome{Verdict: drop, Packet: tt.packet, Counted: map[string]uint64{}}
	if tt.reason != "" {
		want.Counted[tt.reason] = 1
	}
	switch tt.reason {
	case "", "steered_ipv4", "steered_ipv6":
		want.Verdict = next
	case "arp_answered", "nd_answered":
		want.Verdict = redirect
	}
	if tt.answer != nil {
		want.Packet = tt.answer
	}
	return want
}

var (
	service4  = ipv4(vmac, pod1, "10.1.0.11", "10.96.0.1", 1, 2, 3, 4)
	service6  = ipv6(vmac, pod1, "2001:db8:1::11", "fd00:96::1", 17, 64, 1, 2, 3, 4)
	gateway4  = whoHas(pod1, "10.1.0.11", "169.254.1.1")
	gateway6  = solicit(pod1, "2001:db8:1::11", "fe80::1", sourceOption(pod1))
	toGateway = advertise(pod1, "fe80::1", "2001:db8:1::11", 0xe0)
)

// advertise is the answer to a solicitation.
func advertise(dst mac, target, to string, flags byte) []byte {
	return icmpv6(dst, vmac, target, to, nd(136, flags, target, targetOption(vmac))...)
}

func reply(dst mac, target, to string) []byte {
	return arp(dst, vmac, 2, vmac, target, dst, to)
}

var steerTests = []packetTest{
	// ARP
	{name: "gateway", packet: gateway4, reason: "arp_answered", answer: reply(pod1, "169.254.1.1", "10.1.0.11")},
	{name: "gateway, other pod", packet: whoHas(pod2, "10.1.0.12", "169.254.1.1"), reason: "arp_answered", answer: reply(pod2, "169.254.1.1", "10.1.0.12")},
	{name: "gateway, unicast", packet: arp(vmac, pod1, 1, pod1, "10.1.0.11", vmac, "169.254.1.1"), reason: "arp_answered", answer: reply(pod1, "169.254.1.1", "10.1.0.11")},
	{name: "gateway, padded", packet: append(slices.Clone(gateway4), make([]byte, 18)...), reason: "arp_answered", answer: append(reply(pod1, "169.254.1.1", "10.1.0.11"), make([]byte, 18)...)},
	{name: "node", packet: whoHas(pod1, "10.1.0.11", "192.168.1.5"), reason: "arp_answered", answer: reply(pod1, "192.168.1.5", "10.1.0.11")},
	{name: "in the node's network", packet: whoHas(pod1, "10.1.0.11", "192.168.2.5"), reason: "drop_arp_other"},
	{name: "service", packet: whoHas(pod1, "10.1.0.11", "10.96.0.1"), reason: "drop_arp_other"},
	{name: "steered single address", packet: whoHas(pod1, "10.1.0.11", "198.51.100.1"), reason: "drop_arp_other"},
	{name: "other pod's address", packet: whoHas(pod1, "10.1.0.11", "10.1.0.12"), reason: "drop_arp_other"},
	{name: "gateway's neighbour", packet: whoHas(pod1, "10.1.0.11", "169.254.1.2"), reason: "drop_arp_other"},
	{name: "stranger", packet: whoHas(alien, "10.1.0.99", "169.254.1.1"), reason: "drop_arp_stranger"},
	{name: "stranger's address, pod's MAC", packet: whoHas(pod1, "10.1.0.99", "169.254.1.1"), reason: "drop_arp_stranger"},
	{name: "pod's address, stranger's MAC", packet: whoHas(alien, "10.1.0.11", "169.254.1.1"), reason: "drop_spoofed_mac"},
	{name: "pod's address, other pod's MAC", packet: whoHas(pod2, "10.1.0.11", "169.254.1.1"), reason: "drop_spoofed_mac"},
	{name: "sender MAC not the frame's", packet: arp(broadcast, pod1, 1, pod2, "10.1.0.11", mac{}, "169.254.1.1"), reason: "drop_spoofed_mac"},
	{name: "frame's MAC not the sender's", packet: arp(broadcast, pod2, 1, pod1, "10.1.0.11", mac{}, "169.254.1.1"), reason: "drop_spoofed_mac"},
	{name: "probe of the gateway", packet: whoHas(pod1, "0.0.0.0", "169.254.1.1"), reason: "drop_arp_probe"},
	{name: "probe of the node", packet: whoHas(alien, "0.0.0.0", "192.168.1.5"), reason: "drop_arp_probe"},
	{name: "probe of a pod", packet: whoHas(pod1, "0.0.0.0", "10.1.0.11"), reason: "drop_arp_other"},
	{name: "announcement", packet: whoHas(pod1, "10.1.0.11", "10.1.0.11"), reason: "drop_arp_other"},
	{name: "reply", packet: arp(vmac, pod1, 2, pod1, "10.1.0.11", vmac, "169.254.1.1"), reason: "drop_arp_other"},
	{name: "reverse ARP", packet: bent(gateway4, 21, 3), reason: "drop_arp_other"},
	{name: "ARP to another MAC", packet: arp(pod2, pod1, 1, pod1, "10.1.0.11", mac{}, "169.254.1.1"), reason: "drop_wrong_mac"},
	{name: "ARP hardware", packet: bent(gateway4, 15, 6), reason: "drop_malformed"},
	{name: "ARP protocol", packet: bent(gateway4, 16, 0x86), reason: "drop_malformed"},
	{name: "ARP hardware length", packet: bent(gateway4, 18, 8), reason: "drop_malformed"},
	{name: "ARP protocol length", packet: bent(gateway4, 19, 16), reason: "drop_malformed"},

	// Neighbour discovery
	{name: "gateway6", packet: gateway6, reason: "nd_answered", answer: toGateway},
	{name: "gateway6 from link-local", packet: solicit(pod1, "fe80::11", "fe80::1", sourceOption(pod1)), reason: "nd_answered", answer: advertise(pod1, "fe80::1", "fe80::11", 0xe0)},
	{name: "gateway6, unicast", packet: icmpv6(vmac, pod1, "2001:db8:1::11", "fe80::1", nd(135, 0, "fe80::1")...), reason: "nd_answered", answer: toGateway},
	{name: "gateway6, nonce", packet: solicit(pod1, "2001:db8:1::11", "fe80::1", sourceOption(pod1), nonceOption), reason: "nd_answered", answer: toGateway},
	{name: "gateway6, padded", packet: append(slices.Clone(gateway6), make([]byte, 7)...), reason: "nd_answered", answer: toGateway},
	{name: "node6", packet: solicit(pod2, "2001:db8:1::12", "2001:db8:5::5", sourceOption(pod2)), reason: "nd_answered", answer: advertise(pod2, "2001:db8:5::5", "2001:db8:1::12", 0x60)},
	{name: "node6 from link-local", packet: solicit(pod2, "fe80::12", "2001:db8:5::5", sourceOption(pod2)), reason: "nd_answered", answer: advertise(pod2, "2001:db8:5::5", "fe80::12", 0x60)},
	{name: "in the node's network6", packet: solicit(pod1, "2001:db8:1::11", "2001:db8:2::5", sourceOption(pod1)), reason: "drop_nd_other"},
	{name: "service6", packet: solicit(pod1, "2001:db8:1::11", "fd00:96::1", sourceOption(pod1)), reason: "drop_nd_other"},
	{name: "steered single address6", packet: solicit(pod1, "2001:db8:1::11", "2001:db8:6::6", sourceOption(pod1)), reason: "drop_nd_other"},
	{name: "other pod's address6", packet: solicit(pod1, "2001:db8:1::11", "2001:db8:1::12", sourceOption(pod1)), reason: "drop_nd_other"},
	{name: "gateway6's neighbour", packet: solicit(pod1, "2001:db8:1::11", "fe80::2", sourceOption(pod1)), reason: "drop_nd_other"},
	{name: "node's IPv4 address, mapped", packet: solicit(pod1, "2001:db8:1::11", "::ffff:192.168.1.5", sourceOption(pod1)), reason: "drop_nd_other"},
	{name: "stranger6", packet: solicit(alien, "2001:db8:1::99", "fe80::1", sourceOption(alien)), reason: "drop_nd_stranger"},
	{name: "stranger6 whose address ends in zeros", packet: solicit(alien, "2001:db8:1::", "fe80::1", sourceOption(alien)), reason: "drop_nd_stranger"},
	{name: "stranger6 from link-local", packet: solicit(alien, "fe80::99", "fe80::1", sourceOption(alien)), reason: "drop_nd_stranger"},
	{name: "pod's IPv4 address, mapped", packet: solicit(pod1, "::ffff:10.1.0.11", "fe80::1", sourceOption(pod1)), reason: "drop_nd_stranger"},
	{name: "pod's address6, stranger's MAC", packet: solicit(alien, "2001:db8:1::11", "fe80::1", sourceOption(alien)), reason: "drop_spoofed_mac"},
	{name: "duplicate address detection of the gateway", packet: solicit(pod1, "::", "fe80::1", nonceOption), reason: "drop_nd_dad"},
	{name: "duplicate address detection of the node", packet: solicit(alien, "::", "2001:db8:5::5"), reason: "drop_nd_dad"},
	{name: "duplicate address detection of a pod", packet: solicit(pod1, "::", "2001:db8:1::11", nonceOption), reason: "drop_nd_other"},
	{name: "advertisement", packet: icmpv6(vmac, pod1, "2001:db8:1::11", "fe80::1", nd(136, 0x60, "2001:db8:1::11", targetOption(pod1))...), reason: "drop_nd_other"},
	{name: "advertisement of the gateway", packet: icmpv6(vmac, pod1, "fe80::1", "ff02::1", nd(136, 0x60, "fe80::1", targetOption(pod1))...), reason: "drop_nd_other"},
	{name: "router solicitation", packet: icmpv6(mac{0x33, 0x33, 5: 2}, pod1, "fe80::11", "ff02::2", nd(133, 0, "::")...), reason: "drop_nd_other"},
	{name: "router solicitation, short", packet: icmpv6(mac{0x33, 0x33, 5: 2}, pod1, "fe80::11", "ff02::2", append([]byte{133, 7: 0}, sourceOption(pod1)...)...), reason: "drop_nd_other"},
	{name: "router advertisement", packet: icmpv6(mac{0x33, 0x33, 5: 1}, pod1, "fe80::11", "ff02::1", nd(134, 0, "::")...), reason: "drop_nd_other"},
	{name: "redirect", packet: icmpv6(vmac, pod1, "fe80::11", "fe80::1", nd(137, 0, "fe80::1", make([]byte, 16))...), reason: "drop_nd_other"},
	{name: "solicitation to another MAC", packet: bent(gateway6, 0, pod2[:]...), reason: "drop_wrong_mac"},
	{name: "solicitation, forwarded", packet: bent(gateway6, 21, 254), reason: "drop_malformed"},
	{name: "solicitation, code", packet: bent(gateway6, 55, 1), reason: "drop_malformed"},
	{name: "solicitation without target", packet: icmpv6(vmac, pod1, "2001:db8:1::11", "fe80::1", nd(135, 0, "fe80::1")[:20]...), reason: "drop_malformed"},
	{name: "short solicitation in a long frame", packet: bent(gateway6, 19, 20), reason: "drop_malformed"},
	{name: "multicast listener report", packet: ipv6(mac{0x33, 0x33, 5: 0x16}, pod1, "fe80::11", "ff02::16", 0, 1, make([]byte, 28)...), reason: "drop_multicast"},

	// IPv4
	{name: "service", packet: service4, reason: "steered_ipv4"},
	{name: "pod", packet: ipv4(vmac, pod1, "10.1.0.11", "10.244.7.7"), reason: "steered_ipv4"},
	{name: "node", packet: ipv4(vmac, pod2, "10.1.0.12", "192.168.1.5", 1), reason: "steered_ipv4"},
	{name: "user", packet: ipv4(vmac, pod1, "10.1.0.11", "203.0.113.200"), reason: "steered_ipv4"},
	{name: "last of the service prefix", packet: ipv4(vmac, pod1, "10.1.0.11", "10.111.255.255"), reason: "steered_ipv4"},
	{name: "after the service prefix", packet: ipv4(vmac, pod1, "10.1.0.11", "10.112.0.0"), reason: "drop_not_steered"},
	{name: "first fragment", packet: bent(service4, 20, 0x20), reason: "steered_ipv4"},
	{name: "later fragment", packet: bent(service4, 20, 0, 185), reason: "steered_ipv4"},
	{name: "options", packet: bent(ipv4(vmac, pod1, "10.1.0.11", "10.96.0.1", 1, 1, 1, 0, 8, 8), 14, 0x46), reason: "steered_ipv4"},
	{name: "options only", packet: bent(service4, 14, 0x46), reason: "steered_ipv4"},
	{name: "options beyond the packet", packet: bent(service4, 14, 0x47), reason: "drop_malformed"},
	{name: "header too short", packet: bent(service4, 14, 0x44), reason: "drop_malformed"},
	{name: "version 6 in IPv4", packet: bent(service4, 14, 0x65), reason: "drop_malformed"},
	{name: "length below the header", packet: bent(service4, 16, 0, 19), reason: "drop_malformed"},
	{name: "length zero", packet: bent(service4, 16, 0, 0), reason: "drop_malformed"},
	{name: "length zero, large segment", packet: bent(service4, 16, 0, 0), context: &skBuff{GSOSize: 1448}, reason: "steered_ipv4"},
	{name: "length beyond the frame", packet: bent(service4, 16, 0, 25), reason: "drop_truncated"},
	{name: "padded", packet: append(slices.Clone(service4), make([]byte, 18)...), reason: "steered_ipv4"},
	{name: "unknown source", packet: ipv4(vmac, pod1, "10.1.0.99", "10.96.0.1"), reason: "drop_spoofed_address"},
	{name: "unknown source and MAC", packet: ipv4(vmac, alien, "10.1.0.99", "10.96.0.1"), reason: "drop_spoofed_address"},
	{name: "source zero", packet: ipv4(vmac, pod1, "0.0.0.0", "10.96.0.1"), reason: "drop_spoofed_address"},
	{name: "other pod's source", packet: ipv4(vmac, pod1, "10.1.0.12", "10.96.0.1"), reason: "drop_spoofed_mac"},
	{name: "stranger's MAC", packet: ipv4(vmac, alien, "10.1.0.11", "10.96.0.1"), reason: "drop_spoofed_mac"},
	{name: "not steered", packet: ipv4(vmac, pod1, "10.1.0.11", "8.8.8.8"), reason: "drop_not_steered"},
	{name: "to the gateway", packet: ipv4(vmac, pod1, "10.1.0.11", "169.254.1.1"), reason: "drop_not_steered"},
	{name: "to another MAC", packet: ipv4(pod2, pod1, "10.1.0.11", "10.96.0.1"), reason: "drop_wrong_mac"},
	{name: "to a group", packet: ipv4(mac{1, 0, 0x5e, 0, 0, 1}, pod1, "10.1.0.11", "224.0.0.1"), reason: "drop_multicast"},
	{name: "to a group by vmac's MAC", packet: ipv4(vmac, pod1, "10.1.0.11", "224.0.0.1"), reason: "drop_multicast"},
	{name: "to all", packet: ipv4(broadcast, pod1, "10.1.0.11", "255.255.255.255"), reason: "drop_multicast"},
	{name: "to all by vmac's MAC", packet: ipv4(vmac, pod1, "10.1.0.11", "255.255.255.255"), reason: "drop_multicast"},
	{name: "service by broadcast MAC", packet: ipv4(broadcast, pod1, "10.1.0.11", "10.96.0.1"), reason: "drop_multicast"},

	// IPv6
	{name: "service6", packet: service6, reason: "steered_ipv6"},
	{name: "pod6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "fd00:244:0:1::7", 6, 64), reason: "steered_ipv6"},
	{name: "node6", packet: ipv6(vmac, pod2, "2001:db8:1::12", "2001:db8:5::5", 6, 64), reason: "steered_ipv6"},
	{name: "user6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "2001:db8:ffff:1::1", 6, 64), reason: "steered_ipv6"},
	{name: "fragment6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "fd00:96::1", 44, 64, 17, 0, 0, 8, 0, 0, 0, 1), reason: "steered_ipv6"},
	{name: "echo6", packet: icmpv6(vmac, pod1, "2001:db8:1::11", "fd00:96::1", 128, 0, 0, 0), reason: "steered_ipv6"},
	{name: "echo to the gateway6", packet: icmpv6(vmac, pod1, "2001:db8:1::11", "fe80::1", 128, 0, 0, 0, 0, 1, 0, 1), reason: "drop_not_steered"},
	{name: "ICMPv6 without code", packet: ipv6(vmac, pod1, "2001:db8:1::11", "fd00:96::1", 58, 64, 128, 0, 0), reason: "drop_malformed"},
	{name: "short ICMPv6 in a long frame", packet: append(ipv6(vmac, pod1, "2001:db8:1::11", "fd00:96::1", 58, 64, 128, 0, 0), 0, 0), reason: "drop_malformed"},
	{name: "version 4 in IPv6", packet: bent(service6, 14, 0x40), reason: "drop_malformed"},
	{name: "length beyond the frame6", packet: bent(service6, 18, 0, 5), reason: "drop_truncated"},
	{name: "length zero, large segment6", packet: bent(service6, 18, 0, 0), context: &skBuff{GSOSize: 1428}, reason: "steered_ipv6"},
	{name: "unknown source6", packet: ipv6(vmac, pod1, "2001:db8:1::99", "fd00:96::1", 17, 64), reason: "drop_spoofed_address"},
	{name: "source zero6", packet: ipv6(vmac, pod1, "::", "fd00:96::1", 17, 64), reason: "drop_spoofed_address"},
	{name: "pod's IPv4 source, mapped", packet: ipv6(vmac, pod1, "::ffff:10.1.0.11", "fd00:96::1", 17, 64), reason: "drop_spoofed_address"},
	{name: "other pod's source6", packet: ipv6(vmac, pod1, "2001:db8:1::12", "fd00:96::1", 17, 64), reason: "drop_spoofed_mac"},
	{name: "stranger's MAC6", packet: ipv6(vmac, alien, "2001:db8:1::11", "fd00:96::1", 17, 64), reason: "drop_spoofed_mac"},
	{name: "link-local source", packet: ipv6(vmac, pod1, "fe80::11", "fd00:96::1", 17, 64), reason: "drop_link_local"},
	{name: "last link-local source", packet: ipv6(vmac, pod1, "febf::11", "fd00:96::1", 17, 64), reason: "drop_link_local"},
	{name: "after link-local", packet: ipv6(vmac, pod1, "fec0::11", "fd00:96::1", 17, 64), reason: "drop_spoofed_address"},
	{name: "not steered6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "2001:4860::1", 17, 64), reason: "drop_not_steered"},
	{name: "service's IPv4 address, mapped", packet: ipv6(vmac, pod1, "2001:db8:1::11", "::ffff:10.96.0.1", 17, 64), reason: "drop_not_steered"},
	{name: "to another MAC6", packet: ipv6(pod2, pod1, "2001:db8:1::11", "fd00:96::1", 17, 64), reason: "drop_wrong_mac"},
	{name: "to a group6", packet: ipv6(mac{0x33, 0x33, 5: 1}, pod1, "2001:db8:1::11", "ff02::1", 17, 64), reason: "drop_multicast"},
	{name: "to a group6 by vmac's MAC", packet: ipv6(vmac, pod1, "2001:db8:1::11", "ff02::1", 17, 64), reason: "drop_multicast"},

	// Neither
	{name: "802.1Q", packet: slices.Concat(service4[:12], []byte{0x81, 0, 0, 10}, service4[12:]), reason: "drop_vlan"},
	{name: "802.1ad", packet: slices.Concat(service4[:12], []byte{0x88, 0xa8, 0, 10}, service4[12:]), reason: "drop_vlan"},
	{name: "LLDP", packet: ethernet(vmac, pod1, 0x88cc, make([]byte, 46)), reason: "drop_not_ip"},
	{name: "802.3", packet: ethernet(vmac, pod1, 38, make([]byte, 46)), reason: "drop_not_ip"},
}

// Endpoints are found in the hash map, and then in seats.
func TestSteer(t *testing.T) {
	b := newBench(t, knownEndpoints, knownPrefixes)
	seen := map[string]bool{}
	for _, where := range []string{"", "seated/"} {
		for _, tt := range steerTests {
			t.Run(where+tt.name, func(t *testing.T) {
				seen[tt.reason] = true
				if diff := cmp.Diff(tt.want(), b.run(t, b.programPrograms.Steer, tt.packet, tt.context)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
		if err := b.Seat(); err != nil {
			t.Fatal(err)
		}
	}
	for _, reason := range Reasons() {
		switch reason {
		case "guard_arp", "guard_nd", "drop_truncated": // in other tests
		case "drop_write_failed": // would take a kernel without memory
		default:
			if !seen[reason] {
				t.Errorf("no test for %s", reason)
			}
		}
	}
}

// A user may steer everything. Some things still are not for the host.
func TestSteerEverything(t *testing.T) {
	everything4, everything6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	for _, tt := range []struct {
		steer netip.Prefix
		packetTest
	}{
		{everything4, packetTest{name: "IPv4", packet: ipv4(vmac, pod1, "10.1.0.11", "8.8.8.8"), reason: "steered_ipv4"}},
		{everything4, packetTest{name: "last before groups", packet: ipv4(vmac, pod1, "10.1.0.11", "223.255.255.255"), reason: "steered_ipv4"}},
		{everything4, packetTest{name: "group", packet: ipv4(vmac, pod1, "10.1.0.11", "224.0.0.1"), reason: "drop_multicast"}},
		{everything4, packetTest{name: "gateway", packet: ipv4(vmac, pod1, "10.1.0.11", "169.254.1.1"), reason: "drop_not_steered"}},
		{everything4, packetTest{name: "IPv6 under 0.0.0.0/0", packet: service6, reason: "drop_not_steered"}},
		{everything6, packetTest{name: "IPv6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "2001:4860::1", 6, 64), reason: "steered_ipv6"}},
		{everything6, packetTest{name: "gateway6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "fe80::1", 6, 64), reason: "drop_not_steered"}},
		{everything6, packetTest{name: "mapped", packet: ipv6(vmac, pod1, "2001:db8:1::11", "::ffff:8.8.8.8", 6, 64), reason: "drop_not_steered"}},
		{everything6, packetTest{name: "group6", packet: ipv6(vmac, pod1, "2001:db8:1::11", "ff0e::1", 6, 64), reason: "drop_multicast"}},
		{everything6, packetTest{name: "IPv4 under ::/0", packet: service4, reason: "drop_not_steered"}},
		{everything6, packetTest{name: "ARP under ::/0", packet: whoHas(pod1, "10.1.0.11", "8.8.8.8"), reason: "drop_arp_other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Of class node: the class that also answers, if for single addresses only.
			b := newBench(t, knownEndpoints, map[netip.Prefix]Class{tt.steer: ClassNode})
			if diff := cmp.Diff(tt.want(), b.run(t, b.programPrograms.Steer, tt.packet, nil)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// shortest is the least of a packet that the kernel (6.18) takes for a test run. TestTruncatedOnLink goes below.
func shortest(packet []byte) int {
	switch {
	case packet[12] == 0x08 && packet[13] == 0x00:
		return 14 + 20
	case packet[12] == 0x86 && packet[13] == 0xdd:
		return 14 + 40
	}
	return 14
}

func TestSteerTruncated(t *testing.T) {
	b := newBench(t, knownEndpoints, knownPrefixes)
	for name, packet := range map[string][]byte{"ARP": gateway4, "ND": gateway6, "IPv4": service4, "IPv6": service6,
		"ICMPv6": icmpv6(vmac, pod1, "2001:db8:1::11", "fd00:96::1", 128, 0, 0, 0, 0, 1, 0, 1)} {
		t.Run(name, func(t *testing.T) {
			for n := shortest(packet); n < len(packet); n++ {
				tt := packetTest{packet: packet[:n], reason: "drop_truncated"}
				if diff := cmp.Diff(tt.want(), b.run(t, b.programPrograms.Steer, tt.packet, nil)); diff != "" {
					t.Errorf("%d bytes (-want +got):\n%s", n, diff)
				}
			}
		})
	}
}

func TestGuard(t *testing.T) {
	b := newBench(t, knownEndpoints, nil)
	for _, tt := range []packetTest{
		{name: "ARP for the gateway", packet: gateway4, reason: "guard_arp"},
		{name: "probe of the gateway", packet: whoHas(pod1, "0.0.0.0", "169.254.1.1"), reason: "guard_arp"},
		{name: "ARP for the gateway, unicast", packet: arp(alien, pod1, 1, pod1, "10.1.0.11", alien, "169.254.1.1"), reason: "guard_arp"},
		{name: "reply of the gateway", packet: reply(pod1, "169.254.1.1", "10.1.0.11"), reason: "guard_arp"},
		{name: "announcement of the gateway", packet: whoHas(vmac, "169.254.1.1", "169.254.1.1"), reason: "guard_arp"},
		{name: "question of the gateway", packet: whoHas(vmac, "169.254.1.1", "10.1.0.11"), reason: "guard_arp"},
		{name: "reply of the gateway by a pod", packet: arp(pod2, pod1, 2, pod1, "169.254.1.1", pod2, "10.1.0.12"), reason: "guard_arp"},
		{name: "sender MAC not the frame's", packet: arp(broadcast, pod1, 1, alien, "10.1.0.11", mac{}, "169.254.1.1"), reason: "guard_arp"},
		{name: "the parent's ARP for its gateway", packet: whoHas(parent, "169.254.7.7", "169.254.1.1")},
		{name: "the parent's ARP in the gateway's name", packet: whoHas(parent, "169.254.1.1", "169.254.1.1")},
		{name: "the parent's frame with a pod's sender MAC", packet: arp(broadcast, parent, 1, pod1, "10.1.0.11", mac{}, "169.254.1.1")},
		{name: "ARP", packet: whoHas(pod1, "10.1.0.11", "10.1.0.12")},
		{name: "ARP for the gateway's neighbour", packet: whoHas(pod1, "10.1.0.11", "169.254.1.2")},
		{name: "no Ethernet ARP", packet: bent(gateway4, 15, 6)},
		{name: "solicitation of the gateway", packet: gateway6, reason: "guard_nd"},
		{name: "duplicate address detection of the gateway", packet: solicit(pod1, "::", "fe80::1"), reason: "guard_nd"},
		{name: "advertisement of the gateway", packet: toGateway, reason: "guard_nd"},
		{name: "advertisement of the gateway by another", packet: icmpv6(alien, pod1, "fe80::11", "ff02::1", nd(136, 0xe0, "fe80::1", targetOption(pod1))...), reason: "guard_nd"},
		{name: "solicitation by the gateway", packet: solicit(vmac, "fe80::1", "2001:db8:1::11", sourceOption(vmac)), reason: "guard_nd"},
		{name: "router advertisement by the gateway", packet: icmpv6(mac{0x33, 0x33, 5: 1}, pod1, "fe80::1", "ff02::1", nd(134, 0, "::")...), reason: "guard_nd"},
		{name: "router solicitation by the gateway", packet: icmpv6(mac{0x33, 0x33, 5: 2}, pod1, "fe80::1", "ff02::2", 133, 0, 0, 0, 0, 0, 0, 0), reason: "guard_nd"},
		{name: "redirect by the gateway", packet: icmpv6(pod2, pod1, "fe80::1", "fe80::12", nd(137, 0, "::")...), reason: "guard_nd"},
		{name: "the parent's solicitation of its router", packet: solicit(parent, "fe80::7", "fe80::1", sourceOption(parent))},
		{name: "the parent's unicast solicitation of its router", packet: icmpv6(alien, parent, "fe80::7", "fe80::1", nd(135, 0, "fe80::1")...)},
		{name: "the parent's advertisement", packet: icmpv6(alien, parent, "fe80::1", "fe80::7", nd(136, 0xe0, "fe80::1", targetOption(parent))...)},
		{name: "the parent's router advertisement", packet: icmpv6(mac{0x33, 0x33, 5: 1}, parent, "fe80::1", "ff02::1", nd(134, 0, "::")...)},
		{name: "solicitation", packet: solicit(pod1, "fe80::11", "2001:db8:1::12", sourceOption(pod1))},
		{name: "solicitation of the gateway's neighbour", packet: solicit(pod1, "fe80::11", "fe80::2", sourceOption(pod1))},
		{name: "router solicitation", packet: icmpv6(mac{0x33, 0x33, 5: 2}, pod1, "fe80::11", "ff02::2", nd(133, 0, "fe80::1")...)},
		{name: "redirect about the gateway", packet: icmpv6(pod2, pod1, "fe80::11", "fe80::12", nd(137, 0, "fe80::1")...)},
		{name: "echo of the gateway", packet: icmpv6(pod2, pod1, "fe80::1", "fe80::12", nd(128, 0, "fe80::1")...)},
		{name: "echo reply below ND", packet: icmpv6(pod2, pod1, "fe80::1", "fe80::12", nd(132, 0, "fe80::1")...)},
		{name: "ICMPv6 above ND", packet: icmpv6(pod2, pod1, "fe80::1", "fe80::12", nd(138, 0, "fe80::1")...)},
		{name: "no ICMPv6", packet: bent(gateway6, 20, 17)},
		{name: "IPv4", packet: service4},
		{name: "IPv6", packet: service6},
		{name: "LLDP", packet: ethernet(vmac, pod1, 0x88cc, make([]byte, 46))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want(), b.run(t, b.programPrograms.Guard, tt.packet, nil)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is too short to be judged is none of the guard's business.
func TestGuardTruncated(t *testing.T) {
	b := newBench(t, knownEndpoints, nil)
	for name, full := range map[string][]byte{"ARP": gateway4, "ND": gateway6[:78]} {
		t.Run(name, func(t *testing.T) {
			for n := shortest(full); n < len(full); n++ {
				tt := packetTest{packet: full[:n]}
				if diff := cmp.Diff(tt.want(), b.run(t, b.programPrograms.Guard, tt.packet, nil)); diff != "" {
					t.Errorf("%d bytes (-want +got):\n%s", n, diff)
				}
			}
		})
	}
}

func TestBytes(t *testing.T) {
	b := newBench(t, knownEndpoints, knownPrefixes)
	for range 3 {
		b.run(t, b.programPrograms.Steer, service4, nil)
	}
	b.run(t, b.programPrograms.Steer, gateway4, nil)
	got, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(got, func(_ string, n uint64) bool { return n == 0 })
	want := map[string]uint64{"steered_ipv4": uint64(3 * len(service4)), "arp_answered": uint64(len(gateway4))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The verifier gives up after a million instructions, and newer kernels walk more paths than older ones.
func TestVerifierCost(t *testing.T) {
	const limit = 1_000_000
	b := newBench(t, nil, nil)
	for name, program := range map[string]*ebpf.Program{"steer": b.programPrograms.Steer, "guard": b.programPrograms.Guard} {
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Fatalf("%s: the kernel does not say how many instructions it verified", name)
		}
		t.Logf("%s: %d instructions verified, %.2f %% of the limit", name, n, 100*float64(n)/limit)
		if n > limit/2 {
			t.Errorf("%s: %d instructions verified, more than half of the limit", name, n)
		}
	}
}
