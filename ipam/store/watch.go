package store

import (
	"context"
	"sync"
	"sync/atomic"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// watches are the pools whose leases this node follows: one watch a pool, narrowed by the server.
type watches struct {
	client *v1alpha1.LeaseClient
	index  *index

	// refused: a watch could not go on from the version that it had. That is so after a long silence, or when etcd was restored.
	refused atomic.Bool

	mu   sync.Mutex
	pool map[string]*poolWatch
}

type poolWatch struct {
	stop   context.CancelFunc
	done   chan struct{}
	synced cache.InformerSynced
}

func newWatches(c *v1alpha1.LeaseClient, x *index) *watches {
	return &watches{client: c, index: x, pool: map[string]*poolWatch{}}
}

// Follow the leases of a pool from now on, or take note of its new spec, until ctx ends or Unfollow.
func (s *Store) Follow(ctx context.Context, p *ipam.Pool) {
	w := s.watch
	w.index.setPool(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pool[p.Name] == nil {
		w.pool[p.Name] = w.start(ctx, p.Name)
	}
}

// Unfollow a pool that cannot serve this node and of which this node holds nothing.
func (s *Store) Unfollow(pool string) {
	w := s.watch
	w.mu.Lock()
	running := w.pool[pool]
	delete(w.pool, pool)
	w.mu.Unlock()
	if running != nil {
		running.stop()
		<-running.done
	}
	w.index.dropPool(pool)
}

// Followed says whether the leases of the pool are known, as of the start of its watch or later.
func (s *Store) Followed(pool string) bool {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	w := s.watch.pool[pool]
	return w != nil && w.synced()
}

// Pools that are followed.
func (s *Store) Pools() []string {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	out := make([]string, 0, len(s.watch.pool))
	for name := range s.watch.pool {
		out = append(out, name)
	}
	return out
}

// LoadOwn reads the leases that this node holds, whichever their pools: at start, so that a DEL finds its lease even if the pool no
// longer serves this node. It returns the names of their pools, which are to be followed.
func (s *Store) LoadOwn(ctx context.Context) (pools []string, err error) {
	seen := map[string]bool{}
	for _, label := range []string{v1alpha1.LabelNode, v1alpha1.LabelNextNode} {
		list, err := s.client.List(ctx, s.ofThisNode(label))
		if err != nil {
			return nil, unavailable("list", "of node "+s.node, err)
		}
		for i := range list.Items {
			l := &list.Items[i]
			s.index.put(l)
			if l.Spec.Phase == v1alpha1.LeaseBound && !seen[l.Spec.Pool] {
				seen[l.Spec.Pool] = true
				pools = append(pools, l.Spec.Pool)
			}
		}
	}
	return pools, nil
}

// ofThisNode selects leases by a label that names nodes.
func (s *Store) ofThisNode(label string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: label + "=" + ipam.LabelValue(s.node)}
}

func (w *watches) start(ctx context.Context, pool string) *poolWatch {
	selector := v1alpha1.LabelPool + "=" + pool
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType: &v1alpha1.IPLease{},
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = selector
				return w.client.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = selector
				return refusals(&w.refused)(w.client.Watch(ctx, o))
			},
		},
		Transform: func(o any) (any, error) {
			if l, ok := o.(*v1alpha1.IPLease); ok {
				return trim(l), nil
			}
			return o, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.index.put(o.(*v1alpha1.IPLease)) },
			UpdateFunc: func(_, o any) { w.index.put(o.(*v1alpha1.IPLease)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if l, ok := o.(*v1alpha1.IPLease); ok {
					w.index.deleted(pool, l)
				}
			},
		},
	})
	ctx, stop := context.WithCancel(ctx)
	p := &poolWatch{stop: stop, done: make(chan struct{}), synced: informer.HasSynced}
	go func() {
		defer close(p.done)
		informer.RunWithContext(ctx)
	}()
	return p
}

// trim what nobody here reads, and what is said twice: a node may know many leases, of few nodes and pools. The labels are made anew by
// each write.
func trim(l *v1alpha1.IPLease) *v1alpha1.IPLease {
	l.ManagedFields, l.TypeMeta = nil, metav1.TypeMeta{}
	ipam.Unlabel(l)
	spec := &l.Spec
	shared(&spec.Network, &spec.Pool)
	for _, h := range []*v1alpha1.LeaseHolder{spec.Holder, spec.Next} {
		if h != nil {
			shared(&h.Namespace, &h.Node, &h.Interface, &h.Attachment, &h.Parent)
		}
	}
	return l
}

// shared makes equal strings one.
func shared(strings ...*string) {
	for _, s := range strings {
		*s = unique.Make(*s).Value()
	}
}
