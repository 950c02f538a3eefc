//go:build linux

package path

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/bpf"
)

// Sighting is an address that somebody uses on the segment of a parent: another host, or a pod of any node that is no endpoint here
// with that MAC.
type Sighting struct {
	Parent  string
	Address netip.Addr
	MAC     string // as net.HardwareAddr prints it
}

// Watched is what to look for on the segment of one parent.
type Watched struct {
	Addresses []netip.Prefix
	Routers   []netip.Addr // whoever asks for them is heard; an IPv6 one's questions go to a multicast group
}

func (w Watched) equal(o Watched) bool {
	return slices.Equal(w.Addresses, o.Addresses) && slices.Equal(w.Routers, o.Routers)
}

// OnSighting has see told of each sighting of a watched address, of the same one at most twice a minute. It is set before anything is
// attached; see must neither block nor call Path.
func (p *Path) OnSighting(see func(Sighting)) { p.see = see }

// SetWatched says what to look for, by parent. Run carries it out.
func (p *Path) SetWatched(watched map[string]Watched) {
	p.mu.Lock()
	same := maps.EqualFunc(p.watched, watched, Watched.equal)
	p.watched = watched
	p.mu.Unlock()
	if !same {
		p.wake()
	}
}

// attachProgram attaches the programs of a vmac, and listens to them until they are closed.
func (p *Path) attachProgram(v *vmac) (program, error) {
	program, err := attachProgram(p.cfg, v)
	if err == nil && p.see != nil {
		parent := v.parent
		p.listeners.Go(func() { p.listen(parent, program) })
	}
	return program, err
}

func (p *Path) listen(parent string, program program) {
	for {
		s, err := program.ReadSighting()
		if errors.Is(err, bpf.ErrClosed) {
			return
		}
		if err != nil {
			p.log.Error("address conflicts are not detected any more", "parent", parent, "err", err)
			return
		}
		p.see(Sighting{parent, s.Address, mac(s.MAC).String()})
	}
}

// Sightings are counted by outcome, by the name of the vmac.
func (p *Path) Sightings() (map[string]map[string]uint64, error) {
	return p.count(program.Sightings)
}

// Counters are packets by reason, by the name of the vmac.
func (p *Path) Counters() (map[string]map[string]uint64, error) {
	return p.count(program.Counters)
}

func (p *Path) count(of func(program) (map[string]uint64, error)) (map[string]map[string]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string]map[string]uint64{}
	var errs []error
	for _, v := range p.vmacs {
		counters, err := of(v.program)
		if err != nil {
			errs = append(errs, fmt.Errorf("counters of %q: %w", v.name, err))
			continue
		}
		all[v.name] = counters
	}
	return all, errors.Join(errs...)
}
