package netspaces

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
)

// giveBack what a deleted netspace has, and let it go.
func (r *reconciler) giveBack(ctx context.Context, n *v1alpha1.Netspace, m members) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(n, Finalizer) {
		return reconcile.Result{}, nil
	}
	left, err := r.takeDown(ctx, n.Name)
	if err != nil {
		return round.Retry(err, soon)
	}
	if len(left) > 0 {
		wait := refusal{reasonWaits, "it is being deleted, and waits for " + some(left)}
		if err := r.tell(ctx, n, m, wait); err != nil {
			return round.Retry(err, soon)
		}
		return reconcile.Result{RequeueAfter: again}, nil
	}
	controllerutil.RemoveFinalizer(n, Finalizer)
	return round.Retry(r.client.Update(ctx, n), soon)
}

// orphans of a netspace that went without its finalizer: by force, or before it had one.
func (r *reconciler) orphans(ctx context.Context, name string) (reconcile.Result, error) {
	dropMetrics(name)
	switch err := r.live.Get(ctx, client.ObjectKey{Name: name}, &v1alpha1.Netspace{}); {
	case err == nil:
		return reconcile.Result{}, nil // the cache is late
	case !apierrors.IsNotFound(err):
		return reconcile.Result{}, err
	}
	_, err := r.takeDown(ctx, name) // what is left wakes us when it goes
	return round.Retry(err, soon)
}

// takeDown deletes what was made for a netspace: its pools first, then its share. What is left, and what it waits for, is in words. Pools of
// workloads go with these, and those that a person made by that person's hand. It looks at the API server itself, since what is not seen
// would never be given back.
func (r *reconciler) takeDown(ctx context.Context, name string) (left []string, _ error) {
	var pools v1alpha1.IPPoolList
	if err := r.live.List(ctx, &pools); err != nil {
		return nil, err
	}
	for i := range pools.Items {
		p := &pools.Items[i]
		switch {
		case p.Spec.Netspace != name:
		case ours(p, name):
			if err := r.remove(ctx, p); err != nil {
				return nil, err
			}
			left = append(left, fmt.Sprintf("the pods of pool %q (%d addresses)", p.Name, used(p)))
		case p.Spec.Owner != nil:
			left = append(left, fmt.Sprintf("pool %q of %s %s/%s; delete that, and the pool if it is kept", p.Name, p.Spec.Owner.Kind, p.Spec.Owner.Namespace, p.Spec.Owner.Name))
		default:
			left = append(left, fmt.Sprintf("pool %q, which names it; delete that", p.Name))
		}
	}
	if len(left) > 0 {
		return left, nil
	}
	var subnets v1alpha1.SubnetList
	if err := r.live.List(ctx, &subnets); err != nil {
		return nil, err
	}
	for i := range subnets.Items {
		s := &subnets.Items[i]
		if s.Spec.Netspace != name || s.Labels[LabelShareOf] == "" || s.Labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy {
			continue
		}
		if err := r.remove(ctx, s); err != nil {
			return nil, err
		}
		left = append(left, fmt.Sprintf("Subnet %q, whose addresses are kept from others for a while", s.Name))
	}
	slices.Sort(left)
	return left, nil
}

// remove as it was seen.
func (r *reconciler) remove(ctx context.Context, o client.Object) error {
	if o.GetDeletionTimestamp() != nil {
		return nil
	}
	uid := o.GetUID()
	return client.IgnoreNotFound(r.client.Delete(ctx, o, client.Preconditions{UID: &uid}))
}
