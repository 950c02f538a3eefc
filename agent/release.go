package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// del frees what an interface of a sandbox holds. Nothing held is success. Only leases that name this very sandbox are freed, so a
// late DEL of an old sandbox does no harm to the pod's new one.
//
// It is answered when the release is durable, here: the journal has it and the node is off the address. The API is told at once, but as a
// rule not waited for: what it does not acknowledge is replayed.
func (a *Agent) del(c call) error {
	unlock := a.lock.lock(c.ContainerID, c.IfName)
	defer func() { unlock() }()
	if !a.isReady() && !a.knows(c.ContainerID, c.IfName) {
		return errNotReady
	}
	held := a.heldBy(c.ContainerID, c.IfName)
	back, err := a.giveBack(c.Request, c.ContainerID, c.IfName, false, held)
	switch {
	case err != nil:
		return err
	case len(back.runs) > 0:
		return back.runs
	}
	return a.endReturn(c, c.ContainerID, c.IfName, back, held, func(g surrendered) error {
		switch {
		case !g.durable():
			return g.tell()
		case !a.ahead.begin(apiPatience):
			a.journal.Unsent(g.release.ID) // it is replayed
			return nil
		}
		told := unlock // the interface's next verb waits for it
		unlock = func() {}
		go func() {
			defer a.ahead.end()
			defer told()
			_ = a.caught(g.tell)() // what it says of a durable one, it logs
		}()
		return nil
	})
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

// giveUpAs a sandbox what it has, and wait for the API, but not for ever if the journal has it.
func (a *Agent) giveUpAs(ctx context.Context, k sandbox, leases []*v1alpha1.IPLease, free freeing) error {
	g, err := a.surrender(ctx, k, leases, free)
	return errors.Join(err, g.tell())
}

// surrendered is what a sandbox gave up, of which the API has yet to hear; of nobody, it is the zero value.
type surrendered struct {
	*Agent
	ctx     context.Context // whose end does not end it
	of      sandbox
	release *journal.Release
	free    freeing
	written error // nil: the release is in the journal
}

// surrender what a sandbox has: the journal knows it, and the service path and the interface are off it.
func (a *Agent) surrender(ctx context.Context, k sandbox, leases []*v1alpha1.IPLease, free freeing) (surrendered, error) {
	if len(leases) == 0 {
		return surrendered{}, nil
	}
	g := surrendered{a, context.WithoutCancel(ctx), k, &journal.Release{Entry: journal.Entry{Leases: leases}}, free, store.ErrUnavailable}
	if a.journal.Keeps() {
		// Before the API hears of it: a journal that still gives the address to the pod's next sandbox would give another's.
		if g.release, g.written = a.journal.Release(k.containerID, k.ifName, leases, a.isReady()); g.release == nil {
			return surrendered{}, g.written
		}
		leases = bindings(&g.release.Entry)
	}
	// First the path: once the lease is free, the address may be another node's.
	if err := a.path.Detach(g.ctx, a.endpoints(leases...)...); err != nil {
		a.log.Warn("service path of a deleted pod", "err", err) // it is mended by the next reconciliation
	}
	a.silence(k, leases)
	a.slow(k)
	return g, nil
}

// durable says whether the API will be told, whatever becomes of this process.
func (g surrendered) durable() bool { return g.release != nil && g.written == nil }

// tell the API. With a journal that succeeds also while the API is away: it is told when it answers.
func (g surrendered) tell() error {
	if g.release == nil {
		return nil
	}
	err, patience := errNotReady, undoTimeout
	if g.journal.Keeps() {
		patience = apiPatience
	}
	if g.isReady() {
		ctx, cancel := context.WithTimeout(g.ctx, patience)
		defer cancel()
		err = g.Agent.free(ctx, g.release, g.free, true)
	}
	switch {
	case err != nil && g.written != nil:
		return err
	case err != nil:
		g.log.Warn("addresses given up without the Kubernetes API; it is told when it answers", "sandbox", g.of.containerID, "interface", g.of.ifName, "err", err)
	}
	for _, l := range g.release.Leases {
		g.suspect.clear(l.Name)
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
		a.lapse(ctx, l)
		if eps := a.endpoints(l); len(eps) > 0 && !a.store.Holds(l) {
			if err := a.path.Detach(ctx, eps...); err != nil {
				a.log.Warn("service path of a lost lease", "lease", l.Name, "err", err)
			}
			h := ipam.HolderOn(l, a.cfg.NodeName)
			k := sandbox{h.ContainerID, h.Interface}
			before, known := a.guards.Known(k.containerID, k.ifName)
			a.silence(k, []*v1alpha1.IPLease{l})
			if a.store.Holds(l) { // claimed again meanwhile, by a link of the same MAC
				if known {
					if err := a.guards.Attach(before); err != nil {
						a.log.Warn("source guard of a lease claimed again", "lease", l.Name, "err", err)
					}
				}
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
	leases := a.heldBy(c.ContainerID, c.IfName)
	leases = slices.DeleteFunc(leases, func(l *v1alpha1.IPLease) bool { return a.journal.Released(l.Name) }) // of which the API has yet to hear
	for _, l := range leases {
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
	for _, addr := range expected(conf.PrevResult, c.IfName) {
		if !held[addr] {
			return notBound{fmt.Errorf("address %s of interface %s has no lease bound to sandbox %s; delete the pod so that it is made anew",
				addr, c.IfName, c.ContainerID)}
		}
	}
	return a.checkDelegates(c, leases)
}

// expected addresses of an interface, by the result of the whole chain of plugins: later ones may have added addresses of other
// interfaces to it (CNI spec 1.1.0, section 2, "CHECK").
func expected(res *types100.Result, ifName string) (out []netip.Addr) {
	if res == nil {
		return nil
	}
	for _, ip := range res.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(res.Interfaces) && res.Interfaces[*i].Name != ifName {
			continue
		}
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, addr.Unmap())
		}
	}
	return out
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
