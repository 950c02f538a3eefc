package bpf

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/google/go-cmp/cmp"
)

// What pools give out on the vmac's segment. Local pods are in it.
var knownWatched = []netip.Prefix{
	netip.MustParsePrefix("10.1.0.0/25"), netip.MustParsePrefix("10.1.0.200/32"),
	netip.MustParsePrefix("2001:db8:1::/120"),
}

// read gives the steer programs of a bench a reader, as Attach does.
func (b *bench) read(t testing.TB) {
	t.Helper()
	var err error
	if b.reader, err = ringbuf.NewReader(b.maps.Sightings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.reader.Close() })
}

// told are the sightings since the last call.
func (b *bench) told(t testing.TB) (out []Sighting) {
	t.Helper()
	b.reader.SetDeadline(time.Now())
	for {
		s, err := b.ReadSighting()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
}

func (b *bench) watch(t testing.TB, prefixes ...netip.Prefix) {
	t.Helper()
	if err := b.SyncWatched(prefixes); err != nil {
		t.Fatal(err)
	}
}

// outcomes that are not zero.
func (b *bench) outcomes(t testing.TB) map[string]uint64 {
	t.Helper()
	all, err := b.Sightings()
	if err != nil {
		t.Fatal(err)
	}
	for outcome, n := range all {
		if n == 0 {
			delete(all, outcome)
		}
	}
	return all
}

// age what was told, as time does.
func (b *bench) age(t testing.TB, by time.Duration) {
	t.Helper()
	all, err := contents[sighting, uint64](b.maps.Seen)
	if err != nil {
		t.Fatal(err)
	}
	for key, at := range all {
		if err := b.maps.Seen.Put(key, at-uint64(by)); err != nil {
			t.Fatal(err)
		}
	}
}

// refill the budget of this second.
func (b *bench) refill(t testing.TB) {
	t.Helper()
	var now telling
	if err := b.maps.Telling.Lookup(uint32(0), &now); err != nil {
		t.Fatal(err)
	}
	now.Since, now.Spent = 0, 0
	if err := b.maps.Telling.Put(uint32(0), now); err != nil {
		t.Fatal(err)
	}
}

var (
	allNodes   = mac{0x33, 0x33, 5: 1}
	foreign4   = whoHas(alien, "10.1.0.99", "10.1.0.1")
	foreign6   = icmpv6(allNodes, alien, "2001:db8:1::99", "ff02::1", nd(136, 0x20, "2001:db8:1::99", targetOption(alien))...)
	foreignAsk = solicit(alien, "2001:db8:1::99", "fe80::1", sourceOption(alien))
)

func TestSightings(t *testing.T) {
	ofAlien := func(a string) []Sighting { return []Sighting{{addr(a), alien}} }
	for _, tt := range []struct {
		name   string
		packet []byte
		reason string
		want   []Sighting
	}{
		// ARP
		{"question", foreign4, "drop_arp_other", ofAlien("10.1.0.99")},
		{"announcement", whoHas(alien, "10.1.0.99", "10.1.0.99"), "drop_arp_other", ofAlien("10.1.0.99")},
		{"announcement by reply", arp(broadcast, alien, 2, alien, "10.1.0.99", broadcast, "10.1.0.99"), "drop_arp_other", ofAlien("10.1.0.99")},
		{"reply to vmac", arp(vmac, alien, 2, alien, "10.1.0.99", vmac, "10.1.0.1"), "drop_arp_other", ofAlien("10.1.0.99")},
		{"question for the gateway", whoHas(alien, "10.1.0.99", "169.254.1.1"), "drop_arp_stranger", ofAlien("10.1.0.99")},
		{"single address", whoHas(alien, "10.1.0.200", "10.1.0.1"), "drop_arp_other", ofAlien("10.1.0.200")},
		{"a pod's address", whoHas(alien, "10.1.0.11", "10.1.0.1"), "drop_arp_other", ofAlien("10.1.0.11")},
		{"a pod's address for the gateway", whoHas(alien, "10.1.0.11", "169.254.1.1"), "drop_spoofed_mac", ofAlien("10.1.0.11")},
		{"a pod's address by another pod", whoHas(pod2, "10.1.0.11", "10.1.0.1"), "drop_arp_other", []Sighting{{addr("10.1.0.11"), pod2}}},
		{"for somebody else", arp(broadcast, parent, 1, alien, "10.1.0.99", mac{}, "10.1.0.1"), "drop_arp_other", ofAlien("10.1.0.99")},
		{"the pod itself", whoHas(pod1, "10.1.0.11", "10.1.0.99"), "drop_arp_other", nil},
		{"the pod itself for the gateway", gateway4, "arp_answered", nil},
		{"not watched", whoHas(alien, "10.1.0.128", "10.1.0.99"), "drop_arp_other", nil},
		{"probe", whoHas(alien, "0.0.0.0", "10.1.0.99"), "drop_arp_other", nil},
		{"reverse ARP", bent(foreign4, 21, 3), "drop_arp_other", nil},
		{"group MAC", arp(broadcast, alien, 1, allNodes, "10.1.0.99", mac{}, "10.1.0.1"), "drop_arp_other", nil},
		{"no MAC", arp(broadcast, alien, 1, mac{}, "10.1.0.99", mac{}, "10.1.0.1"), "drop_arp_other", nil},
		{"to another MAC", bent(foreign4, 0, pod2[:]...), "drop_wrong_mac", nil},
		{"hardware", bent(foreign4, 15, 6), "drop_malformed", nil},
		{"protocol", bent(foreign4, 16, 0x86), "drop_malformed", nil},
		{"hardware length", bent(foreign4, 18, 8), "drop_malformed", nil},
		{"protocol length", bent(foreign4, 19, 16), "drop_malformed", nil},
		{"tagged", slices.Concat(foreign4[:12], []byte{0x81, 0, 0, 10}, foreign4[12:]), "drop_vlan", nil},

		// Neighbour discovery
		{"advertisement to all", foreign6, "drop_nd_other", ofAlien("2001:db8:1::99")},
		{"advertisement of a pod's address", icmpv6(allNodes, alien, "fe80::99", "ff02::1", nd(136, 0, "2001:db8:1::11")...), "drop_nd_other", ofAlien("2001:db8:1::11")},
		{"answer to vmac", icmpv6(vmac, alien, "2001:db8:1::99", "fe80::7", nd(136, 0x60, "2001:db8:1::99", targetOption(alien))...), "drop_nd_other", ofAlien("2001:db8:1::99")},
		{"solicitation", foreignAsk, "drop_nd_stranger", ofAlien("2001:db8:1::99")},
		{"solicitation of another", solicit(alien, "2001:db8:1::99", "2001:db8:1::1", sourceOption(alien)), "drop_nd_other", ofAlien("2001:db8:1::99")},
		{"the pod's advertisement", icmpv6(allNodes, pod1, "2001:db8:1::11", "ff02::1", nd(136, 0x20, "2001:db8:1::11", targetOption(pod1))...), "drop_nd_other", nil},
		{"the pod's solicitation", gateway6, "nd_answered", nil},
		{"from link-local", solicit(alien, "fe80::99", "2001:db8:1::99", sourceOption(alien)), "drop_nd_other", nil},
		{"duplicate address detection", solicit(alien, "::", "2001:db8:1::99", nonceOption), "drop_nd_other", nil},
		{"an IPv4 address, mapped", icmpv6(allNodes, alien, "fe80::99", "ff02::1", nd(136, 0, "::ffff:10.1.0.99")...), "drop_nd_other", nil},
		{"not watched6", icmpv6(allNodes, alien, "fe80::99", "ff02::1", nd(136, 0, "2001:db8:1::1:0")...), "drop_nd_other", nil},
		{"solicited, to all", icmpv6(allNodes, alien, "fe80::99", "ff02::1", nd(136, 0x60, "2001:db8:1::99")...), "drop_nd_other", nil},
		{"forwarded", bent(foreign6, 21, 254), "drop_nd_other", nil},
		{"code", bent(foreign6, 55, 1), "drop_nd_other", nil},
		{"short advertisement in a long frame", bent(foreign6, 19, 20), "drop_nd_other", nil},
		{"to another MAC6", bent(foreign6, 0, pod2[:]...), "drop_nd_other", nil},
		{"redirect", icmpv6(vmac, alien, "fe80::99", "fe80::1", nd(137, 0, "2001:db8:1::99", make([]byte, 16))...), "drop_nd_other", nil},

		// Others
		{"IPv4", ipv4(vmac, alien, "10.1.0.99", "10.96.0.1"), "drop_spoofed_address", nil},
		{"IPv6", ipv6(vmac, alien, "2001:db8:1::99", "fd00:96::1", 17, 64), "drop_spoofed_address", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, knownEndpoints, knownPrefixes)
			b.read(t)
			b.watch(t, knownWatched...)
			pt := packetTest{packet: tt.packet, reason: tt.reason}
			switch tt.reason {
			case "arp_answered":
				pt.answer = reply(pod1, "169.254.1.1", "10.1.0.11")
			case "nd_answered":
				pt.answer = toGateway
			}
			if diff := cmp.Diff(pt.want(), b.run(t, b.programPrograms.Steer, tt.packet, nil)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, b.told(t), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("sightings (-want +got):\n%s", diff)
			}
		})
	}
}

