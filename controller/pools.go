package controller

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/controller/subnets"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// Finalizer keeps a deleted pool until none of its addresses is bound or reserved.
const Finalizer = v1alpha1.FinalizerInUse

// statusInterval is how long changes of leases are gathered: a pool's status is written at most once per interval. It is for
// people and dashboards; agents choose addresses from the leases themselves.
const statusInterval = time.Second

// poolReconciler keeps the status of pools, and their deletion waiting for leases.
type poolReconciler struct {
	client   client.Client
	live     client.Reader // uncached
	recorder round.Recorder
	now      func() time.Time
}

func (r *poolReconciler) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("pools").
		Watches(&v1alpha1.IPPool{}, r.poolEvents()).
		Watches(&v1alpha1.IPLease{}, r.leaseEvents()).
		Complete(r)
}

// Reconcile one pool.
func (r *poolReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	pool := &v1alpha1.IPPool{}
	if err := r.client.Get(ctx, req.NamespacedName, pool); err != nil {
		dropPoolMetrics(req.Name)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if awaitsCarver(pool) {
		return reconcile.Result{}, nil
	}
	var leases v1alpha1.IPLeaseList
	if err := r.client.List(ctx, &leases, client.MatchingFields{networkIndex: pool.Spec.Network}, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	if err := r.writeStatus(ctx, pool.DeepCopy(), pool, leases.Items); err != nil {
		return round.Retry(err, statusInterval)
	}
	if pool.DeletionTimestamp != nil {
		return r.finalize(ctx, pool, leases.Items)
	}
	if controllerutil.AddFinalizer(pool, Finalizer) {
		if err := r.client.Update(ctx, pool); err != nil {
			return round.Retry(err, statusInterval)
		}
	}
	return reconcile.Result{}, adopt(ctx, r.client, pool, leases.Items)
}

// awaitsCarver says that who carves is yet to tell what a pool has, as it is now: that writes all of its status (carverTells), and a look
// before would be a write for nothing.
func awaitsCarver(pool *v1alpha1.IPPool) bool {
	return pool.Spec.Subnet != "" && pool.DeletionTimestamp == nil && carvedGeneration(pool) != pool.Generation
}

// carvedGeneration is that of which the condition Carved tells; -1: there is none.
func carvedGeneration(o client.Object) int64 {
	if c := meta.FindStatusCondition(o.(*v1alpha1.IPPool).Status.Conditions, v1alpha1.PoolCarved); c != nil {
		return c.ObservedGeneration
	}
	return -1
}

// carverTells writes the condition Carved, which is changed in pool, and with it the rest of the status.
func (r *poolReconciler) carverTells(ctx context.Context, old, pool *v1alpha1.IPPool) error {
	var leases v1alpha1.IPLeaseList
	if err := r.client.List(ctx, &leases, client.MatchingFields{networkIndex: pool.Spec.Network}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	return r.writeStatus(ctx, old, pool, leases.Items)
}

// writeStatus of a pool, where it is not the old one's.
func (r *poolReconciler) writeStatus(ctx context.Context, old, pool *v1alpha1.IPPool, leases []v1alpha1.IPLease) error {
	others, err := r.mayShare(ctx, pool)
	if err != nil {
		return err
	}
	pool.Status = poolStatus(pool, others, leases, r.now())
	if equality.Semantic.DeepEqual(old.Status, pool.Status) {
		observePool(pool)
		return nil
	}
	// Conditions are one list: what another part of the controller has written into it meanwhile must not be lost.
	if err := r.client.Status().Patch(ctx, pool, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("status of pool %q: %w", pool.Name, err)
	}
	observePool(pool)
	tellConditions(r.recorder, old, pool)
	return nil
}

// mayShare are the pools that may have addresses of a pool. Of two pools that are carved the blocks say who has what: so one that is may
// share with those that are not.
func (r *poolReconciler) mayShare(ctx context.Context, pool *v1alpha1.IPPool) ([]v1alpha1.IPPool, error) {
	if pool.Spec.Subnet != "" {
		return subnets.PlainPools(ctx, r.client, pool.Spec.Network)
	}
	var all v1alpha1.IPPoolList
	err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy)
	return all.Items, err
}

// finalize lets the pool go once no address of it is in use. Agents give out no address of a pool that is being deleted, but one may
// not know of the deletion yet; so the last look is at the API server itself, one interval after the deletion or later.
func (r *poolReconciler) finalize(ctx context.Context, pool *v1alpha1.IPPool, leases []v1alpha1.IPLease) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(pool, Finalizer) {
		return reconcile.Result{}, nil
	}
	if inUse, _ := split(pool.Name, leases); len(inUse) > 0 {
		return reconcile.Result{}, nil // the last one's release wakes us
	}
	if wait := round.Remaining(statusInterval, pool, r.now()); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	var fresh v1alpha1.IPLeaseList
	if err := r.live.List(ctx, &fresh, client.MatchingLabels{v1alpha1.LabelPool: pool.Name}); err != nil {
		return reconcile.Result{}, err
	}
	inUse, idle := split(pool.Name, fresh.Items)
	if len(inUse) > 0 {
		return reconcile.Result{RequeueAfter: statusInterval}, nil
	}
	for _, l := range idle {
		if err := deleteUnchanged(ctx, r.client, l); err != nil {
			return round.Retry(err, statusInterval)
		}
	}
	controllerutil.RemoveFinalizer(pool, Finalizer)
	if err := r.client.Update(ctx, pool); err != nil {
		return round.Retry(err, statusInterval)
	}
	return reconcile.Result{}, nil
}

// split the leases that a pool has given into those in use and those that may be forgotten.
func split(pool string, leases []v1alpha1.IPLease) (inUse, idle []*v1alpha1.IPLease) {
	for i := range leases {
		l := &leases[i]
		switch {
		case l.Spec.Pool != pool:
		case l.Spec.Phase == v1alpha1.LeaseBound || l.Spec.Phase == v1alpha1.LeaseReserved:
			inUse = append(inUse, l)
		default:
			idle = append(idle, l)
		}
	}
	return inUse, idle
}

// deleteUnchanged deletes a lease as it was seen; a conflict means that somebody claimed it.
func deleteUnchanged(ctx context.Context, c client.Client, l *v1alpha1.IPLease) error {
	uid, version := l.UID, l.ResourceVersion
	return client.IgnoreNotFound(c.Delete(ctx, l, client.Preconditions{UID: &uid, ResourceVersion: &version}))
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Name: name}}
}

