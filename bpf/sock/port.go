package sock

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berthdev/berth/service"
)

// member is a backend, and the network by which it is reached.
type member struct {
	endpoint
	network uint64
}

// port is a service.Port as the maps hold it.
type port struct {
	frontends []endpoint // sorted
	backends  []member   // sorted; none: refuse
	staying   []member   // sorted, none of the backends: flows that have begun stay there
	affinity  uint32     // seconds
	steered   bool       // left to the node, without backends
}

// maxBackends of a port: more are left to the node, before one Service fills the maps.
const maxBackends = 32768

// portsOf are the ports of a Service. What sockets cannot do for one is left to the node: SCTP, which passes no hook at all, and
// what is dropped or asks who the client is, as it may have other addresses than the one that its node sees.
func portsOf(s service.Service) ([]port, error) {
	var ports []port
	for _, from := range s.Ports {
		p := port{steered: from.Steered != "" || from.Sources != nil ||
			from.Drop && len(from.Backends) == 0 || len(from.Backends) > maxBackends}
		var protocol service.Protocol
		v4 := false
		for i, f := range from.Frontends {
			if !f.Address.IsValid() {
				return nil, fmt.Errorf("service %s, port %q: a frontend without address", s.Name, from.Name)
			}
			if i == 0 {
				protocol, v4 = f.Protocol, f.Address.Unmap().Is4()
			}
			if f.Protocol != protocol || f.Address.Unmap().Is4() != v4 {
				return nil, fmt.Errorf("service %s, port %q: frontends %s and %s differ in family or protocol: make two ports of it",
					s.Name, from.Name, from.Frontends[0], f)
			}
			p.frontends = append(p.frontends, endpointOf(f.Address, f.Port, f.Protocol))
		}
		if len(p.frontends) == 0 || protocol != service.TCP && protocol != service.UDP {
			continue
		}
		if !p.steered {
			p.affinity = uint32((from.Affinity + time.Second - 1) / time.Second)
			for i, b := range slices.Concat(from.Backends, from.Staying) {
				if !b.Address.IsValid() || b.Address.IsUnspecified() || b.Address.Unmap().Is4() != v4 {
					return nil, fmt.Errorf("service %s, port %q: backend %s is not of the family of frontend %s", s.Name, from.Name, b.Address, from.Frontends[0])
				}
				m := member{endpointOf(b.Address, b.Port, protocol), networkNone}
				if b.Network != "" || b.Node {
					m.network = networkOf(b.Network, v4)
				}
				if i < len(from.Backends) {
					p.backends = append(p.backends, m)
				} else {
					p.staying = append(p.staying, m)
				}
			}
		}
		ports = append(ports, p.normal())
	}
	return ports, nil
}

// normal sorts, and drops what is there twice, or beyond what the maps should have of one port.
func (p port) normal() port {
	slices.SortFunc(p.frontends, endpoint.compare)
	p.frontends = slices.Compact(p.frontends)
	p.backends, p.staying = unique(p.backends), unique(p.staying)
	p.staying = slices.DeleteFunc(p.staying, func(m member) bool { return hasMember(p.backends, m.endpoint) })
	p.staying = p.staying[:min(len(p.staying), max(0, maxBackends-len(p.backends)))]
	return p
}

func unique(all []member) []member {
	slices.SortStableFunc(all, func(a, b member) int { return a.compare(b.endpoint) })
	return slices.CompactFunc(all, func(a, b member) bool { return a.endpoint == b.endpoint })
}

// hasMember says whether the endpoint is one of all, which are sorted.
func hasMember(all []member, e endpoint) bool {
	_, found := slices.BinarySearchFunc(all, e, func(m member, e endpoint) int { return m.compare(e) })
	return found
}

// members are the keys and values of the map of that name, sorted.
func (p port) members() []member {
	all := slices.Clone(p.backends)
	for _, m := range p.staying {
		m.Protocol |= stays
		all = append(all, m)
	}
	return unique(all)
}

// value of the service that the port is.
func (r row) value() serviceValue {
	v := serviceValue{Generation: r.generation, Count: uint32(max(1, len(r.backends))), Affinity: r.affinity}
	switch {
	case r.steered:
		v.Flags = flagSteered
	case len(r.backends) == 0:
		v.Flags = flagEmpty
	}
	return v
}

// slots of the service: one that is nowhere, if there is no backend, means refuse.
func (r row) slots() []endpoint {
	if r.steered {
		return nil
	}
	if len(r.backends) == 0 {
		return []endpoint{{}}
	}
	slots := make([]endpoint, len(r.backends))
	for i, b := range r.backends {
		slots[i] = b.endpoint
	}
	return slots
}

// claims say which Services want a frontend. Who should have one that several name is service.Claims' to say; here it is the first by
// name, so that the order in which changes come makes no difference.
type claims map[endpoint][]string

func (c claims) add(name string, ports []port) {
	for _, p := range ports {
		for _, f := range p.frontends {
			if i, found := slices.BinarySearch(c[f], name); !found {
				c[f] = slices.Insert(c[f], i, name)
			}
		}
	}
}

func (c claims) remove(name string, ports []port) {
	for _, p := range ports {
		for _, f := range p.frontends {
			c[f] = slices.DeleteFunc(c[f], func(n string) bool { return n == name })
			if len(c[f]) == 0 {
				delete(c, f)
			}
		}
	}
}

// won are the ports with the frontends that the Service gets.
func (c claims) won(name string, ports []port) []port {
	var won []port
	for _, p := range ports {
		p.frontends = slices.DeleteFunc(slices.Clone(p.frontends), func(f endpoint) bool { return c[f][0] != name })
		if len(p.frontends) > 0 {
			won = append(won, p)
		}
	}
	return won
}

var errUnnamed = errors.New("a service without name")
