//go:build apiserver

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// patience of claims that wait for an earlier holder, in this test.
func patience(t *testing.T, d time.Duration) {
	was, look := heldPatience, heldProof
	heldPatience, heldProof = d, 50*time.Millisecond
	t.Cleanup(func() { heldPatience, heldProof = was, look })
}

const short = 200 * time.Millisecond

// While nothing proves the earlier pod gone, the next one waits; it gets the address when a DEL comes, or the proof.
func TestHeldByAnEarlierPod(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	a, b := w.store("a", nil, p), w.store("b", nil, p)
	db := w.claimBy(a, p, member("a", "db-0", "c1"))
	w.knows(b, db.Name, bound)
	asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr(db.Spec.Address)}

	patience(t, short)
	for _, pick := range []ipam.Pick{anyIPv4, asked} {
		_, err := b.Claim(t.Context(), p, pick, member("b", "db-0", "c2"))
		want := fmt.Sprintf(`address %s of this pod's StatefulSet "db" is Bound, held by pod ns/db-0 on node "a", and nothing proves that pod gone`, db.Spec.Address)
		if !errors.Is(err, ipam.ErrHeld) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	w.want(db.Spec.Address + " Bound db-0/c1")

	patience(t, time.Minute)
	for i, pick := range []ipam.Pick{anyIPv4, asked} {
		looked := make(chan struct{}, 100)
		b.hooks.Gone = func(_ context.Context, h *v1alpha1.LeaseHolder) (bool, error) {
			if h.ContainerID != db.Spec.Holder.ContainerID {
				t.Errorf("asked about %+v", h)
			}
			looked <- struct{}{}
			return false, nil
		}
		got := make(chan *v1alpha1.IPLease)
		go func() {
			l, err := b.Claim(t.Context(), p, pick, member("b", "db-0", fmt.Sprint("w", i)))
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		<-looked // it waits
		w.release(a, db)
		if l := <-got; l == nil || l.Name != db.Name {
			t.Fatalf("%v, want %s", l, db.Name)
		}
		w.release(b, b.HeldBySandbox(fmt.Sprint("w", i), "net1")[0])
		w.knows(a, db.Name, v1alpha1.LeaseReserved)
		db = w.claimBy(a, p, member("a", "db-0", "c1"))
		w.knows(b, db.Name, bound)
	}

	// The caller has no time left.
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	b.hooks.Gone = noHooks.Gone
	if _, err := b.Claim(ctx, p, anyIPv4, member("b", "db-0", "c3")); !errors.Is(err, ipam.ErrHeld) {
		t.Error(err)
	}
	// The API server does not say.
	b.hooks.Gone = func(context.Context, *v1alpha1.LeaseHolder) (bool, error) { return true, ErrUnavailable }
	if _, err := b.Claim(t.Context(), p, anyIPv4, member("b", "db-0", "c3")); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	// Proven gone.
	b.hooks.Gone = func(context.Context, *v1alpha1.LeaseHolder) (bool, error) { return true, nil }
	if l := w.claimBy(b, p, member("b", "db-0", "c4")); l.Name != db.Name || l.Spec.Holder.ContainerID != "c4" {
		t.Errorf("taken over: %+v", l.Spec)
	}
	w.release(a, db)
	w.want(db.Spec.Address + " Bound db-0/c4")
	w.idle(a, b)
}

// Two pods of one identity at once: one gets its address, the other waits in vain. On one node, and on two.
func TestOneIdentityTwice(t *testing.T) {
	patience(t, short)
	for name, nodes := range map[string][]string{"one node": {"a", "a"}, "two nodes": {"a", "b"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.9")
			stores := map[string]*Store{"a": w.store("a", nil, p), "b": w.store("b", nil, p)}
			db := w.claimBy(stores["a"], p, member("a", "db-0", "c0"))
			w.release(stores["a"], db)
			w.knows(stores["b"], db.Name, v1alpha1.LeaseReserved)
			leases, errs := w.atOnce(2, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
				return stores[nodes[i]].Claim(ctx, p, anyIPv4, member(nodes[i], "db-0", fmt.Sprint("c", i+1)))
			})
			for i := range leases {
				if (leases[i] == nil) == (leases[1-i] == nil) || leases[i] == nil && !errors.Is(errs[i], ipam.ErrHeld) || leases[i] != nil && leases[i].Name != db.Name {
					t.Errorf("%v, %v", leases[i], errs[i])
				}
			}
			if got := w.list(); len(got) != 1 {
				t.Errorf("leases %v", got)
			}
			w.idle(stores["a"], stores["b"])
		})
	}
}

