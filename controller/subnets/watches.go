package subnets

import (
	"cmp"
	"context"
	"slices"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Name: name}}
}

// watch calls f for each event that is one: what only changes a status, by whomever, is none, and of annotations only that of a disputed
// block is. Of an update f gets both objects; they are two where a watch has missed that one was deleted and another made.
func watch(f func(ctx context.Context, q queue, gone bool, objects ...client.Object)) handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { f(ctx, q, false, e.Object) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { f(ctx, q, true, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			a, b := e.ObjectOld, e.ObjectNew
			if a.GetUID() != b.GetUID() || a.GetGeneration() != b.GetGeneration() || (a.GetDeletionTimestamp() == nil) != (b.GetDeletionTimestamp() == nil) ||
				len(a.GetFinalizers()) != len(b.GetFinalizers()) || disputed(a) != disputed(b) {
				f(ctx, q, false, b, a)
			}
		},
	}
}

func disputed(o client.Object) string { return o.GetAnnotations()[v1alpha1.AnnotationDisputed] }

// subnetsOfSubnet wakes a Subnet at once, and the others of its network, which may overlap with it, or of its VLAN, which it may take.
func (c *Carver) subnetsOfSubnet() handler.EventHandler {
	return watch(func(ctx context.Context, q queue, gone bool, objects ...client.Object) {
		q.Add(request(objects[0].GetName()))
		c.wakeSubnets(ctx, q, beside(objects))
	})
}

// beside these Subnets, or the same one before and after an edit, are those of its network and of its VLAN.
func beside(objects []client.Object) func(*v1alpha1.Subnet) bool {
	return func(s *v1alpha1.Subnet) bool {
		return slices.ContainsFunc(objects, func(o client.Object) bool {
			return inNetwork(o.(*v1alpha1.Subnet).Spec.Network)(s) || carve.SameVLAN(&o.(*v1alpha1.Subnet).Spec, &s.Spec)
		})
	}
}

func inNetwork(network string) func(*v1alpha1.Subnet) bool {
	return func(s *v1alpha1.Subnet) bool { return cmp.Or(s.Spec.Network, "default") == cmp.Or(network, "default") }
}

// subnetsOfBlock wakes, after an interval in which further changes join in, those that had or have parts of the block, or, where another
// cluster has it, all of its network.
func (c *Carver) subnetsOfBlock() handler.EventHandler {
	return watch(func(ctx context.Context, q queue, _ bool, objects ...client.Object) {
		for _, o := range objects {
			if b := o.(*v1alpha1.IPBlock); b.Spec.Cluster != "" || disputed(b) != "" {
				c.wakeSubnets(ctx, q, inNetwork(b.Spec.Network))
			}
			for _, p := range o.(*v1alpha1.IPBlock).Spec.Parts {
				q.AddAfter(request(p.Subnet), statusInterval)
			}
		}
	})
}

// subnetsOfPool wakes those of the network of a pool that is not carved: what it has they have not.
func (c *Carver) subnetsOfPool() handler.EventHandler {
	return watch(func(ctx context.Context, q queue, _ bool, objects ...client.Object) {
		if p := objects[0].(*v1alpha1.IPPool); p.Spec.Subnet == "" {
			c.wakeSubnets(ctx, q, inNetwork(p.Spec.Network))
		}
	})
}

func (c *Carver) wakeSubnets(ctx context.Context, q queue, which func(*v1alpha1.Subnet) bool) {
	for _, s := range c.subnets(ctx, which) {
		q.AddAfter(request(s.Name), statusInterval)
	}
}

// subnets of the cache; none when it is stopping.
func (c *Carver) subnets(ctx context.Context, which func(*v1alpha1.Subnet) bool) (out []*v1alpha1.Subnet) {
	var all v1alpha1.SubnetList
	if err := c.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil
	}
	for i := range all.Items {
		if which(&all.Items[i]) {
			out = append(out, &all.Items[i])
		}
	}
	return out
}

func poolsOfPool() handler.EventHandler {
	return watch(func(_ context.Context, q queue, _ bool, objects ...client.Object) {
		q.Add(request(objects[0].GetName()))
	})
}

// poolsOfSubnet wakes all that are carved from it, and those that wait for addresses of its network, or of one that its VLAN keeps from any.
func (c *Carver) poolsOfSubnet() handler.EventHandler {
	return watch(func(ctx context.Context, q queue, _ bool, objects ...client.Object) {
		var pools v1alpha1.IPPoolList
		if err := c.client.List(ctx, &pools, client.UnsafeDisableDeepCopy); err != nil {
			return
		}
		for i := range pools.Items {
			if pools.Items[i].Spec.Subnet == objects[0].GetName() {
				q.Add(request(pools.Items[i].Name))
			}
		}
		c.wakeWaiting(q, objects[0].(*v1alpha1.Subnet).Spec.Network)
		for _, s := range c.subnets(ctx, beside(objects)) {
			c.wakeWaiting(q, s.Spec.Network)
		}
	})
}

// poolsOfBlock wakes those that wait for addresses: there may be some now. Of a disputed one it wakes those that have parts of it, and
// are to leave it.
func (c *Carver) poolsOfBlock() handler.EventHandler {
	return watch(func(_ context.Context, q queue, _ bool, objects ...client.Object) {
		b := objects[0].(*v1alpha1.IPBlock)
		c.wakeWaiting(q, b.Spec.Network)
		if disputed(b) == "" {
			return
		}
		for _, p := range b.Spec.Parts {
			if p.Pool != "" && p.ReturnedAt == nil {
				q.Add(request(p.Pool))
			}
		}
	})
}

func (c *Carver) wakeWaiting(q queue, network string) {
	const gather = 200 * time.Millisecond
	for _, p := range c.waiting.in(cmp.Or(network, "default")) {
		q.AddAfter(request(p), gather)
	}
}

func blocksOfBlock() handler.EventHandler {
	return watch(func(_ context.Context, q queue, gone bool, objects ...client.Object) {
		if !gone {
			q.Add(request(objects[0].GetName()))
		}
	})
}

// blocksOfPool wakes the blocks of which a pool that is gone had parts, be there another of its name or not.
func (c *Carver) blocksOfPool() handler.EventHandler {
	return watch(func(ctx context.Context, q queue, gone bool, objects ...client.Object) {
		before := objects[len(objects)-1]
		if gone = gone || before.GetUID() != objects[0].GetUID(); gone && before.(*v1alpha1.IPPool).Spec.Subnet != "" {
			c.wakeBlocks(ctx, q, carve.Owner{Pool: objects[0].GetName()})
		}
	})
}

// blocksOfSubnet wakes the blocks of which a subnet that comes or goes has parts.
func (c *Carver) blocksOfSubnet() handler.EventHandler {
	return watch(func(ctx context.Context, q queue, _ bool, objects ...client.Object) {
		c.wakeBlocks(ctx, q, carve.Owner{To: objects[0].GetName()})
	})
}

func (c *Carver) wakeBlocks(ctx context.Context, q queue, o carve.Owner) {
	var blocks v1alpha1.IPBlockList
	if err := c.client.List(ctx, &blocks, client.MatchingFields{ownerIndex: o.String()}, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	for i := range blocks.Items {
		q.Add(request(blocks.Items[i].Name))
	}
}
