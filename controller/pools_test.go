package controller

import (
	"context"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/controller/subnets"
)

func conflict() error {
	return apierrors.NewConflict(schema.GroupResource{Group: "berth.dev", Resource: "ipleases"}, "x", nil)
}

type poolWorld struct {
	client client.Client
	writes int // of status
	events recorded
	clock  time.Time
	r      *poolReconciler
}

func newPoolWorld(objects ...client.Object) *poolWorld {
	w := &poolWorld{clock: epoch}
	c := fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(objects...).WithStatusSubresource(&v1alpha1.IPPool{}).
		WithIndex(&v1alpha1.IPLease{}, networkIndex, func(o client.Object) []string { return []string{o.(*v1alpha1.IPLease).Spec.Network} }).
		WithIndex(&v1alpha1.IPPool{}, subnets.PlainIndex, subnets.IndexPlain).Build()
	w.client = interceptor.NewClient(c, interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			w.writes++
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	w.r = &poolReconciler{client: w.client, live: w.client, recorder: &w.events, now: func() time.Time { return w.clock }}
	return w
}

func (w *poolWorld) reconcile(t *testing.T, name string) reconcile.Result {
	t.Helper()
	res, err := w.r.Reconcile(t.Context(), request(name))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *poolWorld) pool(t *testing.T, name string) *v1alpha1.IPPool {
	t.Helper()
	var p v1alpha1.IPPool
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: name}, &p); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		t.Fatal(err)
	}
	return &p
}

func TestReconcileWritesWhatChanged(t *testing.T) {
	l := lease("net", "10.6.0.1", "a", v1alpha1.LeaseBound)
	w := newPoolWorld(pool("a", "net", subnet("10.6.0.0/24")), &l)
	w.reconcile(t, "a")
	p := w.pool(t, "a")
	if p.Status.Free != "253" || p.Status.Total != "254" || p.Status.IPv4.Bound != 1 || p.Status.Subnets != "10.6.0.0/24" {
		t.Errorf("status %+v", p.Status)
	}
	if !slices.Contains(p.Finalizers, Finalizer) {
		t.Errorf("finalizers %q", p.Finalizers)
	}
	w.clock = w.clock.Add(time.Hour)
	w.reconcile(t, "a")
	if w.writes != 1 {
		t.Errorf("%d writes of the status, want 1: nothing changed", w.writes)
	}
	w.reconcile(t, "absent")
}

func TestDeletionWaitsForLeases(t *testing.T) {
	for _, phase := range []v1alpha1.LeasePhase{v1alpha1.LeaseBound, v1alpha1.LeaseReserved} {
		t.Run(string(phase), func(t *testing.T) {
			used := lease("net", "10.6.0.1", "a", phase)
			idle := lease("net", "10.6.0.2", "a", v1alpha1.LeaseReleased)
			foreign := lease("net", "10.6.0.3", "b", v1alpha1.LeaseReleased)
			p := pool("a", "net", subnet("10.6.0.0/24"))
			p.Finalizers = []string{Finalizer}
			w := newPoolWorld(p, &used, &idle, &foreign)
			if err := w.client.Delete(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			w.clock = time.Now().Add(time.Minute) // deletion times are the fake server's
			w.reconcile(t, "a")
			got := w.pool(t, "a")
			if got == nil {
				t.Fatal("gone, though an address is in use")
			}
			if c := condition(got.Status, v1alpha1.PoolReady); c == "absent" || got.Status.Conditions == nil {
				t.Errorf("Ready is %s", c)
			}
			if err := w.client.Delete(t.Context(), &used); err != nil {
				t.Fatal(err)
			}
			w.reconcile(t, "a")
			if w.pool(t, "a") != nil {
				t.Error("still there, though nothing is in use")
			}
			var left v1alpha1.IPLeaseList
			if err := w.client.List(t.Context(), &left); err != nil {
				t.Fatal(err)
			}
			if len(left.Items) != 1 || left.Items[0].Name != foreign.Name {
				t.Errorf("leases %v, want only the other pool's", left.Items)
			}
		})
	}
}

func TestDeletionLooksLive(t *testing.T) {
	p := pool("a", "net", subnet("10.6.0.0/24"))
	p.Finalizers = []string{Finalizer}
	w := newPoolWorld(p)
	if err := w.client.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	// The time of deletion is cut to whole seconds: as late as this it may have been just now.
	w.clock = w.pool(t, "a").DeletionTimestamp.Add(statusInterval + 999*time.Millisecond)
	if res := w.reconcile(t, "a"); res.RequeueAfter <= 0 || w.pool(t, "a") == nil {
		t.Fatal("gone at once: an agent may not know of the deletion yet")
	}
	// An agent bound an address just before it learned of the deletion; the cache does not know yet.
	claimed := lease("net", "10.6.0.1", "a", v1alpha1.LeaseBound)
	w.r.live = fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(&claimed).Build()
	w.clock = time.Now().Add(time.Minute)
	if res := w.reconcile(t, "a"); res.RequeueAfter <= 0 || w.pool(t, "a") == nil {
		t.Error("gone, though the API server knows a bound lease")
	}
}

func TestAdopt(t *testing.T) {
	byHand := lease("net", "10.6.0.1", "", v1alpha1.LeaseReserved)
	unlabelled := lease("net", "10.6.0.2", "a", v1alpha1.LeaseReserved)
	unlabelled.Labels = map[string]string{"mine": "stays"}
	outside := lease("net", "10.9.0.1", "", v1alpha1.LeaseReserved)
	other := lease("net", "10.6.0.3", "b", v1alpha1.LeaseBound)
	w := newPoolWorld(pool("a", "net", subnet("10.6.0.0/24")), &byHand, &unlabelled, &outside, &other)
	w.reconcile(t, "a")
	for _, tc := range []struct{ lease, pool, family string }{
		{byHand.Name, "a", "IPv4"}, {unlabelled.Name, "a", "IPv4"}, {outside.Name, "", ""}, {other.Name, "b", ""},
	} {
		var l v1alpha1.IPLease
		if err := w.client.Get(t.Context(), client.ObjectKey{Name: tc.lease}, &l); err != nil {
			t.Fatal(err)
		}
		if l.Spec.Pool != tc.pool || l.Labels[v1alpha1.LabelPool] != tc.pool || l.Labels[v1alpha1.LabelFamily] != tc.family {
			t.Errorf("%s: pool %q, labels %v", tc.lease, l.Spec.Pool, l.Labels)
		}
		if tc.lease == unlabelled.Name && l.Labels["mine"] != "stays" {
			t.Errorf("labels %v", l.Labels)
		}
	}
}

func TestRetryConflict(t *testing.T) {
	if res, err := round.Retry(conflict(), statusInterval); err != nil || res.RequeueAfter == 0 {
		t.Errorf("%v, %v", res, err)
	}
	if _, err := round.Retry(apierrors.NewNotFound(schema.GroupResource{}, "x"), statusInterval); err != nil {
		t.Error(err)
	}
	if _, err := round.Retry(context.DeadlineExceeded, statusInterval); err == nil {
		t.Error("error lost")
	}
}

// woken is a queue that remembers what was put there at once and what later.
type woken struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]
	now, later []string
}

