package attachments

import (
	"context"
	"fmt"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
)

// Reasons of the condition Attached.
const (
	reasonAttached  = "AttachmentsMade"
	reasonNameTaken = "AttachmentNameTaken"
)

// keeper makes the networks that Subnets and Netspaces want, keeps them as they are wanted, and deletes them after.
//
//	in the namespace      wanted            not wanted
//	(absent)              made              nothing
//	this owner's          mended            deleted
//	another owner's,      told, untouched   untouched
//	or nobody's
type keeper struct {
	client   client.Client
	live     client.Reader // uncached
	recorder round.Recorder
}

// Requests are owners: the kind stands in place of a namespace, which they have none of.
func request(o owner) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Namespace: o.kind, Name: o.name}}
}

func (r *keeper) setup(mgr ctrl.Manager) error {
	all := onAny(func(ctx context.Context, q queue) {
		var subnets v1alpha1.SubnetList
		var netspaces v1alpha1.NetspaceList
		if r.client.List(ctx, &subnets, client.UnsafeDisableDeepCopy) != nil || r.client.List(ctx, &netspaces, client.UnsafeDisableDeepCopy) != nil {
			return // the cache is stopping
		}
		for i := range subnets.Items {
			q.AddAfter(request(owner{kindSubnet, subnets.Items[i].Name}), gather)
		}
		for i := range netspaces.Items {
			q.AddAfter(request(owner{kindNetspace, netspaces.Items[i].Name}), gather)
		}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("attachments").
		Watches(&v1alpha1.Subnet{}, handler.EnqueueRequestsFromMapFunc(ownersOfSubnet)).
		Watches(&v1alpha1.Netspace{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return []reconcile.Request{request(owner{kindNetspace, o.GetName()})} // who loses a namespace to it says so in its status
		})).
		Watches(&v1alpha1.IPPool{}, handler.EnqueueRequestsFromMapFunc(ownersOfPool)).
		Watches(&v1alpha1.HostNetwork{}, all).
		Watches(&corev1.Namespace{}, onLabels(all)).
		Watches(&nadv1.NetworkAttachmentDefinition{}, handler.EnqueueRequestsFromMapFunc(r.ownersOfNetwork)).
		Complete(r)
}

// ownersOfSubnet: itself, and the netspace that it is of.
func ownersOfSubnet(_ context.Context, o client.Object) []reconcile.Request {
	out := []reconcile.Request{request(owner{kindSubnet, o.GetName()})}
	if n := o.(*v1alpha1.Subnet).Spec.Netspace; n != "" {
		out = append(out, request(owner{kindNetspace, n}))
	}
	return out
}

// ownersOfPool are those in whose networks it is named.
func ownersOfPool(_ context.Context, o client.Object) (out []reconcile.Request) {
	p := o.(*v1alpha1.IPPool)
	switch {
	case p.Spec.Owner != nil || p.Spec.Subnet == "":
	case p.Spec.Netspace != "":
		out = append(out, request(owner{kindNetspace, p.Spec.Netspace}))
	default:
		out = append(out, request(owner{kindSubnet, p.Spec.Subnet}))
	}
	return out
}

// ownersOfNetwork: the one that has it, or, of a network that is nobody's, those that may have wanted its name.
func (r *keeper) ownersOfNetwork(ctx context.Context, o client.Object) (out []reconcile.Request) {
	if of, ok := ownerOf(o.(*nadv1.NetworkAttachmentDefinition)); ok {
		return []reconcile.Request{request(of)}
	}
	var netspaces v1alpha1.NetspaceList
	if r.client.List(ctx, &netspaces, client.UnsafeDisableDeepCopy) != nil {
		return nil
	}
	for i := range netspaces.Items {
		if n := &netspaces.Items[i]; n.Name == o.GetName() || slices.Contains(n.Spec.Subnets, o.GetName()) {
			out = append(out, request(owner{kindNetspace, n.Name}))
		}
	}
	return append(out, request(owner{kindSubnet, o.GetName()}))
}

// Reconcile the networks of one owner.
func (r *keeper) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	of := owner{req.Namespace, req.Name}
	s, err := look(ctx, r.client)
	if err != nil {
		return reconcile.Result{}, err
	}
	var networks []network
	var object client.Object
	switch of.kind {
	case kindSubnet:
		sub := &v1alpha1.Subnet{}
		err = r.client.Get(ctx, client.ObjectKey{Name: of.name}, sub)
		if err == nil {
			object, networks = sub, ofSubnet(sub, s)
		}
	case kindNetspace:
		n := &v1alpha1.Netspace{}
		var subnets v1alpha1.SubnetList
		if err := r.client.List(ctx, &subnets, client.UnsafeDisableDeepCopy); err != nil {
			return reconcile.Result{}, err
		}
		err = r.client.Get(ctx, client.ObjectKey{Name: of.name}, n)
		if err == nil {
			object, networks = n, ofNetspace(n, subnets.Items, s)
		}
	}
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	clashes, err := r.keep(ctx, of, object, networks)
	if err != nil {
		return round.Retry(err, gather)
	}
	if object == nil {
		return reconcile.Result{}, nil
	}
	return round.Retry(r.tell(ctx, object, len(networks) > 0, clashes), gather)
}

