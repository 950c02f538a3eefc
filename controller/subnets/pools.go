package subnets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

// Reasons of the condition Carved of a pool.
const (
	reasonCarved       = "Carved"
	reasonNoSubnet     = "NoSuchSubnet"
	reasonOtherNetwork = "OtherNetwork"
	reasonNotTheirs    = "OtherNetspace"
	reasonNotReady     = "SubnetNotReady"
	reasonShort        = "SubnetExhausted"
	reasonKept         = "ShrinksLater"
	reasonRefused      = "PoolRefused"
	reasonAway         = "HubAway"
)

// eventRestored tells of a person's edit of what is the controller's.
const eventRestored = "DerivedFieldsRestored"

// again is when to look at a pool once more that waits for something of which no event tells, such as the end of a lease.
const again = 5 * time.Second

// soon is when to look once more at what somebody else changed at the same time.
const soon = 100 * time.Millisecond

type poolReconciler struct{ *Carver }

// insist is how often a pool is read live and settled again when somebody edited it meanwhile: who edits it all the time, as an autoscaler
// may, must not keep it from what it wants.
const insist = 5

// Reconcile one pool.
func (c poolReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	out, err := c.once(ctx, c.client, req.Name)
	for n := 0; n < insist && apierrors.IsConflict(err); n++ {
		out, err = c.once(ctx, c.live, req.Name)
	}
	switch {
	case errors.Is(err, errAgain), apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: soon}, nil
	case err != nil:
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	return reconcile.Result{RequeueAfter: out.after}, nil
}

// once settle the pool as it is read, and tell what came of it.
func (c poolReconciler) once(ctx context.Context, from client.Reader, name string) (outcome, error) {
	var pool v1alpha1.IPPool
	if err := from.Get(ctx, client.ObjectKey{Name: name}, &pool); err != nil {
		if apierrors.IsNotFound(err) {
			c.written.drop(name)
			c.waiting.drop(name)
		}
		return outcome{}, err
	}
	if pool.Spec.Subnet == "" || pool.DeletionTimestamp != nil {
		c.waiting.drop(name)
		return outcome{}, nil
	}
	out, err := c.settle(ctx, &pool)
	if err != nil || out.reason == "" { // the subnet has not been looked at yet, which will wake us
		return out, err
	}
	if out.reason == reasonCarved || out.reason == reasonKept {
		c.waiting.drop(name)
	} else {
		c.waiting.add(name, cmp.Or(pool.Spec.Network, "default"))
	}
	return out, c.tell(ctx, &pool, out)
}

// outcome of a look at a pool: its condition Carved, and when to look again.
type outcome struct {
	reason, message string
	after           time.Duration
}

// settle carves what the pool wants, takes back what it gives up, and has it list what it has.
func (c poolReconciler) settle(ctx context.Context, pool *v1alpha1.IPPool) (outcome, error) {
	var s v1alpha1.Subnet
	switch err := c.client.Get(ctx, client.ObjectKey{Name: pool.Spec.Subnet}, &s); {
	case apierrors.IsNotFound(err):
		return outcome{reason: reasonNoSubnet, message: fmt.Sprintf("there is no Subnet %q, which spec.subnet names; make it, or delete the pool", pool.Spec.Subnet)}, nil
	case err != nil:
		return outcome{}, err
	}
	if out := fits(pool, &s); out.reason != "" {
		return out, nil
	}
	if !controllerutil.ContainsFinalizer(&s, Finalizer) && s.DeletionTimestamp == nil {
		return outcome{after: again}, nil
	}
	v, out, err := c.turn(ctx, cmp.Or(s.Spec.Network, "default"), pool, &s)
	if err != nil || v == nil {
		return out, err
	}
	err = c.fill(ctx, pool, v)
	if apierrors.IsInvalid(err) {
		return outcome{reason: reasonRefused, message: "the API server refuses the pool with what it has: " + err.Error(), after: again}, nil
	}
	return out, err
}

