//go:build apiserver

package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// As many pods as addresses, from 16 nodes at once: first by creation, then by update of what was released.
func TestManyNodesOneSmallPool(t *testing.T) {
	const nodes, addresses = 16, 48
	w := newWorld(t)
	p := w.pool("p", fmt.Sprintf("10.0.0.1-10.0.0.%d", addresses))
	stores := make([]*Store, nodes)
	for i := range stores {
		stores[i] = w.store(fmt.Sprintf("node-%d", i), nil, p)
	}
	for round := range 2 {
		leases, errs := w.atOnce(addresses, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
			s := stores[i%nodes]
			return s.Claim(ctx, p, anyIPv4, claimant(s.node, fmt.Sprintf("pod-%d-%d", round, i), "c"))
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		w.everyAddressOnce(p, leases)
		w.idle(stores...)

		_, err := stores[3].Claim(t.Context(), p, anyIPv4, claimant("node-3", "one-more", "c"))
		want := fmt.Sprintf(`pool %q has no free address for node "node-3" (IPv4: 48 of 48 in use); add a range or a pool, or free an address`, p.Name)
		if !errors.Is(err, ipam.ErrExhausted) || err.Error() != want {
			t.Fatalf("%v\nwant %s", err, want)
		}

		// One freed on a node is found by another, though the news may not have come.
		w.release(stores[0], leases[0])
		if l := w.claim(stores[5], p, holder("node-5", "late", "c")); l.Spec.Address != leases[0].Spec.Address {
			t.Fatalf("%s, want the one freed, %s", l.Spec.Address, leases[0].Spec.Address)
		} else {
			w.release(stores[5], l)
		}
		for i, l := range leases[1:] {
			w.release(stores[(i+1)%nodes], l)
		}
	}
}

func (w *world) everyAddressOnce(p *ipam.Pool, leases []*v1alpha1.IPLease) {
	w.Helper()
	list, err := w.leases.List(w.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + w.network})
	if err != nil {
		w.Fatal(err)
	}
	pods := map[string]string{}
	for _, l := range list.Items {
		a := netip.MustParseAddr(l.Spec.Address)
		if l.Spec.Phase != v1alpha1.LeaseBound || !p.Contains(a) || l.Name != ipam.LeaseName(w.network, a) {
			w.Errorf("%s: %s of %s", l.Name, l.Spec.Phase, l.Spec.Address)
		}
		if other := pods[l.Spec.Holder.Pod]; other != "" {
			w.Errorf("pod %s has %s and %s", l.Spec.Holder.Pod, other, l.Spec.Address)
		}
		pods[l.Spec.Holder.Pod] = l.Spec.Address
	}
	for _, l := range leases {
		if pods[l.Spec.Holder.Pod] != l.Spec.Address {
			w.Errorf("pod %s was told %s, the API server says %q", l.Spec.Holder.Pod, l.Spec.Address, pods[l.Spec.Holder.Pod])
		}
	}
	if want := p.Ranges(ipam.IPv4).Count().Int64(); int64(len(pods)) != want {
		w.Errorf("%d pods have an address, want %d", len(pods), want)
	}
}

// Pools of one network that overlap stay safe: the name of the lease is the lock.
func TestOverlappingPools(t *testing.T) {
	w := newWorld(t)
	a, b := w.pool("a", "10.0.0.1-10.0.0.8"), w.pool("b", "10.0.0.5-10.0.0.12")
	stores := []*Store{w.store("node-a", nil, a), w.store("node-b", nil, b), w.store("node-ab", nil, a, b)}
	pools := []*ipam.Pool{a, b}
	leases, errs := w.atOnce(24, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
		s, p := stores[i%3], pools[i/3%2]
		if i%3 < 2 {
			p = pools[i%3]
		}
		return s.Claim(ctx, p, anyIPv4, claimant(s.node, fmt.Sprintf("pod-%d", i), "c"))
	})
	seen := map[string]bool{}
	for i, l := range leases {
		switch {
		case l == nil && !errors.Is(errs[i], ipam.ErrExhausted):
			t.Error(errs[i])
		case l != nil && seen[l.Spec.Address]:
			t.Errorf("%s twice", l.Spec.Address)
		case l != nil:
			seen[l.Spec.Address] = true
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d of 12 addresses given: %v", len(seen), w.list())
	}
	w.idle(stores...)

	// An address that goes from one pool to the other stays known to both.
	shared := slices.IndexFunc(leases, func(l *v1alpha1.IPLease) bool { return l != nil && l.Spec.Address == "10.0.0.5" })
	w.release(stores[shared%3], leases[shared])
	asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr("10.0.0.5")}
	if l, err := stores[1].Claim(t.Context(), b, asked, claimant("node-b", "other", "c")); err != nil || l.Spec.Pool != b.Name {
		t.Fatal(l, err)
	}
	if _, err := stores[0].Claim(t.Context(), a, anyIPv4, claimant("node-a", "third", "c")); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("%v, want exhausted", err)
	}
}

