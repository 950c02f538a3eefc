//go:build apiserver

package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// The answer to a claim is lost, or the request was: nobody can tell. Until somebody can, the address stays taken and its
// holder's. The watch is held back, so that it does not help.
func TestClaimInDoubt(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reused bool // claimed by update of a released lease
		fault  apitest.Fault
		landed bool
	}{
		{"created, answer lost", false, apitest.Lost, true},
		{"not created", false, apitest.Cut, false},
		{"creation failed with 500", false, apitest.Broken, false},
		{"updated, answer lost", true, apitest.Lost, true},
		{"not updated", true, apitest.Cut, false},
	} {
		for _, then := range []string{"ADD again", "ADD of a new sandbox", "DEL", "nothing"} {
			t.Run(tc.name+"/"+then, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				p := w.pool("p", "10.0.0.1")
				faults, method := &apitest.Faults{}, "POST"
				s := w.store("n", faults, p)
				if tc.reused {
					method = "PUT"
					w.release(s, w.claim(s, p, holder("n", "zero", "c0")))
				}
				defer faults.HoldWatches("")()
				faults.Set(method, tc.fault)
				if l, err := s.Claim(t.Context(), p, anyIPv4, claimant("n", "one", "c1")); !errors.Is(err, ErrUnavailable) {
					t.Fatalf("%v, %v; want %v", l, err, ErrUnavailable)
				}
				w.idle(s)
				faults.Set(method, apitest.None)
				held := s.HeldBySandbox("c1", "net1")
				if len(held) != 1 {
					t.Fatalf("not kept in mind: %v", held)
				}

				switch then {
				case "ADD again": // as agent.keepOwn does
					l, err := s.Keep(t.Context(), held[0], holder("n", "one", "c1"))
					if err != nil || (l != nil) != tc.landed {
						t.Fatal(l, err)
					}
					if l == nil {
						w.claim(s, p, holder("n", "one", "c1"))
					}
					w.want("10.0.0.1 Bound one/c1")
				case "ADD of a new sandbox":
					l, err := s.Rebind(t.Context(), s.HeldByPod("uid-one", "net1")[0], holder("n", "one", "c2"))
					if err != nil || (l != nil) != (tc.landed || tc.reused) { // an update may as well be made up for
						t.Fatal(l, err)
					}
					if l == nil {
						w.claim(s, p, holder("n", "one", "c2"))
					}
					w.want("10.0.0.1 Bound one/c2")
				case "DEL":
					w.release(s, held[0])
					if got := s.HeldBySandbox("c1", "net1"); len(got) != 0 {
						t.Errorf("still held: %v", got)
					}
					w.claim(s, p, holder("n", "two", "c2"))
					w.want("10.0.0.1 Bound two/c2")
				case "nothing": // another pod gets the address if and only if it is free
					l, err := s.Claim(t.Context(), p, anyIPv4, claimant("n", "two", "c2"))
					if tc.landed && !errors.Is(err, ipam.ErrExhausted) || !tc.landed && err != nil {
						t.Fatal(l, err)
					}
				}
				w.idle(s)
			})
		}
	}
}

// A sandbox made anew asks twice, and the first time nothing is heard of its rebind: it is still its pod's lease, whether the API has
// carried it out or not.
func TestRebindInDoubt(t *testing.T) {
	for name, fault := range map[string]apitest.Fault{"cut": apitest.Cut, "answer lost": apitest.Lost} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.9")
			faults := &apitest.Faults{}
			s := w.store("n", faults, p)
			l, c2 := w.claim(s, p, holder("n", "one", "c1")), holder("n", "one", "c2")
			defer faults.HoldWatches("")()
			faults.Set("PUT", fault)
			if l, err := s.Keep(t.Context(), l, c2); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("%v, %v; want %v", l, err, ErrUnavailable)
			}
			w.idle(s)
			faults.Set("PUT", apitest.None)
			again, err := s.Keep(t.Context(), s.HeldBySandbox("c2", "net1")[0], c2)
			if err != nil || again == nil || again.Name != l.Name {
				t.Fatalf("%v, %v; want %s", again, err, l.Name)
			}
			w.want(l.Spec.Address + " Bound one/c2")
		})
	}
}

