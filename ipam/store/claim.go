package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Taken is a lease that was claimed.
type Taken struct {
	*v1alpha1.IPLease
	// Kept: the address was the claimant's identity's before, reserved for it or held by an earlier pod of it. If the claim turns out to
	// be in vain, it has to be kept on.
	Kept bool
}

// Claim is Take, for who keeps what he claims.
func (s *Store) Claim(ctx context.Context, pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant) (*v1alpha1.IPLease, error) {
	t, err := s.Take(ctx, pool, pick, c)
	if err != nil {
		return nil, err
	}
	return t.IPLease, nil
}

// Take an address for c: the one asked for, one of those asked for, or one of pool's choice. The errors are ipam.ErrExhausted,
// ipam.ErrTaken, ipam.ErrHeld, ErrPoolChanged and ErrUnavailable.
func (s *Store) Take(ctx context.Context, pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant) (*Taken, error) {
	listed := false
	return s.claim(ctx, pool, pick, c, &listed)
}

// claim lists the pool's leases once before it says that none is free: listed says that this was done.
func (s *Store) claim(ctx context.Context, pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant, listed *bool) (*Taken, error) {
	if pick.Address.IsValid() {
		return s.claimAsked(ctx, pool, pick.Address, c)
	}
	seed := ipam.Seed(s.node, string(c.Holder.UID), c.Holder.Interface)
	for {
		choice, l, err := s.take(ctx, pool, pick, c, seed)
		switch {
		case err == nil && choice.held: // it may take its time, so it takes no turn
			l, err = s.takeOver(ctx, pool, choice.address, c)
			if err != nil {
				return nil, err
			}
		case err == nil:
		case !errors.Is(err, ipam.ErrExhausted) && !errors.Is(err, ipam.ErrTaken):
			return nil, err
		case *listed:
			return nil, s.none(pool, pick, err)
		default:
			if err := s.relist(ctx, pool.Name); err != nil {
				return nil, err
			}
			*listed = true
			continue
		}
		if l != nil {
			if choice.early > 0 {
				s.hooks.Early(l.IPLease, choice.early)
			}
			return l, nil
		}
		s.hooks.Collision()
		seed = ipam.Seed(s.node, string(c.Holder.UID), c.Holder.Interface, choice.address.String())
	}
}

// take chooses an address and writes its lease, in its turn. A nil lease says that another was faster, or that the choice is held.
func (s *Store) take(ctx context.Context, pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant, seed uint64) (choice, *Taken, error) {
	done, err := s.turns.take(ctx)
	if err != nil {
		return choice{}, nil, err
	}
	defer done()
	at, err := s.index.begin(pool, pick, c, seed, s.now())
	if err != nil || at.held {
		return at, nil, err
	}
	l, err := s.write(ctx, pool, at.address, at.lease, c, false, s.hear(at.lease))
	return at, l, err
}

// TakePair claims an IPv4 address of a paired pool and its partner. The lease of the IPv4 address is the lock of both, so the partner
// is claimed after it: two claims of one pair cannot each take a half.
func (s *Store) TakePair(ctx context.Context, pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant) ([]*Taken, error) {
	listed := false // a list forgets what was met beside the pool, so only one, lest the same half be met for ever
	for {
		first, err := s.claim(ctx, pool, pick, c, &listed)
		if err != nil {
			return nil, err
		}
		a, err := netip.ParseAddr(first.Spec.Address)
		if err != nil {
			return nil, fmt.Errorf("lease %s: %w", first.Name, err)
		}
		second, err := s.claimAsked(ctx, pool, pool.Partner(a), c)
		if err == nil {
			return []*Taken{first, second}, nil
		}
		undo := s.Drop
		if first.Kept {
			undo = s.Release
		}
		if back := undo(context.WithoutCancel(ctx), first.IPLease); back != nil {
			return nil, errors.Join(err, back)
		}
		if !errors.Is(err, ipam.ErrTaken) || pick.Address.IsValid() {
			return nil, err
		}
		s.hooks.Collision() // the index knows now that this pair is not free
	}
}

// none of the addresses is free.
func (s *Store) none(pool *ipam.Pool, pick ipam.Pick, err error) error {
	if errors.Is(err, ipam.ErrExhausted) {
		total := pool.Ranges(pick.Family).Count()
		return fmt.Errorf("pool %q has %w for node %q (%s: %d of %d in use); add a range or a pool, or free an address",
			pool.Name, err, s.node, pick.Family, total, total)
	}
	var taken []string
	for _, a := range pick.OneOf {
		if l := s.get(ipam.LeaseName(pool.Network, a)); pick.Allows(a) && l != nil {
			taken = append(taken, fmt.Sprintf("%s is %s", a, heldBy(l)))
		}
	}
	const most = 5
	if len(taken) > most {
		taken = append(taken[:most], fmt.Sprintf("and %d more", len(taken)-most))
	}
	return fmt.Errorf("%w: none of the %s addresses asked for is free: %s; ask for more or free one", err, pick.Family, strings.Join(taken, "; "))
}

