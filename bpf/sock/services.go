package sock

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/service"
)

// Removed is a backend that a port of a Service has no more, or that a frontend led to which is no more the port's. Connected UDP
// sockets may still send to it: see DestroyUDP.
type Removed struct {
	Backend  netip.AddrPort
	Protocol service.Protocol
}

// ErrNotSynced is that Services were changed before the first Sync said which there are: the maps may have others, of an earlier agent.
var ErrNotSynced = errors.New("socket translation: Sync has to come before Set and Delete")

// Set makes Services what they are now, new or not, each port of them at once. When it has returned, no call that begins goes to what
// was removed. It waits for programs that run, some 10 ms, so several at a time are cheaper than one after the other.
//
// On an error their frontends are left to the node as far as possible, and the next change of any Service tries all again.
func (p *Programs) Set(services ...service.Service) ([]Removed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	if !p.synced {
		return nil, ErrNotSynced
	}
	changed, err := p.compile(services)
	removed, writeErr := p.change(changed)
	return removed, errors.Join(err, writeErr)
}

// Delete is no error for a Service that was never set.
func (p *Programs) Delete(names ...string) ([]Removed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	if !p.synced {
		return nil, ErrNotSynced
	}
	changed := make(map[string][]port, len(names))
	for _, name := range names {
		changed[name] = nil
	}
	return p.change(changed)
}

// Sync makes these all Services that there are. What the maps have already, also from before a restart, is not written again.
func (p *Programs) Sync(services []service.Service) ([]Removed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	changed, err := p.compile(services)
	for name := range p.wanted {
		if _, stays := changed[name]; !stays {
			changed[name] = nil
		}
	}
	p.synced, p.stale = true, true
	removed, writeErr := p.change(changed)
	return removed, errors.Join(err, writeErr)
}

// compile leaves out what is wrong: its earlier ports, if any, are no better, so it has none.
func (p *Programs) compile(services []service.Service) (map[string][]port, error) {
	var errs []error
	changed := make(map[string][]port, len(services))
	for _, s := range services {
		if s.Name == "" {
			errs = append(errs, errUnnamed)
			continue
		}
		ports, err := portsOf(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("left to the node: %w", err))
		}
		changed[s.Name] = ports
	}
	return changed, errors.Join(errs...)
}

// change gives the Services of these names these ports.
func (p *Programs) change(changed map[string][]port) ([]Removed, error) {
	touched := make(map[endpoint]bool)
	touch := func(ports []port) {
		for _, port := range ports {
			for _, f := range port.frontends {
				touched[f] = true
			}
		}
	}
	for name, ports := range changed {
		touch(p.wanted[name])
		touch(ports)
		p.claims.remove(name, p.wanted[name])
		p.claims.add(name, ports)
		if len(ports) == 0 {
			delete(p.wanted, name)
		} else {
			p.wanted[name] = ports
		}
	}
	if p.stale {
		return p.rewrite()
	}

	// Who else wants a frontend of theirs gets it now, or loses it.
	names := make(map[string]bool)
	for f := range touched {
		for _, name := range p.claims[f] {
			names[name] = true
		}
	}
	var want []port
	for _, name := range sorted(names) {
		won := p.claims.won(name, p.wanted[name])
		want = append(want, won...)
		touch(p.wanted[name])
	}
	have := make(table)
	for f := range touched {
		if id, ok := p.at[f]; ok {
			have[id] = p.rows[id]
		}
	}
	return p.update(want, have)
}

// rewrite makes the maps what is wanted, from whatever they have.
func (p *Programs) rewrite() ([]Removed, error) {
	rows, err := p.load()
	if err != nil {
		return nil, err
	}
	p.rows, p.at = rows, make(map[endpoint]uint32)
	for id, r := range rows {
		for _, f := range r.frontends {
			p.at[f] = id
		}
	}
	names := make(map[string]bool, len(p.wanted))
	for name := range p.wanted {
		names[name] = true
	}
	var want []port
	for _, name := range sorted(names) {
		want = append(want, p.claims.won(name, p.wanted[name])...)
	}
	p.stale = false
	removed, err := p.update(want, rows)
	if err != nil {
		return removed, err
	}
	more, err := p.strays()
	return append(removed, tell(more)...), err
}

// update replaces rows in the maps, and in what is known of them.
func (p *Programs) update(want []port, have table) ([]Removed, error) {
	c, next, removed := diff(want, have, p.fresh)
	if err := p.write(c); err != nil {
		p.stale = true
		return tell(removed), errors.Join(err, deletes(p.maps.Frontends, c.touched(next)), p.wait())
	}
	for id, r := range have {
		for _, f := range r.frontends {
			delete(p.at, f)
		}
		delete(p.rows, id)
	}
	for id, r := range next {
		for _, f := range r.frontends {
			p.at[f] = id
		}
		p.rows[id] = r
	}
	return tell(removed), nil
}

func tell(removed []endpoint) []Removed {
	var out []Removed
	for _, e := range removed {
		out = append(out, Removed{e.addrPort(), service.Protocol(e.Protocol)})
	}
	return out
}

// fresh is a number for a service. By chance, so that it is none that an earlier agent gave, and somebody remembers.
func (p *Programs) fresh() uint32 {
	for {
		id := rand.Uint32()
		if _, taken := p.rows[id]; !taken {
			return id
		}
	}
}

func sorted(names map[string]bool) []string {
	out := make([]string, 0, len(names))
	for name := range names {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
