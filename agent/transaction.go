package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
	"github.com/berthdev/berth/nad"
)

// transaction is an ADD on its way: all addresses or none.
type transaction struct {
	*Agent
	req        *delegate.Request
	cniVersion string
	pod        *corev1.Pod
	claimant   ipam.Claimant
	own        []*v1alpha1.IPLease // held by the interface before

	leases  []*v1alpha1.IPLease // what the interface gets, IPv4 first in each pool
	pools   []*ipam.Pool        // of leases, by index
	claimed []*v1alpha1.IPLease // those of leases that are new

	mu   sync.Mutex
	kept map[string]bool // names of those of claimed that were kept for the pod's identity before

	given    given             // by delegates, beside addresses
	rejected map[string]string // delegate pools whose addresses cannot be used, and why
}

// plan the options. Before the identity gets an address that it has not had, the API is asked what it had.
func (t *transaction) plan(ctx context.Context, ask nad.Ask, wants []ipam.Want, target ipam.Target) ([][]ipam.Option, error) {
	asked, err := askedOf(t.pod, ask)
	if err != nil {
		return nil, err
	}
	decide := func() ([][]ipam.Option, []string, error) {
		pools, w := t.Agent.pools.all(), wants
		if w == nil {
			w = ipam.DefaultWants(pools, target)
		}
		return ipam.Plan(pools, w, asked, target)
	}
	plan, skipped, err := decide()
	if err == nil && t.claimant.Identity != nil && !target.Settled(plan) {
		if target.Kept, err = t.store.Recall(ctx, t.claimant); err != nil {
			return nil, err
		}
		plan, skipped, err = decide()
	}
	for _, s := range skipped {
		t.warn(t.pod, "PoolNotFound", s+"; the others of "+ask.Source+" are used")
	}
	return plan, err
}

// run the plan: of each want the first option that can be had. All addresses are of one network.
func (t *transaction) run(ctx context.Context, plan [][]ipam.Option) error {
	for _, options := range plan {
		var full []error
		served := false
		for _, o := range options {
			if len(t.pools) > 0 && o.Pool.Network != t.pools[0].Network {
				full = append(full, fmt.Errorf("pool %q is of network %q, but the interface is of network %q: %w",
					o.Pool.Name, o.Pool.Network, t.pools[0].Network, ipam.ErrNoPool))
				continue
			}
			serve := t.serve
			if o.Pool.Delegate != nil {
				serve = t.serveDelegate
			}
			err := serve(ctx, o)
			if err == nil {
				served = true
				break
			}
			if !givesWay(err) {
				return err
			}
			full = append(full, err)
		}
		if !served {
			return all(full)
		}
	}
	if err := t.returnUnused(); err != nil {
		return err
	}
	if err := t.dropRest(ctx); err != nil {
		return err
	}
	for _, l := range t.store.Strays(t.claimant, t.leases) {
		if err := t.store.Disown(ctx, l); err != nil { // the next ADD tries again
			t.log.Warn("an address that a claim of which nothing was heard took for the pod's identity stays so for now", "lease", l.Name, "err", err)
		}
	}
	return nil
}

// givesWay says whether an option that failed leaves room for the next. Where the way back of its claims has failed, too, it does not.
func givesWay(err error) bool {
	return (errors.Is(err, ipam.ErrExhausted) || errors.Is(err, ipam.ErrTaken) || errors.Is(err, ipam.ErrNoPool) || errors.As(err, new(delegateError))) &&
		!errors.Is(err, store.ErrUnavailable)
}

// serve all picks of an option, or none.
func (t *transaction) serve(ctx context.Context, o ipam.Option) error {
	one, n := t.claimOne(ctx, o), len(o.Picks)
	if o.Pool.Paired() && n == len(ipam.Families) { // else it was paired since, and the interface keeps what it has
		one, n = t.claimPair(ctx, o), 1 // the first address decides over the other
	}
	got := make([]claims, n)
	err := t.sideBySide(n, func(i int) (err error) {
		got[i], err = one(i)
		return err
	})
	var all claims
	for _, c := range got {
		all.leases = append(all.leases, c.leases...)
		all.isNew = append(all.isNew, c.isNew...)
	}
	if err != nil {
		return errors.Join(err, t.release(ctx, all.isNew, t.back))
	}
	t.claimed = append(t.claimed, all.isNew...)
	for _, l := range all.leases {
		t.leases = append(t.leases, l)
		t.pools = append(t.pools, o.Pool)
	}
	return nil
}

// claims are the leases that serve a pick, and those of them that the interface had not before.
type claims struct{ leases, isNew []*v1alpha1.IPLease }

// claimOne gives a pick what the interface holds already, else a new address.
func (t *transaction) claimOne(ctx context.Context, o ipam.Option) func(int) (claims, error) {
	return func(i int) (claims, error) {
		l, err := t.keepOwn(ctx, o.Pool, o.Picks[i])
		if err != nil || l != nil {
			return claims{leases: []*v1alpha1.IPLease{l}}, err
		}
		if err := t.mayClaim(ctx, o); err != nil {
			return claims{}, err
		}
		if l, err = t.take(ctx, o.Pool, o.Picks[i]); err != nil {
			return claims{}, err
		}
		return claims{[]*v1alpha1.IPLease{l}, []*v1alpha1.IPLease{l}}, nil
	}
}

