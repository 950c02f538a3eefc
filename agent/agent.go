// Package agent is the node agent: it serves the CNI plugin on a unix socket, claims and frees leases, and keeps the
// service path of its node. The whole way of an ADD is
//
//	cmd/berth → delegate (plugin) → socket → server.go → add.go → nad.Resolve, ipam.Plan → ipam/store.Claim → path.Attach → result.go
package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	nadclient "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"

	"github.com/berthdev/berth/agent/guards"
	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/agent/links"
	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// Config of an agent.
type Config struct {
	NodeName string
	Socket   string // where the plugin finds the agent
	PinDir   string // on a bpffs, for programs and maps
	StateDir string // for what outlives a reboot

	Journal string // file of the journal; "" for none: then no verb succeeds without the API

	PluginSource string // the plugin's binary, to be installed; "" to install nothing
	CNIBinDir    string

	MetricsAddress string // of /metrics, /healthz and /readyz; "" for none

	ServiceCIDRs []netip.Prefix // nil to discover them
	PodCIDRs     []netip.Prefix // of the cluster's default network; nil to discover them
	SteerCIDRs   []netip.Prefix // what else goes by vmac

	// NoServicePath: give addresses only. Pods get no way to Services, whatever steering pools and annotations ask for.
	NoServicePath bool

	// NoFastMode: sockets of pods leave Services to the node.
	NoFastMode bool
	CgroupDirs []string // where the root of the node's cgroup2 hierarchy may be, see sock.FindCgroup; nil for its default

	// OwnerRoutes: overlay pods of this node answer macvlan pods of other nodes by their nodes, and so see their own addresses.
	OwnerRoutes bool

	ServiceProxy ServiceProxy // when the agent serves Services itself; "" to look for nobody who does, and to say nothing of it

	Now func() time.Time // nil for time.Now

	MaxSilence time.Duration // of the watch of pools, before an ADD reads them again; 0 for DefaultMaxSilence
}

// servicePath is what the agent needs of package path.
type servicePath interface {
	Run(context.Context) error
	SetPrefixes(path.Prefixes)
	SetMultihomed([]netip.Addr)
	SetTenants(path.Tenants)
	SetOthers([]path.OtherNode)
	KeptApart() (map[string]uint64, error)
	OnLinks(func([]string) error)
	Attach(context.Context, ...path.Endpoint) error
	Detach(context.Context, ...path.Endpoint) error
	Sync(context.Context, []path.Endpoint) error
	OnSighting(func(path.Sighting))
	SetWatched(map[string]path.Watched)
	Steered() []netip.Prefix
	Wanted() *path.Wanted
	Sightings() (map[string]map[string]uint64, error)
	Counters() (map[string]map[string]uint64, error)
}

// Agent of one node.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	store   *store.Store
	pods    *pods
	pools   *pools
	links   hostLinks
	network *network
	path    servicePath
	guards  sourceGuards
	events  events.EventRecorder
	metrics *metrics
	lock    keyLock // of an interface of a sandbox: one verb at a time
	ahead   ahead   // DELs of which the API has yet to hear
	notes   *notes  // which delegates may have something
	nads    nadclient.Interface
	nodes   corev1client.NodeInterface
	lost    workqueue.TypedInterface[*v1alpha1.IPLease] // leases that this node holds no longer
	clash   *conflicts                                  // addresses that others use
	serving *serving
	fast    fastMode // nil: none
	journal *journal.Journal
	suspect *suspects       // what CNI GC has once found without a sandbox
	orphans *suspects       // what this agent has
	doubted map[string]bool // names of leases that its last look kept in doubt
	netNS   string          // directory of the sandboxes' namespaces
	ready   chan struct{}   // closed once leases, pools and pods are known and the path is in step

	netspaces   *netspaces
	tenants     *tenants
	owners      *owners
	openFast    func() (fastMode, error)
	fenceTold   func(context.Context) error // whether source guards are fenced
	startEvents func(context.Context) error

	hostNetworks *hostNetworks
	ownerRoutes  *ownerRoutes
}

