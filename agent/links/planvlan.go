//go:build linux

package links

import "strings"

// parent looks at the link, made by others, that is to carry VLANs. Nothing of it is changed.
func (d *decision) parent(w Want, now Observed) {
	p, ok := now[w.Parent]
	switch {
	case !ok:
		d.refuse("parent %s is not on this node, which has %s; correct parent, or select other nodes", w.Parent, nics(now))
	case p.Name == "lo" || p.Kind == "macvlan" || p.Kind == "ipvlan" || p.Kind == "macvtap":
		d.refuse("parent %s is a %s link, which carries no VLANs; name a card, a bond or a bridge", p.Name, kindOf(p))
	case p.Master != "":
		d.refuse("parent %s is a port of %s (%s), which takes all that it receives; name %s as parent", p.Name, p.Master, now[p.Master].Kind, p.Master)
	case !p.Up:
		d.refuse("parent %s is down, and not Berth's to set up; set it up", p.Name)
	case w.MTU > p.MTU:
		d.refuse("mtu %d is more than the %d of parent %s, which is not Berth's to change; raise it there, or lower mtu", w.MTU, p.MTU, p.Name)
	}
}

// vlans plans the VLANs of a HostNetwork.
func (d *decision) vlans(w Want, now Observed) {
	if d.Refused != nil {
		return
	}
	base := w.base()
	for _, id := range w.VLANs {
		name := vlanName(base, id)
		v, there := now[name]
		if there && (v.Kind != "vlan" || v.owner() == "") {
			d.refuse("link %s (%s) is there, and not made by Berth; delete or rename it, or take %d out of vlans and use it as it is", name, v.Kind, id)
			continue
		}
		for _, a := range now.above(base) {
			if o := now[a]; a != name && o.Kind == "vlan" && o.VLAN == id {
				d.refuse("VLAN %d of %s is there already, as %s, and not made by Berth; delete it, or take %d out of vlans and use it as it is", id, base, a, id)
			}
		}
		alias := op{Verb: setAlias, Link: name, Alias: aliasOf(w.Name, "")}
		switch {
		case !there:
			d.do(op{Verb: createVLAN, Link: name, To: base, VLAN: id}, alias)
		case v.Below != base || v.VLAN != id:
			if used := inUse(v, now); used != nil {
				d.refuse("link %s is VLAN %d of %s, not %d of %s, and cannot be made anew: it is in use by %s", name, v.VLAN, v.Below, id, base, strings.Join(used, ", "))
				continue
			}
			d.do(op{Verb: deleteLink, Link: name}, op{Verb: createVLAN, Link: name, To: base, VLAN: id}, alias)
			v = Link{}
		case v.Alias != alias.Alias:
			d.do(alias)
		}
		if w.MTU > 0 && v.MTU != w.MTU {
			d.do(op{Verb: setMTU, Link: name, MTU: w.MTU})
		}
		if !v.Up {
			d.do(op{Verb: setUp, Link: name})
		}
	}
	if d.Refused != nil {
		d.Ops = nil
	}
}