// What is too short to be judged tells nothing, nor does a probe, whatever is watched.
func TestNoSightings(t *testing.T) {
	b := newBench(t, knownEndpoints, knownPrefixes)
	b.read(t)
	b.watch(t, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	for _, packet := range [][]byte{foreign4, foreign6, foreignAsk} {
		end := len(packet)
		if packet[12] == 0x86 {
			end = 78 // the option is not read
		}
		for n := shortest(packet); n < end; n++ {
			b.run(t, b.programPrograms.Steer, packet[:n], nil)
		}
	}
	for _, packet := range [][]byte{whoHas(alien, "0.0.0.0", "10.1.0.99"), solicit(alien, "::", "2001:db8:1::99"), service4, service6} {
		b.run(t, b.programPrograms.Steer, packet, nil)
	}
	if got := b.told(t); got != nil {
		t.Errorf("%v", got)
	}
	b.watch(t)
	b.run(t, b.programPrograms.Steer, foreign4, nil)
	if got := b.told(t); got != nil {
		t.Errorf("nothing is watched: %v", got)
	}
	if got := b.outcomes(t); len(got) != 0 {
		t.Errorf("counted: %v", got)
	}
}

// The same is told once in half a minute; another MAC of the same address, and the same MAC of another, are news.
func TestSightingsPause(t *testing.T) {
	b := newBench(t, knownEndpoints, knownPrefixes)
	b.read(t)
	b.watch(t, knownWatched...)
	step := func(want int, packets ...[]byte) {
		t.Helper()
		for _, p := range packets {
			b.run(t, b.programPrograms.Steer, p, nil)
		}
		if got := b.told(t); len(got) != want {
			t.Errorf("told %v, want %d", got, want)
		}
	}
	step(1, foreign4, foreign4, whoHas(alien, "10.1.0.99", "10.1.0.99"))
	step(1, whoHas(pod2, "10.1.0.99", "10.1.0.1"))
	step(1, whoHas(alien, "10.1.0.98", "10.1.0.1"))
	step(1, foreign6, foreignAsk)
	b.age(t, 15*time.Second)
	step(0, foreign4, foreign6)
	b.age(t, 16*time.Second)
	step(2, foreign4, foreign6, foreign4, foreign6)
	if diff := cmp.Diff(map[string]uint64{SightingsTold: 6}, b.outcomes(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func forgedMAC(i int) mac { return mac{2, 0, 0, 1, byte(i >> 8), byte(i)} }

func forged(i int) []byte { return whoHas(forgedMAC(i), "10.1.0.99", "10.1.0.1") }

// A flood costs a lookup or two. What was not told is told when it is seen again.
func TestSightingsBudget(t *testing.T) {
	const flood, budget = 1000, 128
	b := newBench(t, knownEndpoints, knownPrefixes)
	b.read(t)
	b.watch(t, knownWatched...)
	begin := time.Now()
	for i := range flood {
		b.run(t, b.programPrograms.Steer, forged(i), nil)
	}
	seconds := uint64(time.Since(begin)/time.Second) + 2 // begun
	got := b.outcomes(t)
	told, heard := got[SightingsTold], b.told(t)
	if told < budget || told > seconds*budget || told+got[SightingsOverBudget] != flood || len(heard) != int(told) {
		t.Errorf("%d sightings in less than %d s: %v", flood, seconds, got)
	}
	untold := 0 // on a slow machine the last may have been told, in another second than the first
	for slices.ContainsFunc(heard, func(s Sighting) bool { return s.MAC == forgedMAC(untold) }) {
		untold++
	}
	b.refill(t)
	b.run(t, b.programPrograms.Steer, forged(untold), nil)
	if len(b.told(t)) != 1 {
		t.Error("not told in the next second")
	}
}

// Nobody reads, for instance because the agent is not running.
func TestSightingsUnread(t *testing.T) {
	const room = 1 << 16 / (8 + 24)
	b := newBench(t, knownEndpoints, knownPrefixes)
	b.read(t)
	b.watch(t, knownWatched...)
	for i := range room + 100 {
		if i%100 == 0 {
			b.refill(t)
		}
		want := packetTest{packet: forged(i), reason: "drop_arp_other"}.want()
		if diff := cmp.Diff(want, b.run(t, b.programPrograms.Steer, forged(i), nil)); diff != "" {
			t.Fatalf("%d (-want +got):\n%s", i, diff)
		}
	}
	got := b.outcomes(t)
	if got[SightingsBufferFull] < 100 || got[SightingsTold]+got[SightingsBufferFull] != room+100 {
		t.Errorf("%v", got)
	}
	if told := b.told(t); len(told) != int(got[SightingsTold]) || told[0].MAC != (mac{2, 0, 0, 1, 0, 0}) {
		t.Errorf("%d read: %v", len(told), told[0])
	}
	b.refill(t)
	b.run(t, b.programPrograms.Steer, forged(room+99), nil)
	if got := b.told(t); len(got) != 1 {
		t.Errorf("there is room again, and yet: %v", got)
	}
}

// A new process begins anew: it hears what the old one heard, once it has said what it watches.
func TestSightingsOfNewProcess(t *testing.T) {
	eachMode(t, func(l *lab) {
		old := l.attach()
		l.must(old.SyncWatched(knownWatched))
		l.send(l.wire, "peer", foreign4)
		want := Sighting{addr("10.1.0.99"), alien}
		if got, err := old.ReadSighting(); err != nil || got != want {
			l.Fatalf("%v, %v; want %v", got, err, want)
		}

		s := l.reattach()
		ended := make(chan error)
		go func() {
			_, err := old.ReadSighting()
			ended <- err
		}()
		l.must(old.Close())
		if err := <-ended; !errors.Is(err, ErrClosed) {
			l.Errorf("a closed one reads: %v", err)
		}
		l.send(l.wire, "peer", foreign4)
		l.counted(s, "drop_arp_other", 2)
		l.must(s.SyncWatched(knownWatched))
		l.send(l.wire, "peer", foreign4, foreign6)
		for _, want := range []Sighting{want, {addr("2001:db8:1::99"), alien}} {
			if got, err := s.ReadSighting(); err != nil || got != want {
				l.Errorf("%v, %v; want %v", got, err, want)
			}
		}
		if got, err := s.Sightings(); err != nil || got[SightingsTold] != 2 {
			l.Errorf("%v, %v", got, err)
		}
	})
}
