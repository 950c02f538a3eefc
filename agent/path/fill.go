//go:build linux

package path

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// fill brings everything about a vmac up to date: program first, so that nothing passes that should not, routes last, so that
// nothing is sent that could not arrive.
func (p *Path) fill(v *vmac) error {
	addrs := p.desired[v.parent]
	errs := []error{}
	note := func(err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%q on %q: %w", v.name, v.parent, err))
		}
	}
	note(v.program.SyncPrefixes(desiredClasses(*p.prefixes, p.own)))
	if p.synced {
		note(v.program.SyncEndpoints(desiredEndpoints(addrs)))
	} else {
		for _, e := range desiredEndpoints(addrs) {
			note(v.program.PutEndpoint(e))
		}
	}
	if !v.up && len(errs) == 0 {
		if err := p.k.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: v.index, Name: v.name}}); err != nil {
			note(fmt.Errorf("set up: %w", err))
		} else {
			v.up = true
		}
	}
	note(p.fillGroups(v))
	note(p.fillNeighbours(v, addrs))
	note(p.fillRoutes(v, addrs))
	return errors.Join(errs...)
}

func (p *Path) fillGroups(v *vmac) error {
	actual, err := p.k.groups(v.index)
	if err != nil {
		return err
	}
	set, remove := difference(desiredGroups(p.own), actual, compareMAC)
	errs := []error{}
	for _, g := range set {
		errs = append(errs, p.k.joinGroup(v.name, g))
	}
	for _, g := range remove {
		errs = append(errs, p.k.leaveGroup(v.name, g))
	}
	return errors.Join(errs...)
}

func (p *Path) fillNeighbours(v *vmac, addrs map[netip.Addr]mac) error {
	actual, err := p.k.neighbours(v.index)
	if err != nil {
		return err
	}
	set, remove := difference(addrs, actual, netip.Addr.Compare)
	errs := []error{}
	for _, a := range set {
		errs = append(errs, p.k.setNeighbour(v.index, a, addrs[a]))
	}
	for _, a := range remove {
		if p.synced {
			errs = append(errs, p.k.deleteNeighbour(v.index, a))
		}
	}
	return errors.Join(errs...)
}

func (p *Path) fillRoutes(v *vmac, addrs map[netip.Addr]mac) error {
	actual, err := p.k.routes(v.index)
	if err != nil {
		return err
	}
	desired := desiredRoutes(addrs, p.own, v.parentIndex)
	set, remove := difference(desired, actual, netip.Addr.Compare)
	errs := []error{}
	for _, a := range set {
		errs = append(errs, p.k.setRoute(v.index, a, desired[a]))
	}
	for _, a := range remove {
		if p.synced {
			errs = append(errs, p.k.deleteRoute(v.index, a))
		}
	}
	return errors.Join(errs...)
}
