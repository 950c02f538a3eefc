//go:build linux

package links

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// remove plans the end of own links that nobody wants any more: VLANs first, then bonds, each only if nobody uses it.
func (d *decision) remove(desired map[string]string, now Observed) {
	rest := maps.Clone(now)
	for _, kind := range []string{"vlan", "bond"} {
		for _, name := range now.sorted() {
			l := now[name]
			if l.owner() != d.Owner || desired[name] != "" || l.Kind != kind {
				continue
			}
			if used := inUse(l, rest); used != nil {
				d.Waits = append(d.Waits, fmt.Sprintf("link %s is to go, and is in use by %s; it goes when these are gone", name, strings.Join(used, ", ")))
				continue
			}
			if fixed := l.fixed(); len(fixed) > 0 && l.origin() == "" {
				d.Waits = append(d.Waits, fmt.Sprintf("link %s is to go, and carries %s, which Berth has not put there; it goes when these are gone",
					name, strings.Join(fixed, ", ")))
				continue
			}
			if kind == "bond" {
				d.releaseAll(l, now)
			}
			d.do(op{Verb: deleteLink, Link: name})
			delete(rest, name)
		}
	}
}

// inUse names who uses a link.
func inUse(l Link, now Observed) (out []string) {
	for _, a := range now.above(l.Name) {
		out = append(out, a+" ("+now[a].Kind+")")
	}
	if l.Master != "" {
		out = append(out, l.Master+" ("+now[l.Master].Kind+"), whose port it is")
	}
	return append(out, l.Users...)
}

// releaseAll ports of a bond, and give the addresses back to where they came from.
func (d *decision) releaseAll(b Link, now Observed) {
	ports := now.ports(b.Name)
	back := b.origin()
	if back != "" && !slices.Contains(ports, back) && len(ports) > 0 {
		back = ports[0]
	}
	if slices.Contains(ports, back) && (len(b.Addresses) > 0 || b.Default) {
		d.do(op{Verb: release, Link: back}, op{Verb: setUp, Link: back}, op{Verb: move, Link: b.Name, To: back})
		ports = slices.DeleteFunc(ports, func(p string) bool { return p == back })
	}
	for _, p := range ports {
		d.do(op{Verb: release, Link: p}, op{Verb: setUp, Link: p})
	}
}

// without what operations of remove take away.
func (o Observed) without(ops []op) Observed {
	next := maps.Clone(o)
	for _, op := range ops {
		switch l := next[op.Link]; op.Verb {
		case release:
			l.Master = ""
			next[op.Link] = l
		case move:
			to := next[op.To]
			to.Addresses, to.Default = slices.Concat(to.Addresses, l.Addresses), to.Default || l.Default
			next[op.To] = to
		case deleteLink:
			delete(next, op.Link)
		}
	}
	return next
}