// claimPair gives the picks of a paired pool an IPv4 address and its partner.
func (t *transaction) claimPair(ctx context.Context, o ipam.Option) func(int) (claims, error) {
	return func(int) (claims, error) {
		first, err := t.keepOwn(ctx, o.Pool, o.Picks[0])
		if err != nil {
			return claims{}, err
		}
		if first == nil {
			if err := t.mayClaim(ctx, o); err != nil {
				return claims{}, err
			}
			taken, err := t.store.TakePair(ctx, o.Pool, o.Picks[0], t.claimant)
			pair := t.note(taken...)
			return claims{pair, pair}, err
		}
		addr, err := netip.ParseAddr(first.Spec.Address)
		if err != nil {
			return claims{}, fmt.Errorf("lease %s: %w", first.Name, err)
		}
		pick := ipam.Pick{Family: ipam.IPv6, Address: o.Pool.Partner(addr)}
		for _, held := range []ipam.Pick{pick, {Family: ipam.IPv6, OneOf: t.besides(first)}} {
			second, err := t.keepOwn(ctx, o.Pool, held)
			if err != nil || second != nil {
				return claims{leases: []*v1alpha1.IPLease{first, second}}, err
			}
		}
		if err := t.mayClaim(ctx, o); err != nil {
			return claims{}, err
		}
		second, err := t.take(ctx, o.Pool, pick)
		if err != nil {
			return claims{}, err
		}
		return claims{[]*v1alpha1.IPLease{first, second}, []*v1alpha1.IPLease{second}}, nil
	}
}

// take an address of the pool.
func (t *transaction) take(ctx context.Context, p *ipam.Pool, pick ipam.Pick) (*v1alpha1.IPLease, error) {
	taken, err := t.store.Take(ctx, p, pick, t.claimant)
	if err != nil {
		return nil, err
	}
	return t.note(taken)[0], nil
}

// note which of the leases taken were kept, and that none was this node's.
func (t *transaction) note(taken ...*store.Taken) (leases []*v1alpha1.IPLease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range taken {
		leases = append(leases, l.IPLease)
		t.kept[l.Name] = l.Kept
		t.journal.WasFree(l.Name)
	}
	return leases
}

// mayClaim says whether the pool gives the interface something new.
func (t *transaction) mayClaim(ctx context.Context, o ipam.Option) error {
	if o.Refused != "" {
		return fmt.Errorf("%w: pool %q %s, and the interface has lost the address that it held of it", ipam.ErrNoPool, o.Pool.Name, o.Refused)
	}
	return t.Agent.pools.wait(ctx, o.Pool)
}

// keepOwn returns the address that the interface holds already and that fits the pick, bound to this sandbox; nil if there is none.
func (t *transaction) keepOwn(ctx context.Context, p *ipam.Pool, pick ipam.Pick) (*v1alpha1.IPLease, error) {
	for _, l := range t.own {
		addr, err := netip.ParseAddr(l.Spec.Address)
		fits := err == nil && l.Spec.Pool == p.Name && pick.Allows(addr) && (!pick.Address.IsValid() || pick.Address == addr)
		if !fits {
			continue
		}
		name := l.Name
		l, err = t.store.Keep(ctx, l, t.claimant.Holder)
		if err == nil && l == nil {
			t.journal.Void(name)
		}
		if err != nil || l != nil {
			return l, err
		}
	}
	return nil, nil
}

// besides are the addresses that the interface was given together with a lease, before its pool was paired, and so are no pair: by the
// journal those of one answer, else those of one sandbox. Others of its addresses are of claims that came to nothing.
func (t *transaction) besides(first *v1alpha1.IPLease) []netip.Addr {
	var together []*v1alpha1.IPLease
	if e := t.journal.OfLease(first.Name); e != nil {
		together = e.Leases
	}
	if !t.journal.Keeps() {
		i := slices.IndexFunc(t.own, func(l *v1alpha1.IPLease) bool { return l.Name == first.Name })
		h := ipam.HolderOn(t.own[i], t.cfg.NodeName) // as it was
		together = slices.DeleteFunc(slices.Clone(t.own), func(l *v1alpha1.IPLease) bool { return !ipam.SameSandbox(l, h.ContainerID, h.Interface) })
	}
	out := []netip.Addr{} // not nil, which is any
	for _, l := range together {
		if a, err := netip.ParseAddr(l.Spec.Address); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// dropRest frees what the interface held and no longer gets, nor its identity. What a delegate gave to an earlier sandbox goes by the DEL
// of that one, first back to the delegate.
func (t *transaction) dropRest(ctx context.Context) error {
	var rest []*v1alpha1.IPLease
	for _, l := range t.ownLeases(t.claimant.Holder) { // as they are by now: one that was kept may have been of no use
		earlier := !ipam.SameSandbox(l, t.claimant.Holder.ContainerID, t.claimant.Holder.Interface)
		if p := t.Agent.pools.named(l.Spec.Pool); earlier && p != nil && p.Delegate != nil {
			continue
		}
		if !has(t.leases, l.Name) {
			rest = append(rest, l)
		}
	}
	return t.giveUp(ctx, rest, t.store.Drop)
}

// undo what was claimed.
func (t *transaction) undo(ctx context.Context) error {
	return t.giveUp(ctx, t.claimed, t.back)
}

// back gives up a lease that was claimed in vain. It is kept for the pod's identity if it was before; one that the identity has never
// used is not, else pods that cannot start would use up a pool. The pod's next sandbox finds it as the one it had last.
func (t *transaction) back(ctx context.Context, l *v1alpha1.IPLease) error {
	t.mu.Lock()
	kept := t.kept[l.Name]
	t.mu.Unlock()
	if kept {
		return t.store.Release(ctx, l)
	}
	return t.store.Drop(ctx, l)
}
