package netspaces

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Name: name}}
}

func (r *reconciler) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("netspaces").
		Watches(&v1alpha1.Netspace{}, r.ofNetspace()).
		Watches(&corev1.Namespace{}, r.ofNamespace()).
		Watches(&v1alpha1.Subnet{}, handler.EnqueueRequestsFromMapFunc(r.ofSubnet)).
		Watches(&v1alpha1.IPPool{}, handler.EnqueueRequestsFromMapFunc(ofPool)).
		Complete(r)
}

// ofNetspace wakes itself, and the others, which may claim the same namespaces, when it comes, goes or is edited.
func (r *reconciler) ofNetspace() handler.EventHandler {
	all := func(ctx context.Context, o client.Object, q queue) {
		q.Add(request(o.GetName()))
		r.wakeAll(ctx, q)
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { all(ctx, e.Object, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { all(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			a, b := e.ObjectOld.(*v1alpha1.Netspace), e.ObjectNew.(*v1alpha1.Netspace)
			if a.Generation == b.Generation && len(a.Status.Namespaces) == len(b.Status.Namespaces) {
				q.Add(request(b.Name))
				return
			}
			all(ctx, b, q)
		},
	}
}

// ofNamespace wakes all when one comes, goes or has other labels.
func (r *reconciler) ofNamespace() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q queue) { r.wakeAll(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q queue) { r.wakeAll(ctx, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) {
				r.wakeAll(ctx, q)
			}
		},
	}
}

// wakeAll soon, so that what happens together is looked at together.
func (r *reconciler) wakeAll(ctx context.Context, q queue) {
	var list v1alpha1.NetspaceList
	if r.client.List(ctx, &list, client.UnsafeDisableDeepCopy) != nil {
		return // the cache is stopping
	}
	for i := range list.Items {
		q.AddAfter(request(list.Items[i].Name), soon/10)
	}
}

// ofSubnet wakes whose it is or shall be, and who has a share of it.
func (r *reconciler) ofSubnet(ctx context.Context, o client.Object) (out []reconcile.Request) {
	s := o.(*v1alpha1.Subnet)
	if s.Spec.Netspace != "" {
		out = append(out, request(s.Spec.Netspace))
	}
	var list v1alpha1.NetspaceList
	if r.client.List(ctx, &list, client.UnsafeDisableDeepCopy) != nil {
		return out
	}
	for i := range list.Items {
		n := &list.Items[i]
		if n.Name == s.Spec.Netspace {
			continue
		}
		names := n.Spec.Subnets
		if n.Spec.Share != nil {
			names = append([]string{n.Spec.Share.Subnet}, names...)
		}
		for _, name := range names {
			if name == s.Name {
				out = append(out, request(n.Name))
				break
			}
		}
	}
	return out
}

// ofPool wakes the netspace that it serves.
func ofPool(_ context.Context, o client.Object) []reconcile.Request {
	if n := o.(*v1alpha1.IPPool).Spec.Netspace; n != "" {
		return []reconcile.Request{request(n)}
	}
	return nil
}
