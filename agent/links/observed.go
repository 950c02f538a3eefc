//go:build linux

package links

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// aliasPrefix marks own links: "berth:hostnetwork/NAME", and for a bond that addresses were moved to " MEMBER", where they came from.
// vmac's alias is another, so that neither takes the other's links for its own.
const aliasPrefix = "berth:hostnetwork/"

func aliasOf(owner, origin string) string {
	return strings.TrimSpace(aliasPrefix + owner + " " + origin)
}

// owner of a link, a HostNetwork's name; "" if it is not ours.
func (l Link) owner() string {
	rest, ours := strings.CutPrefix(l.Alias, aliasPrefix)
	if !ours {
		return ""
	}
	owner, _, _ := strings.Cut(rest, " ")
	return owner
}

// origin of the addresses of a bond of ours; "" if they were not moved.
func (l Link) origin() string {
	rest, _ := strings.CutPrefix(l.Alias, aliasPrefix)
	_, origin, _ := strings.Cut(rest, " ")
	return origin
}

// Link as the kernel has it.
type Link struct {
	Name   string
	Index  int
	Kind   string // "device" for a NIC
	Alias  string
	Up     bool // wanted up; it may be without carrier
	MTU    int
	MaxMTU int // that its driver takes; 0: any, or not known
	MAC    string
	Master string // bond or bridge whose port it is
	Below  string // the link that a VLAN, a macvlan or a tunnel sends by
	VLAN   int
	Bond   *BondState

	Addresses []Address // of the node, link-local ones left out
	Default   bool      // a default route leads through it
	Multipath bool      // a route over several links has it

	Users []string // pods' interfaces on it; known of own links that nobody wants
}

// Address of a link. A leased one of IPv4 has a client that renews it on the link that it knows.
type Address struct {
	Prefix netip.Prefix
	Leased bool // its lifetime ends
}

// BondState is how a bond is set up.
type BondState struct {
	Mode    string
	Miimon  int
	Primary string
}

// Observed links of the node, by name.
type Observed map[string]Link

func (o Observed) sorted() []string { return slices.Sorted(maps.Keys(o)) }

// ports of a bond or bridge.
func (o Observed) ports(master string) (out []string) {
	for _, name := range o.sorted() {
		if o[name].Master == master {
			out = append(out, name)
		}
	}
	return out
}

// above are the links that send by this one.
func (o Observed) above(below string) (out []string) {
	for _, name := range o.sorted() {
		if o[name].Below == below {
			out = append(out, name)
		}
	}
	return out
}

// fixed addresses, and leased ones of IPv4: those whose loss would be felt. IPv6's leased ones come back with the next router
// advertisement.
func (l Link) fixed() (out []string) {
	for _, a := range l.Addresses {
		if !a.Leased || a.Prefix.Addr().Is4() {
			out = append(out, a.Prefix.String())
		}
	}
	return out
}

// leased addresses of IPv4.
func (l Link) leased() (out []string) {
	for _, a := range l.Addresses {
		if a.Leased && a.Prefix.Addr().Is4() {
			out = append(out, a.Prefix.String())
		}
	}
	return out
}
