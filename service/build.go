package service

import (
	"net/netip"
	"slices"
	"strings"
)

// Why the socket leaves frontends alone.
const (
	SteeredSCTP    = "SCTP" // no socket hook sees each of its associations
	SteeredLocal   = "externalTrafficPolicy Local"
	SteeredSources = "loadBalancerSourceRanges"
	SteeredDropped = "internalTrafficPolicy Local, and no endpoint on this node" // a socket can refuse, not drop
)

// Build what a Service means. Slices are all of that Service, in any order. Frontends that another Service has by c, which has to know s,
// are left out; the errors say which. Without c there are no others.
func Build(s *Spec, list []*Slice, v *View, c *Claims) (Service, []error) {
	out := Service{Name: s.Name, Ports: make([]Port, 0, len(s.ports)*len(s.clusterIPs))}
	var bad faults
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *Slice) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range s.ports {
		for _, cluster := range s.clusterIPs {
			found := candidates(p, cluster.Is4(), list)
			everywhere := forCluster(found, v)
			var local []Backend
			if s.internalLocal || s.externalLocal {
				local = forLocal(found, v)
			}
			for _, port := range s.split(p, cluster) {
				port.Frontends = slices.DeleteFunc(port.Frontends, func(f Frontend) bool {
					if c == nil || c.owner[f] == s {
						return false
					}
					bad.add("frontend %s is of Service %s", f, c.Owner(f))
					return true
				})
				if len(port.Frontends) == 0 {
					continue
				}
				if port.Backends = everywhere; port.local {
					port.Backends = local
					port.Drop = len(local) == 0 && len(everywhere) > 0
				}
				if p.protocol == UDP {
					port.Staying = staying(found, v, port.Backends)
				}
				if port.Drop && port.Steered == "" {
					port.Steered = SteeredDropped
				}
				out.Ports = append(out.Ports, port.Port)
			}
		}
	}
	return out, bad.list
}

// split is a Port that does not yet have its backends.
type split struct {
	Port
	local bool // policy
}

// split the frontends of a port in one family by what holds for them:
//
//	frontend                        backends by            sources    steered
//	cluster IP                      internalTrafficPolicy  all        no
//	load balancer's, with ranges    externalTrafficPolicy  ranges     yes
//	load balancer's, without;
//	  external IP; node port        externalTrafficPolicy  all        with policy Local
//
// A pod's own traffic to an external frontend with policy Local is its node's to judge: kube-proxy sends it to all endpoints if it takes
// the pod for the node's own, by address or link, and to the node's endpoints if not.
func (s *Spec) split(p specPort, cluster netip.Addr) []split {
	at := func(a netip.Addr) Frontend { return Frontend{a, p.port, p.protocol} }
	internal := split{Port: Port{Frontends: []Frontend{at(cluster)}}, local: s.internalLocal}
	external := split{local: s.externalLocal}
	guarded := split{Port: Port{Sources: s.sourcesOf(cluster.Is4())}, local: s.externalLocal}
	balancers := &external
	if guarded.Sources != nil {
		balancers, guarded.Steered = &guarded, SteeredSources
	}
	if external.local {
		external.Steered, guarded.Steered = SteeredLocal, SteeredLocal
	}
	seen := []Frontend{at(cluster)}
	add := func(to *split, f Frontend) {
		if f.Address.Is4() == cluster.Is4() && !slices.Contains(seen, f) {
			seen = append(seen, f)
			to.Frontends = append(to.Frontends, f)
		}
	}
	for _, a := range s.balancerIPs {
		add(balancers, at(a))
	}
	for _, a := range s.externalIPs {
		add(&external, at(a))
	}
	if p.nodePort != 0 {
		any := netip.IPv6Unspecified()
		if cluster.Is4() {
			any = netip.IPv4Unspecified()
		}
		add(&external, Frontend{any, p.nodePort, p.protocol})
	}
	if !internal.local && !external.local { // the same holds for both
		internal.Frontends = append(internal.Frontends, external.Frontends...)
		external.Frontends = nil
	}
	out := make([]split, 0, 3)
	for _, one := range []split{internal, external, guarded} {
		if len(one.Frontends) == 0 {
			continue
		}
		one.Name, one.Affinity = p.name, s.affinity
		if p.protocol == SCTP {
			one.Steered = SteeredSCTP
		}
		out = append(out, one)
	}
	return out
}
