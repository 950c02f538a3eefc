package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// errOwnerRoutes: the routes are for pods of podCIDRs.
var errOwnerRoutes = errors.New("--owner-routes: needs nodes that give pods addresses of their podCIDRs, and --pod-cidrs says that they do not; remove one of the two")

// gatherOwners is how long changes of leases and nodes are gathered.
const gatherOwners = 50 * time.Millisecond

// ownerRoutes tells the path of the other nodes that keep owner routes, and of their macvlan pods.
//
//	--owner-routes | here                                | another node, if both have it
//	off            | its routes and annotation go        | masquerades to overlay pods here
//	on             | routes to macvlan pods there        | leaves the client's address to overlay pods here, once the annotation is seen
type ownerRoutes struct {
	*Agent
	leases *v1alpha1.LeaseClient
	kick   chan struct{}

	keptLeases, keptNodes cache.Store
}

func (o *ownerRoutes) wake() {
	select {
	case o.kick <- struct{}{}:
	default: // awake already
	}
}

// start following; it returns once all is known.
func (o *ownerRoutes) start(ctx context.Context) error {
	if !o.cfg.OwnerRoutes || o.cfg.NoServicePath {
		o.path.SetOthers(nil)
		return nil
	}
	changed := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { o.wake() }, UpdateFunc: func(_, _ any) { o.wake() }, DeleteFunc: func(any) { o.wake() }}
	follow := func(kind runtime.Object, list func(context.Context, metav1.ListOptions) (runtime.Object, error),
		watch func(context.Context, metav1.ListOptions) (watch.Interface, error), trim cache.TransformFunc) (cache.Store, cache.InformerSynced) {
		kept, informer := cache.NewInformerWithOptions(cache.InformerOptions{ObjectType: kind, Handler: changed, Transform: trim,
			ListerWatcher: &cache.ListWatch{ListWithContextFunc: list, WatchFuncWithContext: watch}})
		go informer.RunWithContext(ctx)
		return kept, informer.HasSynced
	}
	var leases, nodes cache.InformerSynced
	o.keptLeases, leases = follow(&v1alpha1.IPLease{},
		func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) { return o.leases.List(ctx, l) }, o.leases.Watch, trimLease)
	o.keptNodes, nodes = follow(&corev1.Node{},
		func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) { return o.nodes.List(ctx, l) }, o.nodes.Watch, trimNode)
	if !cache.WaitForCacheSync(ctx.Done(), leases, nodes) {
		return ctx.Err()
	}
	o.update()
	return nil
}

// run tells of changes, and of this node's own part by its annotation.
func (o *ownerRoutes) run(ctx context.Context) error {
	err := retry(ctx, o.log, "tell that this node has owner routes, or has none", func() error {
		_, has := o.pods.thisNode().Annotations[nad.OwnerRoutesAnnotation]
		on := o.cfg.OwnerRoutes && !o.cfg.NoServicePath
		if on == has {
			return nil
		}
		var value any
		if on {
			value = "true"
		}
		return annotateNode(ctx, o.nodes, o.cfg.NodeName, map[string]any{nad.OwnerRoutesAnnotation: value})
	})
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.kick:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gatherOwners):
		}
		o.update()
	}
}

func (o *ownerRoutes) update() {
	var nodes []*corev1.Node
	for _, n := range o.keptNodes.List() {
		nodes = append(nodes, n.(*corev1.Node))
	}
	var leases []*v1alpha1.IPLease
	for _, l := range o.keptLeases.List() {
		leases = append(leases, l.(*v1alpha1.IPLease))
	}
	o.path.SetOthers(otherNodes(o.cfg.NodeName, nodes, leases))
}

// otherNodes that have owner routes, with the addresses of their macvlan pods. One that two nodes hold, while its virtual machine
// moves, is this node's if it is one of them, or else the first's.
func otherNodes(self string, nodes []*corev1.Node, leases []*v1alpha1.IPLease) (others []path.OtherNode) {
	at := map[string]int{}
	for _, n := range nodes {
		if n.Name == self || n.Annotations[nad.OwnerRoutesAnnotation] != "true" {
			continue
		}
		var o path.OtherNode
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				o.Addresses = append(o.Addresses, addr.Unmap())
			}
		}
		for _, c := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(strings.TrimSpace(c)); err == nil {
				o.Overlay = append(o.Overlay, p.Masked())
			}
		}
		at[n.Name] = len(others)
		others = append(others, o)
	}
	for _, l := range leases {
		addr, err := netip.ParseAddr(l.Spec.Address)
		if err != nil || ipam.HolderOn(l, self) != nil {
			continue
		}
		for _, h := range ipam.Holders(l) {
			if i, ok := at[h.Node]; ok && h.Parent != "" {
				others[i].Pods = append(others[i].Pods, addr)
				break
			}
		}
	}
	for i := range others {
		slices.SortFunc(others[i].Pods, netip.Addr.Compare)
	}
	return others
}

// trimNode to what is read here.
func trimNode(o any) (any, error) {
	if n, ok := o.(*corev1.Node); ok {
		kept := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion}}
		if v, ok := n.Annotations[nad.OwnerRoutesAnnotation]; ok {
			kept.Annotations = map[string]string{nad.OwnerRoutesAnnotation: v}
		}
		kept.Spec.PodCIDRs, kept.Status.Addresses = n.Spec.PodCIDRs, n.Status.Addresses
		return kept, nil
	}
	return o, nil
}

func trimLease(o any) (any, error) {
	if l, ok := o.(*v1alpha1.IPLease); ok {
		kept := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: l.Name, ResourceVersion: l.ResourceVersion}}
		kept.Spec.Address, kept.Spec.Phase = l.Spec.Address, l.Spec.Phase
		kept.Spec.Holder, kept.Spec.Next = trimHolder(l.Spec.Holder), trimHolder(l.Spec.Next)
		return kept, nil
	}
	return o, nil
}

func trimHolder(h *v1alpha1.LeaseHolder) *v1alpha1.LeaseHolder {
	if h == nil {
		return nil
	}
	return &v1alpha1.LeaseHolder{Node: unique.Make(h.Node).Value(), Parent: unique.Make(h.Parent).Value()}
}
