package controller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berthdev/berth/api/v1alpha1"
)

// world is a collector over two views: cached may be behind live.
type world struct {
	cached, live client.WithWatch
	clock        time.Time
	events       recorded
	c            *collector
}

func newWorld(hooks interceptor.Funcs, objects ...client.Object) *world {
	w := &world{clock: epoch}
	w.cached = interceptor.NewClient(fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(objects...).Build(), hooks)
	w.live = w.cached
	w.c = &collector{
		cached: w.cached, live: w.live, recorder: &w.events, log: logr.Discard(), now: func() time.Time { return w.clock }, interval: time.Second,
		sweeper: sweeper{confirmAfter: 45 * time.Second, forgetAfter: time.Hour},
	}
	return w
}

// pass at a time after the beginning.
func (w *world) pass(t *testing.T, after time.Duration) error {
	t.Helper()
	w.clock = epoch.Add(after)
	return w.c.pass(t.Context())
}

func (w *world) phase(t *testing.T, name string) v1alpha1.LeasePhase {
	t.Helper()
	var l v1alpha1.IPLease
	if err := w.cached.Get(t.Context(), client.ObjectKey{Name: name}, &l); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return ""
		}
		t.Fatal(err)
	}
	return l.Spec.Phase
}

func TestCollectorFreesAtTheSecondLook(t *testing.T) {
	l := held("10.6.0.1", "p", "u")
	w := newWorld(interceptor.Funcs{}, &l, node("n", corev1.ConditionTrue))
	for after, want := range map[time.Duration]v1alpha1.LeasePhase{0: v1alpha1.LeaseBound} {
		if err := w.pass(t, after); err != nil {
			t.Fatal(err)
		}
		if got := w.phase(t, l.Name); got != want {
			t.Fatalf("after %s: %s", after, got)
		}
	}
	if err := w.pass(t, time.Minute); err != nil {
		t.Fatal(err)
	}
	var got v1alpha1.IPLease
	if err := w.cached.Get(t.Context(), client.ObjectKeyFromObject(&l), &got); err != nil {
		t.Fatal(err)
	}
	if got.Spec.Phase != v1alpha1.LeaseReleased || got.Spec.ReleasedAt == nil || got.Spec.Holder == nil || got.Spec.Holder.UID != "u" {
		t.Errorf("lease %+v, want it released, with its last holder", got.Spec)
	}
	if len(w.events) != 1 {
		t.Errorf("events %q", w.events)
	}
	if err := w.pass(t, 3*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := w.phase(t, l.Name); got != "" {
		t.Errorf("%s hours after its release", got)
	}
}

// The cache may be behind: what the API server says counts.
func TestCollectorLooksLive(t *testing.T) {
	l := held("10.6.0.1", "p", "u")
	w := newWorld(interceptor.Funcs{}, &l, node("n", corev1.ConditionTrue))
	w.c.live = fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(pod("p", "u", corev1.PodRunning), node("n", corev1.ConditionTrue)).Build()
	for _, after := range []time.Duration{0, time.Minute, 80 * time.Second} {
		if err := w.pass(t, after); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.phase(t, l.Name); got != v1alpha1.LeaseBound {
		t.Errorf("%s, though its pod lives", got)
	}
	// The live look cleared the suspicion: a pass too soon after it finds no pod, and still keeps the lease.
	w.c.live = w.cached
	if err := w.pass(t, 90*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := w.phase(t, l.Name); got != v1alpha1.LeaseBound {
		t.Errorf("%s, 10 seconds after its pod was seen alive", got)
	}
}

func TestCollectorKeepsWhenTheAPIServerFails(t *testing.T) {
	l := held("10.6.0.1", "p", "u")
	w := newWorld(interceptor.Funcs{}, &l, node("n", corev1.ConditionTrue))
	broken := errors.New("etcdserver: request timed out")
	w.c.live = interceptor.NewClient(w.cached, interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return broken
		},
	})
	if err := w.pass(t, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.pass(t, time.Minute); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if got := w.phase(t, l.Name); got != v1alpha1.LeaseBound {
		t.Errorf("%s without a live look", got)
	}
}

// A new sandbox of the pod takes the lease between the look and the write.
func TestCollectorLosesToAClaim(t *testing.T) {
	l := held("10.6.0.1", "p", "u")
	claimed := false
	w := newWorld(interceptor.Funcs{
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			var fresh v1alpha1.IPLease
			if err := c.Get(ctx, client.ObjectKeyFromObject(o), &fresh); err != nil {
				return err
			}
			fresh.Spec.Holder.ContainerID = "newer"
			if err := c.Update(ctx, &fresh); err != nil {
				return err
			}
			claimed = true
			return c.Update(ctx, o, opts...)
		},
	}, &l, node("n", corev1.ConditionTrue))
	for _, after := range []time.Duration{0, time.Minute} {
		if err := w.pass(t, after); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.phase(t, l.Name); !claimed || got != v1alpha1.LeaseBound {
		t.Errorf("%s (claimed: %v), want the claim to win", got, claimed)
	}
}

func TestCollectorForgetLosesToAClaim(t *testing.T) {
	l := lease("net", "10.6.0.1", "a", v1alpha1.LeaseReleased)
	w := newWorld(interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			do := client.DeleteOptions{}
			do.ApplyOptions(opts)
			if do.Preconditions == nil || do.Preconditions.UID == nil || do.Preconditions.ResourceVersion == nil {
				t.Error("delete without preconditions")
			}
			return conflict()
		},
	}, &l)
	if err := w.pass(t, 2*time.Hour); err != nil {
		t.Errorf("error %v; a lost race is none", err)
	}
	if got := w.phase(t, l.Name); got != v1alpha1.LeaseReleased {
		t.Errorf("phase %s", got)
	}
}

