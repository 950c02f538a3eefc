// Package netspaces gives tenants what is theirs: it says which namespaces a Netspace has, cuts its share off a Subnet, with a VLAN of its
// own, makes the pools that serve it, and takes all of it back. Its networks are made by package attachments, from what stands here.
//
// A share is a Subnet of its own, the child, in a network of its own: its addresses are one CIDR of each family of the parent's. Each step
// is one write, and the next look goes on where it ended:
//
//	step                        write                               of two who do it at a time
//	decide                      status.subnet, status.vlan, by      one must look again
//	                            comparison with what was read
//	lock the VLAN               child made, named PARENT-VLAN,      one has the name; the other decides anew
//	                            with all of it reserved
//	cut off                     parts `to: child` in the blocks     both find the same (package subnets)
//	                            of the parent's network
//	settle                      child's cidrs are these parts       one must look again
//	serve                       a pool; its size, when it grows     one makes it
//	give back: pools            deleted; their finalizer waits      both delete it
//	                            for their pods
//	give back: child            deleted; its finalizer waits for    both delete it
//	                            what was carved from it; then the
//	                            parts return by themselves
//	forget                      the Netspace's finalizer            one must look again
package netspaces

import (
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/ipam"
)

// Finalizer keeps a deleted Netspace until its pods are gone and all that was its is given back.
const Finalizer = "berth.dev/tenant"

const (
	soon  = time.Second      // until another look after others' writes
	again = 10 * time.Second // until another look at what only others can mend
)

// Sharer cuts the CIDRs of a child, one of each family and of size addresses, out of a Subnet; asked again it gives the same. They return
// by themselves once there is no such child. It is package subnets' Carver.
type Sharer interface {
	Share(ctx context.Context, parent *v1alpha1.Subnet, child string, size int32) ([]netip.Prefix, error)
}

// reconciler of Netspaces.
type reconciler struct {
	client   client.Client
	live     client.Reader // uncached
	share    Sharer
	recorder round.Recorder
}

// Add to the manager.
func Add(mgr ctrl.Manager, share Sharer, recorder round.Recorder) error {
	return (&reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), share: share, recorder: recorder}).setup(mgr)
}

// Reconcile one Netspace.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	n := &v1alpha1.Netspace{}
	switch err := r.client.Get(ctx, req.NamespacedName, n); {
	case apierrors.IsNotFound(err):
		return r.orphans(ctx, req.Name)
	case err != nil:
		return reconcile.Result{}, err
	}
	if n.DeletionTimestamp == nil && controllerutil.AddFinalizer(n, Finalizer) {
		if err := r.client.Update(ctx, n); err != nil {
			return round.Retry(err, soon)
		}
	}
	all, err := r.netspaces(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	var spaces corev1.NamespaceList
	if err := r.client.List(ctx, &spaces, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	m := membersOf(n.Name, all, spaces.Items)
	if n.DeletionTimestamp != nil {
		return r.giveBack(ctx, n, m)
	}
	return r.keep(ctx, n, m)
}

func (r *reconciler) netspaces(ctx context.Context) (ipam.Netspaces, error) {
	var list v1alpha1.NetspaceList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	all := make([]*v1alpha1.Netspace, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	out, _ := ipam.NewNetspaces(all) // a malformed selector selects nothing, which is told of the one that has it
	return out, nil
}

// keep a Netspace as it is wanted.
func (r *reconciler) keep(ctx context.Context, n *v1alpha1.Netspace, m members) (reconcile.Result, error) {
	var subnets v1alpha1.SubnetList
	if err := r.client.List(ctx, &subnets, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	own, refusals := whole(n, subnets.Items)
	refusals = append(m.refusals(n), refusals...)
	var wait refusal
	child, ref, err := r.keepShare(ctx, n, m)
	if err != nil {
		return round.Retry(err, soon)
	}
	switch {
	case ref.passing():
		wait = ref
	case ref.reason != "":
		refusals = append(refusals, ref)
	}
	if child != nil {
		own = append(own, child)
	}
	for _, s := range own {
		ref, err := r.keepPool(ctx, n, s, s == child)
		if err != nil {
			return round.Retry(err, soon)
		}
		if ref.reason != "" {
			refusals = append(refusals, ref)
		}
	}
	if err := r.tell(ctx, n, m, outcome(n, child, refusals, wait)); err != nil {
		return round.Retry(err, soon)
	}
	switch {
	case slices.ContainsFunc(refusals, func(r refusal) bool { return r.reason == reasonBusy }):
		return reconcile.Result{RequeueAfter: soon}, nil
	case len(refusals) > 0 || wait.reason != "":
		return reconcile.Result{RequeueAfter: again}, nil
	}
	return reconcile.Result{}, nil
}
