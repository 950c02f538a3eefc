package subnets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// blockReconciler ends the parts whose owners are gone, and forgets what was given up long enough ago.
type blockReconciler struct{ *Carver }

// Reconcile one block.
func (c blockReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	network, first, err := ipam.ParseLeaseName(req.Name)
	if err != nil {
		return reconcile.Result{}, nil // it locks nothing
	}
	defer c.ledger.lock(network)()
	objects, err := c.ledger.read(ctx, network)
	if err != nil || objects[first] == nil {
		return reconcile.Result{}, err
	}
	book := c.ledger.book(objects)
	block := book.Block(first)
	if block.Cluster != "" {
		return reconcile.Result{}, nil // not carved from here, or not understood
	}
	next, err := c.tend(ctx, network, book, block)
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(block.Parts) == 0 { // left by someone who crashed
		book.Touch(first)
	}
	switch err := c.ledger.write(ctx, network, nil, book, objects); {
	case errors.Is(err, errAgain):
		return reconcile.Result{RequeueAfter: soon}, nil
	case errors.Is(err, ErrAway): // it is kept, empty, and may be carved again
		return reconcile.Result{RequeueAfter: again}, nil
	case err != nil:
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: next}, nil
}

// tend to the parts of a block; next is when to look again, zero for never.
func (c blockReconciler) tend(ctx context.Context, network string, book *carve.Book, block *carve.Block) (next time.Duration, err error) {
	wake := func(d time.Duration) {
		if d = max(d, soon); next == 0 || d < next {
			next = d
		}
	}
	now := c.now().Truncate(time.Second)
	type held struct {
		owner  carve.Owner
		subnet string
	}
	gone := map[held]bool{}
	var due []carve.Part
	for _, p := range slices.Clone(block.Parts) {
		of := held{p.Owner, p.Subnet}
		dead, known := gone[of]
		if !known {
			if dead, err = c.dead(ctx, network, p); err != nil {
				return 0, err
			}
			gone[of] = dead
		}
		switch {
		case p.Had() && dead:
			p.Returned = now
			book.Put(p)
			wake(c.cfg.ReturnAfter)
		case p.Had():
		case p.Owner.To != "" && !dead:
			p.Returned = time.Time{} // it was given up before the subnet was made
			book.Put(p)
		case c.now().Sub(p.Returned) < c.cfg.ReturnAfter:
			wake(p.Returned.Add(c.cfg.ReturnAfter).Sub(c.now()))
		default:
			due = append(due, p)
		}
	}
	if len(due) == 0 {
		return next, nil
	}
	// Agents may have claimed addresses until the pool's end came to their ears; only the API server knows.
	addrs, err := c.inUse(ctx, client.MatchingFields{networkIndex: network})
	if err != nil {
		return 0, err
	}
	var used []ipam.Range
	for _, a := range addrs {
		used = append(used, ipam.Range{From: a, To: a})
	}
	inUse := ipam.NewRanges(used...)
	for _, p := range due {
		busy := p.Owner.To == "" && len(inUse.Overlap(ipam.Ranges{p.Range})) > 0
		if !busy {
			if busy, err = c.listed(ctx, network, p); err != nil {
				return 0, err
			}
		}
		if busy {
			wake(again)
			continue
		}
		book.Remove(p)
		addressesForgotten.Inc()
	}
	return next, nil
}

// dead says whether the owner of a part is gone, which the API server must confirm. A pool that was made anew of something else has only
// the name of the one that had it.
func (c blockReconciler) dead(ctx context.Context, network string, p carve.Part) (bool, error) {
	for _, r := range []client.Reader{c.client, c.live} {
		lives, err := lives(ctx, r, network, p)
		if err != nil {
			return false, fmt.Errorf("%s: %w", p.Owner, err)
		}
		if lives {
			return false, nil
		}
	}
	return true, nil
}

func lives(ctx context.Context, r client.Reader, network string, p carve.Part) (bool, error) {
	if p.Owner.To != "" {
		err := r.Get(ctx, client.ObjectKey{Name: p.Owner.To}, &v1alpha1.Subnet{})
		return err == nil, client.IgnoreNotFound(err)
	}
	var pool v1alpha1.IPPool
	err := r.Get(ctx, client.ObjectKey{Name: p.Owner.Pool}, &pool)
	return err == nil && pool.Spec.Subnet == p.Subnet && cmp.Or(pool.Spec.Network, "default") == network, client.IgnoreNotFound(err)
}

// listed says whether the pool still gives out addresses of the part, by what the API server says now.
func (c blockReconciler) listed(ctx context.Context, network string, p carve.Part) (bool, error) {
	if p.Owner.To != "" {
		return false, nil
	}
	var pool v1alpha1.IPPool
	if err := c.live.Get(ctx, client.ObjectKey{Name: p.Owner.Pool}, &pool); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if cmp.Or(pool.Spec.Network, "default") != network {
		return false, nil // the same numbers elsewhere
	}
	compiled, err := ipam.Compile(&pool)
	if err != nil {
		return true, nil // it gives out nothing now, and may when it is mended
	}
	return len(compiled.Ranges(ipam.FamilyOf(p.From)).Overlap(ipam.Ranges{p.Range})) > 0, nil
}
