package controller

import (
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func TestCount(t *testing.T) {
	p := compile(t, pool("a", "net", subnet("10.6.0.0/24", "10.6.0.10-10.6.0.19"), subnet("2001:db8::/64")))
	leases := []v1alpha1.IPLease{
		lease("net", "10.6.0.10", "a", v1alpha1.LeaseBound),
		lease("net", "10.6.0.11", "a", v1alpha1.LeaseReleased),
		lease("net", "10.6.0.12", "a", v1alpha1.LeaseReserved),
		lease("net", "10.6.0.13", "a", v1alpha1.LeaseQuarantined),
		lease("net", "10.6.0.14", "b", v1alpha1.LeaseBound),   // an overlapping pool's
		lease("net", "10.6.0.15", "", v1alpha1.LeaseReserved), // by hand
		lease("net", "10.6.0.50", "a", v1alpha1.LeaseBound),   // given before the pool shrank
		lease("net", "10.6.0.51", "b", v1alpha1.LeaseBound),   // nothing of ours
		lease("other", "10.6.0.16", "a", v1alpha1.LeaseBound), // another network
		lease("net", "2001:db8::1", "a", v1alpha1.LeaseBound), // the other family
		lease("net", "not an address", "a", v1alpha1.LeaseBound),
	}
	want := map[ipam.Family]tally{
		ipam.IPv4: {taken: 5, bound: 2, reserved: 1, quarantined: 1},
		ipam.IPv6: {taken: 1, bound: 1},
	}
	if diff := cmp.Diff(want, count(p, leases), cmp.AllowUnexported(tally{})); diff != "" {
		t.Error(diff)
	}
}

func TestAddressCountIsExact(t *testing.T) {
	p := compile(t, pool("a", "net", subnet("2001:db8::/64")))
	got := addressCount(p.Ranges(ipam.IPv6).Count(), tally{taken: 3, bound: 2})
	want := &v1alpha1.AddressCount{Total: "18446744073709551615", Free: "18446744073709551612", Bound: 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := addressCount(big.NewInt(2), tally{taken: 3}); got.Free != "0" {
		t.Errorf("free %s, want 0 at the least", got.Free)
	}
}

// Of a pair neither is free if one is taken.
func TestCountPairs(t *testing.T) {
	paired := pool("a", "net", subnet("10.6.0.0/24", "10.6.0.10-10.6.0.19"), subnet("fd00:6::/120"))
	paired.Spec.Pairing = v1alpha1.PairingIndex
	p := compile(t, paired)
	leases := []v1alpha1.IPLease{
		lease("net", "10.6.0.10", "a", v1alpha1.LeaseBound),
		lease("net", "fd00:6::a", "a", v1alpha1.LeaseBound),       // its partner
		lease("net", "10.6.0.11", "", v1alpha1.LeaseReserved),     // by hand, without its partner
		lease("net", "fd00:6::c", "a", v1alpha1.LeaseQuarantined), // likewise
		lease("net", "10.6.0.13", "a", v1alpha1.LeaseReleased),
		lease("net", "fd00:6::ff", "a", v1alpha1.LeaseBound), // outside: its partner is not given out
	}
	want := map[ipam.Family]tally{
		ipam.IPv4: {taken: 3, bound: 1},
		ipam.IPv6: {taken: 3, bound: 2, quarantined: 1},
	}
	if diff := cmp.Diff(want, count(p, leases), cmp.AllowUnexported(tally{})); diff != "" {
		t.Error(diff)
	}
	if s := poolStatus(paired, nil, leases, epoch); s.Free != "7 + 7" || s.Total != "10 + 10" {
		t.Errorf("free %q of %q", s.Free, s.Total)
	}
}

func TestStatusOfADelegatingPool(t *testing.T) {
	p := pool("a", "net")
	p.Spec.Delegate = &v1alpha1.Delegate{Type: "dhcp"}
	leases := []v1alpha1.IPLease{
		lease("net", "10.6.0.10", "a", v1alpha1.LeaseBound),
		lease("net", "10.6.0.11", "a", v1alpha1.LeaseReleased),
		lease("net", "10.6.0.12", "b", v1alpha1.LeaseBound),
	}
	s := poolStatus(p, nil, leases, epoch)
	want := &v1alpha1.AddressCount{Total: "-", Free: "-", Bound: 1}
	if diff := cmp.Diff(want, s.IPv4); diff != "" || s.IPv6 != nil || s.Free != "-" || s.Total != "-" {
		t.Errorf("status %+v\n%s", s, diff)
	}
	for kind, want := range map[string]string{"Ready": "True Serving", "Exhausted": `False Delegated: the plugin "dhcp"`, "Overlapping": "False Delegated"} {
		if got := condition(s, kind); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %q", kind, got, want)
		}
	}
	p.DeletionTimestamp = &metav1.Time{Time: epoch}
	if got := condition(poolStatus(p, nil, leases, epoch), "Ready"); !strings.HasPrefix(got, "False WaitsForLeases: the pool is being deleted and waits for 1 leases") {
		t.Errorf("Ready is %q of a pool that is being deleted", got)
	}
}