// An agent that forgot its doubt, by a restart, meets the lease of its own pod and takes it.
func TestMeetOwnPod(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.2")
	w.claim(w.store("n", nil, p), p, holder("n", "one", "c1"))
	for _, sandbox := range []string{"c1", "c2"} {
		faults := &apitest.Faults{}
		defer faults.HoldWatches("")()
		s := w.store("n", nil) // knows nothing
		s.index.setPool(p)
		l, err := s.Claim(t.Context(), p, ipam.Pick{Family: ipam.IPv4, Address: w.only()}, claimant("n", "one", sandbox))
		if err != nil || l.Spec.Holder.ContainerID != sandbox {
			t.Fatal(l, err)
		}
		if got := w.list(); len(got) != 1 {
			t.Errorf("leases %v", got)
		}
	}
}

func (w *world) only() netip.Addr {
	w.Helper()
	list, err := w.leases.List(w.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + w.network})
	if err != nil || len(list.Items) != 1 {
		w.Fatal(list, err)
	}
	return netip.MustParseAddr(list.Items[0].Spec.Address)
}

// Requests that the API server refuses or that fail leave nothing behind, and every address can be had afterwards.
func TestBrokenServer(t *testing.T) {
	for fault, name := range map[apitest.Fault]string{apitest.Cut: "cut", apitest.Broken: "500", apitest.Denied: "403"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.pool("p", "10.0.0.1-10.0.0.5")
			faults := &apitest.Faults{}
			s := w.store("n", faults, p)
			faults.Set("POST", fault)
			_, errs := w.atOnce(20, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
				return s.Claim(ctx, p, anyIPv4, claimant("n", fmt.Sprint("a", i), "c"))
			})
			for _, err := range errs {
				if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ipam.ErrExhausted) {
					t.Error(err)
				}
			}
			w.want()
			faults.Set("POST", apitest.None)
			leases, errs := w.atOnce(5, func(ctx context.Context, i int) (*v1alpha1.IPLease, error) {
				return s.Claim(ctx, p, anyIPv4, claimant("n", fmt.Sprint("b", i), "c"))
			})
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			w.everyAddressOnce(p, leases)
			w.idle(s)
		})
	}
	t.Run("list", func(t *testing.T) { // exhausted is not said without having asked
		w := newWorld(t)
		p := w.pool("p", "10.0.0.1")
		faults := &apitest.Faults{}
		s := w.store("n", faults, p)
		w.claim(s, p, holder("n", "one", "c"))
		faults.Set("GET", apitest.Broken)
		if _, err := s.Claim(t.Context(), p, anyIPv4, claimant("n", "two", "c")); !errors.Is(err, ErrUnavailable) || errors.Is(err, ipam.ErrExhausted) {
			t.Error(err)
		}
	})
	t.Run("context", func(t *testing.T) {
		w := newWorld(t)
		p := w.pool("p", "10.0.0.1")
		s := w.store("n", nil, p)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Claim(ctx, p, anyIPv4, claimant("n", "one", "c")); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		w.idle(s)
		w.claim(s, p, holder("n", "two", "c"))
	})
}

