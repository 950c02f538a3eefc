package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// del frees what an interface of a sandbox holds. Nothing held is success. Only leases that name this very sandbox are freed, so a
// late DEL of an old sandbox does no harm to the pod's new one.
func (a *Agent) del(c call) error {
	defer a.lock.lock(c.ContainerID, c.IfName)()
	if !a.isReady() && !a.knows(c.ContainerID, c.IfName) {
		return errNotReady
	}
	return a.giveUpAs(c, sandbox{c.ContainerID, c.IfName}, a.heldBy(c.ContainerID, c.IfName), a.store.Release)
}

// sandbox is one interface of a pod's sandbox.
type sandbox struct{ containerID, ifName string }

// freeing is one of the store's ways to release a lease. What is told to the API later is told as a Release.
type freeing func(context.Context, *v1alpha1.IPLease) error

// giveUp leases of this node, whichever sandbox has them.
func (a *Agent) giveUp(ctx context.Context, leases []*v1alpha1.IPLease, free freeing) error {
	of := map[sandbox][]*v1alpha1.IPLease{}
	for _, l := range leases {
		h := ipam.HolderOn(l, a.cfg.NodeName)
		if e := a.journal.OfLease(l.Name); e != nil {
			h = &e.Holder
		}
		if h != nil {
			k := sandbox{h.ContainerID, h.Interface}
			of[k] = append(of[k], l)
		}
	}
	var errs []error
	for k, leases := range of {
		errs = append(errs, a.giveUpAs(ctx, k, leases, free))
	}
	return errors.Join(errs...)
}

// giveUpAs a sandbox what it has. With a journal that succeeds while the API is away: the release is told to it later.
func (a *Agent) giveUpAs(ctx context.Context, k sandbox, leases []*v1alpha1.IPLease, free freeing) error {
	if len(leases) == 0 {
		return nil
	}
	r, written, patience := &journal.Release{Entry: journal.Entry{Leases: leases}}, store.ErrUnavailable, undoTimeout
	if a.journal.Keeps() {
		// Before the API hears of it: a journal that still gives the address to the pod's next sandbox would give another's.
		if r, written = a.journal.Release(k.containerID, k.ifName, leases, a.isReady()); r == nil {
			return written
		}
		leases, patience = bindings(&r.Entry), apiPatience
	}
	// First the path: once the lease is free, the address may be another node's.
	if err := a.path.Detach(context.WithoutCancel(ctx), a.endpoints(leases...)...); err != nil {
		a.log.Warn("service path of a deleted pod", "err", err) // it is mended by the next reconciliation
	}
	err := errNotReady
	if a.isReady() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = a.free(ctx, r, free)
	}
	switch {
	case err != nil && written != nil:
		return err
	case err != nil:
		a.log.Warn("addresses given up without the Kubernetes API; it is told when it answers", "sandbox", k.containerID, "interface", k.ifName, "err", err)
	}
	for _, l := range leases {
		a.suspect.clear(l.Name)
	}
	return nil
}

// leavePath takes off the service path, until ctx ends, what this node holds no longer: also if it was not its DEL that freed the
// lease but the controller or a person, and even if no DEL comes any more.
func (a *Agent) leavePath(ctx context.Context) error {
	defer context.AfterFunc(ctx, a.lost.ShutDown)()
	for {
		l, end := a.lost.Get()
		if end {
			return nil
		}
		a.forget(l)
		if eps := a.endpoints(l); len(eps) > 0 && !a.store.Holds(l) {
			if err := a.path.Detach(ctx, eps...); err != nil {
				a.log.Warn("service path of a lost lease", "lease", l.Name, "err", err)
			}
			if a.store.Holds(l) { // claimed again meanwhile, by a link of the same MAC
				if err := a.path.Attach(ctx, eps...); err != nil {
					a.log.Warn("service path of a lease claimed again", "lease", l.Name, "err", err)
				}
			}
		}
		a.lost.Done(l)
	}
}

// check that an interface holds what ADD gave it.
func (a *Agent) check(c call) error {
	conf, err := delegate.ParseConfig(c.Config)
	if err != nil {
		return badConfig{err}
	}
	held := map[netip.Addr]bool{}
	for _, l := range a.heldBy(c.ContainerID, c.IfName) {
		if addr, err := netip.ParseAddr(l.Spec.Address); err == nil {
			held[addr] = true
		}
	}
	if len(held) == 0 && !a.isReady() {
		return errNotReady
	}
	if len(held) == 0 {
		return notBound{fmt.Errorf("no lease is bound to interface %s of sandbox %s; delete the pod so that it is made anew", c.IfName, c.ContainerID)}
	}
	if conf.PrevResult == nil {
		return nil
	}
	for _, ip := range conf.PrevResult.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		if addr = addr.Unmap(); !held[addr] {
			return notBound{fmt.Errorf("address %s of interface %s has no lease bound to sandbox %s; delete the pod so that it is made anew",
				addr, c.IfName, c.ContainerID)}
		}
	}
	return nil
}

// gc frees the leases of a network whose sandboxes the runtime no longer knows. The runtime's list alone is not believed (Multus
// gives its own cached one, and for its first network only): a lease must be missing from two lists, some time apart, and its
// pod must be gone by the API's word.
func (a *Agent) gc(c call) error {
	if !a.isReady() {
		return errNotReady
	}
	conf, err := delegate.ParseConfig(c.Config)
	if err != nil {
		return badConfig{err}
	}
	if conf.ValidAttachments == nil {
		return nil // unknown is not none
	}
	valid := map[types.GCAttachment]bool{}
	for _, v := range conf.ValidAttachments {
		valid[v] = true
	}
	var errs []error
	for _, l := range a.store.Bound() {
		h := ipam.HolderOn(l, a.cfg.NodeName)
		if h == nil || h.Attachment != conf.Name {
			continue
		}
		if valid[types.GCAttachment{ContainerID: h.ContainerID, IfName: h.Interface}] {
			a.suspect.clear(l.Name)
			continue
		}
		if !a.suspect.twice(l.Name, h.ContainerID, a.cfg.Now()) {
			continue
		}
		errs = append(errs, a.collect(c, l, h))
	}
	return errors.Join(errs...)
}

// apart is how long two observations must lie apart.
const apart = 30 * time.Second

// suspects are leases once found without a sandbox.
type suspects struct {
	mu    sync.Mutex
	since map[string]suspicion // by lease name
}

type suspicion struct {
	containerID string
	since       time.Time
}

func newSuspects() *suspects { return &suspects{since: map[string]suspicion{}} }

// twice says whether this is a second observation of the same sandbox's lease, and long enough after the first.
func (s *suspects) twice(name, containerID string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.since[name]; ok && first.containerID == containerID {
		return now.Sub(first.since) >= apart
	}
	s.since[name] = suspicion{containerID, now}
	return false
}

func (s *suspects) clear(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, name)
}

// keyLock serialises the verbs of one interface of one sandbox.
type keyLock struct {
	mu   sync.Mutex
	held map[[2]string]*lockEntry
}

type lockEntry struct {
	sync.Mutex
	users int
}

// lock returns the unlock function.
func (k *keyLock) lock(containerID, ifName string) func() {
	key := [2]string{containerID, ifName}
	k.mu.Lock()
	if k.held == nil {
		k.held = map[[2]string]*lockEntry{}
	}
	e := k.held[key]
	if e == nil {
		e = &lockEntry{}
		k.held[key] = e
	}
	e.users++
	k.mu.Unlock()
	e.Lock()
	return func() {
		e.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(k.held, key)
		}
	}
}