func TestCollectorStopsWithItsContext(t *testing.T) {
	w := newWorld(interceptor.Funcs{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.c.Start(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("still running")
	}
}

// An error of one lease keeps no other waiting.
func TestCollectorGoesOn(t *testing.T) {
	stuck, other := held("10.6.0.1", "p", "u"), held("10.6.0.2", "q", "v")
	w := newWorld(interceptor.Funcs{}, &stuck, &other, node("n", corev1.ConditionTrue))
	broken := errors.New("etcdserver: request timed out")
	w.c.live = interceptor.NewClient(w.cached, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if key.Name == "p" {
				return broken
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	if err := w.pass(t, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.pass(t, time.Minute); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if a, b := w.phase(t, stuck.Name), w.phase(t, other.Name); a != v1alpha1.LeaseBound || b != v1alpha1.LeaseReleased {
		t.Errorf("%s and %s, want the first kept and the other freed", a, b)
	}
}

// What cannot be listed is in doubt, and ends nothing; what can, does.
func TestCollectorKeepsWithoutAnswer(t *testing.T) {
	set := reserved("10.6.0.1", v1alpha1.IdentityStatefulSet, v1alpha1.EndsWithOwner)
	vm := reserved("10.6.0.2", v1alpha1.IdentityVM, v1alpha1.EndsWithOwner)
	w := newWorld(interceptor.Funcs{}, &set, &vm, pool("a", "net", subnet("10.6.0.0/24")))
	broken := errors.New("etcdserver: request timed out")
	w.c.live = interceptor.NewClient(w.cached, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			switch l.GetObjectKind().GroupVersionKind().Kind {
			case "StatefulSetList":
				return nil // none
			}
			return broken
		},
	})
	for _, after := range []time.Duration{0, time.Minute, time.Hour} {
		if err := w.pass(t, after); !errors.Is(err, broken) {
			t.Errorf("error %v, want %v", err, broken)
		}
	}
	if a, b := w.phase(t, set.Name), w.phase(t, vm.Name); a != "" && a != v1alpha1.LeaseReleased || b != v1alpha1.LeaseReserved {
		t.Errorf("%s and %s, want the set's ended and the machine's kept", a, b)
	}
	n := 0
	for _, e := range w.events {
		if strings.Contains(e, "Warning "+noOwnerAnswer) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d events of doubt among %q, want 1", n, w.events)
	}
}

// The pool may have been given more time, or the owner been made again, since the cache heard of them.
func TestCollectorLooksLiveForOwners(t *testing.T) {
	l := reserved("10.6.0.1", v1alpha1.IdentityName, v1alpha1.EndsAfterTime)
	stale := pool("a", "net", subnet("10.6.0.0/24"))
	stale.Spec.ReservedFor = &metav1.Duration{Duration: time.Minute}
	w := newWorld(interceptor.Funcs{}, &l, stale)
	fresh := stale.DeepCopy()
	fresh.Spec.ReservedFor = &metav1.Duration{Duration: time.Hour}
	w.c.live = fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(fresh).Build()
	for after, want := range map[time.Duration]v1alpha1.LeasePhase{2 * time.Minute: v1alpha1.LeaseReserved} {
		if err := w.pass(t, after); err != nil {
			t.Fatal(err)
		}
		if got := w.phase(t, l.Name); got != want {
			t.Errorf("%s after %s, want %s", got, after, want)
		}
	}
	if err := w.pass(t, time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := w.phase(t, l.Name); got != v1alpha1.LeaseReleased {
		t.Errorf("%s after the pool's time", got)
	}
}
