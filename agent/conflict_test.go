package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func TestConflictOf(t *testing.T) {
	const holder, next, other = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
	now := time.Unix(100000, 0)
	lease := func(phase v1alpha1.LeasePhase, mac string, released time.Duration, change ...func(*v1alpha1.IPLeaseSpec)) *v1alpha1.IPLease {
		l := &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Phase: phase, Holder: &v1alpha1.LeaseHolder{MAC: mac}}}
		if phase != v1alpha1.LeaseBound {
			at := metav1.NewTime(now.Add(-released))
			l.Spec.ReleasedAt = &at
		}
		for _, f := range change {
			f(&l.Spec)
		}
		return l
	}
	migrating := func(mac string) func(*v1alpha1.IPLeaseSpec) {
		return func(s *v1alpha1.IPLeaseSpec) { s.Next = &v1alpha1.LeaseHolder{MAC: mac} }
	}
	kept := func(s *v1alpha1.IPLeaseSpec) { s.Identity = &v1alpha1.LeaseIdentity{Kind: "StatefulSet"} }
	nobody := func(s *v1alpha1.IPLeaseSpec) { s.Holder, s.ReleasedAt = nil, nil }
	for _, tc := range []struct {
		name string
		l    *v1alpha1.IPLease
		mac  string
		want verdict
	}{
		{"no lease", nil, other, quarantine},
		{"released", lease("Released", holder, time.Second), other, quarantine},
		{"a pod that goes", lease("Released", holder, time.Second), holder, noConflict},
		{"a pod that goes, by a clock behind", lease("Released", holder, -time.Hour), holder, noConflict},
		{"a pod that goes, capital letters", lease("Released", "02:00:00:00:00:0A", time.Second), holder, noConflict},
		{"just still going", lease("Released", holder, linger-1), holder, noConflict},
		{"should be gone", lease("Released", holder, linger), holder, quarantine},
		{"released, no holder", lease("Released", "", 0, nobody), other, quarantine},
		{"released, holder without MAC", lease("Released", "", 0), other, quarantine},
		{"bound", lease("Bound", holder, 0), holder, noConflict},
		{"bound, capital letters", lease("Bound", "02:00:00:00:00:0A", 0), holder, noConflict},
		{"bound to another", lease("Bound", holder, 0), other, tell},
		{"bound, MAC unknown", lease("Bound", "", 0), other, noConflict},
		{"migration, from", lease("Bound", holder, 0, migrating(next)), holder, noConflict},
		{"migration, to", lease("Bound", holder, 0, migrating(next)), next, noConflict},
		{"migration, neither", lease("Bound", holder, 0, migrating(next)), other, tell},
		{"migration, MAC unknown", lease("Bound", holder, 0, migrating("")), other, noConflict},
		{"reserved for nobody", lease("Reserved", "", 0, nobody), other, noConflict},
		{"reserved, never held", lease("Reserved", "", 0, nobody, kept), other, tell},
		{"reserved", lease("Reserved", holder, time.Second, kept), other, tell},
		{"reserved, a pod that goes", lease("Reserved", holder, time.Second, kept), holder, noConflict},
		{"reserved, should be gone", lease("Reserved", holder, linger, kept), holder, tell},
		{"quarantined", lease("Quarantined", holder, time.Hour), other, tell},
		{"quarantined, the last holder", lease("Quarantined", holder, time.Second), holder, tell},
	} {
		if got := conflictOf(tc.l, tc.mac, now); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestTold(t *testing.T) {
	now := time.Unix(100000, 0)
	at := func(ago time.Duration) *v1alpha1.IPLease {
		return &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Conflict: &v1alpha1.LeaseConflict{SeenAt: metav1.NewTime(now.Add(-ago))}}}
	}
	if told(nil, now) || told(&v1alpha1.IPLease{}, now) || told(at(toldAgain), now) || !told(at(toldAgain-1), now) || !told(at(-time.Hour), now) {
		t.Error("told")
	}
}

func TestNetworksOf(t *testing.T) {
	lease := func(network, node, parent string) *v1alpha1.IPLease {
		return &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Network: network, Phase: "Bound", Holder: &v1alpha1.LeaseHolder{Node: node, Parent: parent}}}
	}
	next := lease("d", "other", "eth0")
	next.Spec.Next = &v1alpha1.LeaseHolder{Node: "n", Parent: "eth7"}
	free := lease("e", "n", "eth8")
	free.Spec.Phase = "Released"
	got := networksOf([]*v1alpha1.IPLease{
		lease("a", "n", "eth0"), lease("a", "n", "eth0"), lease("a", "n", "eth1"), lease("b", "n", "eth2"), lease("x", "other", "eth3"), lease("x", "n", ""),
		lease("a", "n", "eth4"), lease("b", "n", "eth4"), lease("a", "n", "eth4"), next, free,
	}, "n")
	if diff := cmp.Diff(map[string]string{"eth0": "a", "eth1": "a", "eth2": "b", "eth7": "d"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWatched(t *testing.T) {
	pool := func(network string, subnets ...v1alpha1.PoolSubnet) *ipam.Pool {
		p, err := ipam.Compile(&v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{Network: network, Subnets: subnets}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	got := watched(map[string]string{"eth0": "a", "eth1": "b", "eth2": "c"}, []*ipam.Pool{
		pool("a", v1alpha1.PoolSubnet{CIDR: "10.6.0.0/24", IPs: []string{"10.6.0.4-10.6.0.7"}, Gateway: "10.6.0.1"},
			v1alpha1.PoolSubnet{CIDR: "2001:db8::/64", IPs: []string{"2001:db8::/120"}, Gateway: "fe80::5"}),
		pool("a", v1alpha1.PoolSubnet{CIDR: "10.7.0.0/24", IPs: []string{"10.7.0.9"}}),
		pool("b", v1alpha1.PoolSubnet{CIDR: "10.6.0.0/24", IPs: []string{"10.6.0.128/25"}}),
	})
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	want := map[string]path.Watched{
		"eth0": {Addresses: prefixes("10.6.0.4/30", "2001:db8::/120", "10.7.0.9/32"),
			Routers: []netip.Addr{netip.MustParseAddr("10.6.0.1"), netip.MustParseAddr("fe80::5")}},
		"eth1": {Addresses: prefixes("10.6.0.128/25")},
		"eth2": {},
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	for parent, w := range want {
		if g := got[parent]; !slices.Equal(g.Addresses, w.Addresses) || !slices.Equal(g.Routers, w.Routers) {
			t.Errorf("%s: %v, want %v", parent, g, w)
		}
	}
}
