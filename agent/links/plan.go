//go:build linux

package links

import (
	"fmt"
	"maps"
	"slices"
)

// decision is what to do for one HostNetwork.
//
//	Refused | Ops   | what is done
//	some    | none  | nothing: what stands, stays
//	none    | some  | the operations, in order, as one change
//	none    | none  | nothing: it is as it should be, unless Amiss
type decision struct {
	Owner   string
	Ops     []op
	Refused []string // what is wrong with the wish
	Amiss   []string // what is wrong with the node while the rest is as it should be
	Waits   []string // what is to go, and is in use
	Links   []string // own ones that are there, and the parent
}

func (d *decision) refuse(format string, args ...any) {
	d.Refused = append(d.Refused, fmt.Sprintf(format, args...))
}

func (d *decision) amiss(format string, args ...any) {
	d.Amiss = append(d.Amiss, fmt.Sprintf(format, args...))
}

func (d *decision) do(ops ...op) { d.Ops = append(d.Ops, ops...) }

// plan what to do for each HostNetwork, the oldest first, and then for those that are gone, or no longer select the node, and have
// left links.
func plan(wants []Want, now Observed) []decision {
	var out []decision
	claimed := claims{}
	desired := map[string]string{} // link → owner
	for _, w := range wants {
		if taken := claimed.conflicts(w); len(taken) > 0 {
			for _, name := range w.made() { // what it has made stays, until it is wanted by another
				if _, other := desired[name]; !other {
					desired[name] = w.Name
				}
			}
			out = append(out, decision{Owner: w.Name, Refused: taken})
			continue
		}
		claimed.add(w)
		for _, name := range w.made() {
			desired[name] = w.Name
		}
		out = append(out, decision{Owner: w.Name})
	}
	for i := range out {
		if d := &out[i]; d.Refused == nil {
			d.decide(wants[i], desired, now)
		}
		out[i].links(wants[i], now)
	}
	left := map[string]bool{}
	for name, l := range now {
		owner := l.owner()
		if owner != "" && desired[name] == "" && !slices.ContainsFunc(wants, func(w Want) bool { return w.Name == owner }) {
			left[owner] = true
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(left)) {
		d := decision{Owner: owner}
		d.remove(desired, now)
		d.links(Want{Name: owner}, now)
		out = append(out, d)
	}
	return out
}

// decide for a HostNetwork that no older one stands in the way of.
func (d *decision) decide(w Want, desired map[string]string, now Observed) {
	d.remove(desired, now)
	gone := len(d.Ops) > 0
	next := now
	if gone {
		next = now.without(d.Ops)
	}
	made := decision{Owner: d.Owner}
	if w.Bond != nil {
		made.bond(w, next)
	} else {
		made.parent(w, next)
	}
	made.vlans(w, next)
	d.Refused, d.Amiss = made.Refused, made.Amiss
	switch {
	case d.Refused != nil:
		d.Ops = nil
	case !gone: // else first what is to go, and in the next round what comes
		d.Ops = made.Ops
	}
}

// links of a HostNetwork, for its status.
func (d *decision) links(w Want, now Observed) {
	for _, name := range now.sorted() {
		if now[name].owner() == w.Name || name == w.Parent {
			d.Links = append(d.Links, name)
		}
	}
}

// claims are which HostNetwork has what: names of links that it makes and members of its bond for itself, parents together with others.
type claims struct {
	own    map[string]claim
	parent map[string]string
}

type claim struct {
	owner  string
	member bool // which can be nobody's parent, as a bond can
}

func (c *claims) conflicts(w Want) (out []string) {
	refuse := func(name, how, owner string) {
		out = append(out, fmt.Sprintf("link %s is %s HostNetwork %s, which is older; take it out of one of the two", name, how, owner))
	}
	for _, name := range w.made() {
		if by, taken := c.own[name]; taken {
			refuse(name, "wanted by", by.owner)
		}
	}
	if w.Bond == nil {
		if by := c.own[w.Parent]; by.member {
			refuse(w.Parent, "a member of the bond of", by.owner)
		}
		return out
	}
	for _, m := range w.Bond.Members {
		if by, taken := c.own[m]; taken {
			refuse(m, "wanted by", by.owner)
		} else if owner, taken := c.parent[m]; taken {
			refuse(m, "the parent of", owner)
		}
	}
	return out
}

func (c *claims) add(w Want) {
	if c.own == nil {
		c.own, c.parent = map[string]claim{}, map[string]string{}
	}
	for _, name := range w.made() {
		c.own[name] = claim{owner: w.Name}
	}
	if w.Bond == nil {
		c.parent[w.Parent] = w.Name
		return
	}
	for _, m := range w.Bond.Members {
		c.own[m] = claim{owner: w.Name, member: true}
	}
}
