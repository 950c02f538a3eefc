//go:build apiserver

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// pairs is a paired pool of n pairs.
func (w *world) pairs(n int) *ipam.Pool {
	w.Helper()
	m := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: w.network + "-pairs"}}
	m.Spec.Network, m.Spec.Pairing = w.network, v1alpha1.PairingIndex
	m.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.0.0.0/16", IPs: []string{fmt.Sprint("10.0.0.1-10.0.0.", n)}}, {CIDR: "fd00::/112"}}
	p, err := ipam.Compile(m)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

func addresses(leases []*v1alpha1.IPLease) (out []string) {
	for _, l := range leases {
		out = append(out, l.Spec.Address)
	}
	return out
}

func claimPair(ctx context.Context, s *Store, p *ipam.Pool, pick ipam.Pick, c ipam.Claimant) (leases []*v1alpha1.IPLease, err error) {
	taken, err := s.TakePair(ctx, p, pick, c)
	for _, l := range taken {
		leases = append(leases, l.IPLease)
	}
	return leases, err
}

// As many pods as pairs, from four nodes at once: each gets a pair, to the last.
func TestEveryPair(t *testing.T) {
	const n = 24
	w := newWorld(t)
	p := w.pairs(n)
	stores := make([]*Store, 4)
	for i := range stores {
		stores[i] = w.store(fmt.Sprint("node-", i), nil, p)
	}
	for round := range 2 { // by creation, then by update
		got, errs := make([][]*v1alpha1.IPLease, n), make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				s := stores[i%4]
				got[i], errs[i] = claimPair(t.Context(), s, p, anyIPv4, claimant(s.node, fmt.Sprintf("pod-%d-%d", round, i), fmt.Sprint("c", i)))
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for i, pair := range got {
			a := addresses(pair)
			if len(a) != 2 || p.Partner(netip.MustParseAddr(a[0])).String() != a[1] || seen[a[0]] {
				t.Errorf("pod %d has %v", i, a)
			}
			seen[a[0]] = true
		}
		if _, err := claimPair(t.Context(), stores[0], p, anyIPv4, claimant("node-0", "more", "c")); !errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("one more: %v", err)
		}
		w.idle(stores...)
		for i, pair := range got {
			for _, l := range pair {
				w.release(stores[i%4], l)
			}
		}
	}
}

// Half of a pair is not to be had: the other half is not given, nor kept for who tried, and another pair is, if there is one.
func TestHalfAPair(t *testing.T) {
	for name, half := range map[string]func(*world){
		"reserved":    func(w *world) { w.reserve("fd00::1", v1alpha1.LeaseReserved) },
		"quarantined": func(w *world) { w.reserve("fd00::1", v1alpha1.LeaseQuarantined) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			one, two := w.pairs(1), w.pairs(2)
			half(w)
			s := w.store("a", nil, one) // it does not know of it: it has no label
			c := member("a", "db-0", "c1")
			if l, err := claimPair(t.Context(), s, one, anyIPv4, c); !errors.Is(err, ipam.ErrExhausted) {
				t.Fatal(l, err)
			}
			if got := w.list(); got[0] != "10.0.0.1 Released db-0/c1" {
				t.Errorf("left: %v", got)
			}
			asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr("10.0.0.1")}
			if l, err := claimPair(t.Context(), s, one, asked, c); !errors.Is(err, ipam.ErrTaken) {
				t.Error(l, err)
			}
			w.follow(s, two)
			if l, err := claimPair(t.Context(), s, two, anyIPv4, c); err != nil || l[0].Spec.Address != "10.0.0.2" {
				t.Error(l, err)
			}
			w.idle(s)
		})
	}
}

// Half of a pair is kept for the claimant: it gets the whole, unless somebody else has the other half. That ends, too.
func TestHalfAPairIsKept(t *testing.T) {
	for _, tc := range []struct {
		name, kept string
		taken      string // by somebody else
		want       []string
	}{
		{"IPv4", "10.0.0.2", "", []string{"10.0.0.2", "fd00::2"}},
		{"IPv6", "fd00::2", "", []string{"10.0.0.2", "fd00::2"}},
		{"IPv4, the other is taken", "10.0.0.2", "fd00::2", []string{"10.0.0.1", "fd00::1"}},
		{"IPv6, the other is taken", "fd00::2", "10.0.0.2", []string{"10.0.0.1", "fd00::1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a loop is an error, not a hang
			defer cancel()
			w := newWorld(t)
			p := w.pairs(2)
			s := w.store("a", nil, p)
			c := claimant("a", "db-0", "c1")
			c.Names = map[string]string{"Pod": "db-0"}
			l := w.reserveFor(p, tc.kept, v1alpha1.LeaseIdentity{Kind: "Pod", Namespace: "ns", Name: "db-0"})
			w.knows(s, l.Name, v1alpha1.LeaseReserved)
			if tc.taken != "" {
				w.reserve(tc.taken, v1alpha1.LeaseReserved) // unknown, so that the claim meets it
			}
			got, err := claimPair(ctx, s, p, anyIPv4, c)
			if err != nil || !slices.Equal(addresses(got), tc.want) {
				t.Fatalf("%v, %v; want %v", addresses(got), err, tc.want)
			}
			if now, err := w.leases.Get(ctx, l.Name, metav1.GetOptions{}); err != nil || now.Spec.Identity == nil || tc.taken != "" && now.Spec.Phase != v1alpha1.LeaseReserved {
				t.Errorf("the reservation: %v, %v", now, err)
			}
			w.idle(s)
		})
	}
}

// A pair stays with its identity, and a pair is what an identity's next pod gets.
func TestPairOfAnIdentity(t *testing.T) {
	w := newWorld(t)
	p := w.pairs(9)
	a, b := w.store("a", nil, p), w.store("b", nil, p)
	pair, err := claimPair(t.Context(), a, p, anyIPv4, member("a", "db-0", "c1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range pair {
		w.release(a, l)
		w.knows(b, l.Name, v1alpha1.LeaseReserved)
	}
	again, err := claimPair(t.Context(), b, p, anyIPv4, member("b", "db-0", "c2"))
	if err != nil || !slices.Equal(addresses(again), addresses(pair)) {
		t.Errorf("%v, %v; had %v", addresses(again), err, addresses(pair))
	}
}

// A pod has one half, by a claim of which it does not know, and a person keeps the other for it: the pair is the pod's.
func TestPairWithOwnHalf(t *testing.T) {
	w := newWorld(t)
	p := w.pairs(4)
	w.reserveFor(p, "fd00::2", v1alpha1.LeaseIdentity{Kind: "Pod", Namespace: "ns", Name: "web"})
	s := w.store("a", nil, p)
	c := claimant("a", "web", "c1")
	if _, err := s.Claim(t.Context(), p, ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr("10.0.0.2")}, c); err != nil {
		t.Fatal(err)
	}
	c.Names = map[string]string{"Pod": "web"}
	c.Holder.ContainerID = "c2"
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := claimPair(ctx, s, p, anyIPv4, c); err != nil {
		t.Fatal(err)
	}
	w.want("10.0.0.2 Bound web/c2", "fd00::2 Bound web/c2")
	w.idle(s)
}
