package netspaces

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// keepShare has the share of a netspace made, step by step; child is nil while it has no addresses.
func (r *reconciler) keepShare(ctx context.Context, n *v1alpha1.Netspace, m members) (child *v1alpha1.Subnet, _ refusal, _ error) {
	share := n.Spec.Share
	if share == nil {
		return nil, refusal{}, nil
	}
	if n.Status.Subnet == "" && len(m.has) == 0 {
		return nil, refusal{reasonNoNamespace, "it has no namespace yet; the share is cut off when the first is there"}, nil
	}
	parent := &v1alpha1.Subnet{}
	switch err := r.client.Get(ctx, client.ObjectKey{Name: share.Subnet}, parent); {
	case apierrors.IsNotFound(err):
		return nil, refusal{reasonSubnet, fmt.Sprintf("share.subnet: there is no Subnet %q; make it, or name another", share.Subnet)}, nil
	case err != nil:
		return nil, refusal{}, err
	case parent.Spec.Netspace != "" && parent.Spec.Netspace != n.Name:
		return nil, refusal{reasonSubnet, fmt.Sprintf("share.subnet: Subnet %q is netspace %q's; name another", share.Subnet, parent.Spec.Netspace)}, nil
	}
	if n.Status.Subnet == "" {
		if ref, err := r.decide(ctx, n, parent, ""); ref.reason != "" || err != nil {
			return nil, ref, err
		}
	}
	// From here on the API server itself is asked: what is locked must be known.
	child = &v1alpha1.Subnet{}
	switch err := r.live.Get(ctx, client.ObjectKey{Name: n.Status.Subnet}, child); {
	case apierrors.IsNotFound(err):
		return r.lock(ctx, n, parent)
	case err != nil:
		return nil, refusal{}, err
	case !childOf(child, n, parent.Name):
		ref, err := r.decide(ctx, n, parent, child.Name)
		if ref.reason == "" && err == nil {
			ref = refusal{reasonBusy, fmt.Sprintf("Subnet %q is somebody else's; another name was chosen", child.Name)}
		}
		return nil, ref, err
	case child.DeletionTimestamp != nil:
		return nil, refusal{reasonBusy, fmt.Sprintf("Subnet %q, which was its share, is being deleted; another is made when it is gone", child.Name)}, nil
	}
	return r.settle(ctx, n, parent, child)
}

// childOf says whether a Subnet is the netspace's share, whatever else may have that name.
func childOf(s *v1alpha1.Subnet, n *v1alpha1.Netspace, parent string) bool {
	return s.Spec.Netspace == n.Name && s.Labels[LabelShareOf] == parent && s.Labels[v1alpha1.LabelManagedBy] == v1alpha1.ManagedBy
}

