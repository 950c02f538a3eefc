//go:build apiserver

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// knows waits until a store has heard that a lease is in this phase.
func (w *world) knows(s *Store, name string, phase v1alpha1.LeasePhase) {
	w.Helper()
	apitest.Eventually(w, "node "+s.node+" knows of "+name, func() error {
		if l := s.get(name); l == nil || l.Spec.Phase != phase {
			return fmt.Errorf("it knows %v", l)
		}
		return nil
	})
}

func (w *world) claimBy(s *Store, p *ipam.Pool, c ipam.Claimant) *v1alpha1.IPLease {
	w.Helper()
	l, err := s.Claim(w.Context(), p, anyIPv4, c)
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// reserveFor an identity, as an operator does and the controller then completes.
func (w *world) reserveFor(p *ipam.Pool, a string, i v1alpha1.LeaseIdentity) *v1alpha1.IPLease {
	w.Helper()
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: ipam.LeaseName(w.network, netip.MustParseAddr(a))}}
	l.Spec.Network, l.Spec.Address, l.Spec.Phase, l.Spec.Identity = w.network, a, v1alpha1.LeaseReserved, &i
	if p != nil {
		l.Spec.Pool, l.Labels = p.Name, map[string]string{v1alpha1.LabelPool: p.Name}
	}
	l, err := w.leases.Create(w.Context(), l, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// An address stays with its identity when the pod goes, wherever the next one comes, and nobody else gets it, not even the last.
func TestIdentityKeepsItsAddress(t *testing.T) {
	patience(t, short)
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.3")
	a, b := w.store("a", nil, p), w.store("b", nil, p)
	db := w.claimBy(a, p, member("a", "db-0", "c1"))
	w.release(a, db)
	w.knows(b, db.Name, v1alpha1.LeaseReserved)
	for i, s := range []*Store{a, b} {
		w.claimBy(s, p, member(s.node, fmt.Sprint("db-", i+1), fmt.Sprint("d", i)))
	}
	for _, s := range []*Store{a, b} {
		if l, err := s.Claim(t.Context(), p, anyIPv4, claimant(s.node, "other", "c")); !errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("a stranger gets %v, %v", l, err)
		}
	}
	next := w.claimBy(b, p, member("b", "db-0", "c2"))
	if next.Name != db.Name || next.UID != db.UID || next.Spec.Identity == nil {
		t.Errorf("on another node %s, had %s", next.Name, db.Name)
	}
	w.release(a, db) // a late DEL of the first
	if now, err := w.leases.Get(t.Context(), db.Name, metav1.GetOptions{}); err != nil || now.Spec.Phase != bound || now.Spec.Holder.ContainerID != "c2" {
		t.Errorf("after a late DEL: %v, %v", now, err)
	}
	w.idle(a, b)
}

// A node whose watch lags, or does not follow the pool yet, asks before it takes an identity for one without an address.
func TestRecall(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	a, b := w.store("a", nil, p), w.store("b", nil)
	db := w.claimBy(a, p, member("a", "db-0", "c1"))
	w.release(a, db)
	for pod, want := range map[string]int{"db-0": 1, "db-1": 0} {
		if got, err := b.Recall(t.Context(), member("b", pod, "c2")); err != nil || len(got) != want {
			t.Errorf("kept for %s: %v, %v; want %d", pod, got, err, want)
		}
	}
}

// Of two addresses that are reserved for an identity it gets the one that was reserved last, whatever the clocks of those who did say.
func TestReservedTwice(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	s := w.store("a", nil, p)
	asked := func(a string) ipam.Pick { return ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr(a)} }
	var names []string
	for i, a := range []string{"10.0.0.5", "10.0.0.3", "10.0.0.7"} {
		ahead := w.store("b", nil, p)
		ahead.now = func() time.Time { return time.Now().Add(time.Duration(3-i) * time.Hour) }
		l, err := ahead.Claim(t.Context(), p, asked(a), member("b", "db-0", fmt.Sprint("c", i)))
		if err != nil {
			t.Fatal(err)
		}
		w.release(ahead, l)
		names = append(names, l.Name)
	}
	for _, name := range names {
		w.knows(s, name, v1alpha1.LeaseReserved)
	}
	if l := w.claimBy(s, p, member("a", "db-0", "c9")); l.Spec.Address != "10.0.0.7" {
		t.Errorf("%s, not the last one", l.Spec.Address)
	}
}

