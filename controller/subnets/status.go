package subnets

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// statusInterval is how long changes of blocks are gathered: the status of a Subnet is written at most once per interval.
const statusInterval = time.Second

type subnetReconciler struct{ *Carver }

// Reconcile one Subnet.
func (c subnetReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var s v1alpha1.Subnet
	if err := c.client.Get(ctx, req.NamespacedName, &s); err != nil {
		dropMetrics(req.Name)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if s.DeletionTimestamp == nil && controllerutil.AddFinalizer(&s, Finalizer) {
		if err := c.client.Update(ctx, &s); err != nil {
			return round.Retry(err, soon)
		}
	}
	v, err := c.look(ctx, &s)
	if err != nil {
		return reconcile.Result{}, err
	}
	owners := v.book.Owners(s.Name)
	var clusters map[string]int64
	if v.subnet != nil && !s.Spec.Hub {
		clusters = v.book.Clusters(v.subnet)
	}
	old := s.DeepCopy()
	s.Status = c.status(v, owners, clusters)
	if !equality.Semantic.DeepEqual(old.Status, s.Status) {
		if err := c.client.Status().Patch(ctx, &s, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
			return round.Retry(err, soon)
		}
		c.tell(old, &s)
	}
	observeSubnet(&s)
	if s.DeletionTimestamp != nil && len(owners) == 0 && len(clusters) == 0 {
		return c.finalize(ctx, &s, v)
	}
	return reconcile.Result{}, nil
}

// finalize lets a Subnet go of which nobody has a part. The last look is at the API server itself, and not before everyone who carves has
// heard of the deletion.
func (c subnetReconciler) finalize(ctx context.Context, s *v1alpha1.Subnet, v *view) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(s, Finalizer) {
		return reconcile.Result{}, nil
	}
	if wait := round.Remaining(statusInterval, s, c.now()); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	var blocks v1alpha1.IPBlockList
	if err := c.live.List(ctx, &blocks, client.MatchingFields{networkIndex: s.Spec.Network}); err != nil {
		return reconcile.Result{}, err
	}
	for i := range blocks.Items {
		if b, err := carve.Read(&blocks.Items[i]); err == nil && v.subnet != nil && !s.Spec.Hub && len(carve.NewBook(b).Clusters(v.subnet)) > 0 {
			return reconcile.Result{RequeueAfter: statusInterval}, nil
		}
		for _, p := range blocks.Items[i].Spec.Parts {
			if p.Subnet == s.Name {
				return reconcile.Result{RequeueAfter: statusInterval}, nil
			}
		}
	}
	controllerutil.RemoveFinalizer(s, Finalizer)
	return round.Retry(c.client.Update(ctx, s), soon)
}

func (c subnetReconciler) status(v *view, owners []carve.Owner, clusters map[string]int64) v1alpha1.SubnetStatus {
	s := v.object
	out := v1alpha1.SubnetStatus{ObservedGeneration: s.Generation, Conditions: append([]metav1.Condition(nil), s.Status.Conditions...)}
	var cidrs, pools []string
	for _, c := range s.Spec.CIDRs {
		cidrs = append(cidrs, c.CIDR)
	}
	out.CIDRs = strings.Join(cidrs, ",")
	for _, o := range owners {
		pools = append(pools, o.String())
		if o.Pool != "" {
			out.Pools++
		}
	}
	if v.subnet != nil {
		var free, total []*big.Int
		tally := carve.Tally(v.subnet, v.book, v.avoid)
		for _, f := range v.subnet.Families() {
			t := tally[f]
			n := &v1alpha1.SubnetCount{Total: t.Total.String(), Free: t.Free.String(), Carved: t.Carved.String()}
			if t.Returning.Sign() > 0 {
				n.Returning = t.Returning.String()
			}
			if f == ipam.IPv4 {
				out.IPv4 = n
			} else {
				out.IPv6 = n
			}
			free, total = append(free, t.Free), append(total, t.Total)
		}
		out.Free, out.Total = ipam.Readable(free), ipam.Readable(total)
	}
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		out.Clusters = append(out.Clusters, v1alpha1.ClusterBlocks{Name: name, Blocks: clusters[name]})
		pools = append(pools, fmt.Sprintf("cluster %q", name))
	}
	status, reason, message := metav1.ConditionTrue, reasonServing, "pools can be carved from the subnet"
	switch {
	case s.DeletionTimestamp != nil:
		status, reason, message = metav1.ConditionFalse, reasonDeleting, "the subnet is being deleted"
		if len(pools) > 0 {
			message += ", and waits for the addresses of " + some(pools) + "; delete these, or what has them there"
		}
	case v.reason != "":
		status, reason, message = metav1.ConditionFalse, v.reason, v.message
	}
	meta.SetStatusCondition(&out.Conditions, metav1.Condition{
		Type: v1alpha1.SubnetReady, Status: status, Reason: reason, Message: message,
		ObservedGeneration: s.Generation, LastTransitionTime: metav1.NewTime(c.now()),
	})
	if disputed := v.disputed(); len(disputed) > 0 {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: v1alpha1.SubnetDisputed, Status: metav1.ConditionTrue, Reason: reasonDisputed, ObservedGeneration: s.Generation, LastTransitionTime: metav1.NewTime(c.now()),
			Message: "more than one cluster has " + some(disputed) + ": nobody gets an address of that, and pools leave it, until only one has something there",
		})
	} else {
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.SubnetDisputed)
	}
	return out
}

// disputed blocks, in words.
func (v *view) disputed() []string {
	if v.subnet == nil {
		return nil
	}
	return v.book.Disputed(v.subnet)
}

// tell what is news. A new subnet that is well needs no event.
func (c subnetReconciler) tell(old, s *v1alpha1.Subnet) {
	if d := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.SubnetDisputed); d != nil && meta.FindStatusCondition(old.Status.Conditions, d.Type) == nil {
		c.recorder.Eventf(s, nil, corev1.EventTypeWarning, d.Reason, "Observe", "%s", d.Message)
	}
	before := meta.FindStatusCondition(old.Status.Conditions, v1alpha1.SubnetReady)
	after := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.SubnetReady)
	switch {
	case before != nil && before.Reason == after.Reason, before == nil && after.Status == metav1.ConditionTrue:
	case after.Reason == reasonDeleting && s.Status.Pools == 0 && len(s.Status.Clusters) == 0:
		// Somebody's wish, and nothing in its way.
	case after.Status == metav1.ConditionTrue:
		c.recorder.Eventf(s, nil, corev1.EventTypeNormal, after.Reason, "Observe", "%s", after.Message)
	default:
		c.recorder.Eventf(s, nil, corev1.EventTypeWarning, after.Reason, "Observe", "%s", after.Message)
	}
}
