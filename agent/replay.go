package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// replayEvery is the time between looks at what the API has not acknowledged.
const replayEvery = 2 * time.Second

// replay what the API has not acknowledged, until ctx ends: what a DEL gave up, and what a newer sandbox was given without the API.
func (a *Agent) replay(ctx context.Context) error {
	if !a.journal.Keeps() {
		return nil
	}
	a.learnEntries()
	complaint := ""
	for {
		err := a.replayOnce(ctx)
		switch now := fmt.Sprint(err); {
		case err == nil && complaint != "":
			a.log.Info("the Kubernetes API has acknowledged all of the journal")
			complaint = ""
		case err != nil && now != complaint:
			a.log.Warn("writes in the journal wait for the Kubernetes API", "err", err)
			complaint = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(replayEvery):
		}
	}
}

func (a *Agent) replayOnce(ctx context.Context) error {
	var errs []error
	for _, r := range a.journal.Releases() {
		errs = append(errs, a.replayRelease(ctx, r))
	}
	for _, e := range a.journal.Entries() {
		if e.Rebind() {
			errs = append(errs, a.replayRebind(ctx, e.Holder))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) replayRelease(ctx context.Context, r *journal.Release) error {
	defer a.lock.lock(r.Holder.ContainerID, r.Holder.Interface)()
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	first := !r.Sent
	r, err := a.journal.Send(r.ID)
	if err != nil || r == nil {
		return err
	}
	return a.free(ctx, r, a.store.Release, first)
}

// free tells the API of a release, for the first time or again: the API may have heard of an earlier try even if it cannot be reached
// now. A lease that another sandbox holds by now stays its.
func (a *Agent) free(ctx context.Context, r *journal.Release, release freeing, first bool) error {
	ctx, heard := overheard(ctx)
	err := a.sideBySide(len(r.Leases), func(i int) error {
		l := r.Leases[i]
		if err := release(ctx, l); err != nil {
			return err
		}
		if !r.Holds(l) { // and if the rebind, which was not acknowledged, was carried out
			rebound := l.DeepCopy()
			ipam.Rebind(rebound, r.Holder, a.cfg.Now())
			rebound.ResourceVersion = "" // so that it is read
			if err := release(ctx, rebound); err != nil {
				return err
			}
		}
		a.journal.Freed(r.ID, l.Name)
		return nil
	})
	if err != nil && first && !heard() {
		a.journal.Unsent(r.ID)
	}
	return err
}

// replayRebind has the API know the sandbox that has the leases. An ADD of a newer sandbox of the pod waits for it: else this would take
// back what that one has by then.
func (a *Agent) replayRebind(ctx context.Context, h v1alpha1.LeaseHolder) error {
	defer a.lock.lock(h.ContainerID, h.Interface)()
	defer a.lock.lock(string(h.UID), h.Interface)()
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	e := a.journal.Interface(h.ContainerID, h.Interface)
	if e == nil {
		return nil
	}
	var errs []error
	for _, l := range e.Leases {
		if e.Holds(l) {
			continue
		}
		n, err := a.rebind(ctx, l, e.Holder)
		switch {
		case err != nil:
			errs = append(errs, err)
		case n == nil:
			a.loseLease(ctx, e, l)
		default:
			a.journal.Bound(h.ContainerID, h.Interface, n)
			if now := a.journal.Interface(h.ContainerID, h.Interface); now != nil && journal.Unbound(l) {
				a.reclaimed(ctx, now, n)
			}
		}
	}
	return errors.Join(errs...)
}

// rebind a lease to the pod's newer sandbox, or claim it again if it is free. nil, nil: it is another's.
func (a *Agent) rebind(ctx context.Context, l *v1alpha1.IPLease, h v1alpha1.LeaseHolder) (*v1alpha1.IPLease, error) {
	n, err := a.store.Rebind(ctx, l, h)
	if err != nil || n != nil {
		return n, err
	}
	addr, err := netip.ParseAddr(l.Spec.Address)
	pool := a.pools.named(l.Spec.Pool)
	if err != nil || pool == nil {
		return nil, err
	}
	n, err = a.store.Claim(ctx, pool, ipam.Pick{Family: ipam.FamilyOf(addr), Address: addr}, ipam.Claimant{Holder: h, Identity: l.Spec.Identity})
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		return nil, nil
	}
	return n, err
}

// loseLease tells of an address that a pod uses and has no lease of.
func (a *Agent) loseLease(ctx context.Context, e *journal.Entry, l *v1alpha1.IPLease) {
	h := e.Holder
	a.metrics.lost.Inc()
	why := "it was given to the pod again while the Kubernetes API was away"
	if journal.Unbound(l) {
		why = "it was deleted or freed while the pod had it"
	}
	a.log.Error("a pod uses an address whose lease is another's by now; delete the pod",
		"address", l.Spec.Address, "pod", h.Namespace+"/"+h.Pod, "interface", h.Interface, "reason", why)
	a.event(podOfHolder(&h), "AddressLost", fmt.Sprintf("interface %s uses address %s, but the lease is another's by now: %s; delete the pod so that it gets another address",
		h.Interface, l.Spec.Address, why))
	a.journal.Lost(h.ContainerID, h.Interface, l.Name)
	a.silence(sandbox{h.ContainerID, h.Interface}, []*v1alpha1.IPLease{l})
	if err := a.path.Detach(ctx, a.endpoints(bindings(e)...)...); err != nil {
		a.log.Warn("service path of a lost lease", "lease", l.Name, "err", err)
	}
}

// learnEntries has the journal know the leases of this node that it does not: it was set aside, or is new. The results of their ADDs
// are gone.
func (a *Agent) learnEntries() {
	missing := map[sandbox]*journal.Entry{}
	for _, l := range a.store.Bound() {
		h := ipam.HolderOn(l, a.cfg.NodeName)
		if a.journal.OfLease(l.Name) != nil || a.journal.Released(l.Name) || a.journal.Interface(h.ContainerID, h.Interface) != nil {
			continue
		}
		k := sandbox{h.ContainerID, h.Interface}
		if missing[k] == nil {
			missing[k] = &journal.Entry{Holder: *h}
		}
		missing[k].Leases = append(missing[k].Leases, l)
	}
	for k, e := range missing {
		release := a.lock.lock(k.containerID, k.ifName)
		if a.journal.Interface(k.containerID, k.ifName) == nil && len(a.store.HeldBySandbox(k.containerID, k.ifName)) > 0 {
			a.journal.Put(e)
		}
		release()
	}
	if len(missing) > 0 {
		a.log.Info("journal completed from the Kubernetes API", "interfaces", len(missing))
	}
}
