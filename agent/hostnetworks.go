package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/agent/links"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// hostLinksKeeper is what the agent needs of package links.
type hostLinksKeeper interface {
	Run(context.Context) error
	Set([]links.Want)
}

// noHostLinks are the links of an agent that makes none.
type noHostLinks struct{}

func (noHostLinks) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (noHostLinks) Set([]links.Want)              {}

// linksFile is where package links keeps what it must not forget.
func linksFile(stateDir string) string { return filepath.Join(stateDir, "links.json") }

// hostNetworks has the links made that HostNetworks want of this node, and writes into their status how it stands.
type hostNetworks struct {
	*Agent
	client *v1alpha1.HostNetworkClient
	keeper hostLinksKeeper
	kick   chan struct{}

	mu     sync.Mutex
	states map[string]links.State // by HostNetwork; nil: not known yet
}

func newHostNetworks(a *Agent, c *v1alpha1.HostNetworkClient) *hostNetworks {
	return &hostNetworks{Agent: a, client: c, keeper: noHostLinks{}, kick: make(chan struct{}, 1)}
}

// keep the links, from the beginning: what an earlier agent left half done is undone even if the API server cannot be reached.
func (h *hostNetworks) keep(ctx context.Context) error {
	return retry(ctx, h.log, "keep the links of HostNetworks", func() error { return h.keeper.Run(ctx) })
}

// follow HostNetworks and this node's labels, until ctx ends.
func (h *hostNetworks) follow(ctx context.Context) error {
	changed := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { h.wake() }, UpdateFunc: func(_, _ any) { h.wake() }, DeleteFunc: func(any) { h.wake() }}
	kept, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType: &v1alpha1.HostNetwork{},
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return h.client.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return h.client.Watch(ctx, o)
			},
		},
		Handler:   changed,
		Transform: h.trim,
	})
	if _, err := h.pods.node.AddEventHandler(changed); err != nil {
		return err
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced, h.pods.node.HasSynced) {
		return nil
	}
	for {
		if err := h.step(ctx, kept); err != nil && ctx.Err() == nil {
			h.log.Warn("status of HostNetworks; will try again", "err", err)
			time.AfterFunc(5*time.Second, h.wake)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.kick:
		}
		select { // others' status changes, too, and comes by the same watch
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// trim the status of other nodes, of which there may be many.
func (h *hostNetworks) trim(o any) (any, error) {
	if n, ok := o.(*v1alpha1.HostNetwork); ok {
		n.ManagedFields = nil
		n.Status.Nodes = slices.DeleteFunc(n.Status.Nodes, func(e v1alpha1.HostNetworkNode) bool { return e.Node != h.cfg.NodeName })
	}
	return o, nil
}

func (h *hostNetworks) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// told by package links how all stand.
func (h *hostNetworks) told(states []links.State) {
	h.mu.Lock()
	h.states = map[string]links.State{}
	for _, s := range states {
		h.states[s.Name] = s
	}
	h.mu.Unlock()
	h.metrics.hostNetworks.Reset()
	for _, s := range states {
		ready := 0.0
		if s.Ready {
			ready = 1
		}
		h.metrics.hostNetworks.WithLabelValues(s.Name).Set(ready)
	}
	h.wake()
}

// step hands on what is wanted, and writes what has changed.
func (h *hostNetworks) step(ctx context.Context, kept cache.Store) error {
	if _, known, _ := h.pods.node.GetStore().GetByKey(h.cfg.NodeName); !known {
		return nil // without its labels every selector would seem to pass it by
	}
	var all []*v1alpha1.HostNetwork
	for _, o := range kept.List() {
		all = append(all, o.(*v1alpha1.HostNetwork))
	}
	wants, err := links.Wanted(all, h.cfg.NodeName, labels.Set(h.pods.thisNode().Labels))
	if err != nil {
		return err
	}
	h.keeper.Set(wants)
	h.mu.Lock()
	states := h.states
	h.mu.Unlock()
	if states == nil {
		return nil
	}
	for _, n := range all {
		if err := h.write(ctx, n, states); err != nil {
			return err
		}
	}
	return nil
}

// write this node's entry of a HostNetwork's status, if it is another than that has, and tell people of it.
func (h *hostNetworks) write(ctx context.Context, n *v1alpha1.HostNetwork, states map[string]links.State) error {
	entries := []v1alpha1.HostNetworkNode{}
	s, concerned := states[n.Name]
	if concerned {
		entries = append(entries, v1alpha1.HostNetworkNode{Node: h.cfg.NodeName, Ready: s.Ready, Reason: s.Reason, Message: shortened(s.Message), Links: s.Links,
			ObservedGeneration: links.GenerationOf(s.Spec, n)})
	}
	if len(entries) == len(n.Status.Nodes) && (len(entries) == 0 || same(entries[0], n.Status.Nodes[0])) {
		return nil
	}
	// Each node applies its own entry, so that none writes over another's.
	patch, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "HostNetwork",
		"metadata": map[string]any{"name": n.Name, "uid": n.UID}, "status": map[string]any{"nodes": entries}})
	if err != nil {
		return err
	}
	force := true
	_, err = h.client.Patch(ctx, n.Name, types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: fieldManager(h.cfg.NodeName), Force: &force}, "status")
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone, or another by that name
		return nil
	case err != nil:
		return fmt.Errorf("HostNetwork %q: %w", n.Name, err)
	}
	if concerned && s.Reason != v1alpha1.LinksQueued { // else it tells when its turn has come
		h.announce(n, s)
	}
	return nil
}

func same(a, b v1alpha1.HostNetworkNode) bool {
	return a.Ready == b.Ready && a.Reason == b.Reason && a.Message == b.Message && a.ObservedGeneration == b.ObservedGeneration && slices.Equal(a.Links, b.Links)
}

// fieldManager of a node's entry; it may have 128 characters, a node's name 253.
func fieldManager(node string) string { return "berth-agent/" + ipam.LabelValue(node) }

func (h *hostNetworks) announce(n *v1alpha1.HostNetwork, s links.State) {
	on := &v1alpha1.HostNetwork{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "HostNetwork"}, ObjectMeta: n.ObjectMeta}
	kind := corev1.EventTypeWarning
	if s.Ready {
		kind = corev1.EventTypeNormal
	}
	note := h.cfg.NodeName + ": " + cmp.Or(s.Message, "as wanted: "+strings.Join(s.Links, ", "))
	h.events.Eventf(on, nil, kind, s.Reason, "ConfigureLinks", "%s", shortened(note))
}