// claimAsked claims one address or says who has it.
func (s *Store) claimAsked(ctx context.Context, pool *ipam.Pool, a netip.Addr, c ipam.Claimant) (*Taken, error) {
	name := ipam.LeaseName(pool.Network, a)
	for range 3 { // a write may lose against news, then the news decide
		known, ok := s.index.beginAt(name)
		if !ok {
			return nil, fmt.Errorf("%w: address %s asked for is being given to another pod of node %q", ipam.ErrTaken, a, s.node)
		}
		t, err := s.write(ctx, pool, a, known, c, false, s.learn)
		if err != nil || t != nil {
			return t, err
		}
		switch l := s.get(name); {
		case l == nil || c.Free(l):
			continue
		case l.Spec.Phase == v1alpha1.LeaseBound && c.Is(l.Spec.Identity):
			if t, err = s.takeOver(ctx, pool, a, c); err != nil || t != nil {
				return t, err
			}
		default:
			return nil, fmt.Errorf("%w: address %s asked for is %s; ask for another or free it", ipam.ErrTaken, a, heldBy(l))
		}
	}
	return nil, fmt.Errorf("%w: address %s asked for changes hands; try again", ErrUnavailable, a)
}

// How long a claim waits for the earlier holder of its identity's address to give it up, and how often it looks for proof that nobody
// will. A StatefulSet's next pod may be there before the DEL of the one that it replaces.
var (
	heldPatience = 10 * time.Second
	heldLook     = 50 * time.Millisecond
	heldProof    = 2 * time.Second
)

// takeOver claims the address of the claimant's identity that an earlier holder has: once that gives it up, or as soon as it is proven
// gone; or beside it, where a virtual machine migrates. nil, nil: the address is the identity's no longer.
func (s *Store) takeOver(ctx context.Context, pool *ipam.Pool, a netip.Addr, c ipam.Claimant) (*Taken, error) {
	name := ipam.LeaseName(pool.Network, a)
	patience := time.After(heldPatience)
	var proof time.Time // of the next look for it
	for {
		l := s.get(name)
		proven := false
		switch {
		case l == nil:
			return nil, nil
		case samePod(l, c.Holder): // by whichever identity: its partner may be the one that is kept
			l, err := s.Rebind(ctx, l, c.Holder)
			return taken(l, true), err
		case !c.May(l.Spec.Identity), l.Spec.Phase == v1alpha1.LeaseQuarantined:
			return nil, nil
		case c.Shares(l):
			if l, err := s.share(ctx, l, c.Holder); err != nil || l != nil {
				return taken(l, true), err
			}
			continue
		case !c.Free(l) && !time.Now().Before(proof):
			var err error
			if proven, err = s.gone(ctx, l); err != nil {
				return nil, err
			}
			proof = time.Now().Add(heldProof)
		}
		if proven || c.Free(l) {
			if known, ok := s.index.beginAt(name); ok {
				if known != l {
					s.index.end(name)
					continue
				}
				if t, err := s.write(ctx, pool, a, l, c, proven, s.learn); err != nil || t != nil {
					return t, err
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil, stillHeld(a, l)
		case <-patience:
			return nil, stillHeld(a, l)
		case <-time.After(heldLook):
		}
	}
}

// taken is nil if the lease is.
func taken(l *v1alpha1.IPLease, kept bool) *Taken {
	if l == nil {
		return nil
	}
	return &Taken{l, kept}
}

func stillHeld(a netip.Addr, l *v1alpha1.IPLease) error {
	return fmt.Errorf("%w: address %s of this pod's %s %q is %s, and nothing proves that pod gone; it is given once the pod's "+
		"interface is deleted, or its node is deleted or tainted node.kubernetes.io/out-of-service",
		ipam.ErrHeld, a, l.Spec.Identity.Kind, l.Spec.Identity.Name, heldBy(l))
}

// gone says whether all holders of a lease are.
func (s *Store) gone(ctx context.Context, l *v1alpha1.IPLease) (bool, error) {
	for _, h := range ipam.Holders(l) {
		if gone, err := s.hooks.Gone(ctx, h); err != nil || !gone {
			return false, err
		}
	}
	return true, nil
}

// share a bound lease with its holder; nil: it has changed.
func (s *Store) share(ctx context.Context, l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder) (*v1alpha1.IPLease, error) {
	want := l.DeepCopy()
	ipam.Share(want, holder)
	n, err := s.update(ctx, want)
	switch {
	case err == nil:
		s.index.put(n)
		return n, nil
	case !lost(err):
		return nil, s.doubt("share", want, err)
	}
	_, err = s.learn(ctx, l.Name)
	return nil, err
}
