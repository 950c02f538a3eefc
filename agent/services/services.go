// Package services follows the Services of the cluster and hands over what they mean to this node (package service) to those who carry
// it out.
//
//	watch ─ reflector ─ compact ─► state ─ names ─► queue of a sink ─ build ─► sink
//
// Only what package service reads is kept of an object (10,000 Services with 50,000 endpoints: see BenchmarkMemory), from the first list
// on. A change puts the name of its Service, and of those whose frontends it takes or frees, into each sink's queue; a name that
// is there already is not put twice. Who takes them out builds the Services as they are then. So a sink is never given what is old, bursts
// cost few calls, and a sink that fails or is slow delays no other:
//
//	event                             built anew
//	Service                           itself; others that got or lost a frontend by it
//	EndpointSlice                     the Service that it is of, and was of
//	nodes, pools                      Services with an endpoint that is elsewhere now
//	this node's zone                  all
//	a sink fails                      that Service, for that sink, after a while
//
// What comes out the same as what the sink has is not handed over again.
package services

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/service"
)

// Sink carries out what Services mean. Its methods are called by one goroutine, of that sink. What it is given it may keep, but not
// change: parts are shared.
type Sink interface {
	// Set Services, new or changed. After an error they are tried again, one by one, and then with what each is by then.
	Set(...service.Service) error
	// Delete the Services of these names; one that the sink does not have is success.
	Delete(names ...string) error
	// Sync says all that there is, once, before anything else: what the sink has of an earlier run and is not in it has to go.
	Sync([]service.Service) error
}

// Services of the cluster.
type Services struct {
	client kubernetes.Interface
	log    *slog.Logger
	state  *state
	sinks  []*sink
	synced atomic.Int32 // how many sinks are
}

// New follower for the node of that name; sinks by name, for logs and metrics.
func New(client kubernetes.Interface, node string, sinks map[string]Sink, log *slog.Logger) *Services {
	s := &Services{client: client, log: log, state: newState(node, log)}
	for name, to := range sinks {
		s.sinks = append(s.sinks, newSink(name, to, s.state, len(s.sinks), log))
	}
	s.state.sinks = s.sinks
	return s
}

// SetPools says which pools there are, whenever one is new, edited or deleted. Nothing is handed over before the first call, since it
// would be again after it.
func (s *Services) SetPools(pools []*ipam.Pool) { s.state.setPools(pools) }

// OnNodes has f told of the addresses of all nodes, at first and whenever they change. It is to be called before Run; f must not call
// back.
func (s *Services) OnNodes(f func([]netip.Addr)) { s.state.onNodes = f }

// Ready says whether all sinks have been given everything once.
func (s *Services) Ready() bool { return int(s.synced.Load()) == len(s.sinks) }

// Selectors of what is watched: what others serve, and headless Services' slices, never come here.
const (
	selectServices = "!" + service.ProxyNameLabel
	selectSlices   = "!" + service.ProxyNameLabel + ",!" + corev1.IsHeadlessService
)

// Run until ctx ends. What the sinks have stays as it is then.
func (s *Services) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	core, discovery := s.client.CoreV1(), s.client.DiscoveryV1()
	s.follow(ctx, g, &corev1.Service{}, s.state.specs(), selectServices,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return core.Services("").List(ctx, o)
		},
		core.Services("").Watch)
	s.follow(ctx, g, &discoveryv1.EndpointSlice{}, s.state.slices(), selectSlices,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return discovery.EndpointSlices("").List(ctx, o)
		},
		discovery.EndpointSlices("").Watch)
	s.follow(ctx, g, &corev1.Node{}, s.state.nodes(), "",
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return core.Nodes().List(ctx, o)
		},
		core.Nodes().Watch)
	for _, to := range s.sinks {
		g.Go(func() error { return to.run(ctx, func() { s.synced.Add(1) }) })
	}
	return g.Wait()
}

// follow all objects of a kind that the selector takes.
func (s *Services) follow(ctx context.Context, g *errgroup.Group, kind runtime.Object, to cache.TransformingStore, selector string,
	list func(context.Context, metav1.ListOptions) (runtime.Object, error),
	follow func(context.Context, metav1.ListOptions) (watch.Interface, error),
) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return compactList(ctx, o, list, to.Transformer())
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			return follow(ctx, o)
		},
	}
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, s.client), kind, to, cache.ReflectorOptions{})
	g.Go(func() error {
		r.RunWithContext(ctx)
		return ctx.Err()
	})
}
