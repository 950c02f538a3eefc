package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/agent/services"
	"github.com/berthdev/berth/ipam"
)

// ServiceProxy says when this node's agent serves Services itself, to what comes in by a vmac.
type ServiceProxy string

// The ways to say it.
const (
	ProxyAuto   ServiceProxy = "auto" // where nobody else does
	ProxyAlways ServiceProxy = "always"
	ProxyNever  ServiceProxy = "never"
)

// ParseServiceProxy of a flag.
func ParseServiceProxy(s string) (ServiceProxy, error) {
	switch p := ServiceProxy(s); p {
	case ProxyAuto, ProxyAlways, ProxyNever:
		return p, nil
	}
	return "", fmt.Errorf("--service-proxy: %q is none of auto, always, never", s)
}

const (
	settleServing = 5 * time.Second // between the first looks, until it is decided
	lookServing   = 30 * time.Second
)

// serving has Services carried out by whom this node needs for it. The cluster's Services are followed only while somebody does.
//
//	--service-proxy | kube-proxy found | agent/proxy | condition
//	auto            | yes              | –           | True, KubeProxy
//	auto            | no               | runs        | True, OwnProxy
//	always          | either           | runs        | True, OwnProxy
//	never           | yes              | –           | True, KubeProxy
//	never           | no               | –           | False, NoProxy
//
// Fast mode runs besides, in any case, where the node can have it.
//
// Without a service path nothing is done or looked for, and the condition is False, NoServicePath. What agent/proxy has in the kernel
// stays when the agent ends, and goes when it is not to run.
type serving struct {
	when   ServiceProxy
	node   string
	client kubernetes.Interface
	pools  *pools
	log    *slog.Logger
	tell   func(context.Context, servedBy) error // the node's condition

	fast fastMode // nil: none
	slow error    // why there is none, unless that is wanted

	proxy    serviceProxy
	detect   func() (proxy.Found, error)
	left     func() (bool, error)
	decision proxy.Decision

	mu       sync.Mutex         // taken by whoever holds that of pools
	services *services.Services // nil while nobody needs them
	proxied  bool               // the proxy is one of those who do
	cancel   func()             // ends what runs
	done     chan struct{}      // closed when it has ended; nil if nothing was started
}

// runner does what it does until ctx ends.
type runner interface{ Run(context.Context) error }

// serviceProxy is what the agent needs of package proxy.
type serviceProxy interface {
	services.Sink
	runner
	SetLinks(names []string) error
	SetServiceCIDRs([]netip.Prefix) error
	Remove() error
}

func newServing(cfg Config, client kubernetes.Interface, pools *pools, tell func(context.Context, servedBy) error, log *slog.Logger) *serving {
	return &serving{when: cfg.ServiceProxy, node: cfg.NodeName, client: client, pools: pools, tell: tell, log: log,
		proxy: proxy.New(log), detect: (&proxy.Detector{}).Detect, left: proxy.Left}
}

// serveServices until ctx ends.
func (a *Agent) serveServices(ctx context.Context) error {
	if a.cfg.ServiceProxy == "" {
		return nil
	}
	if !a.cfg.NoServicePath {
		return a.serving.run(ctx)
	}
	return retry(ctx, a.log, "tell the node's condition", func() error { return a.serving.tell(ctx, noServicePath) })
}