// A claim says what the address was before, by what it met, so that one in vain takes nothing from its identity.
func TestTakenFromItsIdentity(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	a, b := w.store("a", nil, p), w.store("b", nil, p)
	take := func(s *Store, c ipam.Claimant, kept bool) *v1alpha1.IPLease {
		t.Helper()
		l, err := s.Take(t.Context(), p, anyIPv4, c)
		if err != nil || l.Kept != kept {
			t.Fatalf("%+v, %v; want kept %v", l, err, kept)
		}
		return l.IPLease
	}
	first := take(a, member("a", "db-0", "c1"), false)
	w.release(a, first)
	w.knows(b, first.Name, v1alpha1.LeaseReserved)
	second := take(b, member("b", "db-0", "c2"), true)
	w.knows(a, first.Name, bound)
	a.hooks.Gone = func(context.Context, *v1alpha1.LeaseHolder) (bool, error) { return true, nil }
	third := take(a, member("a", "db-0", "c3"), true) // from one that is gone
	if second.Name != first.Name || third.Name != first.Name {
		t.Errorf("%s, %s, %s", first.Name, second.Name, third.Name)
	}

	plain := take(a, claimant("a", "one", "c4"), false)
	w.release(a, plain)
	if again := take(a, claimant("a", "one", "c5"), false); again.Name != plain.Name {
		t.Errorf("%s, then %s", plain.Name, again.Name)
	}
}

// A claim of what is kept fails half way, and is not carried out: the next try gets the same address, not another.
func TestKeptClaimInDoubt(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	faults := &apitest.Faults{}
	s := w.store("a", faults, p)
	db := w.claimBy(s, p, member("a", "db-0", "c1"))
	w.release(s, db)
	faults.Set("PUT", apitest.Cut)
	if l, err := s.Claim(t.Context(), p, anyIPv4, member("a", "db-0", "c2")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(l, err)
	}
	faults.Set("PUT", apitest.None)
	if l, err := s.Verify(t.Context(), s.HeldBySandbox("c2", "net1")[0]); l != nil || err != nil {
		t.Fatal(l, err)
	}
	if l := w.claimBy(s, p, member("a", "db-0", "c2")); l.Name != db.Name {
		t.Errorf("%s, had %s", l.Name, db.Name)
	}
	w.want(db.Spec.Address + " Bound db-0/c2")
}

// An operator's reservation is for whom it names, first of all and for good.
func TestOperatorReserves(t *testing.T) {
	for _, tc := range []struct {
		kind, name, pod string
		names           map[string]string // of the pod that it is for
		identity        *v1alpha1.LeaseIdentity
	}{
		{kind: "Pod", name: "web-abc", names: map[string]string{"Pod": "web-abc"}},
		{kind: "Deployment", name: "web", names: map[string]string{"Pod": "web-abc", "Deployment": "web"}},
		{kind: "StatefulSet", name: "db", pod: "web-abc", names: map[string]string{"StatefulSet": "db"}, identity: member("a", "web-abc", "x").Identity},
		{kind: "VirtualMachineInstance", name: "vm", names: map[string]string{"VirtualMachineInstance": "vm"}, identity: vm("a", "x", false).Identity},
		{kind: "Name", name: "broker", names: map[string]string{"Name": "broker"},
			identity: &v1alpha1.LeaseIdentity{Kind: "Name", Namespace: "ns", Name: "broker", Interface: "net1", Ends: v1alpha1.EndsAfterTime}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			patience(t, short)
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.3")
			l := w.reserveFor(p, "10.0.0.2", v1alpha1.LeaseIdentity{Kind: tc.kind, Namespace: "ns", Name: tc.name, Pod: tc.pod})
			s := w.store("a", nil, p)
			w.knows(s, l.Name, v1alpha1.LeaseReserved)
			mine := ipam.Claimant{Holder: holder("a", "web-abc", "c1"), Names: tc.names, Identity: tc.identity}
			other := claimant("a", "other", "c2")
			other.Names = map[string]string{"Pod": "other", "Deployment": "other"}

			for range 2 {
				if got := w.claimBy(s, p, mine); got.Spec.Address != "10.0.0.2" {
					t.Fatalf("its pod gets %s", got.Spec.Address)
				}
				w.release(s, s.HeldBySandbox("c1", "net1")[0])
				w.want("10.0.0.2 Reserved web-abc/c1")
			}
			for range 2 { // to the last, and not that one
				other.Holder.UID += "x"
				if got := w.claimBy(s, p, other); got.Spec.Address == "10.0.0.2" {
					t.Fatal("another gets it")
				}
			}
			other.Holder.UID += "x"
			if _, err := s.Claim(t.Context(), p, anyIPv4, other); !errors.Is(err, ipam.ErrExhausted) {
				t.Error(err)
			}
			asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr("10.0.0.2")}
			if _, err := s.Claim(t.Context(), p, asked, other); !errors.Is(err, ipam.ErrTaken) {
				t.Error(err)
			}
		})
	}
}

