package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// lost is the mark of a block that is another cluster's in the hub.
const lost = "lost"

// Claim makes a block of a hub's Subnet: claimed here, then in the hub, then open. Of the cluster's own Subnets it is the cluster's.
func (h *Hub) Claim(ctx context.Context, s *v1alpha1.Subnet, b *v1alpha1.IPBlock) error {
	if !s.Spec.Hub {
		return h.local.Claim(ctx, s, b)
	}
	l, err := h.ready()
	if err != nil {
		return err
	}
	if err := h.lent(ctx, l, s); err != nil {
		return err
	}
	if err := h.asLeft(ctx, l); err != nil {
		return err
	}
	parts := b.Spec.Parts
	b.Spec.Cluster, b.Spec.Parts = h.cfg.Cluster, nil
	if err := h.client.Create(ctx, b); err != nil {
		return err
	}
	there, err := h.claimThere(ctx, l, b)
	if err != nil {
		if err2 := h.release(ctx, l, b.DeepCopy()); err2 != nil {
			h.log.Info("a block that could not be claimed is given back later", "block", b.Name, "reason", err2.Error())
		}
		return err
	}
	mark(b, string(there.UID))
	b.Spec.Cluster, b.Spec.Parts = "", parts
	return h.client.Update(ctx, b)
}

// asLeft says whether the hub is as we left it, so that it can have forgotten nobody's block.
func (h *Hub) asLeft(ctx context.Context, l *link) error {
	l.mu.Lock()
	_, err := h.member(ctx, l)
	l.mu.Unlock()
	switch {
	case err != nil:
		h.setAway(err) // until the next look, which reads it anew
		return fmt.Errorf("%w: %w", subnets.ErrAway, err)
	case time.Now().Before(l.quiet):
		return fmt.Errorf("%w: the hub or this cluster was away, and the hub may have been restored from a backup: members first say what they hold", subnets.ErrAway)
	}
	return nil
}

// claimThere makes the hub's block ours; one that is ours already was left by someone who crashed, and there is a claimed block here that
// nobody touched since. Errors: subnets.ErrElsewhere, subnets.ErrAway.
func (h *Hub) claimThere(ctx context.Context, l *link, b *v1alpha1.IPBlock) (*v1alpha1.IPBlock, error) {
	there := &v1alpha1.IPBlock{}
	there.Name = b.Name
	there.Labels = map[string]string{v1alpha1.LabelCluster: h.cfg.Cluster}
	there.Annotations = map[string]string{v1alpha1.AnnotationClusterUID: string(*h.uid.Load())}
	there.Spec.Network, there.Spec.First, there.Spec.Cluster = b.Spec.Network, b.Spec.First, h.cfg.Cluster
	err := l.live.Create(ctx, there)
	if apierrors.IsAlreadyExists(err) {
		err = l.live.Get(ctx, client.ObjectKeyFromObject(b), there)
	}
	switch {
	case err != nil:
		hubClaims.WithLabelValues("failed").Inc()
		err = fmt.Errorf("claim of block %q: %w", b.Name, err)
		h.setAway(err) // until the next look
		return nil, fmt.Errorf("%w: %w", subnets.ErrAway, err)
	case !h.ours(there), there.Annotations[v1alpha1.AnnotationDisputed] != "":
		hubClaims.WithLabelValues("taken").Inc()
		h.learn(b.Name)
		return nil, subnets.ErrElsewhere
	}
	hubClaims.WithLabelValues("claimed").Inc()
	return there, nil
}

// lent says whether the hub lets this cluster have blocks of the Subnet, as the copy here says it is.
func (h *Hub) lent(ctx context.Context, l *link, s *v1alpha1.Subnet) error {
	var there v1alpha1.Subnet
	if err := l.cached.Get(ctx, client.ObjectKeyFromObject(s), &there); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("%w: %w", subnets.ErrAway, err)
	}
	if !h.lets(&there) {
		return fmt.Errorf("%w: the hub no longer lets cluster %q have blocks of Subnet %q", subnets.ErrAway, h.cfg.Cluster, s.Name)
	}
	if !equality.Semantic.DeepEqual(copyOf(&there), s.Spec) {
		return fmt.Errorf("%w: Subnet %q is not as the hub's is yet", subnets.ErrAway, s.Name)
	}
	return nil
}