// fits says what is wrong with the pair.
func fits(pool *v1alpha1.IPPool, s *v1alpha1.Subnet) outcome {
	if a, b := cmp.Or(pool.Spec.Network, "default"), cmp.Or(s.Spec.Network, "default"); a != b {
		return outcome{reason: reasonOtherNetwork, message: fmt.Sprintf("the pool is of network %q, and Subnet %q is of %q; make the pool anew with network: %s", a, s.Name, b, b)}
	}
	if n := s.Spec.Netspace; n != "" && n != pool.Spec.Netspace {
		of := "no netspace"
		if pool.Spec.Netspace != "" {
			of = fmt.Sprintf("netspace %q", pool.Spec.Netspace)
		}
		return outcome{reason: reasonNotTheirs, message: fmt.Sprintf("Subnet %q is netspace %q's alone, and the pool is of %s; name another Subnet", s.Name, n, of)}
	}
	return outcome{}
}

// inUse lists the addresses of leases in use, from the API server itself.
func (c *Carver) inUse(ctx context.Context, which client.ListOption) ([]netip.Addr, error) {
	var leases v1alpha1.IPLeaseList
	if err := c.live.List(ctx, &leases, which); err != nil {
		return nil, err
	}
	var out []netip.Addr
	for i := range leases.Items {
		if l := &leases.Items[i]; l.Spec.Phase != v1alpha1.LeaseReleased {
			if a, err := netip.ParseAddr(l.Spec.Address); err == nil {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// fill in what the pool has, and what its subnet says of it.
func (c poolReconciler) fill(ctx context.Context, pool *v1alpha1.IPPool, v *view) error {
	spec := pool.Spec.DeepCopy()
	spec.Subnets = carve.Derive(v.subnet, v.book, carve.Owner{Pool: pool.Name})
	spec.VLAN, spec.NodeAffinity, spec.Pairing = v.object.Spec.VLAN, v.object.Spec.NodeAffinity.DeepCopy(), ""
	if len(spec.Subnets) > 0 {
		spec.Pairing = v.object.Spec.Pairing
	}
	same := equality.Semantic.DeepEqual(pool.Spec, *spec)
	if same && controllerutil.ContainsFinalizer(pool, v1alpha1.FinalizerInUse) {
		c.written.put(pool)
		return nil
	}
	edited := !same && c.written.edited(pool)
	pool.Spec = *spec
	controllerutil.AddFinalizer(pool, v1alpha1.FinalizerInUse)
	if err := c.client.Update(ctx, pool); err != nil {
		return err
	}
	c.written.put(pool)
	if edited {
		c.recorder.Eventf(pool, nil, corev1.EventTypeWarning, eventRestored, "Carve",
			"subnets, vlan, pairing and nodeAffinity of a pool with spec.subnet are the controller's, which has restored them; set spec.size, or edit Subnet %q", v.object.Name)
	}
	return nil
}

// tell the outcome by the condition Carved, and what is news by an event.
func (c poolReconciler) tell(ctx context.Context, pool *v1alpha1.IPPool, out outcome) error {
	old := pool.DeepCopy()
	status := metav1.ConditionTrue
	if out.reason != reasonCarved && out.reason != reasonKept {
		status = metav1.ConditionFalse
	}
	before := meta.FindStatusCondition(old.Status.Conditions, v1alpha1.PoolCarved)
	if !meta.SetStatusCondition(&pool.Status.Conditions, metav1.Condition{
		Type: v1alpha1.PoolCarved, Status: status, Reason: out.reason, Message: out.message, ObservedGeneration: pool.Generation,
		LastTransitionTime: metav1.NewTime(c.now()),
	}) {
		return nil
	}
	if err := c.cfg.Status(ctx, old, pool); err != nil {
		return err
	}
	switch {
	case before != nil && before.Reason == out.reason:
	case status == metav1.ConditionFalse:
		c.recorder.Eventf(pool, nil, corev1.EventTypeWarning, out.reason, "Carve", "%s", out.message)
	case before != nil && before.Status == metav1.ConditionFalse:
		c.recorder.Eventf(pool, nil, corev1.EventTypeNormal, out.reason, "Carve", "%s", out.message)
	}
	return nil
}