// New agent for the API server that kube names.
func New(cfg Config, kube *rest.Config, log *slog.Logger) (*Agent, error) {
	var p servicePath = noPath{}
	if !cfg.NoServicePath {
		p = path.New(path.Config{NodeName: cfg.NodeName, PinDir: cfg.PinDir, Idle: time.Minute}, log)
	}
	a, err := newAgent(cfg, kube, p, log)
	if err != nil {
		return nil, err
	}
	if !cfg.NoServicePath {
		a.guards = guards.New(guards.Config{PinDir: cfg.PinDir, NetNS: a.netNS}, a.refused, log)
	}
	a.openFast = func() (fastMode, error) { return openFast(cfg, log) }
	hostLinks := links.DefaultConfig
	hostLinks.File = linksFile(cfg.StateDir)
	if hostLinks.Reach, err = reaching(kube); err != nil {
		return nil, fmt.Errorf("client for the Kubernetes API: %w", err)
	}
	a.hostNetworks.keeper = links.New(hostLinks, a.hostNetworks.told, log)
	return a, nil
}

func newAgent(cfg Config, kube *rest.Config, p servicePath, log *slog.Logger) (*Agent, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	kube = rest.CopyConfig(kube)
	kube.QPS = -1 // the API server's own flow control decides; a client-side limit only delays bursts of pods
	kube.UserAgent = "berth-agent"
	if cfg.OwnerRoutes && cfg.PodCIDRs != nil {
		return nil, errOwnerRoutes
	}
	client, err := kubernetes.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("client for the Kubernetes API: %w", err)
	}
	poolClient, leases, err := v1alpha1.NewClients(kube)
	if err != nil {
		return nil, fmt.Errorf("client for the Berth API: %w", err)
	}
	hostNetworks, err := v1alpha1.NewHostNetworkClient(kube)
	if err != nil {
		return nil, fmt.Errorf("client for HostNetworks: %w", err)
	}
	netspaces, err := v1alpha1.NewNetspaceClient(kube)
	if err != nil {
		return nil, fmt.Errorf("client for Netspaces: %w", err)
	}
	nads, err := nadclient.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("client for NetworkAttachmentDefinitions: %w", err)
	}
	objects, err := metadata.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("client for metadata: %w", err)
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	a := &Agent{
		cfg:         cfg,
		log:         log,
		path:        p,
		guards:      noGuards{},
		events:      broadcaster.NewRecorder(scheme.Scheme, "berth-agent"),
		startEvents: broadcaster.StartRecordingToSinkWithContext,
		nads:        nads,
		nodes:       client.CoreV1().Nodes(),
		owners: &owners{client: objects, kinds: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
			above: map[v1alpha1.PoolOwner]aboveOf{}},
		links:    kernelLinks{},
		lost:     workqueue.NewTyped[*v1alpha1.IPLease](),
		suspect:  newSuspects(),
		orphans:  newSuspects(),
		doubted:  map[string]bool{},
		netNS:    "/run/netns",
		ready:    make(chan struct{}),
		ahead:    make(ahead, aheadAtMost),
		notes:    &notes{dir: filepath.Join(cfg.StateDir, "delegates")},
		openFast: func() (fastMode, error) { return nil, nil },
	}
	a.metrics = newMetrics(a.path, log)
	a.pods = newPods(client, cfg.NodeName)
	hooks := store.Hooks{Collision: a.metrics.collisions.Inc, Lost: a.lost.Add, Early: a.early, Gone: a.pods.holderGone}
	a.store = store.New(leases, cfg.NodeName, hooks, cfg.Now, log)
	a.pools = newPools(poolClient, a.pods, a.store, cmp.Or(cfg.MaxSilence, DefaultMaxSilence), log)
	a.netspaces = newNetspaces(netspaces, a.pools, func() *journal.Journal { return a.journal }, log)
	a.serving = newServing(cfg, client, a.pools, a.tellNode(client, ServicePathCondition), log)
	a.tenants = newTenants(a)
	a.pools.tell = func(pools []*ipam.Pool) {
		a.serving.setPools(pools)
		a.tenants.changed()
	}
	a.path.OnLinks(a.serving.proxy.SetLinks)
	a.metrics.registry.MustRegister(a.serving)
	a.fenceTold = a.tellFence(client)
	a.network = newNetwork(client, a.pods, cfg, a.setPrefixes, log)
	if a.journal, err = journal.Open(context.Background(), "", cfg.Now, log); err != nil {
		return nil, err
	}
	a.metrics.registry.MustRegister(pending{a}, guardCounts{a}, fastCounts{a}, keptApart{a})
	a.hostNetworks = newHostNetworks(a, hostNetworks)
	a.ownerRoutes = &ownerRoutes{Agent: a, leases: leases, kick: make(chan struct{}, 1)}
	a.clash = newConflicts(a)
	a.path.OnSighting(a.clash.see)
	return a, nil
}

