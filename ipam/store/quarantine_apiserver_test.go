//go:build apiserver

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

const foreign = "02:00:00:00:09:09"

func foreignAt(node string) v1alpha1.LeaseConflict {
	return v1alpha1.LeaseConflict{MAC: foreign, SeenAt: metav1.Now(), Node: node, Parent: "eth0"}
}

func (w *world) read(name string) *v1alpha1.IPLease {
	w.Helper()
	l, err := w.leases.Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// A free address is given to nobody, be it one never used or one released.
func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.2")
	s := w.store("a", nil, p)
	used := w.claim(s, p, holder("a", "one", "c"))
	w.release(s, used)
	for _, text := range []string{"10.0.0.1", "10.0.0.2"} {
		a := netip.MustParseAddr(text)
		l, err := s.Quarantine(t.Context(), p, a, foreignAt("a"))
		if err != nil || l == nil {
			t.Fatalf("%s: %v, %v", text, l, err)
		}
		now := w.read(l.Name)
		if now.Spec.Phase != v1alpha1.LeaseQuarantined || now.Spec.Conflict.MAC != foreign || now.Spec.Pool != p.Name || now.Labels[v1alpha1.LabelPool] != p.Name {
			t.Errorf("%+v", now.Spec)
		}
		if (now.Spec.Holder != nil) != (text == used.Spec.Address) {
			t.Errorf("%s: last holder %+v", text, now.Spec.Holder)
		}
		if l, err := s.Quarantine(t.Context(), p, a, foreignAt("a")); l != nil || err != nil {
			t.Errorf("%s, once more: %v, %v", text, l, err)
		}
	}
	other := w.store("b", nil, p)
	for _, s := range []*Store{s, other} {
		if _, err := s.Claim(t.Context(), p, anyIPv4, claimant(s.node, "two", "c")); !errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("node %s: %v", s.node, err)
		}
		asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr("10.0.0.1")}
		if _, err := s.Claim(t.Context(), p, asked, claimant(s.node, "two", "c")); !errors.Is(err, ipam.ErrTaken) {
			t.Errorf("node %s: %v", s.node, err)
		}
	}
}

// A claim that a node has not heard of, or is at, wins over its quarantine.
func TestClaimWinsOverQuarantine(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	a := netip.MustParseAddr("10.0.0.1")
	faults := &apitest.Faults{}
	near, far := w.store("near", nil, p), w.store("far", faults, p)
	defer faults.HoldWatches("")()

	l := w.claim(near, p, holder("near", "one", "c"))
	check := func(phase v1alpha1.LeasePhase) {
		t.Helper()
		if got, err := far.Quarantine(t.Context(), p, a, foreignAt("far")); got != nil || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		if now := w.read(l.Name); now.Spec.Phase != phase || now.Spec.Conflict != nil {
			t.Errorf("%+v", now.Spec)
		}
		if known := far.Lease(p.Network, a); known == nil || known.Spec.Phase != phase {
			t.Errorf("known: %+v", known)
		}
	}
	check(v1alpha1.LeaseBound)
	w.release(near, l)
	if _, err := far.learn(t.Context(), l.Name); err != nil {
		t.Fatal(err)
	}
	l = w.claim(near, p, holder("near", "two", "c")) // far knows it as released
	check(v1alpha1.LeaseBound)

	w.release(near, l)
	if _, ok := near.index.beginAt(l.Name); !ok {
		t.Fatal("in flight already")
	}
	if got, err := near.Quarantine(t.Context(), p, a, foreignAt("near")); got != nil || err != nil {
		t.Errorf("while it is being claimed: %v, %v", got, err)
	}
	near.index.end(l.Name)
}

// All nodes hear the same and claim meanwhile: of each address one write wins.
func TestQuarantineRaces(t *testing.T) {
	const nodes, addresses = 8, 6
	w := newWorld(t)
	p := w.pool("p", fmt.Sprintf("10.0.0.1-10.0.0.%d", addresses))
	stores := make([]*Store, nodes)
	for i := range stores {
		stores[i] = w.store(fmt.Sprintf("node-%d", i), nil, p)
	}
	var quarantined atomic.Int32
	claims, errs := w.atOnce(nodes*(addresses+1), func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
		s, n := stores[i%nodes], i/nodes
		if n < addresses {
			l, err := s.Quarantine(ctx, p, netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + n)}), foreignAt(s.node))
			if l != nil {
				quarantined.Add(1)
			}
			return nil, err
		}
		l, err := s.Claim(ctx, p, anyIPv4, claimant(s.node, fmt.Sprintf("pod-%d", i), "c"))
		if errors.Is(err, ipam.ErrExhausted) {
			return nil, nil
		}
		return l, err
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	won := map[v1alpha1.LeasePhase]int{}
	for _, l := range claims {
		if l != nil {
			won[v1alpha1.LeaseBound]++
		}
	}
	if n := int(quarantined.Load()); n > 0 {
		won[v1alpha1.LeaseQuarantined] = n
	}
	list, err := w.leases.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + w.network})
	if err != nil {
		t.Fatal(err)
	}
	there := map[v1alpha1.LeasePhase]int{}
	for _, l := range list.Items {
		there[l.Spec.Phase]++
	}
	if diff := cmp.Diff(there, won); diff != "" || len(list.Items) != addresses {
		t.Errorf("%d leases (-there +won):\n%s", len(list.Items), diff)
	}
	w.idle(stores...)
}

// An answer that was lost leaves the address out of use, whatever came of the write.
func TestQuarantineInDoubt(t *testing.T) {
	for _, fault := range []apitest.Fault{apitest.Lost, apitest.Cut} {
		w := newWorld(t)
		p := w.pool("p", "10.0.0.1")
		faults := &apitest.Faults{}
		s := w.store("a", faults, p)
		release := faults.HoldWatches("")
		faults.Set("POST", fault)
		a := netip.MustParseAddr("10.0.0.1")
		if l, err := s.Quarantine(t.Context(), p, a, foreignAt("a")); l != nil || !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v, %v", l, err)
		}
		if known := s.Lease(p.Network, a); known == nil || known.Spec.Phase != v1alpha1.LeaseQuarantined {
			t.Errorf("known: %+v", known)
		}
		faults.Set("POST", apitest.None)
		_, err := s.Claim(t.Context(), p, anyIPv4, claimant("a", "one", "c")) // asks what became of it
		if (fault == apitest.Lost) != errors.Is(err, ipam.ErrExhausted) {
			t.Errorf("fault %d: %v", fault, err)
		}
		release()
	}
}

// The note of a conflict changes nothing else, is not made on a lease that has changed, and its holder's DEL goes past it.
func TestConflictNote(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	near, far := w.store("near", nil, p), w.store("far", nil, p)
	l := w.claim(near, p, holder("near", "one", "c"))
	if got, err := far.Conflict(t.Context(), l, foreignAt("far")); err != nil || got == nil || got.Spec.Conflict.Node != "far" {
		t.Fatalf("%v, %v", got, err)
	}
	now := w.read(l.Name)
	if now.Spec.Conflict == nil {
		t.Fatal("no conflict")
	}
	now.Spec.Conflict = nil
	if diff := cmp.Diff(l.Spec, now.Spec); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if got, err := far.Conflict(t.Context(), l, foreignAt("far")); err != nil || got != nil {
		t.Errorf("at an old version: %v, %v", got, err)
	}
	w.release(near, l) // at its old version
	if now := w.read(l.Name); now.Spec.Phase != v1alpha1.LeaseReleased {
		t.Errorf("%+v", now.Spec)
	}
}
