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
	defer p.unseated()
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
	note(v.program.SyncWatched(p.watched[v.parent].Addresses))
	note(p.fillGroups(v))
	note(fillAddresses(v.index, addrs, p.synced, p.k.neighbours, p.k.setNeighbour, p.k.deleteNeighbour))
	routes := desiredRoutes(addrs, p.own, v.parentIndex)
	note(fillAddresses(v.index, routes, p.synced, p.k.routes, p.k.setRoute, p.k.deleteRoute))
	return errors.Join(errs...)
}

func (p *Path) fillGroups(v *vmac) error {
	actual, err := p.k.groups(v.index)
	if err != nil {
		return err
	}
	set, remove := difference(desiredGroups(p.own, p.watched[v.parent].Routers), actual, compareMAC)
	errs := []error{}
	for _, g := range set {
		errs = append(errs, p.k.joinGroup(v.name, g))
	}
	for _, g := range remove {
		errs = append(errs, p.k.leaveGroup(v.name, g))
	}
	return errors.Join(errs...)
}

// fillAddresses makes what the link has per address as desired. What is not desired stays where that may be incomplete.
func fillAddresses[V comparable](link int, desired map[netip.Addr]V, complete bool, list func(int) (map[netip.Addr]V, error),
	set func(int, netip.Addr, V) error, remove func(int, netip.Addr) error) error {
	actual, err := list(link)
	if err != nil {
		return err
	}
	missing, surplus := difference(desired, actual, netip.Addr.Compare)
	errs := []error{}
	for _, a := range missing {
		errs = append(errs, set(link, a, desired[a]))
	}
	for _, a := range surplus {
		if complete {
			errs = append(errs, remove(link, a))
		}
	}
	return errors.Join(errs...)
}
