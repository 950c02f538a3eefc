package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
	"github.com/berthdev/berth/nad"
)

// netspaces follows all Netspaces: of which a pod is, costs no request.
//
//	the API says              | known before, by this run or the journal | a pod is of
//	these are all             |                                          | what they say
//	no such kind, forbidden   | some                                     | what those said
//	no such kind, forbidden   | none; no pool is a netspace's            | none
//	no such kind, forbidden   | none, but a pool is a netspace's         | it is not known which: no new address
//
// Whatever is not known, a pod that names a netspace gets no new address.
type netspaces struct {
	client  *v1alpha1.NetspaceClient
	pools   *pools
	journal func() *journal.Journal
	log     *slog.Logger

	dirty atomic.Bool // objects differs from what the watch has

	mu       sync.Mutex
	informer cache.Controller
	store    cache.Store
	objects  []*v1alpha1.Netspace
	known    ipam.Netspaces // made of objects
	why      error          // of the last read that failed
}

func newNetspaces(c *v1alpha1.NetspaceClient, p *pools, j func() *journal.Journal, log *slog.Logger) *netspaces {
	return &netspaces{client: c, pools: p, journal: j, log: log}
}

// start following; returns once all are known, or why they cannot be.
func (n *netspaces) start(ctx context.Context) error {
	n.resume()
	changed := func() { n.dirty.Store(true) }
	kept, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType: &v1alpha1.Netspace{},
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				l, err := n.client.List(ctx, o)
				n.heard(err)
				return l, err
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				w, err := n.client.Watch(ctx, o)
				n.heard(err)
				return w, err
			},
		},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: func(any) { changed() }, UpdateFunc: func(_, _ any) { changed() }, DeleteFunc: func(any) { changed() }},
		Transform: func(o any) (any, error) {
			if s, ok := o.(*v1alpha1.Netspace); ok {
				s.ManagedFields, s.Status = nil, v1alpha1.NetspaceStatus{Namespaces: s.Status.Namespaces}
			}
			return o, nil
		},
	})
	changed() // what the journal had
	n.mu.Lock()
	n.store, n.informer = kept, informer
	n.mu.Unlock()
	go informer.RunWithContext(ctx)
	for {
		if _, err := n.all(); !errors.Is(err, errNetspacesUnread) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// errNetspacesUnread: nothing was heard yet.
var errNetspacesUnread = errors.New("not read yet")

// heard what became of a read. Only what does not pass by itself is a word.
func (n *netspaces) heard(err error) {
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil && n.why == nil {
		n.log.Warn("Netspaces cannot be read; apply the deploy/install.yaml of this version of Berth", "known from before", len(n.objects), "err", err)
	}
	if err != nil {
		n.why = err
	}
}

// all Netspaces. With an error, the API does not tell them, and these are those from before.
func (n *netspaces) all() (ipam.Netspaces, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.informer != nil && n.informer.HasSynced():
	case n.why != nil:
		return n.known, n.why
	default:
		return n.known, errNetspacesUnread
	}
	if n.dirty.Swap(false) {
		var objects []*v1alpha1.Netspace
		for _, o := range n.store.List() {
			objects = append(objects, o.(*v1alpha1.Netspace))
		}
		n.set(objects)
		if data, err := json.Marshal(objects); err == nil {
			n.journal().SetNode(journal.KeyNetspaces, data)
		}
	}
	return n.known, nil
}

// set what is known; n.mu is held.
func (n *netspaces) set(objects []*v1alpha1.Netspace) {
	var errs []error
	n.objects = objects
	n.known, errs = ipam.NewNetspaces(objects)
	for _, err := range errs {
		n.log.Warn("a netspace selects no namespace", "err", err)
	}
}

// resume what the last run knew.
func (n *netspaces) resume() {
	raw := n.journal().Node(journal.KeyNetspaces)
	if raw == nil {
		return
	}
	var objects []*v1alpha1.Netspace
	if err := json.Unmarshal(raw, &objects); err != nil {
		n.log.Warn("netspaces in the journal", "err", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set(objects)
}

// of a pod: its netspace; nil for none.
func (n *netspaces) of(ns *corev1.Namespace, ask nad.Ask) (*ipam.Netspace, error) {
	all, why := n.all()
	if why != nil && all.Of(ns.Name, ns.Labels) == nil {
		unread := func(what string) error {
			return fmt.Errorf("%w: %s, but Netspaces cannot be read (%w); apply the deploy/install.yaml of this version of Berth", store.ErrUnavailable, what, why)
		}
		switch tenants := n.pools.anyNetspace(); {
		case ask.Netspace != "" && all.Named(ask.Netspace) == nil:
			return nil, unread(ask.NetspaceSource + " names one")
		case len(all) == 0 && tenants != "":
			return nil, unread(fmt.Sprintf("pool %q is of one, and namespace %q may be, too", tenants, ns.Name))
		}
	}
	member, err := all.OfPod(ns.Name, ns.Labels, ask.Netspace)
	if err != nil {
		return nil, badRequest{fmt.Errorf("%s: %w", ask.NetspaceSource, err)}
	}
	return member, nil
}
