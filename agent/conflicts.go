package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// watchPeriod is the time between looks at what is to be watched.
var watchPeriod = 5 * time.Second

const (
	writeTimeout = 10 * time.Second
	// notesPerMinute bounds what this node writes of conflicts, however much is forged on the wire.
	notesPerMinute = 16
	// All nodes of a segment hear the same. Each waits some time of its own before it writes, so that the first to write is the only
	// one, and so that news of a claim are here before its address is heard.
	leastDelay, delaySpread = time.Second, 4 * time.Second
)

// conflicts finds addresses that are used on the wire by somebody who does not hold them. The kernel hears them (package bpf); no ADD
// waits for it. Who wins the write of the lease tells of it: a conflict is an event once a minute, whatever the number of nodes.
type conflicts struct {
	node   string
	store  *store.Store
	pools  *pools
	path   servicePath
	events events.EventRecorder
	counts *metrics
	log    *slog.Logger
	now    func() time.Time

	queue   workqueue.TypedDelayingInterface[path.Sighting]
	limit   *rate.Limiter
	limited rate.Sometimes // warns

	kick chan struct{} // wakes watch

	mu       sync.Mutex
	networks map[string]string // by parent
	listened map[string]bool   // names of pools whose addresses are listened to
}

func newConflicts(a *Agent) *conflicts {
	return &conflicts{
		node: a.cfg.NodeName, store: a.store, pools: a.pools, path: a.path, events: a.events, counts: a.metrics, log: a.log, now: a.cfg.Now,
		queue:   workqueue.NewTypedDelayingQueue[path.Sighting](),
		limit:   rate.NewLimiter(rate.Every(time.Minute/notesPerMinute), notesPerMinute),
		limited: rate.Sometimes{Interval: time.Minute},
		kick:    make(chan struct{}, 1),
	}
}

// watch what is to be heard, until ctx ends.
func (c *conflicts) watch(ctx context.Context) error {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		networks, pools, listened := networksOf(c.store.Bound(), c.node), c.followed(), map[string]bool{}
		for _, p := range pools {
			listened[p.Name] = true
		}
		c.mu.Lock()
		c.networks, c.listened = networks, listened
		c.mu.Unlock()
		c.path.SetWatched(watched(networks, pools))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.kick:
		case <-tick.C:
		}
	}
}

// attached says that a pod begins to use the parent with addresses of these pools. Whether they are others', too, is asked for a moment
// later (package path), so they have to be listened to by then.
func (c *conflicts) attached(parent string, pools []*ipam.Pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.networks[parent] != "" && !slices.ContainsFunc(pools, func(p *ipam.Pool) bool { return !c.listened[p.Name] }) {
		return
	}
	select {
	case c.kick <- struct{}{}:
	default: // awake already
	}
}

// networkOf a parent; "" if it is not known.
func (c *conflicts) networkOf(parent string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.networks[parent]
}

// followed pools that give out addresses, by name: those of which this node knows the leases.
func (c *conflicts) followed() []*ipam.Pool {
	var out []*ipam.Pool
	for _, p := range c.pools.all() {
		if p.Refusal == "" && c.store.Followed(p.Name) {
			out = append(out, p)
		}
	}
	return out
}

// networksOf parents, as the leases of this node say. A parent with leases of two networks is left out: which of them an address that is
// heard there belongs to is not known.
func networksOf(leases []*v1alpha1.IPLease, node string) map[string]string {
	out, unclear := map[string]string{}, map[string]bool{}
	for _, l := range leases {
		h := ipam.HolderOn(l, node)
		if h == nil || h.Parent == "" {
			continue
		}
		if other, ok := out[h.Parent]; ok && other != l.Spec.Network {
			unclear[h.Parent] = true
		}
		out[h.Parent] = l.Spec.Network
	}
	for parent := range unclear {
		delete(out, parent)
	}
	return out
}

// watched addresses by parent.
func watched(networks map[string]string, pools []*ipam.Pool) map[string]path.Watched {
	out := map[string]path.Watched{}
	for parent, network := range networks {
		var w path.Watched
		for _, p := range pools {
			if p.Network != network {
				continue
			}
			for _, f := range ipam.Families {
				w.Addresses = append(w.Addresses, p.Prefixes(f)...)
				w.Routers = append(w.Routers, p.Routers(f)...)
			}
		}
		out[parent] = w
	}
	return out
}

