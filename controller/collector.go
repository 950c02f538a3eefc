package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/ipam"
)

// collector frees the leases whose DEL never came, ends reservations and quarantines, and forgets what was released long ago. It acts on
// what sweeper decides.
type collector struct {
	cached   client.Client
	live     client.Reader // uncached
	recorder round.Recorder
	log      logr.Logger
	now      func() time.Time
	interval time.Duration

	sweeper sweeper
	mu      sync.Mutex // of sweeper, while leases are written
}

// writers is how many leases are written at a time; the client's rate limit holds besides.
const writers = 8

// NeedLeaderElection is true: one collector is enough, though several would do no harm but load.
func (c *collector) NeedLeaderElection() bool { return true }

// Start looks once per interval until ctx ends. The manager calls it once the caches are filled, on the leader only.
func (c *collector) Start(ctx context.Context) error {
	t := time.NewTicker(c.interval)
	defer t.Stop()
	for {
		if err := c.pass(ctx); err != nil && ctx.Err() == nil {
			c.log.Error(err, "garbage collection; next try after the interval", "interval", c.interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// pass is one look and what follows from it. An error of one lease, or of one kind of owner, keeps nobody else waiting.
func (c *collector) pass(ctx context.Context) error {
	snap, err := c.snapshot(ctx)
	if err != nil {
		return err
	}
	var unread error
	snap.owners, unread = owners(ctx, c.live, snap.leases)
	p := c.sweeper.look(snap)
	c.tell(p)

	var g errgroup.Group
	g.SetLimit(writers)
	for _, d := range p.release {
		g.Go(func() error { return c.release(ctx, d) })
	}
	for _, l := range p.unreserve {
		g.Go(func() error { return c.unreserve(ctx, l.DeepCopy()) })
	}
	for _, l := range p.unquarantine {
		g.Go(func() error { return c.unquarantine(ctx, l.DeepCopy()) })
	}
	for _, l := range p.forget {
		g.Go(func() error { return c.forget(ctx, l.DeepCopy()) })
	}
	return errors.Join(unread, g.Wait())
}

func (c *collector) snapshot(ctx context.Context) (snapshot, error) {
	var leases v1alpha1.IPLeaseList
	var pools v1alpha1.IPPoolList
	var pods corev1.PodList
	var nodes corev1.NodeList
	for _, list := range []client.ObjectList{&leases, &pools, &pods, &nodes} {
		if err := c.cached.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return snapshot{}, err
		}
	}
	snap := snapshot{leases: leases.Items, now: c.now(),
		pods: map[types.NamespacedName]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, pools: map[string]*v1alpha1.IPPool{}}
	for i := range pools.Items {
		snap.pools[pools.Items[i].Name] = &pools.Items[i]
	}
	for i := range pods.Items {
		snap.pods[client.ObjectKeyFromObject(&pods.Items[i])] = &pods.Items[i]
	}
	for i := range nodes.Items {
		snap.nodes[nodes.Items[i].Name] = &nodes.Items[i]
	}
	return snap, nil
}

// tell what is kept, and why.
func (c *collector) tell(p plan) {
	gcInDoubt.Reset()
	for reason, n := range p.inDoubt {
		gcInDoubt.WithLabelValues(reason).Set(float64(n))
	}
	gcSuspects.Set(float64(p.suspects))
	for _, d := range p.doubts {
		what := d.lease.Spec.Address
		switch {
		case d.holder != nil:
			what = describe(what, d.holder)
		case d.lease.Spec.Phase == v1alpha1.LeaseReserved:
			what += " of " + describeIdentity(d.lease.Spec.Identity)
		}
		c.recorder.Eventf(d.lease, nil, corev1.EventTypeWarning, d.reason, "Keep", "%s is kept: %s", what, doubts[d.reason])
	}
}

// release looks at pods and nodes live, and takes the lease from those of its holders that are gone if it still is as the snapshot had
// it: the write carries UID and resource version, so that a claim in between wins.
func (c *collector) release(ctx context.Context, d departure) error {
	l := d.lease.DeepCopy()
	type freed struct{ who, reason string }
	var done []freed
	for _, h := range d.holders {
		pod, err := get(ctx, c.live, types.NamespacedName{Namespace: h.Namespace, Name: h.Pod}, &corev1.Pod{})
		if err != nil {
			return fmt.Errorf("lease %q: live look at its pod: %w", l.Name, err)
		}
		node, err := get(ctx, c.live, types.NamespacedName{Name: h.Node}, &corev1.Node{})
		if err != nil {
			return fmt.Errorf("lease %q: live look at its node: %w", l.Name, err)
		}
		f := judge(h, pod, node)
		if f.verdict != dead {
			c.alive(holdingOf(l, h))
			continue
		}
		ipam.Release(l, h, c.now())
		done = append(done, freed{describe(l.Spec.Address, h), f.reason})
	}
	if len(done) == 0 {
		return nil
	}
	if written, err := c.write(ctx, l); !written {
		return err
	}
	for _, f := range done {
		gcReleased.WithLabelValues(f.reason).Inc()
		c.log.Info("freed", "lease", l.Name, "reason", f.reason, "holder", f.who, "phase", l.Spec.Phase)
		c.recorder.Eventf(l, nil, corev1.EventTypeNormal, f.reason, "Release", "freed %s, whose DEL never came%s", f.who, remains(l))
	}
	return nil
}

// remains says what has become of a lease that a holder has lost.
func remains(l *v1alpha1.IPLease) string {
	switch l.Spec.Phase {
	case v1alpha1.LeaseBound:
		return fmt.Sprintf("; pod %s/%s has it", l.Spec.Holder.Namespace, l.Spec.Holder.Pod)
	case v1alpha1.LeaseReserved:
		return "; it is kept for " + describeIdentity(l.Spec.Identity)
	}
	return ""
}

// unreserve looks at pool and owner live, and gives the lease up if it still is as the snapshot had it.
func (c *collector) unreserve(ctx context.Context, l *v1alpha1.IPLease) error {
	pool, err := get(ctx, c.live, types.NamespacedName{Name: l.Spec.Pool}, &v1alpha1.IPPool{})
	if err != nil {
		return fmt.Errorf("lease %q: live look at its pool: %w", l.Name, err)
	}
	var o owner
	if l.Spec.Identity.Ends == v1alpha1.EndsWithOwner {
		if o, err = liveOwner(ctx, c.live, ownerOf(l.Spec.Identity)); err != nil {
			return fmt.Errorf("lease %q: live look at the owner of its identity: %w", l.Name, err)
		}
	}
	f := judgeIdentity(l, pool, o, c.sweeper.reserveFor, c.now())
	if f.verdict != dead && f.verdict != over {
		c.alive(holdingOf(l, nil))
		return nil
	}
	was := describeIdentity(l.Spec.Identity)
	ipam.Unreserve(l, c.now())
	if written, err := c.write(ctx, l); !written {
		return err
	}
	gcUnreserved.WithLabelValues(f.reason).Inc()
	c.log.Info("reservation ended", "lease", l.Name, "reason", f.reason, "identity", was)
	c.recorder.Eventf(l, nil, corev1.EventTypeNormal, f.reason, "Release", "%s is no longer kept for %s", l.Spec.Address, was)
	return nil
}

// unquarantine needs no live look: whoever sees the other one again writes so into the lease, and then our write fails.
func (c *collector) unquarantine(ctx context.Context, l *v1alpha1.IPLease) error {
	was := *l.Spec.Conflict
	ipam.Unquarantine(l, c.now())
	if written, err := c.write(ctx, l); !written {
		return err
	}
	gcUnquarantined.Inc()
	c.log.Info("quarantine ended", "lease", l.Name, "mac", was.MAC, "seenAt", was.SeenAt.Time)
	c.recorder.Eventf(l, nil, corev1.EventTypeNormal, conflictSilent, "Release",
		"%s is given out again: %s has not answered for it since %s", l.Spec.Address, was.MAC, was.SeenAt.UTC().Format(time.RFC3339))
	return nil
}

// write a lease that still is as it was read. A conflict is no error: somebody else wrote it, and the next look sees what.
func (c *collector) write(ctx context.Context, l *v1alpha1.IPLease) (written bool, err error) {
	err = c.cached.Update(ctx, l)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("lease %q: %w", l.Name, err)
	}
	return true, nil
}

func (c *collector) alive(key holding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweeper.alive(key)
}

func (c *collector) forget(ctx context.Context, l *v1alpha1.IPLease) error {
	err := deleteUnchanged(ctx, c.cached, l)
	switch {
	case apierrors.IsConflict(err):
		return nil // claimed meanwhile
	case err != nil:
		return fmt.Errorf("lease %q: %w", l.Name, err)
	}
	gcForgotten.Inc()
	return nil
}

// get an object; nil if there is none of that name.
func get[T any, P interface {
	*T
	client.Object
}](ctx context.Context, r client.Reader, key types.NamespacedName, into P) (P, error) {
	if key.Name == "" {
		return nil, nil
	}
	err := r.Get(ctx, key, into)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return into, nil
}
