package netspaces

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
)

// Reasons of the condition Ready of a Netspace.
const (
	reasonServing     = "Serving"
	reasonNoNamespace = "NoNamespace"
	reasonBusy        = "Making"
	reasonTaken       = "NamespaceTaken"
	reasonSubnet      = "NoSuchSubnet"
	reasonShare       = "ShareRefused"
	reasonVLANs       = "VLANsExhausted"
	reasonNameTaken   = "NameTaken"
	reasonRefused     = "Refused"
	reasonMalformed   = "Malformed"
	reasonWaits       = "WaitsForPods"
)

// refusal says why a netspace is not, or not yet, what it shall be; the zero value: it is.
type refusal struct{ reason, message string }

// passing refusals end by themselves, and are nobody's fault.
func (r refusal) passing() bool {
	return r.reason == reasonBusy || r.reason == reasonNoNamespace || r.reason == reasonWaits
}

// outcome of a look, as the condition Ready says it. What is served is served whatever is refused beside it.
func outcome(n *v1alpha1.Netspace, child *v1alpha1.Subnet, refusals []refusal, wait refusal) refusal {
	switch {
	case len(refusals) > 0:
		out := refusals[0]
		for _, r := range refusals[1:] {
			out.message += "; " + r.message
		}
		return out
	case wait.reason != "":
		return wait
	}
	out := refusal{reasonServing, "its namespaces have their pools"}
	switch {
	case n.Spec.Share == nil && len(n.Spec.Subnets) == 0:
		out.message = "its namespaces are known; it has neither subnets nor a share, and so no pools but those that name it"
	case child != nil && child.Spec.Parent == "":
		out.message += fmt.Sprintf("; its share has no attachments, since neither share.parent nor parent of Subnet %q names a host link", n.Spec.Share.Subnet)
	}
	return out
}

// tell by the status, and what is news by an event.
func (r *reconciler) tell(ctx context.Context, n *v1alpha1.Netspace, m members, o refusal) error {
	old := n.DeepCopy()
	n.Status.ObservedGeneration, n.Status.Namespaces = n.Generation, m.has
	o.message = round.Cut(o.message)
	status := metav1.ConditionTrue
	if o.reason != reasonServing {
		status = metav1.ConditionFalse
	}
	meta.SetStatusCondition(&n.Status.Conditions, metav1.Condition{
		Type: v1alpha1.NetspaceReady, Status: status, Reason: o.reason, Message: o.message, ObservedGeneration: n.Generation,
	})
	observe(n.Name, status == metav1.ConditionTrue)
	if equality.Semantic.DeepEqual(old.Status, n.Status) {
		return nil
	}
	if err := r.client.Status().Patch(ctx, n, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	before := meta.FindStatusCondition(old.Status.Conditions, v1alpha1.NetspaceReady)
	switch {
	case before != nil && before.Reason == o.reason, o.passing(), before == nil && status == metav1.ConditionTrue:
	case status == metav1.ConditionTrue:
		r.recorder.Eventf(n, nil, corev1.EventTypeNormal, o.reason, "Observe", "%s", o.message)
	default:
		r.recorder.Eventf(n, nil, corev1.EventTypeWarning, o.reason, "Observe", "%s", o.message)
	}
	return nil
}