// Made with kubectl, seen by no controller yet: whoever asks for the address, or comes upon it, has it.
func TestReservationNotYetAdopted(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	w.reserveFor(nil, "10.0.0.1", v1alpha1.LeaseIdentity{Kind: "Pod", Namespace: "ns", Name: "web"})
	s := w.store("a", nil, p)
	if _, err := s.Claim(t.Context(), p, anyIPv4, claimant("a", "other", "c")); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("a stranger: %v", err)
	}
	mine := claimant("a", "web", "c1")
	mine.Names = map[string]string{"Pod": "web"}
	if l := w.claimBy(s, p, mine); l.Spec.Pool != p.Name || w.label(l, v1alpha1.LabelPool) != p.Name || l.Spec.Identity == nil {
		t.Errorf("%+v", l)
	}
	w.release(s, s.HeldBySandbox("c1", "net1")[0])
	w.want("10.0.0.1 Reserved web/c1")
}

// What a person excludes from the pool an identity does not get again.
func TestKeptButExcluded(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	s := w.store("a", nil, p)
	w.release(s, w.claimBy(s, p, member("a", "db-0", "c1")))
	edited := w.pool("p", "10.0.0.2")
	w.follow(s, edited)
	if l := w.claimBy(s, edited, member("a", "db-0", "c2")); l.Spec.Address != "10.0.0.2" {
		t.Errorf("%s, which is excluded", l.Spec.Address)
	}
}

// One of a list: each once, to the last, from two nodes at once.
func TestOneOfToTheLast(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.99")
	pick := ipam.Pick{Family: ipam.IPv4}
	for i := range 8 {
		pick.OneOf = append(pick.OneOf, netip.MustParseAddr(fmt.Sprint("10.0.0.", 40+i)))
	}
	stores := []*Store{w.store("a", nil, p), w.store("b", nil, p)}
	for round := range 2 {
		leases, errs := w.atOnce(8, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
			s := stores[i%2]
			return s.Claim(ctx, p, pick, claimant(s.node, fmt.Sprintf("web-%d-%d", round, i), "c"))
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if got := w.list(); len(got) != 8 || !strings.HasPrefix(got[0], "10.0.0.40 Bound") {
			t.Fatalf("leases %v", got)
		}
		_, err := stores[0].Claim(t.Context(), p, pick, claimant("a", "more", "c"))
		if !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), "none of the IPv4 addresses asked for is free: 10.0.0.40 is Bound, held by pod ns/web-") ||
			!strings.Contains(err.Error(), "and 3 more; ask for more or free one") {
			t.Error(err)
		}
		for i, l := range leases {
			w.release(stores[i%2], l)
		}
	}
	w.idle(stores...)
}

// Under pressure only, and with a word about it, an address is given before its cooldown is over.
func TestCooldown(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.2")
	p.Cooldown = time.Hour
	s := w.store("a", nil, p)
	early := map[string]time.Duration{}
	s.hooks.Early = func(l *v1alpha1.IPLease, by time.Duration) { early[l.Spec.Holder.Pod] = by }
	begin := time.Now().Truncate(time.Second)
	now := begin
	s.now = func() time.Time { return now }
	one, two := w.claim(s, p, holder("a", "one", "c")), w.claim(s, p, holder("a", "two", "c"))
	w.release(s, one)
	now = begin.Add(50 * time.Minute)
	w.release(s, two)
	now = begin.Add(55 * time.Minute)
	if l := w.claim(s, p, holder("a", "three", "c")); l.Name != one.Name {
		t.Errorf("%s before %s, which was released longest ago", l.Spec.Address, one.Spec.Address)
	}
	now = begin.Add(111 * time.Minute)
	w.claim(s, p, holder("a", "four", "c"))
	if len(early) != 1 || early["three"] != 5*time.Minute {
		t.Errorf("early: %v", early)
	}
}
