//go:build linux

package path

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/berthdev/berth/bpf"
	"golang.org/x/sys/unix"
)

// attach adds endpoints to one parent's vmac. Where that is ready, it costs some tens of microseconds and no dump.
func (p *Path) attach(parent string, addrs map[netip.Addr]mac) error {
	v := p.vmacs[parent]
	if v == nil || p.changed || !p.ready(v) {
		if err := p.readOwn(); err != nil {
			return err
		}
		v, err := p.ensure(parent, false)
		if err != nil {
			return err
		}
		v.idleSince = time.Time{}
		p.mine.Store(p.interests())
		return errors.Join(p.fill(v), p.translate())
	}
	if !p.watching {
		if err := p.readOwn(); err != nil {
			return err
		}
	}
	v.idleSince = time.Time{}
	return p.add(v, addrs)
}

// add adds endpoints to a vmac that is ready.
func (p *Path) add(v *vmac, addrs map[netip.Addr]mac) error {
	defer p.unseated()
	for addr, src := range desiredRoutes(addrs, p.own, v.parentIndex) {
		if err := errors.Join(
			v.program.PutEndpoint(bpf.Endpoint{Address: addr, MAC: addrs[addr]}),
			p.k.setNeighbour(v.index, addr, addrs[addr]),
			p.k.setRoute(v.index, addr, src)); err != nil {
			return fmt.Errorf("%q on %q: %w", v.name, v.parent, err)
		}
	}
	return nil
}

// restore gives addresses back, the last that was taken first. What the kernel does not take now, Run mends.
func (p *Path) restore(replaced []Endpoint) error {
	var errs []error
	for _, ep := range slices.Backward(replaced) {
		addr, m, err := p.desired.put(ep)
		if v := p.vmacs[ep.Parent]; v != nil && err == nil {
			err = p.add(v, map[netip.Addr]mac{addr: m})
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("restore endpoint %s (%s): %w", addr, m, err))
		}
	}
	if len(errs) > 0 {
		p.wake()
	}
	return errors.Join(errs...)
}

// ready looks whether the vmac still is what it was.
func (p *Path) ready(v *vmac) bool {
	parent, err := p.k.LinkByName(v.parent)
	if err != nil || parent.Attrs().Index != v.parentIndex {
		return false
	}
	link, err := p.k.LinkByIndex(v.index)
	return err == nil && link.Attrs().Alias == alias && link.Attrs().Flags&net.FlagUp != 0 &&
		link.Attrs().MTU == parent.Attrs().MTU && string(link.Attrs().HardwareAddr) == string(v.mac[:])
}

// detach says whether a vmac has become idle.
func (p *Path) detach(eps []Endpoint) (idle bool, err error) {
	var errs []error
	for _, ep := range eps {
		addr := ep.Address.Unmap()
		for _, parent := range p.desired.take(ep) {
			v := p.vmacs[parent]
			if v == nil {
				continue
			}
			err := errors.Join(
				v.program.DeleteEndpoint(addr),
				p.k.deleteRoute(v.index, addr),
				p.k.deleteNeighbour(v.index, addr))
			if err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("endpoint %s of %q on %q: %w", addr, v.name, parent, err))
			}
			if len(p.desired[parent]) == 0 {
				v.idleSince, idle = time.Now(), true
			}
		}
	}
	return idle, errors.Join(errs...)
}