// vm is the claimant of a virtual machine's pod.
func vm(node, sandbox string, migrates bool) ipam.Claimant {
	c := member(node, "virt-launcher-"+sandbox, sandbox)
	c.Identity = &v1alpha1.LeaseIdentity{Kind: v1alpha1.IdentityVM, Namespace: "ns", Name: "vm", UID: "v1", Interface: "net1", Ends: v1alpha1.EndsWithOwner}
	c.Names, c.Migrates = map[string]string{v1alpha1.IdentityVM: "vm"}, migrates
	return c
}

// Two pods hold the lease while their machine migrates, and either may go first.
func TestMigration(t *testing.T) {
	patience(t, short)
	for _, first := range []string{"source", "target"} {
		t.Run(first+" goes first", func(t *testing.T) {
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.9")
			nodeA, nodeB := w.network+"-a", w.network+"-b"
			a, b := w.store(nodeA, nil, p), w.store(nodeB, nil, p)
			l := w.claimBy(a, p, vm(nodeA, "source", false))
			w.knows(b, l.Name, bound)
			if _, err := b.Claim(t.Context(), p, anyIPv4, vm(nodeB, "other", false)); !errors.Is(err, ipam.ErrHeld) {
				t.Errorf("without a migration: %v", err)
			}
			if both := w.claimBy(b, p, vm(nodeB, "target", true)); both.Name != l.Name || both.Spec.Holder.ContainerID != "source" || both.Spec.Next.ContainerID != "target" {
				t.Fatalf("%+v", both.Spec)
			}
			if _, err := b.Claim(t.Context(), p, anyIPv4, vm(nodeB, "third", true)); !errors.Is(err, ipam.ErrHeld) {
				t.Errorf("a second target: %v", err)
			}

			// The agent of the target starts anew: it finds what it holds.
			b = w.store(nodeB, nil)
			if pools, err := b.LoadOwn(t.Context()); err != nil || !slices.Equal(pools, []string{p.Name}) {
				t.Fatal(pools, err)
			}
			if len(b.HeldBySandbox("target", "net1")) != 1 || len(b.HeldBySandbox("source", "net1")) != 0 || len(b.Bound()) != 1 {
				t.Fatalf("after a restart: %v", b.Bound())
			}
			w.follow(b, p)
			sandboxes := map[string]*Store{"source": a, "target": b}
			w.release(sandboxes[first], sandboxes[first].HeldBySandbox(first, "net1")[0])
			delete(sandboxes, first)
			for left, s := range sandboxes {
				w.want(fmt.Sprintf("%s Bound virt-launcher-%s/%s", l.Spec.Address, left, left))
				w.release(s, s.HeldBySandbox(left, "net1")[0])
				w.want(fmt.Sprintf("%s Reserved virt-launcher-%s/%s", l.Spec.Address, left, left))
			}
			w.idle(a, b)
		})
	}
}

// A share whose answer is lost is the same as any claim in doubt: the next try finds out, and shares the same address.
func TestShareInDoubt(t *testing.T) {
	for name, fault := range map[string]apitest.Fault{"answer lost": apitest.Lost, "not carried out": apitest.Cut} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.9")
			faults := &apitest.Faults{}
			a, b := w.store("a", nil, p), w.store("b", faults, p)
			l := w.claimBy(a, p, vm("a", "source", false))
			w.knows(b, l.Name, bound)
			defer faults.HoldWatches("")()
			faults.Set("PUT", fault)
			if l, err := b.Claim(t.Context(), p, anyIPv4, vm("b", "target", true)); !errors.Is(err, ErrUnavailable) {
				t.Fatal(l, err)
			}
			faults.Set("PUT", apitest.None)
			held := b.HeldBySandbox("target", "net1")
			if len(held) != 1 {
				t.Fatalf("not kept in mind: %v", held)
			}
			again, err := b.Verify(t.Context(), held[0])
			if err != nil || (again != nil) != (fault == apitest.Lost) {
				t.Fatal(again, err)
			}
			if again == nil {
				again = w.claimBy(b, p, vm("b", "target", true))
			}
			if again.Name != l.Name || again.Spec.Holder.ContainerID != "source" || again.Spec.Next.ContainerID != "target" {
				t.Errorf("%+v", again.Spec)
			}
			w.idle(a, b)
		})
	}
}
