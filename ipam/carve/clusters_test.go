package carve

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Clusters begin in different places of a subnet, in whole blocks, and each can have all of it.
func TestBegin(t *testing.T) {
	for _, tc := range []struct {
		pair  v1alpha1.Pairing
		cidrs []v1alpha1.SubnetCIDR
	}{
		{cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}},
		{cidrs: []v1alpha1.SubnetCIDR{cidr("fd00:6::/64")}},
		{pair: v1alpha1.PairingIndex, cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16"), cidr("fd00:6::/112")}},
	} {
		places := map[netip.Addr]bool{}
		for i := range 20 {
			s, b := subnet(t, tc.pair, tc.cidrs...), NewBook()
			s.Begin(fmt.Sprintf("cluster-%d", i))
			if _, err := ask(t, s, b, "a", 300); err != nil {
				t.Fatal(err)
			}
			places[b.all()[0].First] = true
			if _, err := ask(t, s, b, "b", 60000); err != nil {
				t.Errorf("of %s: %v", tc.cidrs[0].CIDR, err)
			}
		}
		if len(places) < 15 {
			t.Errorf("of %s 20 clusters begin in only %d places", tc.cidrs[0].CIDR, len(places))
		}
	}
}

// In a block that is another cluster's a pool keeps what it has, and takes nothing of it again that it gave up.
func TestAvoidedBlock(t *testing.T) {
	for _, tc := range []struct {
		pair  v1alpha1.Pairing
		cidrs []v1alpha1.SubnetCIDR
		want  []string
	}{
		{cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/22")}, want: []string{"10.6.0.1-10.6.0.4", "10.6.1.0-10.6.1.5"}},
		{pair: v1alpha1.PairingIndex, cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/22"), cidr("fd00:6::/118")},
			want: []string{"10.6.0.1-10.6.0.4", "10.6.1.0-10.6.1.5", "fd00:6::1-fd00:6::4", "fd00:6::100-fd00:6::105"}},
	} {
		s, b := subnet(t, tc.pair, tc.cidrs...), NewBook()
		for _, size := range []uint64{9, 4} {
			if _, err := ask(t, s, b, "a", size); err != nil {
				t.Fatal(err)
			}
		}
		o := Owner{Pool: "a"}
		avoid := map[ipam.Family]ipam.Ranges{ipam.IPv4: {Range(netip.MustParseAddr("10.6.0.0"))}}
		d, err := Decide(s, b, Ask{Owner: o, Size: 10, Avoid: avoid})
		if err != nil {
			t.Fatal(err)
		}
		b.Apply(d, o, s.Name, epoch)
		if diff := cmp.Diff(tc.want, has(s, b, "a")); diff != "" {
			t.Errorf("of %s: %s", tc.cidrs[0].CIDR, diff)
		}
	}
}

// A hub counts blocks by cluster, and has none of them to give.
func TestClusters(t *testing.T) {
	s := subnet(t, "", cidr("10.6.0.0/22"))
	b := NewBook(
		&Block{First: netip.MustParseAddr("10.6.0.0"), Cluster: "east"}, &Block{First: netip.MustParseAddr("10.6.1.0"), Cluster: "east"},
		&Block{First: netip.MustParseAddr("10.6.2.0"), Cluster: "west"}, &Block{First: netip.MustParseAddr("10.7.2.0"), Cluster: "west"},
		&Block{First: netip.MustParseAddr("10.6.3.0")})
	if diff := cmp.Diff(map[string]int64{"east": 2, "west": 1}, b.Clusters(s)); diff != "" {
		t.Error(diff)
	}
	if got := b.Free(s, ipam.IPv4, nil).String(); got != "10.6.3.0-10.6.3.254" {
		t.Errorf("free: %s", got)
	}
}

// Of a block that another cluster holds, too, a pool leaves all, takes as many elsewhere, and nothing back while that is so. A subnet made
// of it keeps its share, of which its pools get nothing.
func TestDisputedBlock(t *testing.T) {
	for _, tc := range []struct {
		pair     v1alpha1.Pairing
		cidrs    []v1alpha1.SubnetCIDR
		disputed string
		want     []string
	}{
		{cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/22")}, disputed: "10.6.0.0", want: []string{"10.6.1.0-10.6.1.8"}},
		{pair: v1alpha1.PairingIndex, cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/22"), cidr("fd00:6::/118")}, disputed: "fd00:6::",
			want: []string{"10.6.1.0-10.6.1.8", "fd00:6::100-fd00:6::108"}},
	} {
		s, b := subnet(t, tc.pair, tc.cidrs...), NewBook()
		if _, err := ask(t, s, b, "a", 9); err != nil {
			t.Fatal(err)
		}
		if _, d, err := Share(s, b, "red", 64, nil); err != nil {
			t.Fatal(err)
		} else {
			b.Apply(d, Owner{To: "red"}, s.Name, epoch)
		}
		first := netip.MustParseAddr(tc.disputed)
		dispute := func(who string) {
			x := *b.blocks[first]
			x.Disputed = who
			b.blocks[first] = &x
		}
		dispute("east")
		if free := b.Free(s, ipam.FamilyOf(first), nil).Overlap(ipam.Ranges{Range(first)}); len(free) > 0 {
			t.Errorf("free in the disputed block: %s", free)
		}
		inUse := netip.MustParseAddr("10.6.0.1")
		for range 2 {
			if _, err := ask(t, s, b, "a", 9, inUse); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, has(s, b, "a")); diff != "" {
				t.Errorf("of %s: %s", tc.cidrs[0].CIDR, diff)
			}
		}
		if _, err := ask(t, s, b, "b", 2000); err == nil {
			t.Error("more than there is")
		}
		if _, d, err := Share(s, b, "red", 64, nil); err != nil || !d.Nothing() {
			t.Errorf("the share moves: %+v (%v)", d, err)
		}
		dispute("")
		if _, err := ask(t, s, b, "a", 18); err != nil { // 9 of them it had there before
			t.Fatal(err)
		}
		if got := has(s, b, "a")[0]; got != "10.6.0.1-10.6.0.9" {
			t.Errorf("after the dispute it has %s", got)
		}
	}
}