// Run serves until ctx ends. The data path stays as it is then, so that a restart is not felt.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.openJournal(ctx); err != nil {
		return err
	}
	defer func() {
		a.ahead.stop()
		a.journal.Close()
	}()
	if err := a.startEvents(ctx); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	a.fast, a.serving.slow = a.openFast()
	a.serving.fast = a.fast
	if a.fast != nil {
		defer func() {
			if err := a.fast.Close(); err != nil {
				a.log.Warn("close fast mode", "err", err)
			}
		}()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serve(ctx) })
	g.Go(func() error { return a.metrics.serve(ctx, a.cfg.MetricsAddress, a.alive, a.isReady) })
	g.Go(func() error { return a.pods.run(ctx) })
	g.Go(func() error { return a.start(ctx) })
	g.Go(func() error { return a.guards.Run(ctx) })
	g.Go(func() error { return a.hostNetworks.keep(ctx) })
	g.Go(func() error { return a.hostNetworks.follow(ctx) })
	g.Go(func() error { return a.onceReady(ctx, a.leavePath) })
	g.Go(func() error { return a.onceReady(ctx, a.followMisplaced) })
	g.Go(func() error { return a.onceReady(ctx, a.tenants.run) })
	g.Go(func() error { return a.onceReady(ctx, a.clash.watch) })
	g.Go(func() error { return a.onceReady(ctx, a.clash.run) })
	g.Go(func() error { return a.onceReady(ctx, a.replay) })
	g.Go(func() error { return a.onceReady(ctx, a.sweep) })
	g.Go(func() error { return a.onceReady(ctx, a.fenceTold) })
	g.Go(func() error { return a.onceReady(ctx, a.serveServices) })
	g.Go(func() error { return a.onceReady(ctx, a.ownerRoutes.run) })
	return g.Wait()
}

// lockPatience is how long a starting agent waits for the one before it to end.
const lockPatience = 30 * time.Second

// openJournal before any verb is served.
func (a *Agent) openJournal(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if a.journal, err = journal.Open(ctx, a.cfg.Journal, a.cfg.Now, a.log); err != nil {
		a.journal, _ = journal.Open(ctx, "", a.cfg.Now, a.log) // there is always one
		return err
	}
	a.resumePrefixes()
	a.tenants.resume()
	return nil
}

// start learns what there is, in the order in which one thing needs the other, and then keeps the path.
func (a *Agent) start(ctx context.Context) error {
	if err := a.pods.wait(ctx); err != nil {
		return err
	}
	var own []string
	err := retry(ctx, a.log, "read the leases of this node", func() (err error) {
		own, err = a.store.LoadOwn(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.pools.start(ctx, own); err != nil {
		return err
	}
	if err := a.netspaces.start(ctx); err != nil {
		return err
	}
	a.tenants.sync()
	if !a.cfg.NoServicePath {
		if err := a.network.start(ctx); err != nil {
			return err
		}
	}
	if err := a.ownerRoutes.start(ctx); err != nil {
		return err
	}
	if err := a.path.Sync(ctx, a.endpoints(a.bound()...)); err != nil {
		// One parent that is gone must not keep the others' pods waiting; Run goes on trying.
		a.log.Error("service path not complete", "err", err)
	}
	a.syncGuards()
	a.syncFast()
	if err := a.followMultihomed(); err != nil {
		return err
	}
	if err := a.installPlugin(); err != nil {
		return err
	}
	close(a.ready)
	a.log.Info("ready", "node", a.cfg.NodeName, "socket", a.cfg.Socket, "pools", a.store.Pools(), "bound", len(a.store.Bound()))
	return a.path.Run(ctx)
}

func (a *Agent) onceReady(ctx context.Context, f func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.ready:
		return f(ctx)
	}
}

func (a *Agent) isReady() bool {
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}

// retry until f succeeds or ctx ends. Kubernetes and the kernel come up in any order.
func retry(ctx context.Context, log *slog.Logger, what string, f func() error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		log.Warn("trying again", "what", what, "in", wait, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
