package controller

import (
	"context"
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
	"github.com/berthdev/berth/ipam"
)

// collector frees the leases whose DEL never came, and forgets those released long ago. It acts on what sweeper decides.
type collector struct {
	cached   client.Client
	live     client.Reader // uncached
	recorder eventRecorder
	log      logr.Logger
	now      func() time.Time
	interval time.Duration

	sweeper sweeper
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

func (c *collector) pass(ctx context.Context) error {
	snap, err := c.snapshot(ctx)
	if err != nil {
		return err
	}
	p := c.sweeper.look(snap)
	gcInDoubt.Reset()
	for reason, n := range p.inDoubt {
		gcInDoubt.WithLabelValues(reason).Set(float64(n))
	}
	gcSuspects.Set(float64(p.suspects))

	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, l := range p.release {
		g.Go(func() error {
			alive, err := c.release(ctx, l.DeepCopy())
			if alive {
				mu.Lock()
				c.sweeper.alive(l)
				mu.Unlock()
			}
			return err
		})
	}
	for _, l := range p.forget {
		g.Go(func() error { return c.forget(ctx, l.DeepCopy()) })
	}
	return g.Wait()
}

func (c *collector) snapshot(ctx context.Context) (snapshot, error) {
	var leases v1alpha1.IPLeaseList
	var pods corev1.PodList
	var nodes corev1.NodeList
	for _, list := range []client.ObjectList{&leases, &pods, &nodes} {
		if err := c.cached.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return snapshot{}, err
		}
	}
	snap := snapshot{leases: leases.Items, pods: map[types.NamespacedName]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, now: c.now()}
	for i := range pods.Items {
		snap.pods[client.ObjectKeyFromObject(&pods.Items[i])] = &pods.Items[i]
	}
	for i := range nodes.Items {
		snap.nodes[nodes.Items[i].Name] = &nodes.Items[i]
	}
	return snap, nil
}

// release looks at pod and node live, and frees the lease if it still is as the snapshot had it: the write carries UID and resource
// version, so that a claim in between wins. alive means that the live look does not find the holder dead.
func (c *collector) release(ctx context.Context, l *v1alpha1.IPLease) (alive bool, err error) {
	h := l.Spec.Holder
	pod, err := get(ctx, c.live, types.NamespacedName{Namespace: h.Namespace, Name: h.Pod}, &corev1.Pod{})
	if err != nil {
		return false, fmt.Errorf("lease %q: live look at its pod: %w", l.Name, err)
	}
	node, err := get(ctx, c.live, types.NamespacedName{Name: h.Node}, &corev1.Node{})
	if err != nil {
		return false, fmt.Errorf("lease %q: live look at its node: %w", l.Name, err)
	}
	f := judge(l, pod, node)
	if f.verdict != dead {
		return true, nil
	}
	was := describe(l)
	ipam.Release(l, h, c.now())
	if err := c.cached.Update(ctx, l); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return false, nil // somebody else wrote it; the next look sees what
		}
		return false, fmt.Errorf("lease %q: %w", l.Name, err)
	}
	gcReleased.WithLabelValues(f.reason).Inc()
	c.log.Info("freed", "lease", l.Name, "reason", f.reason, "holder", was)
	c.recorder.Eventf(l, nil, corev1.EventTypeNormal, f.reason, "Release", "freed %s, whose DEL never came", was)
	return false, nil
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
