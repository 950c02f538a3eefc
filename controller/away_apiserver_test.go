//go:build apiserver

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// away is an hour of churn in the store that agents use, while no controller runs. Its clock is its own: the hour ends now.
type away struct {
	*testing.T
	*cluster
	rnd   *rand.Rand
	now   time.Time
	pool  *ipam.Pool
	nodes []*store.Store
	live  []*tenant
}

type tenant struct {
	pod   *corev1.Pod
	node  int
	lease *v1alpha1.IPLease
	set   *appsv1.StatefulSet // whose it is; nil: nobody's
}

// TestAnHourAway: pods start and end for an hour without a controller, in the pool's every address again and again; some of them are never
// given back, since their agent was away, too. The controller then finds at its first looks what is due, and nothing else.
func TestAnHourAway(t *testing.T) {
	const minutes, perMinute, forget = 60, 12, 30 * time.Minute
	c := newCluster(t)
	p := pool("away", "awaynet", subnet("10.9.0.0/24"))
	c.create(t, p)
	a := &away{T: t, cluster: c, rnd: rand.New(rand.NewPCG(1, 2)), now: time.Now().Add(-minutes * time.Minute), pool: compile(t, p)}
	_, leases, err := v1alpha1.NewClients(c.config)
	if err != nil {
		t.Fatal(err)
	}
	hooks := store.Hooks{Collision: func() {}, Lost: func(*v1alpha1.IPLease) {}, Early: func(*v1alpha1.IPLease, time.Duration) {},
		Gone: func(context.Context, *v1alpha1.LeaseHolder) (bool, error) { return false, nil }}
	for _, node := range []string{"one", "two"} {
		s := store.New(leases, node, hooks, func() time.Time { return a.now }, slog.New(slog.DiscardHandler))
		s.Follow(t.Context(), a.pool)
		c.eventually(t, func() error {
			if !s.Followed("away") {
				return fmt.Errorf("node %s does not know the leases yet", node)
			}
			return nil
		})
		a.nodes = append(a.nodes, s)
	}
	t.Cleanup(func() {
		if err := c.admin.DeleteAllOf(context.Background(), &v1alpha1.IPLease{}, client.MatchingLabels{v1alpha1.LabelPool: "away"}); err != nil {
			t.Error(err)
		}
	})
	stays, goes := c.set(t, "away-stays"), c.set(t, "away-goes")

	lost := 0
	for m := range minutes {
		a.now = a.now.Add(time.Minute)
		for i := range perMinute {
			a.begin(fmt.Sprintf("away-%d-%d", m, i), nil)
		}
		switch m {
		case 20, 40:
			a.begin(fmt.Sprint("away-stays-", m), stays)
			a.begin(fmt.Sprint("away-goes-", m), goes)
		}
		for len(a.live) > 3*perMinute {
			deleted := a.rnd.IntN(16) > 0 || lost > 60 // else the agent is away
			if !deleted {
				lost++
			}
			a.end(a.rnd.IntN(len(a.live)), deleted)
		}
	}
	for i := len(a.live) - 1; i >= 0; i-- { // members of sets go by their DEL, so that their addresses are kept
		if a.live[i].set != nil {
			a.end(i, true)
		}
	}
	c.remove(t, goes)
	leaves := pool("away-leaves", "awaynet", subnet("10.9.1.0/24"))
	leaves.Finalizers = []string{Finalizer}
	c.create(t, leaves)
	gone := c.pod(t, "away-gone")
	held := c.lease(t, "awaynet", "10.9.1.1", "away-leaves", v1alpha1.LeaseBound, holderOf(gone))
	c.remove(t, gone)
	if err := c.admin.Delete(t.Context(), leaves); err != nil {
		t.Fatal(err)
	}
	if lost == 0 || len(a.live) == 0 {
		t.Fatalf("%d leases lost, %d pods live: nothing to find", lost, len(a.live))
	}

	c.start(t, func(cfg *Config) { cfg.ForgetAfter = forget })
	var all v1alpha1.IPLeaseList
	c.eventually(t, func() error {
		all = v1alpha1.IPLeaseList{}
		if err := c.admin.List(t.Context(), &all, client.MatchingFields{"spec.network": "awaynet"}); err != nil {
			return err
		}
		due := 0
		for i := range all.Items {
			if l := &all.Items[i]; a.judge(l, goes, forget) != nil || l.Name == held.Name {
				due++
			}
		}
		if due > 0 {
			return fmt.Errorf("%d of %d leases are not what they should be, such as: %w", due, len(all.Items), a.first(all.Items, goes, forget))
		}
		return client.IgnoreNotFound(c.admin.Get(t.Context(), client.ObjectKeyFromObject(leaves), leaves))
	})
	byName := map[string]*v1alpha1.IPLease{}
	for i := range all.Items {
		byName[all.Items[i].Name] = &all.Items[i]
	}
	kept := 0
	for _, l := range byName {
		if l.Spec.Phase == v1alpha1.LeaseReserved && l.Spec.Identity.UID == stays.UID {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d addresses are kept for the StatefulSet that is there, want 2", kept)
	}
	for _, l := range a.live {
		if got := byName[l.lease.Name]; got == nil || got.ResourceVersion != l.lease.ResourceVersion {
			t.Errorf("lease %s of the living pod %s was touched: %+v", l.lease.Name, l.pod.Name, got)
		}
	}
	if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(leaves), leaves); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the deleted pool: %v, want it gone with its last lease", err)
	}
	t.Logf("%d pods, %d of them without DEL, %d live; %d leases left", minutes*perMinute+4, lost, len(a.live), len(all.Items))
}

