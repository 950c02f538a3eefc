package apps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// ownerIndex finds the pools of a workload.
const ownerIndex = "spec.owner"

func indexOwner(o client.Object) []string {
	p := o.(*v1alpha1.IPPool)
	if p.Spec.Owner == nil {
		return nil
	}
	return []string{indexKey(*p.Spec.Owner)}
}

// indexKey has no version of the API.
func indexKey(o v1alpha1.PoolOwner) string {
	return strings.Join([]string{gvkOf(o).Group, o.Kind, o.Namespace, o.Name}, "/")
}

// ours says whether this package has made a pool. One that a person has made for a workload is theirs.
func ours(p *v1alpha1.IPPool) bool {
	ifName := p.Annotations[InterfaceAnnotation]
	return p.Spec.Owner != nil && ifName != "" && p.Name == nad.PoolName(*p.Spec.Owner, p.Spec.Netspace, ifName, p.Spec.Subnet)
}

// poolsOf a workload, as the cache has them.
func (r *reconciler) poolsOf(ctx context.Context, owner v1alpha1.PoolOwner) ([]*v1alpha1.IPPool, error) {
	var list v1alpha1.IPPoolList
	if err := r.cached.List(ctx, &list, client.MatchingFields{ownerIndex: indexKey(owner)}); err != nil {
		return nil, err
	}
	var out []*v1alpha1.IPPool
	for i := range list.Items {
		if ours(&list.Items[i]) {
			out = append(out, &list.Items[i])
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// doubtful is how long a look waits that could not tell all.
const doubtful = 10 * time.Second

// stillThere is how often it is looked whether what is no workload, and not watched, is there still: of what is gone nothing is remembered.
const stillThere = time.Hour

// Reconcile the pools of the workload that a request names, or that is above it.
func (r *reconciler) Reconcile(ctx context.Context, request v1alpha1.PoolOwner) (reconcile.Result, error) {
	w, err := r.workload(ctx, request)
	elsewhere := errors.Is(err, errElsewhere)
	switch {
	case elsewhere: // it may have been alone before
		w = &workload{owner: request}
	case errors.Is(err, errNoWorkload):
		r.tell(request, nil, noteNotScalable, fmt.Sprintf("%s %v, so that nobody knows how large its pool is to be; name pools in %s", describe(request), err, nad.PoolAnnotation))
		return reconcile.Result{RequeueAfter: stillThere}, nil
	case err != nil && hidden(err):
		r.tell(request, nil, noteNotReadable, fmt.Sprintf("%v; add a ClusterRole with the label %s that lets Berth get, list and watch it, and get its scale", err, AggregateLabel))
		return reconcile.Result{RequeueAfter: forgetScale}, nil
	case err != nil:
		return reconcile.Result{}, err
	}
	have, err := r.poolsOf(ctx, w.owner)
	if err != nil {
		return reconcile.Result{}, err
	}
	if w.meta == nil && len(have) == 0 {
		r.drop(w.owner)
		return reconcile.Result{}, nil
	}
	if w.meta == nil && !elsewhere {
		if gone, err := r.gone(ctx, w.owner); err != nil || !gone {
			return reconcile.Result{RequeueAfter: doubtful}, err
		}
	}
	want, again, err := r.wanted(ctx, w)
	if errors.Is(err, errLeave) {
		return reconcile.Result{RequeueAfter: again}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	d := r.decide(w.owner, want, have, w.meta == nil)
	if again > 0 {
		d.look(again)
	}
	if wait := r.tellNotReady(w, have); wait > 0 {
		d.look(wait)
	}
	again, err = r.act(ctx, w, d)
	return reconcile.Result{RequeueAfter: again}, err
}

// gone says by the API server's own word that there is no such workload.
func (r *reconciler) gone(ctx context.Context, owner v1alpha1.PoolOwner) (bool, error) {
	_, err := r.custom.get(ctx, owner)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

// errLeave: the pools stay as they are.
var errLeave = errors.New("left as it is")

// wanted pools. again is when more may be known.
func (r *reconciler) wanted(ctx context.Context, w *workload) (want []wanted, again time.Duration, err error) {
	switch {
	case w.meta == nil:
		return nil, 0, nil
	case w.unknown: // until the next pod
		return nil, 0, errLeave
	}
	config := func(key string) (string, bool) {
		namespace, name, _ := strings.Cut(key, "/")
		var n nadv1.NetworkAttachmentDefinition
		if err := r.cached.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &n); err != nil {
			again = doubtful
			return "", false
		}
		return n.Spec.Config, true
	}
	template, warnings, err := nad.TemplateOf(w.annotations, w.owner.Namespace, config)
	if err == nil {
		for _, warning := range warnings {
			r.tell(w.owner, w.meta, noteIgnored, warning)
		}
	}
	var netspace string
	if err == nil && len(template.Pools) > 0 {
		netspace, err = r.netspaceOf(ctx, w.owner.Namespace, template.Netspace)
	}
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return nil, 0, err
	}
	if err != nil {
		r.tell(w.owner, w.meta, noteRefused, err.Error())
		return nil, doubtful, errLeave // a netspace may be made
	}
	for _, p := range template.Pools {
		want = append(want, wanted{
			name: nad.PoolName(w.owner, netspace, p.Interface, p.Subnet), ifName: p.Interface, subnet: p.Subnet, netspace: netspace,
			size: template.Size.Of(w.need), keep: template.Keep,
		})
	}
	return want, again, nil
}

// netspaceOf pods of a namespace, which name one or none.
func (r *reconciler) netspaceOf(ctx context.Context, namespace, named string) (string, error) {
	var ns corev1.Namespace
	if err := r.cached.Get(ctx, client.ObjectKey{Name: namespace}, &ns); err != nil {
		return "", err
	}
	var list v1alpha1.NetspaceList
	if err := r.cached.List(ctx, &list); err != nil {
		return "", err
	}
	var all []*v1alpha1.Netspace
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	known, _ := ipam.NewNetspaces(all) // of a malformed one its own controller tells
	n, err := known.OfPod(namespace, ns.Labels, named)
	if err != nil || n == nil {
		return "", err
	}
	return n.Name, nil
}

// decide with the patience of earlier looks.
func (r *reconciler) decide(owner v1alpha1.PoolOwner, want []wanted, have []*v1alpha1.IPPool, gone bool) decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.patient[owner]
	if p == nil {
		p = patience{}
	}
	d := decide(want, have, gone, p, r.after, r.now())
	if r.patient[owner] = p; len(p) == 0 {
		delete(r.patient, owner)
	}
	return d
}

// act on a decision. Each write stands alone: what a crash leaves undone, the next look decides again.
func (r *reconciler) act(ctx context.Context, w *workload, d decision) (time.Duration, error) {
	var errs []error
	for _, c := range d.create {
		errs = append(errs, r.create(ctx, w, c))
	}
	for _, c := range d.changes {
		errs = append(errs, r.change(ctx, c))
	}
	err := errors.Join(errs...)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) { // somebody else wrote, too; the cache will tell
		d.look(time.Second)
		err = nil
	}
	if err != nil {
		return 0, err
	}
	return d.again, nil
}

func (r *reconciler) create(ctx context.Context, w *workload, c wanted) error {
	var subnet v1alpha1.Subnet
	r.lack(c.subnet, w.owner) // before the look: a Subnet that is made after it wakes the owner
	err := r.cached.Get(ctx, client.ObjectKey{Name: c.subnet}, &subnet)
	if apierrors.IsNotFound(err) {
		r.tell(w.owner, w.meta, noteNoSubnet, fmt.Sprintf("Subnet %q does not exist; correct the annotation of the pod template, or create it", c.subnet))
		return nil
	}
	if err != nil {
		return err
	}
	r.found(c.subnet, w.owner)
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: c.name, Annotations: map[string]string{InterfaceAnnotation: c.ifName},
		Finalizers: []string{v1alpha1.FinalizerInUse}}}
	p.Spec = v1alpha1.IPPoolSpec{Network: subnet.Spec.Network, Subnet: c.subnet, Size: &c.size, Keep: c.keep, Owner: &w.owner, Netspace: c.netspace}
	err = r.cached.Create(ctx, p)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	var other v1alpha1.IPPool
	if err := r.live.Get(ctx, client.ObjectKey{Name: c.name}, &other); err != nil {
		return err
	}
	if !ours(&other) || indexKey(*other.Spec.Owner) != indexKey(w.owner) {
		r.tell(w.owner, w.meta, noteNameTaken, fmt.Sprintf("IPPool %q is not the workload's, but has the name of its pool; delete it, or rename the workload", c.name))
	}
	return nil // this controller's before its cache has told, or another's
}

func (r *reconciler) change(ctx context.Context, c change) error {
	if c.delete {
		uid, version := c.pool.UID, c.pool.ResourceVersion
		return r.cached.Delete(ctx, c.pool, client.Preconditions{UID: &uid, ResourceVersion: &version})
	}
	p := c.pool.DeepCopy()
	p.Spec.Size, p.Spec.Keep = &c.size, c.keep
	return r.cached.Patch(ctx, p, client.MergeFromWithOptions(c.pool, client.MergeFromWithOptimisticLock{}))
}

// tellNotReady of a pool that cannot be carved in full, once it has not been for some time. It says when to look again.
func (r *reconciler) tellNotReady(w *workload, have []*v1alpha1.IPPool) time.Duration {
	if w.meta == nil {
		return 0
	}
	for _, p := range have {
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolCarved)
		if c == nil || c.Status != metav1.ConditionFalse || p.DeletionTimestamp != nil {
			continue
		}
		if left := doubtful - r.now().Sub(c.LastTransitionTime.Time); left > 0 {
			return left
		}
		r.tell(w.owner, w.meta, noteNotReady, fmt.Sprintf("pool %q: %s", p.Name, c.Message))
	}
	return 0
}
