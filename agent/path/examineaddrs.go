//go:build linux

package path

import (
	"errors"
	"net/netip"

	"github.com/berthdev/berth/agent/report"
)

// examineAddresses looks at what the host needs to reach the pods of a vmac.
func (s *scene) examineAddresses(v *sight) (found []report.Finding, err error) {
	desired := s.desired[v.parent]
	neighbours, err1 := s.neighbours(v.index)
	routes, err2 := s.routes(v.index)
	groups, err3 := s.groups(v.index)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	found = append(found, orOK(compared(checkNeighbours, v.name, desired, neighbours, s.complete, netip.Addr.Compare,
		func(a netip.Addr) string { return "the permanent neighbour " + a.String() }),
		checkNeighbours, "%s: %d permanent neighbours", v.name, len(neighbours))...)
	found = append(found, orOK(compared(checkRoutes, v.name, sources(desiredRoutes(desired, s.own, v.parentIndex)), sources(routes), s.complete, netip.Addr.Compare,
		func(a netip.Addr) string { return "the route to " + host(a).String() }),
		checkRoutes, "%s: %d routes", v.name, len(routes))...)
	if s.want == nil {
		return found, nil
	}
	// A group too many costs nothing, and may be another's.
	return append(found, orOK(compared(checkGroups, v.name, desiredGroups(s.own, s.want.Watched[v.parent].Routers), groups, false, compareMAC,
		func(m mac) string { return "the multicast group " + m.String() }),
		checkGroups, "%s: member of %d solicited-node groups", v.name, len(groups))...), nil
}

// preferred is the source of a route, for people.
type preferred netip.Addr

func (p preferred) String() string {
	if a := netip.Addr(p); a.IsValid() {
		return "source " + a.String()
	}
	return "no source"
}

func sources(routes map[netip.Addr]netip.Addr) map[netip.Addr]preferred {
	out := make(map[netip.Addr]preferred, len(routes))
	for a, source := range routes {
		out[a] = preferred(source)
	}
	return out
}
