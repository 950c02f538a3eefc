package service

import (
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Slice is what is kept of an EndpointSlice, as one node sees it. It is not changed once made.
type Slice struct {
	Name    string // of the object, without its namespace
	Service string // namespace/name

	is4       bool
	ports     []slicePort
	endpoints []endpoint
}

type slicePort struct {
	name     string
	port     uint16
	protocol Protocol
}

// endpoint is 40 bytes, since there may be fifty thousands: zones are written once for all that have the same.
type endpoint struct {
	address netip.Addr
	zones   unique.Handle[string] // that hints name, between commas; zero: no hint
	is      condition
}

// condition is a set of what is true of an endpoint.
type condition uint8

const (
	ready condition = 1 << iota
	serving
	terminating
	here     // on this node
	forNodes // hints name nodes
	forThis  // hints name this node
)

func (c condition) all(of condition) bool { return c&of == of }

// draining endpoints serve where no ready one is left.
const draining = serving | terminating

// ReadSlice of an EndpointSlice, for the node of that name. It is nil if it is no Service's, a headless one's, or has names (FQDN) for
// addresses. What is wrong in the object is left out; the errors say what and why.
func ReadSlice(s *discoveryv1.EndpointSlice, node string) (*Slice, []error) {
	owner := s.Labels[discoveryv1.LabelServiceName]
	_, headless := s.Labels[corev1.IsHeadlessService]
	if _, others := s.Labels[ProxyNameLabel]; others || headless || owner == "" ||
		s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
		return nil, nil
	}
	out := &Slice{Name: s.Name, Service: s.Namespace + "/" + owner, is4: s.AddressType == discoveryv1.AddressTypeIPv4}
	var bad faults
	for i, p := range s.Ports {
		var protocol Protocol
		known := false
		if p.Protocol == nil {
			protocol, known = TCP, true
		} else {
			protocol, known = protocolOf(*p.Protocol)
		}
		switch {
		case p.Name == nil:
			bad.add("ports[%d]: no name; that of the Service's port, which may be empty, is needed", i)
		case p.Port == nil:
			bad.add("ports[%d]: no port; of an endpoint all ports at once are no Service's", i)
		case !isPort(*p.Port):
			bad.add("ports[%d]: port %d is not 1 to 65535", i, *p.Port)
		case !known:
			bad.add("ports[%d]: protocol %q is none of TCP, UDP, SCTP", i, *p.Protocol)
		default:
			out.ports = append(out.ports, slicePort{*p.Name, uint16(*p.Port), protocol})
		}
	}
	out.endpoints = make([]endpoint, 0, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			bad.add("endpoints[%d]: no address", i)
			continue
		}
		a, err := parse(e.Addresses[0]) // the others mean nothing, says the API
		switch {
		case err != nil:
			bad.add("endpoints[%d]: %w", i, err)
		case a.Is4() != out.is4:
			bad.add("endpoints[%d]: %s is not of addressType %s", i, a, s.AddressType)
		case special(a) != "":
			bad.add("endpoints[%d]: %s is %s", i, a, special(a))
		default:
			out.endpoints = append(out.endpoints, endpoint{a, zonesOf(e.Hints), conditionOf(e, node)})
		}
	}
	return out, bad.list
}

// conditionOf an endpoint: what is not said of readiness is true. publishNotReadyAddresses makes endpoints ready in the object already.
func conditionOf(e *discoveryv1.Endpoint, node string) (c condition) {
	set := func(which condition, is bool) {
		if is {
			c |= which
		}
	}
	set(ready, e.Conditions.Ready == nil || *e.Conditions.Ready)
	set(serving, e.Conditions.Serving == nil || *e.Conditions.Serving)
	set(terminating, e.Conditions.Terminating != nil && *e.Conditions.Terminating)
	set(here, node != "" && e.NodeName != nil && *e.NodeName == node)
	if e.Hints != nil {
		set(forNodes, len(e.Hints.ForNodes) > 0)
		set(forThis, slices.ContainsFunc(e.Hints.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == node }))
	}
	return c
}

func zonesOf(h *discoveryv1.EndpointHints) (none unique.Handle[string]) {
	if h == nil || len(h.ForZones) == 0 {
		return none
	}
	names := make([]string, len(h.ForZones))
	for i, z := range h.ForZones {
		names[i] = z.Name
	}
	slices.Sort(names)
	return unique.Make("," + strings.Join(names, ",") + ",")
}

// Endpoints that the slice has; the same address with two ports is one.
func (s *Slice) Endpoints() int { return len(s.endpoints) }

// Moved says whether an endpoint is elsewhere in one view than in the other.
func (s *Slice) Moved(from, to *View) bool {
	return slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return from.place(e.address) != to.place(e.address) })
}