// A claim that met another's is told by the watch what it met, and with that of all that was written before. Only if the watch is silent
// it asks.
func TestMeetAndHear(t *testing.T) {
	for name, silent := range map[string]bool{"the watch tells": false, "the watch is silent": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.2")
			var creates, reads atomic.Int64
			node, faults := *w, &apitest.Faults{}
			node.cfg = apitest.Count(&creates, func(r *http.Request) bool { return r.Method == http.MethodPost })(
				apitest.Count(&reads, func(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.RawQuery == "" })(w.cfg))
			near, far := node.store("near", faults, p), w.store("far", nil, p)
			release := faults.HoldWatches("")
			defer release()
			theirs := w.claim(far, p, holder("far", "theirs", "c"))
			c := claimant("near", "ours", "c")
			pick := ipam.Pick{Family: ipam.IPv4, OneOf: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}}
			if first := ipam.Seed("near", string(c.Holder.UID), c.Holder.Interface) % 2; pick.OneOf[first].String() != theirs.Spec.Address {
				slices.Reverse(pick.OneOf)
			}
			want := int64(1)
			if !silent {
				want = 0
				go func() {
					for creates.Load() == 0 && t.Context().Err() == nil {
						time.Sleep(time.Millisecond)
					}
					time.Sleep(20 * time.Millisecond)
					release()
				}()
			}
			l, err := near.Claim(t.Context(), p, pick, c)
			if err != nil || l.Spec.Address == theirs.Spec.Address {
				t.Fatal(l, err)
			}
			if creates.Load() != 2 || reads.Load() != want {
				t.Errorf("%d creations and %d reads, want 2 and %d", creates.Load(), reads.Load(), want)
			}
			w.idle(near, far)
		})
	}
}

// The order of claims: never used, then released longest ago; a pod's own last address before all.
func TestReleasedAddresses(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.3")
	s := w.store("n", nil, p)
	one := w.claim(s, p, holder("n", "one", "c1"))
	w.release(s, one)
	two := w.claim(s, p, holder("n", "two", "c1"))
	if two.Spec.Address == one.Spec.Address {
		t.Fatal("a released address before those never used")
	}
	again := w.claim(s, p, holder("n", "one", "c2"))
	if again.Spec.Address != one.Spec.Address || again.UID != one.UID || again.Spec.Holder.ContainerID != "c2" || again.Spec.ReleasedAt != nil {
		t.Fatalf("the pod's new sandbox gets %s of %+v, want its last address %s, by an update", again.Spec.Address, again.Spec.Holder, one.Spec.Address)
	}
	three := w.claim(s, p, holder("n", "three", "c1"))
	w.release(s, three)
	w.release(s, two)
	// Release times have seconds in the API, so order them by hand.
	for i, l := range []*v1alpha1.IPLease{two, three} {
		got, err := w.leases.Get(t.Context(), l.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got.Spec.ReleasedAt = &metav1.Time{Time: got.Spec.ReleasedAt.Add(0)}
		got.Spec.ReleasedAt.Time = got.Spec.ReleasedAt.AddDate(0, 0, -2+i)
		if got, err = w.leases.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.index.put(got)
	}
	if l := w.claim(s, p, holder("n", "four", "c1")); l.Spec.Address != two.Spec.Address || w.label(l, v1alpha1.LabelNamespace) != "ns" {
		t.Errorf("%s of namespace %q, want the one released longest ago, %s", l.Spec.Address, w.label(l, v1alpha1.LabelNamespace), two.Spec.Address)
	}
}

// What an operator reserves, or the wire contradicts, is never given, though the pool's watch does not tell of it.
func TestReservedIsNeverGiven(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.6")
	w.reserve("10.0.0.2", v1alpha1.LeaseReserved)
	w.reserve("10.0.0.5", v1alpha1.LeaseQuarantined)
	s := w.store("n", nil, p)
	for round := range 2 {
		leases, errs := w.atOnce(6, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
			return s.Claim(ctx, p, anyIPv4, claimant("n", fmt.Sprintf("pod-%d-%d", round, i), "c"))
		})
		given := 0
		for i, l := range leases {
			switch {
			case l == nil && !errors.Is(errs[i], ipam.ErrExhausted):
				t.Error(errs[i])
			case l != nil && (l.Spec.Address == "10.0.0.2" || l.Spec.Address == "10.0.0.5"):
				t.Errorf("%s was given", l.Spec.Address)
			case l != nil:
				given++
				defer w.release(s, l)
			}
		}
		if round == 0 && given != 4 {
			t.Errorf("%d given, want 4", given)
		}
	}
	for _, a := range []string{"10.0.0.2", "10.0.0.5"} {
		_, err := s.Claim(t.Context(), p, ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr(a)}, claimant("n", "x", "c"))
		if !errors.Is(err, ipam.ErrTaken) {
			t.Errorf("asked for %s: %v", a, err)
		}
	}
	w.idle(s)
}