// Sandboxes of one pod come and go, in any order.
func TestRebindAndLateDEL(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.3")
	faults := &apitest.Faults{}
	s := w.store("n", faults, p)
	old := w.claim(s, p, holder("n", "one", "c1"))
	l, err := s.Rebind(t.Context(), s.HeldByPod("uid-one", "net1")[0], holder("n", "one", "c2"))
	if err != nil || l.Name != old.Name {
		t.Fatal(l, err)
	}
	// The late DEL of the first sandbox: by the index, and by a view that is older than the index.
	if got := s.HeldBySandbox("c1", "net1"); len(got) != 0 {
		t.Errorf("the old sandbox holds %v", got)
	}
	w.release(s, old)
	w.want(old.Spec.Address + " Bound one/c2")

	// A rebind whose answer is lost, then a third sandbox, then DEL of all.
	faults.Set("PUT", apitest.Lost)
	if l, err := s.Rebind(t.Context(), l, holder("n", "one", "c3")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(l, err)
	}
	faults.Set("PUT", apitest.None)
	l, err = s.Rebind(t.Context(), s.HeldByPod("uid-one", "net1")[0], holder("n", "one", "c4"))
	if err != nil || l == nil || l.Name != old.Name {
		t.Fatal(l, err)
	}
	for _, sandbox := range []string{"c1", "c2", "c3"} {
		for _, l := range s.HeldBySandbox(sandbox, "net1") {
			w.release(s, l)
		}
	}
	w.want(old.Spec.Address + " Bound one/c4")

	// A release whose answer is lost; DEL again.
	faults.Set("PUT", apitest.Lost)
	if err := s.Release(t.Context(), l); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	faults.Set("PUT", apitest.None)
	w.release(s, l)
	w.release(s, l)
	w.want(old.Spec.Address + " Released one/c4")

	// The address has another holder by now: a stale view frees nothing, nor takes it back.
	asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr(old.Spec.Address)}
	if _, err := s.Claim(t.Context(), p, asked, claimant("n", "two", "c9")); err != nil {
		t.Fatal(err)
	}
	w.release(s, l)
	if l, err := s.Rebind(t.Context(), l, holder("n", "one", "c5")); l != nil || err != nil {
		t.Error(l, err)
	}
	if l, err := s.Keep(t.Context(), l, holder("n", "one", "c4")); l != nil || err != nil {
		t.Error(l, err)
	}
	w.want(old.Spec.Address + " Bound two/c9")
}

// DEL after a restart of the agent: by the node's label, whichever the pool, even one that no longer serves the node.
func TestLoadOwn(t *testing.T) {
	w := newWorld(t)
	node := w.network // LoadOwn asks for all leases of the node, so have one of this test
	p, q := w.pool("p", "10.0.0.1-10.0.0.3"), w.pool("q", "10.0.1.1")
	before := w.store(node, nil, p, q)
	one := w.claim(before, p, holder(node, "one", "c1"))
	w.claim(before, q, holder(node, "two", "c2"))
	w.claim(w.store("elsewhere", nil, p), p, holder("elsewhere", "other", "c3"))
	gone := w.claim(before, p, holder(node, "gone", "c4"))
	w.release(before, gone)

	s := w.store(node, nil)
	pools, err := s.LoadOwn(t.Context())
	if err != nil || len(pools) != 2 {
		t.Fatal(pools, err)
	}
	if got := s.Bound(); len(got) != 2 {
		t.Errorf("bound: %v", got)
	}
	for _, sandbox := range []string{"c1", "c2"} {
		held := s.HeldBySandbox(sandbox, "net1")
		if len(held) != 1 {
			t.Fatalf("sandbox %s holds %v", sandbox, held)
		}
		w.release(s, held[0])
	}
	if len(s.Bound()) != 0 || len(s.Pools()) != 0 {
		t.Errorf("left: %v %v", s.Bound(), s.Pools())
	}
	// The new sandbox of a pod finds its last address after a restart, too.
	w.follow(s, p)
	if l := w.claim(s, p, holder(node, "one", "c5")); l.Name != one.Name {
		t.Errorf("%s, want %s", l.Name, one.Name)
	}
	w.reserve("10.0.9.9", v1alpha1.LeaseReserved)
}

