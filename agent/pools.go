package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// pools follows all IPPools, compiled, and has the store follow the leases of those that serve this node or of which it
// holds an address.
type pools struct {
	client *v1alpha1.PoolClient
	pods   *pods
	store  *store.Store
	log    *slog.Logger

	mu       sync.Mutex
	pools    map[string]*compiled
	held     map[string]bool  // pools that this node held addresses of when it started
	followed map[string]int64 // generation that the store follows
}

type compiled struct {
	*ipam.Pool
	generation int64
}

func newPools(c *v1alpha1.PoolClient, p *pods, s *store.Store, log *slog.Logger) *pools {
	return &pools{client: c, pods: p, store: s, log: log,
		pools: map[string]*compiled{}, held: map[string]bool{}, followed: map[string]int64{}}
}

// start following; returns once all pools are known. held are the pools of this node's leases.
func (p *pools) start(ctx context.Context, held []string) error {
	for _, name := range held {
		p.held[name] = true
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType: &v1alpha1.IPPool{},
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return p.client.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return p.client.Watch(ctx, o)
			},
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { p.put(ctx, o.(*v1alpha1.IPPool)) },
			UpdateFunc: func(_, o any) { p.put(ctx, o.(*v1alpha1.IPPool)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if pool, ok := o.(*v1alpha1.IPPool); ok {
					p.delete(ctx, pool.Name)
				}
			},
		},
	})
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	_, err := p.pods.node.AddEventHandler(cache.ResourceEventHandlerFuncs{ // the node's labels decide which pools serve it
		AddFunc:    func(any) { p.reconcile(ctx) },
		UpdateFunc: func(any, any) { p.reconcile(ctx) },
	})
	return err
}

func (p *pools) put(ctx context.Context, pool *v1alpha1.IPPool) {
	p.mu.Lock()
	old := p.pools[pool.Name]
	if old == nil || old.generation != pool.Generation || old.Deleting != (pool.DeletionTimestamp != nil) {
		c := ipam.CompileOrRefuse(pool)
		if c.Refusal != "" {
			p.log.Warn("pool gives out no address", "pool", pool.Name, "why", c.Refusal)
		}
		p.pools[pool.Name] = &compiled{c, pool.Generation}
	}
	p.mu.Unlock()
	p.reconcile(ctx)
}

func (p *pools) delete(ctx context.Context, name string) {
	p.mu.Lock()
	delete(p.pools, name)
	p.mu.Unlock()
	p.reconcile(ctx)
}

// reconcile which pools' leases are followed.
func (p *pools) reconcile(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	node := labels.Set(p.pods.thisNode().Labels)
	for _, l := range p.store.Bound() {
		p.held[l.Spec.Pool] = true
	}
	for name, c := range p.pools {
		if !c.ServesNode(node) && !p.held[name] {
			continue
		}
		if g, ok := p.followed[name]; !ok || g != c.generation {
			p.store.Follow(ctx, c.Pool)
			p.followed[name] = c.generation
		}
	}
	for name := range p.followed {
		if c := p.pools[name]; c == nil || !c.ServesNode(node) && !p.held[name] {
			p.store.Unfollow(name)
			delete(p.followed, name)
		}
	}
}

// all pools, by name.
func (p *pools) all() []*ipam.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*ipam.Pool
	for _, name := range slices.Sorted(maps.Keys(p.pools)) {
		out = append(out, p.pools[name].Pool)
	}
	return out
}

// get a pool; nil if it does not exist.
func (p *pools) get(name string) *ipam.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.pools[name]; c != nil {
		return c.Pool
	}
	return nil
}

// wait until the leases of a pool are known, so that the choice of an address does not grope in the dark.
func (p *pools) wait(ctx context.Context, name string) error {
	for !p.store.Followed(name) {
		select {
		case <-ctx.Done():
			return store.ErrUnavailable
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}