func (w *woken) Add(r reconcile.Request) { w.now = append(w.now, r.Name) }
func (w *woken) AddAfter(r reconcile.Request, d time.Duration) {
	if d == statusInterval {
		w.later = append(w.later, r.Name)
	}
}

func TestEventsWake(t *testing.T) {
	a, b := pool("a", "net", subnet("10.6.0.0/24")), pool("b", "net", subnet("10.7.0.0/24"))
	w := newPoolWorld(a, b, pool("c", "other", subnet("10.6.0.0/24")))
	l := lease("net", "10.6.0.1", "a", v1alpha1.LeaseBound)

	edited, deleted, counted := a.DeepCopy(), a.DeepCopy(), a.DeepCopy()
	edited.Generation = 2
	deleted.DeletionTimestamp = &metav1.Time{Time: epoch}
	counted.Status.Free = "7"
	pools, leases := w.r.poolEvents(), w.r.leaseEvents()
	for _, tc := range []struct {
		name       string
		act        func(q queue)
		now, later []string
	}{
		{"lease created", func(q queue) { leases.Create(t.Context(), event.CreateEvent{Object: &l}, q) }, nil, []string{"a", "b"}},
		{"lease updated", func(q queue) { leases.Update(t.Context(), event.UpdateEvent{ObjectOld: &l, ObjectNew: &l}, q) }, nil, []string{"a", "b"}},
		{"lease deleted", func(q queue) { leases.Delete(t.Context(), event.DeleteEvent{Object: &l}, q) }, nil, []string{"a", "b"}},
		{"pool created", func(q queue) { pools.Create(t.Context(), event.CreateEvent{Object: a}, q) }, []string{"a"}, []string{"a", "b"}},
		{"pool edited", func(q queue) { pools.Update(t.Context(), event.UpdateEvent{ObjectOld: a, ObjectNew: edited}, q) }, []string{"a"}, []string{"a", "b"}},
		{"pool marked", func(q queue) { pools.Update(t.Context(), event.UpdateEvent{ObjectOld: a, ObjectNew: deleted}, q) }, []string{"a"}, []string{"a", "b"}},
		{"our status", func(q queue) { pools.Update(t.Context(), event.UpdateEvent{ObjectOld: a, ObjectNew: counted}, q) }, nil, nil},
		{"pool gone", func(q queue) { pools.Delete(t.Context(), event.DeleteEvent{Object: a}, q) }, []string{"a"}, []string{"a", "b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := &woken{}
			tc.act(q)
			if !slices.Equal(q.now, tc.now) || !slices.Equal(q.later, tc.later) {
				t.Errorf("at once %q, later %q; want %q and %q", q.now, q.later, tc.now, tc.later)
			}
		})
	}
}

// TestAwaitsCarver: the status of a pool that is carved is written with what who carves has to tell, and not before; of its deletion tells
// nobody but us.
func TestAwaitsCarver(t *testing.T) {
	carved := pool("a", "net", subnet("10.6.0.0/24"))
	carved.Spec.Subnet, carved.Generation = "total", 2
	w := newPoolWorld(carved)
	w.reconcile(t, "a")
	if w.writes != 0 {
		t.Fatalf("%d writes before it is carved", w.writes)
	}
	old := w.pool(t, "a")
	p := old.DeepCopy()
	p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.PoolCarved, Status: metav1.ConditionTrue, Reason: "Carved", ObservedGeneration: 2}}
	if err := w.r.carverTells(t.Context(), old, p); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t, "a")
	if p = w.pool(t, "a"); w.writes != 1 || len(p.Status.Conditions) != 4 || p.Status.Free != "254" {
		t.Errorf("%d writes, want 1: %+v", w.writes, p.Status)
	}
	q := &woken{}
	w.r.poolEvents().Update(t.Context(), event.UpdateEvent{ObjectOld: old, ObjectNew: p}, q)
	if !slices.Equal(q.now, []string{"a"}) {
		t.Errorf("woken by what was told: %q", q.now)
	}
	if err := w.client.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t, "a")
	if w.writes != 2 {
		t.Errorf("%d writes, want 2: nobody else tells of its deletion", w.writes)
	}
}