func TestAskedAddress(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	s, other := w.store("n", nil, p), w.store("other", nil, p)
	ask := func(s *Store, a string, h v1alpha1.LeaseHolder) (*v1alpha1.IPLease, error) {
		return s.Claim(t.Context(), p, ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr(a)}, ipam.Claimant{Holder: h})
	}
	l, err := ask(s, "10.0.0.7", holder("n", "one", "c1"))
	if err != nil || l.Spec.Address != "10.0.0.7" {
		t.Fatal(l, err)
	}
	for _, s := range []*Store{s, other} { // known, and met
		_, err = ask(s, "10.0.0.7", holder(s.node, "two", "c2"))
		if want := `address 10.0.0.7 asked for is Bound, held by pod ns/one on node "n"; ask for another or free it`; !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	// The store does not know that it is free again, nor that it has gone.
	w.release(s, l)
	if l, err = ask(other, "10.0.0.7", holder("other", "two", "c2")); err != nil {
		t.Fatal(err)
	}
	if err := w.leases.Delete(t.Context(), l.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if l, err = ask(s, "10.0.0.7", holder("n", "three", "c3")); err != nil {
		t.Fatal(err)
	}
	// Two ask for one at once.
	w.release(s, l)
	got, errs := w.atOnce(8, func(_ context.Context, i int) (*v1alpha1.IPLease, error) {
		return ask([]*Store{s, other}[i%2], "10.0.0.8", holder([]string{"n", "other"}[i%2], fmt.Sprintf("pod-%d", i), "c"))
	})
	n := 0
	for i := range got {
		if got[i] != nil {
			n++
		} else if !errors.Is(errs[i], ipam.ErrTaken) {
			t.Error(errs[i])
		}
	}
	if n != 1 {
		t.Errorf("%d of 8 got 10.0.0.8", n)
	}
	w.idle(s, other)
}

// A pool edited, disabled or forgotten: what it has given stays, and only the new ranges are given.
func TestPoolEdited(t *testing.T) {
	w := newWorld(t)
	old := w.pool("p", "10.0.0.1-10.0.0.2")
	s := w.store("n", nil, old)
	one := w.claim(s, old, holder("n", "one", "c1"))

	edited := w.pool("p", "10.0.0.9")
	w.follow(s, edited)
	if _, err := s.Claim(t.Context(), old, anyIPv4, claimant("n", "two", "c1")); !errors.Is(err, ErrPoolChanged) {
		t.Errorf("a claim by the pool as it was: %v", err)
	}
	if l := w.claim(s, edited, holder("n", "two", "c1")); l.Spec.Address != "10.0.0.9" {
		t.Errorf("%s of the edited pool", l.Spec.Address)
	}
	if got := s.HeldBySandbox("c1", "net1"); len(got) != 2 {
		t.Errorf("held: %v", got)
	}
	l, err := s.Rebind(t.Context(), one, holder("n", "one", "c2"))
	if err != nil || l == nil || l.Spec.Address != one.Spec.Address {
		t.Errorf("a new sandbox keeps %s: %v, %v", one.Spec.Address, l, err)
	}
	w.follow(s, old)
	if l := w.claim(s, old, holder("n", "three", "c1")); l.Spec.Address == one.Spec.Address {
		t.Error("the pool as it was again gives what is bound")
	}

	s.Unfollow(old.Name)
	if _, err := s.Claim(t.Context(), old, anyIPv4, claimant("n", "four", "c1")); !errors.Is(err, ErrPoolChanged) {
		t.Errorf("a claim of a pool that is not followed: %v", err)
	}
	if got := s.HeldBySandbox("c2", "net1"); len(got) != 1 {
		t.Fatalf("held, of a pool that is not followed: %v", got)
	}
	w.release(s, s.HeldBySandbox("c2", "net1")[0])
	w.idle(s)
}

// What is learned of a lease by meeting it, a later list corrects.
func TestMetLeaseIsForgotten(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	kept := w.reserve("10.0.0.1", v1alpha1.LeaseReserved)
	s := w.store("n", nil, p)
	if _, err := s.Claim(t.Context(), p, anyIPv4, claimant("n", "one", "c")); !errors.Is(err, ipam.ErrExhausted) {
		t.Fatal(err)
	}
	if err := w.leases.Delete(t.Context(), kept.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.claim(s, p, holder("n", "one", "c"))
	w.want("10.0.0.1 Bound one/c")
}

func BenchmarkClaim(b *testing.B) {
	cfg := apitest.Config(b)
	_, leases, err := v1alpha1.NewClients(cfg)
	if err != nil {
		b.Fatal(err)
	}
	network := apitest.Unique("bench")
	apitest.RemoveLeases(b, leases, network)
	m := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: network}}
	m.Spec.Network, m.Spec.Subnets = network, []v1alpha1.PoolSubnet{{CIDR: "10.0.0.0/16"}, {CIDR: "2001:db8::/64"}}
	p, err := ipam.Compile(m)
	if err != nil {
		b.Fatal(err)
	}
	s := New(leases, "n", noHooks, time.Now, discard)
	s.Follow(b.Context(), p)
	apitest.Eventually(b, "leases", func() error {
		if !s.Followed(p.Name) {
			return errors.New("not yet known")
		}
		return nil
	})
	// In turn with the floor, which is the same object made directly, so that both see the same machine.
	var floor, claim []time.Duration
	for n := range b.N {
		a := netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 12: 1, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
		l := ipam.NewLease(p, a, claimant("other", fmt.Sprint("pod", n), "c"), s.now())
		begin := time.Now()
		if _, err := leases.Create(b.Context(), l, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(begin))
		begin = time.Now()
		if _, err := s.Claim(b.Context(), p, ipam.Pick{Family: ipam.IPv6}, claimant("n", fmt.Sprint("pod", n), "c")); err != nil {
			b.Fatal(err)
		}
		claim = append(claim, time.Since(begin))
	}
	slices.Sort(floor)
	slices.Sort(claim)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(floor[len(floor)/2].Microseconds()), "create-p50-µs")
	b.ReportMetric(float64(claim[len(claim)/2].Microseconds()), "claim-p50-µs")
	b.ReportMetric(float64(claim[len(claim)/2])/float64(floor[len(floor)/2]), "p50-ratio")
}

// Managed fields are of no use to a lease, and half of it: they go with its first update, and do not come again.
func TestNoManagedFields(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	s := w.store("node-1", nil, p)
	for i, want := range []int{1, 0, 0} { // a creation has them
		l := w.claim(s, p, holder("node-1", fmt.Sprint("pod-", i), "c"))
		now, err := w.leases.Get(t.Context(), l.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(now.ManagedFields); got != want {
			t.Errorf("claim %d: %d entries of managed fields, want %d: %v", i, got, want, now.ManagedFields)
		}
		w.release(s, l)
	}
}