// run until ctx ends. No failure ends it: pods' addresses do not depend on it.
func (s *serving) run(ctx context.Context) error {
	defer s.end()
	if s.slow != nil {
		s.log.Warn("no fast mode: all connections of pods to Services go through the node", "why", s.slow)
	}
	complaint := ""
	for {
		by, wait, err := s.look(ctx)
		if err == nil && by != (servedBy{}) {
			if s.slow != nil {
				by.message += "; there is no fast mode, as " + s.slow.Error()
			}
			err = s.tell(ctx, by)
		}
		if now := fmt.Sprint(err); err != nil && now != complaint && ctx.Err() == nil {
			s.log.Error("Services of macvlan pods; will try again", "err", err)
			complaint = now
		} else if err == nil {
			complaint = ""
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// look who serves, have it so, and say when to look again. Nothing is told as long as it is not decided.
func (s *serving) look(ctx context.Context) (by servedBy, wait time.Duration, err error) {
	found, err := s.detect()
	if err != nil {
		return by, lookServing, fmt.Errorf("who serves Services on this node: %w", err)
	}
	ours := s.when == ProxyAlways
	if s.when == ProxyAuto {
		left, err := s.left()
		if err != nil {
			return by, lookServing, err
		}
		state := s.decision.Look(found, left)
		if state == proxy.Undecided {
			s.start(ctx, false)
			return by, settleServing, nil
		}
		ours = state == proxy.Ours
	}
	if ours {
		s.start(ctx, true)
		return ownProxy(found), lookServing, nil
	}
	if err := s.yield(ctx); err != nil {
		return by, lookServing, err
	}
	switch {
	case found != proxy.Nobody:
		by = kubeProxy(found)
	case s.when == ProxyNever:
		by = noProxy
	} // else rules are away that were there a moment ago
	return by, lookServing, nil
}

// start following Services for those who serve them, unless it is done already.
func (s *serving) start(ctx context.Context, proxied bool) {
	if s.fast == nil && !proxied {
		s.end()
		return
	}
	if s.running(proxied) {
		return
	}
	s.end()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	sinks := map[string]services.Sink{}
	if s.fast != nil {
		sinks["fast"] = s.fast
		g.Go(func() error { return s.fast.Run(ctx) })
	}
	if proxied {
		s.log.Info("serving Services to what comes in by vmacs", "service proxy", s.when)
		sinks["proxy"] = s.proxy
		g.Go(func() error { return s.proxy.Run(ctx) })
	}
	followed := services.New(s.client, s.node, sinks, s.log)
	if s.fast != nil {
		followed.OnNodes(func(addresses []netip.Addr) {
			if err := s.fast.SetNodes(addresses); err != nil {
				s.log.Warn("addresses of nodes for fast mode; tried again", "err", err)
			}
		})
	}
	g.Go(func() error { return followed.Run(ctx) })
	go func() {
		defer close(done)
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("following Services; will begin anew", "err", err)
		}
	}()
	s.mu.Lock()
	s.services, s.proxied, s.cancel, s.done = followed, proxied, cancel, done
	s.mu.Unlock()
	s.pools.retell()
}

// running says whether all goes on, with or without the proxy.
func (s *serving) running(proxied bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proxied != proxied {
		return false
	}
	select {
	case <-s.done:
		return false // by an error
	default:
		return s.done != nil
	}
}

// end what runs. The table stays.
func (s *serving) end() {
	s.mu.Lock()
	cancel, done := s.cancel, s.done
	s.services, s.cancel, s.done = nil, nil, nil
	s.mu.Unlock()
	if done != nil {
		cancel()
		<-done
	}
}

// yield to whoever else serves, or to nobody. An earlier agent may have left a table.
func (s *serving) yield(ctx context.Context) error {
	s.start(ctx, false)
	left, err := s.left()
	if err != nil || !left {
		return err
	}
	if err := s.proxy.Remove(); err != nil {
		return err
	}
	s.log.Info("serving Services no longer", "service proxy", s.when)
	return nil
}

// setPools whenever one changed.
func (s *serving) setPools(all []*ipam.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services != nil {
		s.services.SetPools(all)
	}
}

// setCIDRs of the cluster's Services.
func (s *serving) setCIDRs(cidrs []netip.Prefix) {
	if err := s.proxy.SetServiceCIDRs(cidrs); err != nil {
		s.log.Error("service CIDRs for the proxy; will try again", "err", err)
	}
}

// Describe nothing beforehand: the metrics are of who runs.
func (s *serving) Describe(chan<- *prometheus.Desc) {}

// Collect the metrics of what is followed now.
func (s *serving) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	followed := s.services
	s.mu.Unlock()
	if followed == nil {
		return
	}
	for _, c := range followed.Collectors() {
		c.Collect(ch)
	}
}
