//go:build linux

package guards

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berthdev/berth/bpf"
)

const (
	period    = 30 * time.Second
	tellEvery = 10 * time.Minute
)

// Run keeps the guards until ctx ends. They outlive it.
func (g *Guards) Run(ctx context.Context) error {
	complaint := ""
	for all := true; ; {
		err := g.look(all)
		switch now := fmt.Sprint(err); {
		case err == nil && complaint != "":
			g.log.Info("source guard is complete again")
			complaint = ""
		case err != nil && now != complaint:
			g.log.Error("source guard is incomplete; will try again", "err", err)
			complaint = now
		}
		timer := time.NewTimer(period)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-g.kick:
			all = false
		case <-timer.C:
			all = true
		}
		timer.Stop()
	}
}

// look at the interfaces: at all, or at those only that are not settled. It goes on after an error, and returns all.
func (g *Guards) look(all bool) error {
	g.mu.Lock()
	if len(g.known) == 0 && g.guard == nil && !g.synced {
		g.mu.Unlock()
		return nil
	}
	guard, err := g.open()
	known := slices.Collect(maps.Values(g.known))
	g.mu.Unlock()
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range known {
		if err := g.lookAt(guard, k, all); err != nil {
			errs = append(errs, fmt.Errorf("interface %s of sandbox %s: %w", k.Name, k.ContainerID, err))
		}
	}
	if all {
		errs = append(errs, g.collect(guard))
	}
	errs = append(errs, guard.Seat())
	return errors.Join(errs...)
}

// lookAt one interface. The lock is not held while the kernel attaches it, as ADDs would wait for that.
func (g *Guards) lookAt(guard *bpf.SourceGuard, k *known, all bool) error {
	g.mu.Lock()
	current := g.known[key{k.ContainerID, k.Name}] == k
	at, settled, leaving := k.at, k.settled, k.leaving
	g.mu.Unlock()
	if !current || settled && !leaving && !all {
		return nil
	}
	attached, severed := false, false
	if k.Guarded && at != (bpf.Place{}) {
		var err error
		if attached, severed, err = guard.Link(at); err != nil {
			return err
		}
	}
	if leaving && severed {
		return g.forget(guard, k)
	}
	if attached {
		return g.settle(guard, k, nil)
	}
	mended, mode := false, ""
	err := g.in(k.NetNS, func() error {
		at, err := g.prepare(guard, k)
		if err == nil && k.Guarded {
			mended, mode, err = guard.Settle(at)
		}
		return err
	})
	if errors.Is(err, errReplaced) {
		return nil
	}
	// A pod may rename its link, or hide it; one that is not leaving is gone with its namespace only.
	if errors.Is(err, errGone) && (leaving || severed || errors.Is(err, errNoNamespace)) {
		return g.forget(guard, k)
	}
	if err == nil && mended && settled {
		g.log.Warn("the source guard of an interface was taken off; it is back", "sandbox", k.ContainerID, "interface", k.Name, "attached by", mode)
	}
	return g.settle(guard, k, err)
}

// prepare what the interface may send as, in its namespace.
func (g *Guards) prepare(guard *bpf.SourceGuard, k *known) (bpf.Place, error) {
	at, err := locate(k.Name)
	if err != nil {
		return at, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known[key{k.ContainerID, k.Name}] != k {
		return at, errReplaced
	}
	if k.at != at {
		k.at, k.put, k.refused = at, nil, Refused{}
	}
	if !k.Guarded {
		return at, nil
	}
	return at, k.fill(guard)
}

// settle what a look has found, and tell of what was refused since the last.
func (g *Guards) settle(guard *bpf.SourceGuard, k *known, err error) error {
	g.mu.Lock()
	k.err, k.settled = err, err == nil
	at, before, leaving := k.at, k.refused, k.leaving
	g.mu.Unlock()
	if err != nil || !k.Guarded || leaving {
		return err
	}
	var refused Refused
	if refused.Frames, err = guard.Refused(at); err != nil {
		return err
	}
	if refused.Calls, err = guard.Denied(at.Cookie); err != nil {
		return err
	}
	now := time.Now()
	g.mu.Lock()
	more := Refused{refused.Frames - before.Frames, refused.Calls - before.Calls}
	tell := k.looked && more != (Refused{}) && now.Sub(k.told) > tellEvery
	if tell {
		k.told = now
	}
	if tell || !k.looked { // what was refused before the first look may be an earlier agent's news
		k.refused, k.looked = refused, true
	}
	g.mu.Unlock()
	if tell {
		g.tell(k.Interface, more)
	}
	return nil
}

// forget an interface that is gone.
func (g *Guards) forget(guard *bpf.SourceGuard, k *known) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known[key{k.ContainerID, k.Name}] == k {
		delete(g.known, key{k.ContainerID, k.Name})
	}
	if !k.Guarded || k.at == (bpf.Place{}) {
		return nil
	}
	return guard.Forget(k.at)
}

// collect what is left of interfaces that nobody knows any more: they went while no agent ran. One that is still there stays guarded.
func (g *Guards) collect(guard *bpf.SourceGuard) error {
	g.mu.Lock()
	synced, known := g.synced, map[bpf.Place]bool{}
	for _, k := range g.known {
		known[k.at] = true
	}
	g.mu.Unlock()
	if !synced {
		return nil
	}
	places, err := guard.Places()
	if err != nil {
		return err
	}
	var alive map[uint64]bool // cookies, if they are needed
	var errs []error
	for _, at := range places {
		if known[at] {
			continue
		}
		attached, severed, err := guard.Link(at)
		if err == nil && !attached && !severed { // by clsact, if at all
			if alive == nil {
				alive, err = g.cookies()
			}
			severed = err == nil && !alive[at.Cookie]
		}
		if err == nil && severed {
			err = guard.Forget(at)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func same(a, b bpf.Source) bool {
	return a.MAC == b.MAC && a.DHCP == b.DHCP && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Prefixes, b.Prefixes)
}