// keep the networks of an owner; clashes say which names others have. The owner's object is nil if it is gone.
func (r *keeper) keep(ctx context.Context, of owner, object client.Object, networks []network) (clashes []string, err error) {
	var list nadv1.NetworkAttachmentDefinitionList
	if err := r.client.List(ctx, &list, client.MatchingLabels{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	have := map[client.ObjectKey]*nadv1.NetworkAttachmentDefinition{}
	for i := range list.Items {
		if o, ok := ownerOf(&list.Items[i]); ok && o == of {
			have[client.ObjectKeyFromObject(&list.Items[i])] = &list.Items[i]
		}
	}
	for _, n := range networks {
		for _, ns := range n.namespaces {
			key := client.ObjectKey{Namespace: ns, Name: n.name}
			old := have[key]
			delete(have, key)
			if old != nil {
				if err := r.mend(ctx, old, n.config, object); err != nil {
					return nil, err
				}
				continue
			}
			clash, err := r.make(ctx, key, n.config, of, object)
			if err != nil {
				return nil, err
			}
			if clash != "" {
				clashes = append(clashes, clash)
			}
		}
	}
	for _, n := range have {
		version, uid := n.ResourceVersion, n.UID
		err := r.client.Delete(ctx, n.DeepCopy(), client.Preconditions{UID: &uid, ResourceVersion: &version})
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
	}
	return clashes, nil
}

func (r *keeper) mend(ctx context.Context, old *nadv1.NetworkAttachmentDefinition, config string, object client.Object) error {
	refs := []metav1.OwnerReference{reference(object)}
	if old.Spec.Config == config && equality.Semantic.DeepEqual(refs, old.OwnerReferences) {
		return nil
	}
	n := old.DeepCopy()
	n.Spec.Config, n.OwnerReferences = config, refs
	return client.IgnoreNotFound(r.client.Update(ctx, n)) // a conflict is tried again
}

// make a network. A clash says who has the name already.
func (r *keeper) make(ctx context.Context, key client.ObjectKey, config string, of owner, object client.Object) (clash string, err error) {
	err = r.client.Create(ctx, made(key, config, object))
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), apierrors.IsNotFound(err): // the namespace goes
		return "", nil
	case !apierrors.IsAlreadyExists(err):
		return "", err
	}
	other := &nadv1.NetworkAttachmentDefinition{}
	if err := r.live.Get(ctx, key, other); err != nil {
		return "", client.IgnoreNotFound(err) // its going wakes us
	}
	switch by, ok := ownerOf(other); {
	case ok && by == of:
		return "", nil // the cache is late
	case ok:
		return fmt.Sprintf("%s is that of %s %q", key, by.kind, by.name), nil
	}
	return key.String() + " is not Berth's", nil
}

// tell how it went in the condition Attached, and in an event when that changes.
func (r *keeper) tell(ctx context.Context, object client.Object, wanted bool, clashes []string) error {
	c := metav1.Condition{
		Type: v1alpha1.Attached, Status: metav1.ConditionTrue, ObservedGeneration: object.GetGeneration(),
		Reason: reasonAttached, Message: "its NetworkAttachmentDefinitions are there",
	}
	if len(clashes) > 0 {
		slices.Sort(clashes)
		c.Status, c.Reason = metav1.ConditionFalse, reasonNameTaken
		c.Message = round.Cut(fmt.Sprintf("NetworkAttachmentDefinitions with names that are wanted here: %s; rename or delete them, and Berth makes its own", strings.Join(clashes, "; ")))
	}
	old := object.DeepCopyObject().(client.Object)
	conditions := conditionsOf(object)
	before := meta.FindStatusCondition(*conditions, c.Type)
	if before == nil && !wanted {
		return nil
	}
	had := before != nil && before.Status == c.Status && before.Message == c.Message
	if !wanted {
		meta.RemoveStatusCondition(conditions, c.Type)
		return r.client.Status().Patch(ctx, object, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
	}
	if !meta.SetStatusCondition(conditions, c) {
		return nil
	}
	if err := r.client.Status().Patch(ctx, object, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	kind := corev1.EventTypeNormal
	if c.Status == metav1.ConditionFalse {
		kind = corev1.EventTypeWarning
	}
	if !had && (before != nil || c.Status == metav1.ConditionFalse) {
		r.recorder.Eventf(object, nil, kind, c.Reason, "Observe", "%s", c.Message)
	}
	return nil
}

func conditionsOf(o client.Object) *[]metav1.Condition {
	switch o := o.(type) {
	case *v1alpha1.Subnet:
		return &o.Status.Conditions
	case *v1alpha1.Netspace:
		return &o.Status.Conditions
	default:
		panic(fmt.Sprintf("%T owns no network", o))
	}
}

// reference to the owner, which is the network's controller; where Kubernetes collects garbage, the network goes with it.
func reference(o client.Object) metav1.OwnerReference {
	kind := kindSubnet
	if _, ok := o.(*v1alpha1.Netspace); ok {
		kind = kindNetspace
	}
	yes := true
	return metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind, Name: o.GetName(), UID: o.GetUID(), Controller: &yes}
}