// begin a pod on a node, which needs no controller for its address.
func (a *away) begin(name string, set *appsv1.StatefulSet) {
	a.Helper()
	l := &tenant{pod: a.cluster.pod(a.T, name), node: a.rnd.IntN(len(a.nodes)), set: set}
	who := ipam.Claimant{Holder: v1alpha1.LeaseHolder{Namespace: l.pod.Namespace, Pod: name, UID: l.pod.UID, Node: [...]string{"one", "two"}[l.node],
		ContainerID: "c-" + name, Interface: "net1"}}
	if set != nil {
		who.Identity = &v1alpha1.LeaseIdentity{Kind: v1alpha1.IdentityStatefulSet, Namespace: set.Namespace, Name: set.Name, Pod: name,
			Interface: "net1", UID: set.UID, Ends: v1alpha1.EndsWithOwner}
	}
	var err error
	if l.lease, err = a.nodes[l.node].Claim(a.Context(), a.pool, ipam.Pick{Family: ipam.IPv4}, who); err != nil {
		a.Fatalf("pod %s: %v", name, err)
	}
	a.live = append(a.live, l)
}

// end the i-th pod; without DEL nobody gives its lease back.
func (a *away) end(i int, del bool) {
	a.Helper()
	l := a.live[i]
	a.live = append(a.live[:i], a.live[i+1:]...)
	if del || l.set != nil {
		if err := a.nodes[l.node].Release(a.Context(), l.lease); err != nil {
			a.Fatalf("pod %s: %v", l.pod.Name, err)
		}
	}
	a.cluster.remove(a.T, l.pod)
}

// judge says what is due with a lease after the controller's looks; nil: nothing.
func (a *away) judge(l *v1alpha1.IPLease, goes *appsv1.StatefulSet, forget time.Duration) error {
	i := l.Spec.Identity
	switch {
	case l.Spec.Phase == v1alpha1.LeaseBound:
		for _, t := range a.live {
			if t.lease.Name == l.Name {
				return nil
			}
		}
		return fmt.Errorf("%s is bound to %s, which is gone", l.Name, l.Spec.Holder.Pod)
	case l.Spec.Phase == v1alpha1.LeaseReserved && i.UID == goes.UID:
		return fmt.Errorf("%s is kept for a StatefulSet that is gone", l.Name)
	case l.Spec.Phase == v1alpha1.LeaseReleased && time.Since(l.Spec.ReleasedAt.Time) > forget:
		return fmt.Errorf("%s was released at %s, and is not forgotten", l.Name, l.Spec.ReleasedAt)
	}
	return nil
}

func (a *away) first(leases []v1alpha1.IPLease, goes *appsv1.StatefulSet, forget time.Duration) error {
	for i := range leases {
		if err := a.judge(&leases[i], goes, forget); err != nil {
			return err
		}
	}
	return nil
}