// A lease is deleted and made anew under one name while the watch is behind: its old news do not undo the new.
func TestRecreatedLease(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.2")
	faults := &apitest.Faults{}
	s := w.store("n", faults, p)
	open := faults.HoldWatches("")
	defer open()
	asked := ipam.Pick{Family: ipam.IPv4, Address: netip.MustParseAddr("10.0.0.1")}
	first, err := s.Claim(t.Context(), p, asked, claimant("n", "one", "c1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.leases.Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.release(s, first) // not found is success
	second, err := s.Claim(t.Context(), p, asked, claimant("n", "one", "c2"))
	if err != nil || second.UID == first.UID {
		t.Fatal(second, err)
	}
	other := w.claim(w.store("other", nil, p), p, holder("other", "two", "c3")) // the last of the news
	open()
	apitest.Eventually(t, "the watch catches up", func() error {
		if l := s.get(other.Name); l == nil {
			return errors.New("not yet")
		}
		return nil
	})
	if held := s.HeldBySandbox("c2", "net1"); len(held) != 1 || held[0].UID != second.UID {
		t.Errorf("held: %v", held)
	}
	if held := s.HeldBySandbox("c1", "net1"); len(held) != 0 {
		t.Errorf("held by the first: %v", held)
	}
	if _, err := s.Claim(t.Context(), p, anyIPv4, claimant("n", "three", "c4")); !errors.Is(err, ipam.ErrExhausted) {
		t.Error(err)
	}
	// And what the watch tells last counts: deleted is free.
	if err := w.leases.Delete(t.Context(), other.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the deletion is seen", func() error {
		if l := s.get(other.Name); l != nil {
			return errors.New("not yet")
		}
		return nil
	})
	if l := w.claim(s, p, holder("n", "three", "c4")); l.Name != other.Name {
		t.Errorf("%s, want %s", l.Name, other.Name)
	}
}

// A server that does not serve leases at all, as while the CRD is replaced, has not said that there is none: nobody loses one, and nobody
// is asked for ever.
func TestNotServed(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	var away atomic.Bool
	served := w.cfg
	w.cfg = apitest.Wrap(served, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		if away.Load() {
			r = r.Clone(r.Context())
			r.URL.Path = strings.Replace(r.URL.Path, "/ipleases", "/nosuch", 1)
		}
		return next.RoundTrip(r)
	})
	s := w.store("a", nil, p)
	w.cfg = served
	held := w.claim(s, p, holder("a", "one", "c1"))
	tries := 0
	s.hooks.Collision = func() { tries++ }
	away.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if l, err := s.Claim(ctx, p, anyIPv4, claimant("a", "two", "c2")); !errors.Is(err, ErrUnavailable) || tries > 0 || ctx.Err() != nil {
		t.Errorf("%v, %v, after %d collisions", l, err, tries)
	}
	if l, err := s.Verify(t.Context(), held); !errors.Is(err, ErrUnavailable) {
		t.Errorf("verified as %v, %v", l, err)
	}
	if err := s.Release(t.Context(), held); !errors.Is(err, ErrUnavailable) {
		t.Errorf("released: %v", err)
	}
	away.Store(false)
	if l, err := s.Verify(t.Context(), held); err != nil || l == nil {
		t.Errorf("lost: %v, %v", l, err)
	}
	w.idle(s)
}

// Claims of a full pool share a list. If the time of the one whose list it is ends, the others are none the worse.
func TestListOfAnother(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1")
	f := &apitest.Faults{}
	s := w.store("a", f, p)
	w.claim(s, p, holder("a", "one", "c1"))
	release := f.Hold("GET")
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.Claim(ctx, p, anyIPv4, claimant("a", "two", "c2")); first <- err }()
	time.Sleep(100 * time.Millisecond)
	go func() { _, err := s.Claim(t.Context(), p, anyIPv4, claimant("a", "three", "c3")); second <- err }()
	time.Sleep(100 * time.Millisecond)
	cancel()
	if err := <-first; !errors.Is(err, ErrUnavailable) {
		t.Errorf("given up: %v", err)
	}
	release()
	if err := <-second; !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("the other: %v", err)
	}
}

// TestRestored: etcd was restored from a backup, with its revision as it was then, or with a bumped one.
func TestRestored(t *testing.T) {
	w := newWorld(t)
	p := w.pool("p", "10.0.0.1-10.0.0.9")
	s := w.store("n", nil, p)
	l := w.claim(s, p, holder("n", "one", "c"))
	want := func(what string, want bool) {
		t.Helper()
		for range 2 { // as often as it is asked
			if back, err := s.Restored(t.Context()); back != want || err != nil {
				t.Errorf("%s: %t, %v", what, back, err)
			}
		}
	}
	want("as ever", false)
	s.watch.refused.Store(true)
	want("a watch was refused", false)

	s.index.mu.Lock()
	later := s.index.leases[l.Name].DeepCopy()
	later.ResourceVersion = "9" + l.ResourceVersion
	was := s.index.leases[l.Name]
	s.index.leases[l.Name] = later
	s.index.mu.Unlock()
	s.watch.refused.Store(true)
	if back, err := s.Restored(t.Context()); !back || err != nil {
		t.Errorf("a lease is older than it was: %t, %v", back, err)
	}
	s.index.leases[l.Name], s.index.newest = was, later.ResourceVersion
	want("the newest version is older than it was", true)
}
