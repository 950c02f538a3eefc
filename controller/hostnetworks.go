package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
)

// hostNetworkReconciler counts what the agents say of HostNetworks, gives nodes their turns, forgets nodes that are no more, and keeps a
// deleted HostNetwork until its links are gone everywhere: so that who waits for its end knows that they are, and what they wait for is to
// be seen.
type hostNetworkReconciler struct {
	client client.Client
	live   client.Reader // uncached
}

func (r *hostNetworkReconciler) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("hostnetworks").
		Watches(&v1alpha1.HostNetwork{}, handler.Funcs{ // agents' news come in crowds
			CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { q.Add(request(e.Object.GetName())) },
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
				q.AddAfter(request(e.ObjectNew.GetName()), statusInterval)
			},
		}).
		Watches(&corev1.Node{}, handler.Funcs{
			CreateFunc: func(ctx context.Context, _ event.CreateEvent, q queue) { r.wakeAll(ctx, q) },
			DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q queue) { r.wakeAll(ctx, q) },
			UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
				if !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) {
					r.wakeAll(ctx, q)
				}
			},
		}).
		Complete(r)
}

func (r *hostNetworkReconciler) wakeAll(ctx context.Context, q queue) {
	var all v1alpha1.HostNetworkList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return // the cache is stopping
	}
	for i := range all.Items {
		q.AddAfter(request(all.Items[i].Name), statusInterval)
	}
}

// Reconcile one HostNetwork.
func (r *hostNetworkReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var h v1alpha1.HostNetwork
	if err := r.client.Get(ctx, req.NamespacedName, &h); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	pruned, err := r.prune(ctx, &h, nodes.Items)
	if pruned || err != nil {
		return round.Retry(err, statusInterval) // what is left is news, and wakes us
	}
	selected, err := selectedNodes(&h, nodes.Items)
	if err != nil {
		return reconcile.Result{}, err
	}
	old := h.DeepCopy()
	h.Status.Ready, h.Status.Selected, h.Status.Rollout = countReady(&h, selected), int64(len(selected)), turns(&h, selected)
	if !equality.Semantic.DeepEqual(old.Status, h.Status) {
		if err := r.client.Status().Patch(ctx, &h, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
			return round.Retry(err, statusInterval)
		}
	}
	switch {
	case h.DeletionTimestamp == nil && controllerutil.AddFinalizer(&h, Finalizer),
		h.DeletionTimestamp != nil && !hasLinks(&h) && controllerutil.RemoveFinalizer(&h, Finalizer):
		return round.Retry(r.client.Update(ctx, &h), statusInterval)
	}
	return reconcile.Result{}, nil
}

// selectedNodes by name, in order.
func selectedNodes(h *v1alpha1.HostNetwork, nodes []corev1.Node) (out []string, err error) {
	selector := labels.Everything()
	if h.Spec.NodeSelector != nil {
		if selector, err = metav1.LabelSelectorAsSelector(h.Spec.NodeSelector); err != nil {
			return nil, fmt.Errorf("nodeSelector of HostNetwork %q: %w", h.Name, err)
		}
	}
	for i := range nodes {
		if selector.Matches(labels.Set(nodes[i].Labels)) {
			out = append(out, nodes[i].Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// countReady nodes of those selected, of this generation.
func countReady(h *v1alpha1.HostNetwork, selected []string) (ready int64) {
	for _, e := range h.Status.Nodes {
		if e.Ready && e.ObservedGeneration == h.Generation && slices.Contains(selected, e.Node) {
			ready++
		}
	}
	return ready
}

func hasLinks(h *v1alpha1.HostNetwork) bool {
	return slices.ContainsFunc(h.Status.Nodes, func(e v1alpha1.HostNetworkNode) bool { return len(e.Links) > 0 })
}

// prune the entry of a node that is no more, by the API server's own word: its agent will not.
func (r *hostNetworkReconciler) prune(ctx context.Context, h *v1alpha1.HostNetwork, nodes []corev1.Node) (bool, error) {
	for i, e := range h.Status.Nodes {
		if slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == e.Node }) {
			continue
		}
		if err := r.live.Get(ctx, client.ObjectKey{Name: e.Node}, &corev1.Node{}); client.IgnoreNotFound(err) != nil {
			return false, err
		} else if err == nil {
			continue
		}
		at := fmt.Sprintf("/status/nodes/%d", i)
		patch, err := json.Marshal([]map[string]any{
			{"op": "test", "path": at + "/node", "value": e.Node}, // agents write at the same time
			{"op": "remove", "path": at},
		})
		if err != nil {
			return false, err
		}
		if err := r.client.Status().Patch(ctx, h, client.RawPatch(types.JSONPatchType, patch)); err != nil {
			return false, fmt.Errorf("forget node %q in HostNetwork %q: %w", e.Node, h.Name, err)
		}
		return true, nil
	}
	return false, nil
}
