package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// The widest are in the row, none twice, and of the first bits only.
func TestNewRow(t *testing.T) {
	many := map[prefixKey]prefix{}
	add := func(s string) {
		k, err := key(netip.MustParsePrefix(s))
		if err != nil {
			t.Fatal(err)
		}
		many[k] = prefix{}
	}
	for _, s := range []string{"10.96.0.0/12", "10.97.0.0/16", "192.168.1.5/32", "fd00:96::/108", "fd00:96::7/128", "2001:db8::/32"} {
		add(s)
	}
	for i := range 20 {
		add(fmt.Sprintf("172.16.%d.0/24", i))
	}
	r := newRow(many)
	var got []string
	for _, e := range r.IPv4 {
		got = append(got, fmt.Sprintf("%v %v", e.Address, e.Mask))
	}
	for _, e := range r.IPv6 {
		got = append(got, fmt.Sprintf("%x %x", e.Address, e.Mask))
	}
	want := []string{"[10 96 0 0] [255 240 0 0]"}
	for i := range 15 {
		want = append(want, fmt.Sprintf("[172 16 %d 0] [255 255 255 0]", i))
	}
	want = append(want,
		"20010db8000000000000000000000000 ffffffff000000000000000000000000",
		"fd000096000000000000000000000000 fffffffffffffffffffffffffff00000")
	for range 6 {
		want = append(want, "ffffffffffffffffffffffffffffffff ffffffffffffffffffffffffffffffff")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.Flags != 0 || r.seated().Flags != flagSeated {
		t.Errorf("flags %x, seated %x", r.Flags, r.seated().Flags)
	}
}

// What is steered changes at once, whether there is a row or none yet, and whether a prefix is in it.
func TestRowFollows(t *testing.T) {
	b := newBench(t, knownEndpoints, nil)
	want := map[netip.Prefix]Class{}
	check := func(when string, seated bool) {
		t.Helper()
		for i := range 20 {
			for _, packet := range []struct {
				kind   string
				prefix string
				frame  []byte
			}{
				{"ipv4", fmt.Sprintf("172.16.%d.0/24", i), ipv4(vmac, pod1, "10.1.0.11", fmt.Sprintf("172.16.%d.9", i))},
				{"ipv6", fmt.Sprintf("fd00:%x::/64", i+1), ipv6(vmac, pod1, "2001:db8:1::11", fmt.Sprintf("fd00:%x::9", i+1), 17, 64)},
			} {
				reason := "drop_not_steered"
				if _, ok := want[netip.MustParsePrefix(packet.prefix)]; ok {
					reason = "steered_" + packet.kind
				}
				tt := packetTest{packet: packet.frame, reason: reason}
				if diff := cmp.Diff(tt.want(), b.run(t, b.programPrograms.Steer, tt.packet, nil)); diff != "" {
					t.Errorf("%s, %s (-want +got):\n%s", when, packet.prefix, diff)
				}
			}
		}
		var rows [2]seat[uint64, row]
		taken := 0
		for n := range rows {
			if err := b.maps.Rows.Lookup(uint32(n), &rows[n]); err != nil {
				t.Fatal(err)
			}
			if rows[n].Value.Flags&flagSeated != 0 {
				taken++
			}
		}
		if (taken == 1) != seated || taken > 1 {
			t.Errorf("%s: %d rows are read", when, taken)
		}
	}
	sync := func(when string, change func(p4, p6 netip.Prefix, i int)) {
		t.Helper()
		for i := range 20 {
			change(netip.MustParsePrefix(fmt.Sprintf("172.16.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", i+1)), i)
		}
		if err := b.SyncPrefixes(want); err != nil {
			t.Fatal(err)
		}
		check(when, false)
		if err := b.Seat(); err != nil {
			t.Fatal(err)
		}
		check(when+", settled", true)
	}
	check("none", true)
	sync("all", func(p4, p6 netip.Prefix, _ int) { want[p4], want[p6] = ClassUser, ClassPod })
	sync("every other gone", func(p4, p6 netip.Prefix, i int) {
		if i%2 == 0 {
			delete(want, p4)
			delete(want, p6)
		}
	})
	sync("half of them back, and the others gone", func(p4, p6 netip.Prefix, i int) {
		if delete(want, p4); i%4 == 0 {
			want[p4] = ClassUser
		}
		if delete(want, p6); i%4 == 0 {
			want[p6] = ClassNode
		}
	})
	// It is the row that answers: the trie is asked about the rest.
	for i := range 20 {
		for _, s := range []string{fmt.Sprintf("172.16.%d.0/24", i), fmt.Sprintf("fd00:%x::/64", i+1)} {
			k, err := key(netip.MustParsePrefix(s))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.maps.Prefixes.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				t.Fatal(err)
			}
		}
	}
	check("without the trie", true)
}
