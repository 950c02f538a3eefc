//go:build linux

package links

import (
	"cmp"
	"slices"
)

// undo plans the way back to a snapshot, as far as it can be seen from here: who calls does the operations, looks again, and is done when
// none is left. What was made since goes first, so that the names and the ports are free.
func undo(before snapshot, now Observed) (ops []op) {
	do := func(o op) { ops = append(ops, o) }
	added := slices.Clone(before.New)
	slices.SortStableFunc(added, func(a, b string) int { return cmp.Compare(rank(now[a]), rank(now[b])) })
	for _, name := range slices.Backward(added) {
		if l, ok := now[name]; ok && (l.Kind == "bond" || l.Kind == "vlan") {
			do(op{Verb: deleteLink, Link: name})
		}
	}
	if ops != nil {
		return ops
	}
	links := slices.Clone(before.Links)
	slices.SortStableFunc(links, func(a, b saved) int { return cmp.Compare(rank(a.Link), rank(b.Link)) })
	for i := range links {
		was := &links[i]
		is, there := now[was.Name]
		switch {
		case there:
			ops = append(ops, undoLink(was, is, now, before)...)
		case was.owner() == "": // a card that was pulled out, a link of others
		case was.Kind == "bond":
			do(op{Verb: createBond, Link: was.Name, Bond: BondState{Mode: was.Bond.Mode, Miimon: was.Bond.Miimon}, MTU: was.MTU, MAC: was.MAC})
			do(op{Verb: setAlias, Link: was.Name, Alias: was.Alias})
		case was.Kind == "vlan":
			do(op{Verb: createVLAN, Link: was.Name, To: was.Below, VLAN: was.VLAN})
			do(op{Verb: setAlias, Link: was.Name, Alias: was.Alias})
		}
	}
	return ops
}

// rank of a link in the order in which things are put back: bonds, then their ports, then VLANs.
func rank(l Link) int {
	switch l.Kind {
	case "bond":
		return 0
	case "vlan":
		return 2
	}
	return 1
}

func undoLink(was *saved, is Link, now Observed, before snapshot) (ops []op) {
	do := func(o op) { ops = append(ops, o) }
	if was.Bond != nil && is.Bond != nil {
		if was.Bond.Mode != is.Bond.Mode {
			for _, p := range now.ports(is.Name) {
				do(op{Verb: release, Link: p})
			}
			do(op{Verb: setDown, Link: is.Name})
			do(op{Verb: setMode, Link: is.Name, Bond: *was.Bond})
			return ops // the rest when its ports are seen to be free
		}
		if was.Bond.Miimon != is.Bond.Miimon {
			do(op{Verb: setMiimon, Link: is.Name, Bond: *was.Bond})
		}
		// A primary that is not a port again yet is taken in the next round.
		if was.Bond.Primary != is.Bond.Primary && (was.Bond.Primary == "" || now[was.Bond.Primary].Master == is.Name) {
			do(op{Verb: setPrimary, Link: is.Name, Bond: *was.Bond})
		}
	}
	if was.Alias != is.Alias {
		do(op{Verb: setAlias, Link: is.Name, Alias: was.Alias})
	}
	if was.Master != is.Master {
		if is.Master != "" {
			do(op{Verb: release, Link: is.Name})
		}
		if _, there := now[was.Master]; was.Master != "" && there {
			do(op{Verb: enslave, Link: is.Name, To: was.Master})
		}
		return ops
	}
	if was.MTU != is.MTU {
		do(op{Verb: setMTU, Link: is.Name, MTU: was.MTU})
	}
	if was.Kind != "bond" && was.Master == "" && was.MAC != is.MAC {
		do(op{Verb: setMAC, Link: is.Name, MAC: was.MAC})
	}
	if was.Up && !is.Up {
		do(op{Verb: setUp, Link: is.Name})
	} else if !was.Up && is.Up {
		do(op{Verb: setDown, Link: is.Name})
	}
	for _, a := range is.Addresses {
		if !slices.Contains(was.Addresses, a) && before.had(a, was.Name) {
			do(op{Verb: strip, Link: is.Name})
			break
		}
	}
	return ops
}

// had says whether a link other than this one had an address.
func (s snapshot) had(a Address, but string) bool {
	return slices.ContainsFunc(s.Links, func(l saved) bool { return l.Name != but && slices.Contains(l.Addresses, a) })
}
