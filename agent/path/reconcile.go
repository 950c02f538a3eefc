//go:build linux

package path

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/berthdev/berth/bpf"
	"github.com/vishvananda/netlink"
)

// reconcile makes the node as wanted. It goes on after an error, and returns all. With mend, it looks whether someone has
// detached the programs, which no event tells.
func (p *Path) reconcile(mend bool) error {
	k := p.k
	links, err := k.vmacs()
	if err != nil {
		return err
	}
	if err := p.readOwn(); err != nil {
		return err
	}
	// Strays first: with its last address of a family a link loses its routes.
	errs := []error{forward(p.log, anyIs4(p.desired), anyIs6(p.desired)), p.removeStrays()}

	parents, err := p.parents(links)
	errs = append(errs, err)
	gone := map[string]bool{}
	for _, parent := range parents {
		v, err := p.ensure(parent, mend)
		gone[parent] = errors.As(err, new(netlink.LinkNotFoundError))
		if err == nil {
			err = p.fill(v)
		}
		errs = append(errs, err)
	}
	for parent, v := range p.vmacs {
		// With its parent the kernel has deleted the vmac; or the parent was renamed, and it is adopted under the new name by now.
		if gone[parent] || !slices.Contains(parents, parent) {
			errs = append(errs, p.forget(v))
		}
	}
	errs = append(errs, p.removeIdle(), p.keepOwnerRoutes(), p.translate())
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
		if v.program, err = p.attachProgram(v); err != nil {
			return nil, err
		}
		p.log.Info("vmac", "link", v.name, "parent", parentName, "mac", v.mac, "adopted", !created, "attached by", v.program.Mode())
	} else if mend {
		if err := p.mendProgram(v); err != nil {
			return nil, err
		}
	}
	v.up = link.Attrs().Flags&net.FlagUp != 0
	p.vmacs[parentName] = v
	return v, nil
}

// mendProgram attaches the programs anew if they are not as they were left. To do so every time would have the kernel load
// and verify them, while Attach waits.
func (p *Path) mendProgram(v *vmac) error {
	attached, err := v.program.Attached()
	if attached && err == nil {
		return nil
	}
	p.log.Warn("the program of a vmac is not as it was left; attaching it anew", "link", v.name, "parent", v.parent, "err", err)
	program, err := p.attachProgram(v)
	if err != nil {
		return err
	}
	if err := v.program.Close(); err != nil {
		p.log.Warn("close old program", "link", v.name, "err", err)
	}
	v.program = program
	return nil
}

// translate brings the nftables tables up to date: first the one that keeps apart.
func (p *Path) translate() error {
	apart := desiredIsolation(p.tenants, maps.Values(p.vmacs))
	isolated, failed := isolate(apart)
	if isolated {
		p.log.Info("nftables table replaced", "table", "inet berth-tenants", "links", apart.vmacs, "ranges", len(apart.all))
	}
	want := desiredRuleset(*p.prefixes, p.multihomed, p.own, maps.Values(p.vmacs))
	want.kept = p.kept()
	changed, err := masquerade(want)
	err = errors.Join(failed, err)
	if changed {
		p.log.Info("nftables table replaced", "table", "inet berth", "links", want.vmacs, "local pods", want.local)
	}
	if p.tell != nil {
		err = errors.Join(err, p.tell(want.vmacs))
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
