package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
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

	hearing hearing
	reading singleflight.Group // of all pools

	mu       sync.Mutex
	upTo     string             // resource version of the last reading
	tell     func([]*ipam.Pool) // nil: nobody wants to know
	pools    map[string]*compiled
	ctx      context.Context              // of the run
	held     map[string]bool              // pools that this node held addresses of at some time
	expected map[string]bool              // workloads' pools that pods of this node may want
	followed map[string]*ipam.Pool        // what the store follows
	awaited  map[string][]chan<- struct{} // who waits for a change of a pool
}

// compiled pool, of this version of its spec. A pool made anew under its name begins at generation 1 again.
type compiled struct {
	*ipam.Pool
	uid        types.UID
	generation int64
	growing    string // how far it is from its size; "": it is not
	unready    string // why it cannot be carved
}

func newPools(c *v1alpha1.PoolClient, p *pods, s *store.Store, maxSilence time.Duration, log *slog.Logger) *pools {
	return &pools{client: c, pods: p, store: s, log: log, hearing: hearing{max: maxSilence, now: time.Now},
		pools: map[string]*compiled{}, held: map[string]bool{}, expected: map[string]bool{}, followed: map[string]*ipam.Pool{},
		awaited: map[string][]chan<- struct{}{}}
}

// start following; returns once all pools are known. held are the pools of this node's leases.
func (p *pools) start(ctx context.Context, held []string) error {
	p.mu.Lock()
	p.ctx = ctx
	for _, name := range held {
		p.held[name] = true
	}
	p.mu.Unlock()
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType: &v1alpha1.IPPool{},
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				p.anew()
				return p.client.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				if o.SendInitialEvents != nil && *o.SendInitialEvents {
					p.anew()
				}
				return p.hearing.listen(p.client.Watch(ctx, o))
			},
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { p.put(o.(*v1alpha1.IPPool)) },
			UpdateFunc: func(_, o any) { p.put(o.(*v1alpha1.IPPool)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if pool, ok := o.(*v1alpha1.IPPool); ok {
					p.delete(pool.Name, pool.UID)
				}
			},
		},
	})
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	if _, err := p.pods.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { p.expect(ownersOf(o.(*corev1.Pod))) },
	}); err != nil {
		return err
	}
	_, err := p.pods.node.AddEventHandler(cache.ResourceEventHandlerFuncs{ // the node's labels decide which pools serve it
		AddFunc:    func(any) { p.nodeChanged(ctx) },
		UpdateFunc: func(any, any) { p.nodeChanged(ctx) },
	})
	return err
}

// put what the watch says of a pool.
func (p *pools) put(pool *v1alpha1.IPPool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outdated(pool.ResourceVersion) {
		return
	}
	p.set(pool)
	p.changed()
}

// set a pool as it is; p.mu is held.
func (p *pools) set(pool *v1alpha1.IPPool) {
	old := p.pools[pool.Name]
	if old == nil || old.uid != pool.UID || old.generation != pool.Generation || old.Deleting != (pool.DeletionTimestamp != nil) {
		c := ipam.CompileOrRefuse(pool)
		if c.Refusal != "" {
			p.log.Warn("pool gives out no address", "pool", pool.Name, "why", c.Refusal)
		}
		p.pools[pool.Name] = &compiled{Pool: c, uid: pool.UID, generation: pool.Generation, growing: growing(pool, c)}
	}
	p.pools[pool.Name].unready = unreadyOf(pool)
	p.stir(pool.Name)
}

// delete a pool, of which the watch says that it is gone.
func (p *pools) delete(name string, uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.pools[name]; c == nil || c.uid != uid {
		return
	}
	delete(p.pools, name)
	p.stir(name)
	p.changed()
}

// changed pools: whose leases are followed, and who wants to know; p.mu is held.
func (p *pools) changed() {
	p.reconcile(p.ctx)
	p.told()
}

// retell who came later.
func (p *pools) retell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told()
}

// told what pools there are is who wants to know; p.mu is held.
func (p *pools) told() {
	if p.tell != nil {
		p.tell(p.list())
	}
}

func (p *pools) nodeChanged(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reconcile(ctx)
}

// reconcile which pools' leases are followed; p.mu is held, so that a pool is not seen before its leases are.
func (p *pools) reconcile(ctx context.Context) {
	node := labels.Set(p.pods.thisNode().Labels)
	for _, l := range p.store.Bound() {
		p.held[l.Spec.Pool] = true
	}
	for name := range p.expected {
		if p.pools[name] == nil {
			delete(p.expected, name)
		}
	}
	for name, c := range p.pools {
		if !p.follows(c, node) {
			continue
		}
		if p.followed[name] != c.Pool {
			p.store.Follow(ctx, c.Pool)
			p.followed[name] = c.Pool
		}
	}
	for name := range p.followed {
		if c := p.pools[name]; c == nil || !p.follows(c, node) {
			p.store.Unfollow(name)
			delete(p.followed, name)
		}
	}
}

// all pools, by name.
func (p *pools) all() []*ipam.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list()
}

func (p *pools) list() []*ipam.Pool {
	var out []*ipam.Pool
	for _, name := range slices.Sorted(maps.Keys(p.pools)) {
		out = append(out, p.pools[name].Pool)
	}
	return out
}

// named pool; nil if there is none.
func (p *pools) named(name string) *ipam.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.pools[name]; c != nil {
		return c.Pool
	}
	return nil
}

func (p *pools) has(pool *ipam.Pool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.pools[pool.Name]
	return c != nil && c.Pool == pool
}

// wait until the leases of a pool are known, so that the choice of an address does not grope in the dark.
func (p *pools) wait(ctx context.Context, pool *ipam.Pool) error {
	for !p.store.Followed(pool.Name) {
		if !p.has(pool) {
			return fmt.Errorf("pool %q %w", pool.Name, store.ErrPoolChanged)
		}
		p.want(pool.Name)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the leases of pool %q are not yet known; try again", store.ErrUnavailable, pool.Name)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// known waits until the leases of all pools that are followed are, so that what is kept for a pod is found, in whichever pool.
func (p *pools) known(ctx context.Context) error {
	for slices.ContainsFunc(p.store.Pools(), func(pool string) bool { return !p.store.Followed(pool) }) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the leases of this node's pools are not yet known; try again", store.ErrUnavailable)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// anyNetspace names a pool that is a netspace's; "": there is none.
func (p *pools) anyNetspace() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.pools)) {
		if p.pools[name].Netspace != "" {
			return name
		}
	}
	return ""
}

// anyVLAN says whether some pool is bound to a VLAN.
func (p *pools) anyVLAN() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.pools {
		if c.VLAN != 0 {
			return true
		}
	}
	return false
}

// expect a pod of these workloads: their pools are followed from now on, before the pod's ADD comes.
func (p *pools) expect(owners []v1alpha1.PoolOwner) {
	if len(owners) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, c := range p.pools {
		if c.Owner != nil && !p.expected[name] && c.OfWorkload(owners) {
			p.expected[name] = true
			p.reconcile(p.ctx)
		}
	}
}

// want the leases of a pool followed, though nothing of it was expected on this node.
func (p *pools) want(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.expected[name] {
		p.expected[name] = true
		p.reconcile(p.ctx)
	}
}

// follows says whether the leases of a pool are to be followed: those of workloads' pools, of which there are many, only where the node
// has a pod of the workload.
func (p *pools) follows(c *compiled, node labels.Set) bool {
	return p.held[c.Name] || c.ServesNode(node) && (c.Owner == nil || p.expected[c.Name])
}
