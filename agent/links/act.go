//go:build linux

package links

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// do one operation. Addresses and routes come from the snapshot: the kernel forgets some of them on the way.
func (k *kernel) do(o op, before snapshot) error {
	if err := k.act(o, before); err != nil {
		return fmt.Errorf("%s: %w%s", o, err, remedy(o, err))
	}
	return nil
}

func (k *kernel) act(o op, before snapshot) error {
	switch o.Verb {
	case createBond:
		return k.createBond(o)
	case createVLAN:
		below, err := k.LinkByName(o.To)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = o.Link, below.Attrs().Index
		if err := k.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: o.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
			return err
		}
		return k.quiet(o.Link)
	}
	l, err := k.LinkByName(o.Link)
	if errors.As(err, new(netlink.LinkNotFoundError)) && (o.Verb == deleteLink || o.Verb == strip || o.Verb == restore) {
		return nil
	}
	if err != nil {
		return err
	}
	switch o.Verb {
	case deleteLink:
		return k.LinkDel(l)
	case setAlias:
		return k.LinkSetAlias(l, o.Alias)
	case setMode:
		return k.modifyBond(l, func(b *netlink.Bond) error {
			b.Mode = netlink.StringToBondMode(o.Bond.Mode)
			return nil
		})
	case setMiimon:
		return k.modifyBond(l, func(b *netlink.Bond) error {
			b.Miimon = o.Bond.Miimon
			return nil
		})
	case setPrimary:
		return k.modifyBond(l, func(b *netlink.Bond) error { return k.primary(b, o.Bond.Primary) })
	case setMTU:
		return k.LinkSetMTU(l, o.MTU)
	case setMAC:
		mac, err := net.ParseMAC(o.MAC)
		if err != nil {
			return err
		}
		return k.LinkSetHardwareAddr(l, mac)
	case setUp:
		return k.LinkSetUp(l)
	case setDown:
		return k.LinkSetDown(l)
	case enslave:
		master, err := k.LinkByName(o.To)
		if err != nil {
			return err
		}
		if err := k.LinkSetDown(l); err != nil {
			return err
		}
		return k.LinkSetMaster(l, master)
	case release:
		return k.LinkSetNoMaster(l)
	case restore:
		if s := before.link(o.Link); s != nil {
			return k.put(s, l, unix.NLM_F_EXCL)
		}
	case strip:
		return k.strip(l, before)
	case move:
		return k.move(o, l, before)
	}
	return nil
}

// move addresses and routes. They are on both links for a moment: were they on none, routes elsewhere that have one as their source
// would go with it. Routes on the old link, if it still has them, are replaced in one step.
func (k *kernel) move(o op, from netlink.Link, before snapshot) error {
	s := before.link(o.Link)
	if s == nil {
		return nil
	}
	to, err := k.LinkByName(o.To)
	if err != nil {
		return err
	}
	if err := copySetting(o.Link, o.To, "accept_ra"); err != nil {
		return err
	}
	return errors.Join(k.put(s, to, unix.NLM_F_REPLACE), k.remove(s, from))
}

// strip a link of the addresses that others of the snapshot had, and it had not.
func (k *kernel) strip(l netlink.Link, before snapshot) error {
	var errs []error
	for i := range before.Links {
		if s := &before.Links[i]; s.Name != l.Attrs().Name {
			errs = append(errs, k.remove(s, l))
		}
	}
	return errors.Join(errs...)
}

// createBond makes one. The kernel's module, loaded by the request, may make an idle bond0 of its own just before (its parameter
// max_bonds); nobody can have begun to use that one.
func (k *kernel) createBond(o op) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = o.Link, o.MTU
	var err error
	if attrs.HardwareAddr, err = net.ParseMAC(o.MAC); o.MAC != "" && err != nil {
		return err
	}
	b := netlink.NewLinkBond(attrs)
	b.Mode, b.Miimon = netlink.StringToBondMode(o.Bond.Mode), o.Bond.Miimon
	err = k.LinkAdd(b)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	l, err := k.LinkByName(o.Link)
	if err != nil {
		return err
	}
	if a := l.Attrs(); l.Type() != "bond" || a.Alias != "" || a.Flags&net.FlagUp != 0 {
		return unix.EEXIST
	}
	if err := k.LinkDel(l); err != nil {
		return err
	}
	return k.LinkAdd(b)
}

func (k *kernel) modifyBond(l netlink.Link, set func(*netlink.Bond) error) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.Attrs().Name // and not the index: with both, kernels take it for a new name, which they refuse to a link that is up
	b := netlink.NewLinkBond(attrs)
	if err := set(b); err != nil {
		return err
	}
	return k.LinkModify(b)
}

func (k *kernel) primary(b *netlink.Bond, name string) error {
	b.Primary = 0 // none
	if name == "" {
		return nil
	}
	l, err := k.LinkByName(name)
	if err != nil {
		return err
	}
	b.Primary = l.Attrs().Index
	return nil
}

// quiet keeps the kernel from giving a VLAN addresses of its own: it is for pods, and an address of the node on it would be a way
// from one VLAN to the other.
func (k *kernel) quiet(name string) error {
	l, err := k.LinkByName(name)
	if err != nil {
		return err
	}
	err = k.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a kernel without IPv6
	}
	return err
}

// remedy for what the kernel says.
func remedy(o op, err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) && o.Verb == createBond:
		return "; the kernel has no bonds: load its module bonding, or install the package of its modules"
	case errors.Is(err, unix.EOPNOTSUPP) && o.Verb == createVLAN:
		return "; the kernel has no VLANs: load its module 8021q, or install the package of its modules"
	case errors.Is(err, unix.EINVAL) && o.Verb == setMTU, errors.Is(err, unix.ERANGE) && o.Verb == setMTU:
		return "; a card below takes no such MTU"
	}
	return ""
}
