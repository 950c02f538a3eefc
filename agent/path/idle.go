//go:build linux

package path

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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

// forget removes the program of a vmac whose link has gone, or is about to.
func (p *Path) forget(v *vmac) error {
	delete(p.vmacs, v.parent)
	for _, other := range p.vmacs {
		if other.name == v.name { // the parent was renamed, and its vmac adopted under the new name
			return v.program.Close()
		}
	}
	if err := v.program.Remove(); err != nil {
		return fmt.Errorf("remove the program of %q: %w", v.name, err)
	}
	return nil
}