// decide which name, and so which VLAN, the share has, and write it down before anything is made. not is a name that somebody else has.
func (r *reconciler) decide(ctx context.Context, n *v1alpha1.Netspace, parent *v1alpha1.Subnet, not string) (refusal, error) {
	var all v1alpha1.SubnetList
	if err := r.live.List(ctx, &all); err != nil {
		return refusal{}, err
	}
	old := n.DeepCopy()
	n.Status.Subnet, n.Status.VLAN = "", nil
	for i := range all.Items {
		if s := &all.Items[i]; childOf(s, n, parent.Name) && s.DeletionTimestamp == nil { // made, and then the status was lost
			n.Status.Subnet, n.Status.VLAN = s.Name, s.Spec.VLAN
		}
	}
	if n.Status.Subnet == "" {
		var own *int32
		n.Status.VLAN = parent.Spec.VLAN
		if n.Spec.Share.VLANs != "" {
			vlans, err := parseVLANs(n.Spec.Share.VLANs)
			if err != nil {
				return refusal{reasonMalformed, "share." + err.Error()}, nil
			}
			// Who has a name that a VLAN gives has that VLAN, whatever it says.
			taken := slices.Clone(all.Items)
			for v := vlans.first; v <= vlans.last; v++ {
				if slices.ContainsFunc(all.Items, func(s v1alpha1.Subnet) bool { return s.Name == childName(parent.Name, n.Name, &v) }) {
					taken = append(taken, v1alpha1.Subnet{Spec: v1alpha1.SubnetSpec{VLAN: &v}})
				}
			}
			v, ok := vlans.pick(shareLink(n, parent), taken)
			if !ok {
				return refusal{reasonVLANs, fmt.Sprintf("share.vlans: each VLAN of %s is another Subnet's; make the range larger, or delete a netspace", n.Spec.Share.VLANs)}, nil
			}
			own, n.Status.VLAN = &v, &v
		}
		n.Status.Subnet = childName(parent.Name, n.Name, own)
		if n.Status.Subnet == not {
			n.Status = *old.Status.DeepCopy()
			return refusal{reasonNameTaken, fmt.Sprintf("there is a Subnet %q that is not its share; rename the netspace, or delete that", not)}, nil
		}
	}
	return refusal{}, r.client.Status().Patch(ctx, n, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
}

// lock the name, and so the VLAN, by making the child.
func (r *reconciler) lock(ctx context.Context, n *v1alpha1.Netspace, parent *v1alpha1.Subnet) (*v1alpha1.Subnet, refusal, error) {
	if parent.DeletionTimestamp != nil {
		return nil, refusal{reasonSubnet, fmt.Sprintf("share.subnet: Subnet %q is being deleted; name another", parent.Name)}, nil
	}
	var own *int32
	if n.Spec.Share.VLANs != "" {
		own = n.Status.VLAN
	}
	child := newChild(n, parent, own)
	if child.Name != n.Status.Subnet { // the parent was renamed, or the status was edited
		ref, err := r.decide(ctx, n, parent, "")
		if ref.reason == "" && err == nil {
			ref = refusal{reasonBusy, "its share is chosen anew"}
		}
		return nil, ref, err
	}
	switch err := r.client.Create(ctx, child); {
	case apierrors.IsAlreadyExists(err):
		return nil, refusal{reasonBusy, fmt.Sprintf("Subnet %q was made by somebody else at the same time", child.Name)}, nil
	case apierrors.IsInvalid(err):
		return nil, refusal{reasonRefused, fmt.Sprintf("the API server refuses its share, Subnet %q: %v", child.Name, err)}, nil
	case err != nil:
		return nil, refusal{}, err
	}
	return r.settle(ctx, n, parent, child)
}

// settle a child: with a VLAN that nobody has besides, and the addresses that are cut off for it. It returns it once it has them.
func (r *reconciler) settle(ctx context.Context, n *v1alpha1.Netspace, parent, child *v1alpha1.Subnet) (*v1alpha1.Subnet, refusal, error) {
	want := child.DeepCopy()
	link := shareLink(n, parent)
	if want.Spec.Parent = link; n.Spec.Share.VLANs != "" && link != "" {
		want.Spec.Parent = fmt.Sprintf("%s.%d", link, *child.Spec.VLAN)
	}
	want.OwnerReferences = []metav1.OwnerReference{reference(n)}
	if pending(child) {
		if n.Spec.Share.VLANs != "" {
			if ref, err := r.yield(ctx, n, parent, child, link); ref.reason != "" || err != nil {
				return nil, ref, err
			}
		}
		prefixes, err := r.share.Share(ctx, parent, child.Name, n.Spec.Share.Size)
		switch {
		case err != nil && (ctx.Err() != nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown):
			return nil, refusal{}, err
		case err != nil:
			return nil, refusal{reasonShare, "share: " + err.Error()}, nil
		}
		if want.Spec.CIDRs, err = cidrs(parent, prefixes, n.Spec.Share.VLANs != ""); err != nil {
			return nil, refusal{reasonShare, "share: " + err.Error()}, nil
		}
	}
	if equality.Semantic.DeepEqual(want.Spec, child.Spec) && equality.Semantic.DeepEqual(want.OwnerReferences, child.OwnerReferences) {
		return child, refusal{}, nil
	}
	switch err := r.client.Update(ctx, want); {
	case apierrors.IsInvalid(err):
		return nil, refusal{reasonRefused, fmt.Sprintf("the API server refuses its share, Subnet %q: %v", child.Name, err)}, nil
	case err != nil:
		return nil, refusal{}, err
	}
	return want, refusal{}, nil
}

// yield the VLAN to another Subnet on the same link, of another parent or a person's: no name locks it against these.
func (r *reconciler) yield(ctx context.Context, n *v1alpha1.Netspace, parent, child *v1alpha1.Subnet, link string) (refusal, error) {
	var all v1alpha1.SubnetList
	if err := r.live.List(ctx, &all); err != nil {
		return refusal{}, err
	}
	other, wins := rival(child, link, all.Items)
	switch {
	case other == nil:
		return refusal{}, nil
	case !wins:
		return refusal{reasonBusy, fmt.Sprintf("VLAN %d is wanted for Subnet %q too, which is younger; it waits until that has chosen another", *child.Spec.VLAN, other.Name)}, nil
	}
	uid, version := child.UID, child.ResourceVersion
	if err := r.client.Delete(ctx, child, client.Preconditions{UID: &uid, ResourceVersion: &version}); client.IgnoreNotFound(err) != nil {
		return refusal{}, err
	}
	if ref, err := r.decide(ctx, n, parent, child.Name); ref.reason != "" || err != nil {
		return ref, err
	}
	return refusal{reasonBusy, fmt.Sprintf("VLAN %d is Subnet %q's too, which has it already or is older; another was chosen", *child.Spec.VLAN, other.Name)}, nil
}
