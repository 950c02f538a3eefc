//go:build linux

package links

import (
	"fmt"
	"strings"
)

// verb of an operation.
type verb string

const (
	createBond verb = "create bond"
	createVLAN verb = "create VLAN"
	deleteLink verb = "delete"
	setAlias   verb = "set alias"
	setMode    verb = "set mode"
	setMiimon  verb = "set miimon"
	setPrimary verb = "set primary"
	setMTU     verb = "set MTU"
	setMAC     verb = "set MAC"
	setUp      verb = "set up"
	setDown    verb = "set down"
	enslave    verb = "enslave"        // down first, as the kernel wants it; a bond sets its ports up
	release    verb = "release"        // from its bond
	move       verb = "move addresses" // and routes
	restore    verb = "restore"        // addresses and routes, as they were before the change
	strip      verb = "strip"          // addresses that it did not have before the change
)

// op is one operation on a link. Which fields count is the verb's.
type op struct {
	Verb verb
	Link string

	To        string // move: where to; enslave: the master; createVLAN: the link below
	Bond      BondState
	VLAN, MTU int
	Alias     string
	MAC       string
}

func (o op) String() string {
	s := string(o.Verb) + " " + o.Link
	switch o.Verb {
	case createBond:
		s += fmt.Sprintf(" (%s, miimon %d", o.Bond.Mode, o.Bond.Miimon)
		if o.MTU > 0 {
			s += fmt.Sprintf(", mtu %d", o.MTU)
		}
		if o.MAC != "" {
			s += ", " + o.MAC
		}
		s += ")"
	case createVLAN:
		s += fmt.Sprintf(" (%d on %s)", o.VLAN, o.To)
	case setAlias:
		s += " " + strings.TrimPrefix(o.Alias, aliasPrefix)
	case setMode:
		s += " " + o.Bond.Mode
	case setMiimon:
		s += fmt.Sprintf(" %d", o.Bond.Miimon)
	case setPrimary:
		s += " " + o.Bond.Primary
	case setMTU:
		s += fmt.Sprintf(" %d", o.MTU)
	case setMAC:
		s += " " + o.MAC
	case enslave, move:
		s += " to " + o.To
	}
	return s
}

// disturbs says whether the operation touches what was there before Berth, or what others may use. If one fails before any of
// these, nothing was felt, and it may be tried again at any time.
func (o op) disturbs() bool {
	switch o.Verb {
	case createBond, createVLAN, setAlias, setUp:
		return false
	}
	return true
}