// GiveBack a block that nobody has a part of. Of the hub's it begins to return, and is kept while the hub is away: it can be carved again.
func (h *Hub) GiveBack(ctx context.Context, b *v1alpha1.IPBlock) error {
	if m := b.Annotations[v1alpha1.AnnotationHubBlock]; m == "" || m == lost {
		return h.local.GiveBack(ctx, b)
	}
	l, err := h.ready()
	if err != nil {
		return err
	}
	b.Spec.Cluster = h.cfg.Cluster
	if err := h.client.Update(ctx, b); err != nil {
		return err
	}
	if err := h.release(ctx, l, b.DeepCopy()); err != nil {
		h.log.Info("a block is given back later", "block", b.Name, "reason", err.Error())
	}
	return nil
}

// release a block that is claimed or returning, as it was read: by its mark, which a claimed one gets first, lest it be opened meanwhile.
func (h *Hub) release(ctx context.Context, l *link, b *v1alpha1.IPBlock) error {
	there := &v1alpha1.IPBlock{}
	there.Name = b.Name
	uid := b.Annotations[v1alpha1.AnnotationHubBlock]
	if uid == "" {
		err := l.live.Get(ctx, client.ObjectKeyFromObject(b), there)
		switch {
		case err == nil && h.ours(there):
			uid = string(there.UID)
			mark(b, uid)
			if err := h.client.Update(ctx, b); err != nil {
				return err
			}
		case client.IgnoreNotFound(err) != nil:
			return err
		}
	}
	if uid != "" && uid != lost {
		// A conflict means that the block of that name is another one: ours is gone.
		if err := l.live.Delete(ctx, there, client.Preconditions{UID: uidOf(uid)}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return client.IgnoreNotFound(h.local.GiveBack(ctx, b))
}

// Elsewhere is, of a hub's Subnet, the hub's blocks that are not ours, and those here that the hub knows nothing of. Disputed ones are
// barred as such.
func (h *Hub) Elsewhere(ctx context.Context, s *v1alpha1.Subnet, here map[netip.Addr]*v1alpha1.IPBlock) (ipam.Ranges, error) {
	if !s.Spec.Hub {
		return nil, nil
	}
	var held, taken []ipam.Range
	for first, b := range here {
		if m := b.Annotations[v1alpha1.AnnotationHubBlock]; m != "" && b.Spec.Cluster == "" {
			held = append(held, carve.Range(first))
		} else {
			taken = append(taken, carve.Range(first))
		}
	}
	l, err := h.ready()
	if err == nil {
		err = h.lent(ctx, l, s)
	}
	if err != nil {
		if !errors.Is(err, subnets.ErrAway) {
			return nil, err
		}
		return subnets.Whole(s).Subtract(ipam.NewRanges(held...)), err
	}
	var list v1alpha1.IPBlockList
	network := cmp.Or(s.Spec.Network, "default")
	if err := l.cached.List(ctx, &list, client.MatchingFields{networkIndex: network}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	for i := range list.Items {
		b := &list.Items[i]
		if _, first, err := ipam.ParseLeaseName(b.Name); err == nil && !h.ours(b) {
			taken = append(taken, carve.Range(first))
		}
	}
	taken = append(taken, h.lately(network)...)
	return ipam.NewRanges(taken...).Subtract(ipam.NewRanges(held...)), nil
}

// learn that a block is another cluster's, which the watch may not have told yet.
func (h *Hub) learn(block string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.learned[block] = time.Now()
}

// lately learned blocks of a network. What was learned long ago the watch has told.
func (h *Hub) lately(network string) (out []ipam.Range) {
	const maxLag = 30 * time.Second
	h.mu.Lock()
	defer h.mu.Unlock()
	for block, at := range h.learned {
		if time.Since(at) > maxLag {
			delete(h.learned, block)
			continue
		}
		if n, first, err := ipam.ParseLeaseName(block); err == nil && n == network {
			out = append(out, carve.Range(first))
		}
	}
	return out
}
