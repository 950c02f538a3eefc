package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

// Reasons of the condition InStep of Subnets.
const (
	reasonInStep     = "InStep"
	reasonAway       = "HubAway"
	reasonKubeconfig = "KubeconfigRefused"
	reasonNamesake   = "ClusterNameTaken"
	reasonWithdrawn  = "Withdrawn"
	reasonTaken      = "HubNameTaken"
	reasonRefused    = "CopyRefused"
)

// lets says whether this cluster may have blocks of a hub's Subnet. A Subnet that the hub has of another hub is not handed on.
func (h *Hub) lets(there *v1alpha1.Subnet) bool {
	return there.UID != "" && there.DeletionTimestamp == nil && !there.Spec.Hub &&
		(len(there.Spec.Clusters) == 0 || slices.Contains(there.Spec.Clusters, h.cfg.Cluster))
}

// copyOf is the spec that a copy has here.
func copyOf(there *v1alpha1.Subnet) v1alpha1.SubnetSpec {
	spec := *there.Spec.DeepCopy()
	spec.Hub, spec.Clusters = true, nil
	return spec
}

// copySubnets brings the copies here in step with the hub's Subnets. Subnets of the cluster's own are left alone.
func (h *Hub) copySubnets(ctx context.Context) error {
	var list v1alpha1.SubnetList
	if err := h.client.List(ctx, &list); err != nil {
		return err
	}
	here := map[string]*v1alpha1.Subnet{}
	for i := range list.Items {
		here[list.Items[i].Name] = &list.Items[i]
	}
	l, away := h.ready()
	if away != nil {
		var errs []error
		for _, s := range here {
			if s.Spec.Hub {
				errs = append(errs, h.tell(ctx, s, reasonOf(away), away.Error()+"; pools go on with the blocks that this cluster has"))
			}
		}
		return errors.Join(errs...)
	}
	var theirs v1alpha1.SubnetList
	if err := l.cached.List(ctx, &theirs); err != nil {
		return err
	}
	var errs []error
	lent := map[string]bool{}
	for i := range theirs.Items {
		there := &theirs.Items[i]
		if h.lets(there) {
			lent[there.Name] = true
			errs = append(errs, h.copySubnet(ctx, there, here[there.Name]))
		}
	}
	for _, s := range here {
		switch {
		case lent[s.Name]:
		case s.Spec.Hub:
			errs = append(errs, h.withdraw(ctx, s))
		case meta.FindStatusCondition(s.Status.Conditions, v1alpha1.SubnetInStep) != nil: // its name is its own again
			old := s.DeepCopy()
			meta.RemoveStatusCondition(&s.Status.Conditions, v1alpha1.SubnetInStep)
			errs = append(errs, ignoreBehind(h.client.Status().Patch(ctx, s, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))))
		}
	}
	return errors.Join(errs...)
}

func (h *Hub) copySubnet(ctx context.Context, there, s *v1alpha1.Subnet) error {
	spec := copyOf(there)
	before, known := h.wrote[there.Name]
	switch {
	case s == nil:
		s = &v1alpha1.Subnet{}
		s.Name, s.Spec = there.Name, spec
		s.Annotations = map[string]string{v1alpha1.AnnotationHubSubnet: string(there.UID)}
		if err := h.client.Create(ctx, s); err != nil {
			return client.IgnoreAlreadyExists(err) // the cache is behind
		}
	case !s.Spec.Hub:
		return h.tell(ctx, s, reasonTaken, "the hub has a Subnet of this name, too, which is not copied here; give this one another name to have that one")
	case s.DeletionTimestamp != nil:
		return nil // it is copied again when it is gone
	case !equality.Semantic.DeepEqual(s.Spec, spec) || s.Annotations[v1alpha1.AnnotationHubSubnet] != string(there.UID):
		edited := known && equality.Semantic.DeepEqual(before, spec) && !equality.Semantic.DeepEqual(s.Spec, spec)
		s = s.DeepCopy()
		s.Spec = spec
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[v1alpha1.AnnotationHubSubnet] = string(there.UID)
		switch err := h.client.Update(ctx, s); {
		case apierrors.IsInvalid(err):
			return h.tell(ctx, s, reasonRefused, "the Subnet cannot become as the hub's is now: "+err.Error()+"; delete it here, with its pools, to have it copied anew")
		case err != nil:
			return ignoreBehind(err)
		}
		if edited {
			h.recorder.Eventf(s, nil, corev1.EventTypeWarning, noteRestored, "Copy", "the Subnet is a copy of the hub's, which has been restored; edit it in the hub")
		}
	}
	h.wrote[there.Name] = spec
	defer h.changed(ctx, s)
	return h.tell(ctx, s, reasonInStep, "the Subnet is as the hub's is")
}

// withdraw a copy that the hub does not lend any more: it goes when nobody has a part of it.
func (h *Hub) withdraw(ctx context.Context, s *v1alpha1.Subnet) error {
	if s.Annotations[v1alpha1.AnnotationHubSubnet] != "" && s.DeletionTimestamp == nil {
		owners, err := h.owners(ctx, s)
		if err != nil {
			return err
		}
		if len(owners) == 0 {
			return client.IgnoreNotFound(h.client.Delete(ctx, s, client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}))
		}
	}
	return h.tell(ctx, s, reasonWithdrawn, fmt.Sprintf("the hub has no such Subnet for cluster %q, or deletes it: pools keep what they have, and get no block more; the copy goes when its pools are deleted", h.cfg.Cluster))
}

// owners of parts of a Subnet.
func (h *Hub) owners(ctx context.Context, s *v1alpha1.Subnet) ([]carve.Owner, error) {
	var list v1alpha1.IPBlockList
	if err := h.client.List(ctx, &list, client.MatchingFields{networkIndex: s.Spec.Network}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var read []*carve.Block
	for i := range list.Items {
		if b, err := carve.Read(&list.Items[i]); err == nil {
			read = append(read, b)
		}
	}
	return carve.NewBook(read...).Owners(s.Name), nil
}

// changed has the status of a Subnet counted anew: others may have taken or returned blocks.
func (h *Hub) changed(ctx context.Context, s *v1alpha1.Subnet) {
	select {
	case h.Changed <- event.GenericEvent{Object: s}:
	case <-ctx.Done():
	}
}

// tell by the condition InStep, and what is news by an event.
func (h *Hub) tell(ctx context.Context, s *v1alpha1.Subnet, reason, message string) error {
	old, s := s, s.DeepCopy()
	status := metav1.ConditionFalse
	if reason == reasonInStep {
		status = metav1.ConditionTrue
	}
	before := meta.FindStatusCondition(old.Status.Conditions, v1alpha1.SubnetInStep)
	if !meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1alpha1.SubnetInStep, Status: status, Reason: reason, Message: message, ObservedGeneration: s.Generation,
	}) {
		return nil
	}
	if err := h.client.Status().Patch(ctx, s, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
		return ignoreBehind(err) // told at the next look
	}
	switch {
	case before == nil && status == metav1.ConditionTrue, before != nil && before.Reason == reason:
	case status == metav1.ConditionTrue:
		h.recorder.Eventf(s, nil, corev1.EventTypeNormal, reason, "Copy", "%s", message)
	default:
		h.recorder.Eventf(s, nil, corev1.EventTypeWarning, reason, "Copy", "%s", message)
	}
	return nil
}

// ignoreBehind forgives what only says that the cache is behind: the next look sees it.
func ignoreBehind(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return client.IgnoreNotFound(err)
}
