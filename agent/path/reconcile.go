//go:build linux

package path

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/berthdev/berth/bpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reconcile makes the node as wanted. It goes on after an error, and returns all. With mend, the programs are attached anew,
// in case someone has detached them, which no event tells.
func (p *Path) reconcile(mend bool) error {
	k := p.k
	links, err := k.vmacs()
	if err != nil {
		return err
	}
	if err := p.readOwn(); err != nil {
		return err
	}
	errs := []error{forward(p.log, anyIs4(p.desired), anyIs6(p.desired))}

	parents, err := p.parents(links)
	errs = append(errs, err)
	for _, parent := range parents {
		v, err := p.ensure(parent, mend)
		if err == nil {
			err = p.fill(v)
		}
		errs = append(errs, err)
	}
	for parent, v := range p.vmacs {
		if !slices.Contains(parents, parent) {
			errs = append(errs, p.forget(v))
		}
	}
	errs = append(errs, p.removeStrays(), p.removeIdle(), p.translate())
	p.changed = false
	p.mine.Store(p.interests())
	return errors.Join(errs...)
}

// parents are those that have endpoints or a vmac of ours. A vmac that no parent can be found for is of no use.
func (p *Path) parents(links []netlink.Link) ([]string, error) {
	var errs []error
	names := map[string]bool{}
	for parent := range p.desired {
		names[parent] = true
	}
	for _, link := range links {
		a := link.Attrs()
		parent, err := p.k.LinkByIndex(a.ParentIndex)
		if err == nil && vmacName(a.ParentIndex) == a.Name {
			names[parent.Attrs().Name] = true
		} else if p.synced {
			p.log.Warn("removing a vmac that belongs to no link", "link", a.Name, "parent index", a.ParentIndex)
			errs = append(errs, p.k.LinkDel(link), bpf.Remove(p.cfg.PinDir, a.Name))
		}
	}
	return slices.Sorted(maps.Keys(names)), errors.Join(errs...)
}

// ensure has the vmac of a parent there, with its program.
func (p *Path) ensure(parentName string, mend bool) (*vmac, error) {
	v := p.vmacs[parentName]
	parent, err := p.k.parent(parentName)
	if err != nil {
		if v != nil {
			err = errors.Join(err, p.forget(v))
		}
		return nil, err
	}
	if v != nil && v.parentIndex != parent.Attrs().Index {
		if err := p.forget(v); err != nil {
			return nil, err
		}
	}
	link, created, err := p.k.ensureLink(p.log, p.cfg.NodeName, parent)
	if err != nil {
		return nil, err
	}
	if v = p.vmacs[parentName]; v != nil && v.index != link.Attrs().Index {
		if err := p.forget(v); err != nil {
			return nil, err
		}
		v = nil
	}
	if v == nil {
		if created { // whatever is pinned under this name belonged to a link that is no more
			if err := bpf.Remove(p.cfg.PinDir, link.Attrs().Name); err != nil {
				return nil, fmt.Errorf("remove old programs of %q: %w", link.Attrs().Name, err)
			}
		}
		v = &vmac{name: link.Attrs().Name, parent: parentName, parentIndex: parent.Attrs().Index}
		v.index, v.mac = link.Attrs().Index, mac(link.Attrs().HardwareAddr)
		mend = true
		p.log.Info("vmac", "link", v.name, "parent", parentName, "mac", v.mac, "adopted", !created)
	}
	v.up = link.Attrs().Flags&net.FlagUp != 0
	if mend {
		program, err := attachProgram(p.cfg, v)
		if err != nil {
			return nil, fmt.Errorf("attach the program of %q on %q: %w", v.name, parentName, err)
		}
		if v.program != nil {
			if err := v.program.Close(); err != nil {
				p.log.Warn("close old program", "link", v.name, "err", err)
			}
		}
		v.program = program
	}
	p.vmacs[parentName] = v
	return v, nil
}

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
	for addr, src := range desiredRoutes(addrs, p.own, v.parentIndex) {
		if err := errors.Join(
			v.program.PutEndpoint(bpf.Endpoint{Address: addr, MAC: addrs[addr]}),
			p.k.setNeighbour(v.index, addr, addrs[addr]),
			p.k.setRoute(v.index, addr, src)); err != nil {
			return fmt.Errorf("%q on %q: %w", v.name, parent, err)
		}
	}
	return nil
}

// ready looks whether the vmac still is what it was.
func (p *Path) ready(v *vmac) bool {
	parent, err := p.k.LinkByName(v.parent)
	if err != nil || parent.Attrs().Index != v.parentIndex {
		return false
	}
	link, err := p.k.LinkByIndex(v.index)
	return err == nil && link.Attrs().Alias == alias && link.Attrs().Flags&net.FlagUp != 0 &&
		link.Attrs().MTU == parent.Attrs().MTU
}

func (p *Path) detach(eps []Endpoint) error {
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
				v.idleSince = time.Now()
			}
		}
	}
	return errors.Join(errs...)
}

// removeStrays takes addresses off vmacs. The masquerade would choose one, and nobody would answer to it.
func (p *Path) removeStrays() error {
	var errs []error
	for _, a := range p.strays {
		p.log.Warn("removing an address that someone has put on a vmac", "address", a.IPNet, "index", a.LinkIndex)
		link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: a.LinkIndex}}
		if err := p.k.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete address %s: %w", a.IPNet, err))
		}
	}
	return errors.Join(errs...)
}

// removeIdle removes vmacs that have had no endpoint for Config.Idle.
func (p *Path) removeIdle() error {
	var errs []error
	for _, v := range p.vmacs {
		switch {
		case len(p.desired[v.parent]) > 0:
			v.idleSince = time.Time{}
		case !p.synced:
		case v.idleSince.IsZero() && p.cfg.Idle > 0:
			v.idleSince = time.Now()
		case time.Since(v.idleSince) >= p.cfg.Idle:
			p.log.Info("removing an idle vmac", "link", v.name, "parent", v.parent)
			link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: v.index, Name: v.name}}
			// Down first: it must not be up without its program.
			if err := p.k.LinkSetDown(link); err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("set down %q: %w", v.name, err))
				continue
			}
			errs = append(errs, p.forget(v))
			if err := p.k.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("delete link %q: %w", v.name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// forget removes the program of a vmac whose link has gone, or is about to.
func (p *Path) forget(v *vmac) error {
	delete(p.vmacs, v.parent)
	if err := v.program.Remove(); err != nil {
		return fmt.Errorf("remove the program of %q: %w", v.name, err)
	}
	return nil
}

// translate brings the nftables table up to date.
func (p *Path) translate() error {
	want := ruleset{local: p.prefixes.LocalPods}
	for _, v := range p.vmacs {
		want.vmacs = append(want.vmacs, v.name)
	}
	slices.Sort(want.vmacs)
	changed, err := masquerade(want)
	if changed {
		p.log.Info("nftables table replaced", "table", "inet berth", "links", want.vmacs, "local pods", want.local)
	}
	return err
}

func (p *Path) readOwn() error {
	k, err := p.kernel()
	if err != nil {
		return err
	}
	links, err := k.vmacs()
	if err != nil {
		return err
	}
	indexes := map[int]bool{}
	for _, link := range links {
		indexes[link.Attrs().Index] = true
	}
	own, strays, err := k.ownAddresses(indexes)
	if err != nil {
		return err
	}
	p.own, p.strays = own, strays
	return nil
}
