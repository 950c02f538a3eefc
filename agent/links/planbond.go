//go:build linux

package links

import (
	"slices"
	"strings"
)

// bond plans the bond of a HostNetwork.
func (d *decision) bond(w Want, now Observed) {
	b, there := now[w.Bond.Name]
	if there && (b.Kind != "bond" || b.owner() == "") {
		d.refuse("link %s (%s) is there, and not made by Berth; delete or rename it, or, for VLANs on it, name it as parent", b.Name, b.Kind)
		return
	}
	members := d.members(w, b, now)
	if d.Refused != nil || len(members) == 0 {
		return
	}
	d.makeBond(w, b, there, members, now)
}

// members that are there and may be taken, those with addresses of the node first: the sooner are these back.
func (d *decision) members(w Want, b Link, now Observed) (out []string) {
	for _, name := range w.Bond.Members {
		m, ok := now[name]
		switch {
		case !ok:
			message := "member " + name + " of bond " + w.Bond.Name + " is not on this node, which has " + nics(now) +
				"; correct members, or select other nodes"
			if b.Name == "" || len(now.ports(b.Name)) == 0 {
				d.refuse("%s", message)
			} else {
				d.amiss("%s", message) // it was there once: the bond works without it
			}
			continue
		case b.Name != "" && m.Master == b.Name: // taken already
			if leased := m.leased(); w.MoveAddresses && len(leased) > 0 {
				d.amiss("a DHCP client gives member %s the address %s; it must not run there", name, strings.Join(leased, ", "))
			}
		default:
			d.mayTake(w, m, now)
		}
		if m.MaxMTU > 0 && w.MTU > m.MaxMTU {
			d.refuse("mtu %d is more than the %d that member %s takes; lower mtu, or name another card", w.MTU, m.MaxMTU, name)
		}
		out = append(out, name)
	}
	slices.SortStableFunc(out, func(a, b string) int { return carries(now[b]) - carries(now[a]) })
	return out
}

// carries is for sorting: what has a default route, before what has addresses.
func carries(l Link) int {
	switch {
	case l.Default:
		return 2
	case len(l.fixed()) > 0:
		return 1
	}
	return 0
}

// mayTake refuses a member that is not free.
func (d *decision) mayTake(w Want, m Link, now Observed) {
	if m.Kind != "device" && m.Kind != "veth" && m.Kind != "dummy" || m.Name == "lo" {
		d.refuse("member %s is no network card but a %s link; name the cards themselves", m.Name, kindOf(m))
		return
	}
	if m.Master != "" {
		d.refuse("member %s is a port of %s (%s) already; take it out there first", m.Name, m.Master, now[m.Master].Kind)
	}
	if above := now.above(m.Name); len(above) > 0 {
		for i, a := range above {
			above[i] = a + " (" + now[a].Kind + ")"
		}
		d.refuse("member %s is in use by %s; remove these first, or make them on the bond", m.Name, strings.Join(above, ", "))
	}
	fixed := m.fixed()
	switch {
	case len(fixed) == 0 && !m.Default:
	case !w.MoveAddresses && len(fixed) > 0:
		d.refuse("member %s carries addresses of the node (%s); set moveAddresses to have them move to %s, or name another card",
			m.Name, strings.Join(fixed, ", "), w.Bond.Name)
	case !w.MoveAddresses:
		d.refuse("member %s carries a default route of the node; set moveAddresses to have it move to %s, or name another card", m.Name, w.Bond.Name)
	case len(m.leased()) > 0:
		d.refuse("member %s has the address %s of a DHCP client, which would not follow it to %s; give the node a fixed address first",
			m.Name, strings.Join(m.leased(), ", "), w.Bond.Name)
	case m.Multipath:
		d.refuse("member %s is in a route over several links, which cannot move to %s; replace that route first", m.Name, w.Bond.Name)
	}
}

func kindOf(l Link) string {
	if l.Name == "lo" {
		return "loopback"
	}
	return l.Kind
}

// nics are what could be meant, for messages.
func nics(now Observed) string {
	var out []string
	for _, name := range now.sorted() {
		if now[name].Kind == "device" && name != "lo" {
			out = append(out, name)
		}
	}
	if out == nil {
		return "no other card"
	}
	return strings.Join(out, ", ")
}

// makeBond, or mend it.
func (d *decision) makeBond(w Want, b Link, there bool, members []string, now Observed) {
	name, origin := w.Bond.Name, b.origin()
	var moving []string
	for _, m := range members {
		if w.MoveAddresses && carries(now[m]) > 0 && len(now[m].leased()) == 0 {
			moving = append(moving, m)
		}
	}
	if origin == "" && len(moving) > 0 {
		origin = moving[0]
	}
	want := BondState{Mode: w.Bond.Mode, Miimon: w.Bond.Miimon}
	alias := op{Verb: setAlias, Link: name, Alias: aliasOf(w.Name, origin)}
	anew := false // its ports
	taken := func(m string) bool { return there && !anew && now[m].Master == name }
	switch {
	case !there:
		create := op{Verb: createBond, Link: name, Bond: want, MTU: w.MTU, MAC: now[members[0]].MAC}
		if create.MTU == 0 {
			create.MTU = leastMTU(members, now)
		}
		d.do(create, alias)
		b.MTU = create.MTU
	case b.Bond == nil:
		d.refuse("bond %s cannot be read", name)
		return
	default:
		if b.Alias != alias.Alias {
			d.do(alias)
		}
		if b.Bond.Mode != want.Mode { // the kernel changes it only without ports, and down
			for _, m := range now.ports(name) {
				d.do(op{Verb: release, Link: m})
			}
			d.do(op{Verb: setDown, Link: name}, op{Verb: setMode, Link: name, Bond: want})
			b.Up, b.Bond, anew = false, &BondState{Mode: want.Mode, Miimon: b.Bond.Miimon}, true
		}
		if b.Bond.Miimon != want.Miimon {
			d.do(op{Verb: setMiimon, Link: name, Bond: want})
		}
		for _, m := range now.ports(name) {
			if taken(m) && !slices.Contains(w.Bond.Members, m) {
				d.do(op{Verb: release, Link: m}, op{Verb: setUp, Link: m})
			}
		}
	}
	if w.MTU > 0 && b.MTU != w.MTU {
		d.do(op{Verb: setMTU, Link: name, MTU: w.MTU})
	}
	up := func() {
		if !b.Up {
			d.do(op{Verb: setUp, Link: name})
			b.Up = true
		}
	}
	for i, m := range members {
		if i == len(moving) { // the rest does not matter to the node's own traffic
			up()
		}
		switch {
		case !taken(m):
			d.do(op{Verb: enslave, Link: m, To: name})
		case !now[m].Up:
			d.do(op{Verb: setUp, Link: m})
		}
		if slices.Contains(moving, m) {
			up()
			d.do(op{Verb: move, Link: m, To: name})
		}
	}
	up()
	primary := w.Bond.Primary
	if !slices.Contains(members, primary) {
		primary = ""
	}
	if b.Bond == nil && primary != "" || b.Bond != nil && b.Bond.Primary != primary {
		d.do(op{Verb: setPrimary, Link: name, Bond: BondState{Primary: primary}})
	}
	if anew { // IPv6 addresses and all routes went when it was set down, and with it its VLANs
		d.do(op{Verb: restore, Link: name})
		for _, a := range now.above(name) {
			d.do(op{Verb: restore, Link: a})
		}
	}
}

func leastMTU(members []string, now Observed) int {
	least := now[members[0]].MTU
	for _, m := range members[1:] {
		least = min(least, now[m].MTU)
	}
	return least
}
