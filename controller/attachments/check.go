package attachments

import (
	"context"
	"encoding/json"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/nad"
)

// ProblemAnnotation of a NetworkAttachmentDefinition says what its pods would fail at; absent: nothing that is known. The kind has no
// status to say it in.
const ProblemAnnotation = "berth.dev/problem"

// Reasons of events of NetworkAttachmentDefinitions.
const (
	noteProblem = "AttachmentProblem"
	noteMended  = "AttachmentMended"
)

// checker keeps the annotation of each network, and tells of its changes.
type checker struct {
	client   client.Client
	recorder round.Recorder
}

func (r *checker) setup(mgr ctrl.Manager) error {
	all := onAny(func(ctx context.Context, q queue) {
		var list nadv1.NetworkAttachmentDefinitionList
		if r.client.List(ctx, &list, client.UnsafeDisableDeepCopy) != nil {
			return // the cache is stopping
		}
		for i := range list.Items {
			q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])}, gather)
		}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("attachments-check").
		For(&nadv1.NetworkAttachmentDefinition{}).
		Watches(&v1alpha1.IPPool{}, all).
		Watches(&v1alpha1.HostNetwork{}, onAnyStatus(all)).
		Watches(&v1alpha1.Netspace{}, all).
		Watches(&corev1.Namespace{}, onLabels(all)).
		Watches(&corev1.Node{}, onParents(all)).
		Complete(r)
}

// Reconcile one network.
func (r *checker) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	n := &nadv1.NetworkAttachmentDefinition{}
	if err := r.client.Get(ctx, req.NamespacedName, n); err != nil || n.DeletionTimestamp != nil {
		dropProblem(req.String())
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	s, err := look(ctx, r.client)
	if err != nil {
		return reconcile.Result{}, err
	}
	was := n.Annotations[ProblemAnnotation]
	is := strings.Join(nad.Problems(n.Spec.Config, s.cluster(n.Namespace)), "; ")
	observeProblem(req.String(), is != "")
	if is == was {
		return reconcile.Result{}, nil
	}
	var value any // null removes it
	if is != "" {
		value = is
	}
	// The version has it written, and told, once for what was seen.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": n.ResourceVersion, "annotations": map[string]any{ProblemAnnotation: value},
	}})
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := r.client.Patch(ctx, n, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return round.Retry(err, gather)
	}
	if is == "" {
		r.recorder.Eventf(n, nil, corev1.EventTypeNormal, noteMended, "Observe", "no problem is known of the network any more")
		return reconcile.Result{}, nil
	}
	r.recorder.Eventf(n, nil, corev1.EventTypeWarning, noteProblem, "Observe", "%s", is)
	return reconcile.Result{}, nil
}