// poolEvents wakes the pool at once, and soon the others of its network, which may overlap with it: not carved ones if it is carved, too.
// Updates that only change the status, our own, wake nobody.
func (r *poolReconciler) poolEvents() handler.EventHandler {
	wake := func(ctx context.Context, o client.Object, q queue) {
		q.Add(request(o.GetName()))
		r.wakeNetwork(ctx, o.(*v1alpha1.IPPool).Spec.Network, o.(*v1alpha1.IPPool).Spec.Subnet == "", q)
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { wake(ctx, e.Object, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { wake(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			a, b := e.ObjectOld, e.ObjectNew
			if a.GetGeneration() != b.GetGeneration() || (a.GetDeletionTimestamp() == nil) != (b.GetDeletionTimestamp() == nil) ||
				len(a.GetFinalizers()) != len(b.GetFinalizers()) || carvedGeneration(a) != carvedGeneration(b) {
				wake(ctx, b, q)
			}
		},
	}
}

// leaseEvents wakes the pools of the lease's network after an interval, in which further changes join in. Of carved ones these are that
// which gave it, and that which has the address.
func (r *poolReconciler) leaseEvents() handler.EventHandler {
	wake := func(ctx context.Context, o client.Object, q queue) {
		s := &o.(*v1alpha1.IPLease).Spec
		var gave v1alpha1.IPPool
		if err := r.client.Get(ctx, client.ObjectKey{Name: s.Pool}, &gave); err == nil && gave.Spec.Subnet != "" {
			q.AddAfter(request(s.Pool), statusInterval)
		}
		if p := r.carvedFor(ctx, s.Network, s.Address); p != "" && p != s.Pool {
			q.AddAfter(request(p), statusInterval)
		}
		r.wakeNetwork(ctx, s.Network, false, q)
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { wake(ctx, e.Object, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { wake(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { wake(ctx, e.ObjectNew, q) },
	}
}

// carvedFor is the pool that has an address by its block; "" if none has.
func (r *poolReconciler) carvedFor(ctx context.Context, network, address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	var b v1alpha1.IPBlock
	if err := r.client.Get(ctx, client.ObjectKey{Name: carve.Name(network, carve.FirstOf(a))}, &b); err != nil {
		return ""
	}
	block, err := carve.Read(&b)
	if err != nil {
		return ""
	}
	for _, p := range block.Parts {
		if p.Owner.Pool != "" && (ipam.Ranges{p.Range}).Contains(a) {
			return p.Owner.Pool
		}
	}
	return ""
}

// wakeNetwork wakes its pools after an interval, carved ones only if asked to.
func (r *poolReconciler) wakeNetwork(ctx context.Context, network string, carved bool, q queue) {
	pools, err := subnets.PlainPools(ctx, r.client, network)
	if carved {
		var all v1alpha1.IPPoolList
		err = r.client.List(ctx, &all, client.UnsafeDisableDeepCopy)
		pools = all.Items
	}
	if err != nil {
		return // the cache is stopping
	}
	for i := range pools {
		if pools[i].Spec.Network == network {
			q.AddAfter(request(pools[i].Name), statusInterval)
		}
	}
}
