package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// Events of copies and blocks.
const (
	noteRestored  = "CopyRestored"
	noteLost      = "BlockLost"
	noteReclaimed = "BlockClaimedAgain"
)

func mark(b *v1alpha1.IPBlock, m string) { annotate(b, v1alpha1.AnnotationHubBlock, m) }

// annotate with a value; "" takes the annotation away.
func annotate(b *v1alpha1.IPBlock, key, value string) {
	switch {
	case value == "":
		delete(b.Annotations, key)
	case b.Annotations == nil:
		b.Annotations = map[string]string{key: value}
	default:
		b.Annotations[key] = value
	}
}

func uidOf(s string) *types.UID {
	uid := types.UID(s)
	return &uid
}

// tend to the blocks: what a crash left unfinished ends, and what the hub says of the open ones is noted. What was only just found
// unfinished may be at work, and is left until the next look.
func (h *Hub) tend(ctx context.Context) error {
	l, err := h.ready()
	if err != nil {
		return nil // looked at when it is back
	}
	var here, there v1alpha1.IPBlockList
	if err := h.client.List(ctx, &here, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	if err := l.cached.List(ctx, &there, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	theirs := make(map[string]*v1alpha1.IPBlock, len(there.Items))
	for i := range there.Items {
		theirs[there.Items[i].Name] = &there.Items[i]
	}
	states := map[string]float64{"held": 0, "lost": 0, "disputed": 0, "unfinished": 0}
	seen := map[string]string{}
	unfinished := func(b *v1alpha1.IPBlock) (again bool) {
		states["unfinished"]++
		key := b.Name + " " + string(b.UID)
		seen[key] = b.ResourceVersion
		return h.seen[key] == b.ResourceVersion
	}
	var errs []error
	for i := range here.Items {
		b := &here.Items[i]
		m := b.Annotations[v1alpha1.AnnotationHubBlock]
		other := theirs[b.Name]
		delete(theirs, b.Name)
		switch {
		case m == "" && b.Spec.Cluster == "": // of the cluster's own Subnets
		case b.Spec.Cluster != "":
			if unfinished(b) {
				errs = append(errs, client.IgnoreNotFound(h.release(ctx, l, b.DeepCopy())))
			}
		case other != nil && h.ours(other) && string(other.UID) == m:
			state, err := h.heed(ctx, b, other.Annotations[v1alpha1.AnnotationDisputed])
			states[state]++
			errs = append(errs, err)
		default:
			state, err := h.compare(ctx, l, b.DeepCopy())
			states[state]++
			errs = append(errs, err)
		}
	}
	for _, b := range theirs {
		switch {
		case !h.ours(b):
			errs = append(errs, h.dispute(ctx, l, b, false)) // nothing is left of it here
		case unfinished(b):
			errs = append(errs, h.stray(ctx, b))
		}
	}
	h.seen = seen
	for state, n := range states {
		hubBlocks.WithLabelValues(state).Set(n)
	}
	return errors.Join(errs...)
}

// heed who says in the hub that he holds an open block, too.
func (h *Hub) heed(ctx context.Context, b *v1alpha1.IPBlock, disputed string) (state string, err error) {
	if b.Annotations[v1alpha1.AnnotationDisputed] != disputed {
		b = b.DeepCopy()
		annotate(b, v1alpha1.AnnotationDisputed, disputed)
		err = client.IgnoreNotFound(h.client.Update(ctx, b))
	}
	if disputed != "" {
		return "disputed", err
	}
	return "held", err
}

// dispute another's block of the hub, or no longer do so, as it was read.
func (h *Hub) dispute(ctx context.Context, l *link, there *v1alpha1.IPBlock, holds bool) error {
	names := strings.FieldsFunc(there.Annotations[v1alpha1.AnnotationDisputed], func(r rune) bool { return r == ',' })
	if slices.Contains(names, h.cfg.Cluster) == holds {
		return nil
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == h.cfg.Cluster })
	if holds {
		names = append(names, h.cfg.Cluster)
		slices.Sort(names)
	}
	there = there.DeepCopy()
	annotate(there, v1alpha1.AnnotationDisputed, strings.Join(names, ","))
	return ignoreBehind(l.live.Update(ctx, there))
}

// holder of a block in the hub, in a word.
func holder(there *v1alpha1.IPBlock) string { return cmp.Or(there.Spec.Cluster, "the hub") }

// compare an open block, of which the watch does not say that it is ours, with the hub's. What the hub has no more is claimed again: it is in use.
func (h *Hub) compare(ctx context.Context, l *link, b *v1alpha1.IPBlock) (state string, err error) {
	m := b.Annotations[v1alpha1.AnnotationHubBlock]
	there := &v1alpha1.IPBlock{}
	state = "held"
	if m == lost {
		state = "lost"
	}
	err = l.live.Get(ctx, client.ObjectKeyFromObject(b), there)
	gone := apierrors.IsNotFound(err)
	if gone {
		if len(b.Spec.Parts) == 0 {
			return state, nil // it goes anyway
		}
		there, err = h.claimThere(ctx, l, b)
		if errors.Is(err, subnets.ErrElsewhere) {
			return state, nil // since a moment ago: looked at again
		}
	}
	if err != nil {
		return state, err
	}
	now, disputed := lost, holder(there)
	if h.ours(there) {
		now, disputed = string(there.UID), there.Annotations[v1alpha1.AnnotationDisputed]
	}
	if now != m || disputed != b.Annotations[v1alpha1.AnnotationDisputed] {
		mark(b, now)
		annotate(b, v1alpha1.AnnotationDisputed, disputed)
		if err := h.client.Update(ctx, b); err != nil {
			return state, client.IgnoreNotFound(err)
		}
	}
	if now == lost {
		if m != lost {
			h.recorder.Eventf(b, nil, corev1.EventTypeWarning, noteLost, "Observe",
				"in the hub the block is %s's: pools of both leave it, and pods keep the addresses that they have", holder(there))
		}
		return "lost", h.dispute(ctx, l, there, true)
	}
	if now == m {
		return state, nil
	}
	h.recorder.Eventf(b, nil, corev1.EventTypeNormal, noteReclaimed, "Claim", "the hub no longer had the block as this cluster's, which has pools in it: it is claimed again")
	return "held", nil
}

// stray is a block of the hub that is ours while there is none here. It begins to return, unless pools give out addresses of it: someone
// deleted the block here, and it is going to be claimed again.
func (h *Hub) stray(ctx context.Context, there *v1alpha1.IPBlock) error {
	network, first, err := ipam.ParseLeaseName(there.Name)
	if err != nil {
		return nil // not a name of ours
	}
	b := &v1alpha1.IPBlock{}
	b.Name, b.Spec.Network, b.Spec.First, b.Spec.Cluster = there.Name, network, first.String(), h.cfg.Cluster
	if err := h.live.Get(ctx, client.ObjectKeyFromObject(b), &v1alpha1.IPBlock{}); !apierrors.IsNotFound(err) {
		return err
	}
	if user, err := h.user(ctx, network, carve.Range(first)); err != nil || user != "" {
		if user != "" {
			err = fmt.Errorf("block %q is this cluster's in the hub, and not here, where %s has addresses of it; it stays so", there.Name, user)
		}
		return err
	}
	mark(b, string(there.UID))
	if err := h.client.Create(ctx, b); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil // the next looks go on
}

// user of addresses of a range, in words; "" for none.
func (h *Hub) user(ctx context.Context, network string, r ipam.Range) (string, error) {
	var pools v1alpha1.IPPoolList
	if err := h.live.List(ctx, &pools); err != nil {
		return "", err
	}
	for i := range pools.Items {
		p, err := ipam.Compile(&pools.Items[i])
		if err == nil && pools.Items[i].Spec.Subnet != "" && p.Network == network && len(p.Ranges(ipam.FamilyOf(r.From)).Overlap(ipam.Ranges{r})) > 0 {
			return fmt.Sprintf("pool %q", p.Name), nil
		}
	}
	var leases v1alpha1.IPLeaseList
	if err := h.live.List(ctx, &leases, client.MatchingFields{networkIndex: network}); err != nil {
		return "", err
	}
	for i := range leases.Items {
		a, err := ipam.ParseRange(leases.Items[i].Spec.Address)
		if err == nil && leases.Items[i].Spec.Phase != v1alpha1.LeaseReleased && len((ipam.Ranges{r}).Overlap(ipam.Ranges{a})) > 0 {
			return fmt.Sprintf("lease %q", leases.Items[i].Name), nil
		}
	}
	return "", nil
}