// see a sighting. What is no conflict ends here.
func (c *conflicts) see(s path.Sighting) {
	if _, _, v := c.judge(s); v != noConflict {
		c.queue.AddAfter(s, leastDelay+time.Duration(ipam.Seed(c.node, s.Address.String())%uint64(delaySpread)))
	}
}

// judge a sighting by what is known now.
func (c *conflicts) judge(s path.Sighting) (*ipam.Pool, *v1alpha1.IPLease, verdict) {
	network := c.networkOf(s.Parent)
	for _, p := range c.followed() {
		if p.Network == network && p.Contains(s.Address) {
			l := c.store.Lease(network, s.Address)
			return p, l, conflictOf(l, s.MAC, c.now())
		}
	}
	return nil, nil, noConflict
}

// run until ctx ends.
func (c *conflicts) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, c.queue.ShutDown)()
	for {
		s, end := c.queue.Get()
		if end {
			return nil
		}
		if err := c.settle(ctx, s); err != nil {
			c.log.Warn("address conflict", "address", s.Address, "mac", s.MAC, "parent", s.Parent, "err", err)
		}
		c.queue.Done(s)
	}
}

// settle a conflict, if it still is one.
func (c *conflicts) settle(ctx context.Context, s path.Sighting) error {
	pool, l, v := c.judge(s)
	now := c.now()
	if v == noConflict || told(l, now) && v == tell {
		return nil
	}
	if !c.limit.AllowN(now, 1) {
		c.counts.limited.Inc()
		c.limited.Do(func() {
			c.log.Warn("more address conflicts than this node may write down in a minute; the others wait; does somebody forge ARP or ND?",
				"a minute", notesPerMinute, "address", s.Address, "mac", s.MAC, "parent", s.Parent)
		})
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	conflict := v1alpha1.LeaseConflict{MAC: s.MAC, SeenAt: metav1.NewTime(now), Node: c.node, Parent: s.Parent}
	if v == quarantine {
		l, err := c.store.Quarantine(ctx, pool, s.Address, conflict)
		if err != nil || l == nil {
			return err
		}
		c.counts.conflicts.WithLabelValues("free").Inc()
		c.warn(l, "AddressQuarantined", fmt.Sprintf("nobody holds it, but %s uses it on the segment of %s of node %s: it is given to no pod while that lasts; "+
			"give that host another address, or exclude this one from pool %q", s.MAC, s.Parent, c.node, pool.Name))
		return nil
	}
	l, err := c.store.Conflict(ctx, l, conflict)
	if err != nil || l == nil {
		return err
	}
	c.counts.conflicts.WithLabelValues(strings.ToLower(string(l.Spec.Phase))).Inc()
	if l.Spec.Phase != v1alpha1.LeaseQuarantined {
		c.warn(l, "AddressConflict", fmt.Sprintf("%s, but %s uses it too, on the segment of %s of node %s; "+
			"find that host by its MAC and give it another address, or exclude this one from pool %q and delete the pod", whose(l), s.MAC, s.Parent, c.node, pool.Name))
	}
	return nil
}

// whose the address of a bound or reserved lease is.
func whose(l *v1alpha1.IPLease) string {
	if h := l.Spec.Holder; h != nil && l.Spec.Phase == v1alpha1.LeaseBound {
		return fmt.Sprintf("pod %s/%s holds it with %s", h.Namespace, h.Pod, h.MAC)
	}
	if i := l.Spec.Identity; i != nil {
		return fmt.Sprintf("it is kept for %s %s/%s", i.Kind, i.Namespace, i.Name)
	}
	return "it is " + string(l.Spec.Phase)
}

// warn of a conflict, on the lease and on the pods that hold it.
func (c *conflicts) warn(l *v1alpha1.IPLease, reason, note string) {
	note = fmt.Sprintf("address %s of network %q: %s", l.Spec.Address, l.Spec.Network, note)
	c.log.Warn(note, "lease", l.Name)
	l = l.DeepCopy()
	l.APIVersion, l.Kind = v1alpha1.GroupVersion.String(), "IPLease" // the API server's answers lack them
	c.events.Eventf(l, nil, corev1.EventTypeWarning, reason, "DetectConflict", "%s", shortened(note))
	for _, h := range ipam.Holders(l) {
		c.events.Eventf(podOfHolder(h), l, corev1.EventTypeWarning, reason, "DetectConflict", "%s", shortened(note))
	}
}
