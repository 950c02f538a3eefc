package service

import (
	"cmp"
	"slices"
	"strings"
	"unique"
)

// candidate is an endpoint of one port.
type candidate struct {
	endpoint
	port uint16
}

// candidates of a port in one family, sorted, each address and port once. A pod's address may be there twice: while it moves from one
// slice to another, or as that of a pod that ends beside that of the pod which got its address. kube-proxy takes the one that does
// not terminate, and of several of those any. Here it is the ready one, then that of the slice whose name comes first.
func candidates(p specPort, is4 bool, list []*Slice) []candidate {
	n := 0
	for _, s := range list {
		if s.is4 == is4 {
			n += len(s.endpoints)
		}
	}
	out := make([]candidate, 0, n)
	for _, s := range list {
		if s.is4 != is4 {
			continue
		}
		for _, sp := range s.ports {
			if sp.name != p.name || sp.protocol != p.protocol {
				continue
			}
			for _, e := range s.endpoints {
				out = append(out, candidate{e, sp.port})
			}
		}
	}
	rank := func(c candidate) int { return int(c.is & terminating) }
	slices.SortStableFunc(out, func(a, b candidate) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.port, b.port), rank(a)-rank(b), int(b.is&ready)-int(a.is&ready))
	})
	return slices.CompactFunc(out, func(a, b candidate) bool { return a.address == b.address && a.port == b.port })
}

// forCluster chooses by policy Cluster.
func forCluster(list []candidate, v *View) []Backend {
	return either(v, list, hinted(list, v), draining)
}

// forLocal chooses by policy Local.
func forLocal(list []candidate, v *View) []Backend {
	return either(v, list, func(c candidate) bool { return c.is.all(ready | here) }, draining|here)
}

// either those that may serve, or those with all of otherwise.
func either(v *View, list []candidate, may func(candidate) bool, otherwise condition) []Backend {
	out := pick(v, list, may)
	if len(out) == 0 {
		out = pick(v, list, func(c candidate) bool { return c.is.all(otherwise) })
	}
	return out
}

// staying are those that serve, and are none of the backends; both are sorted.
func staying(list []candidate, v *View, backends []Backend) []Backend {
	return pick(v, list, func(c candidate) bool {
		_, is := slices.BinarySearchFunc(backends, c, func(b Backend, c candidate) int {
			return cmp.Or(b.Address.Compare(c.address), cmp.Compare(b.Port, c.port))
		})
		return !is && c.is.all(serving)
	})
}

func pick(v *View, list []candidate, may func(candidate) bool) (out []Backend) {
	n := 0
	for _, c := range list {
		if may(c) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out = make([]Backend, 0, n)
	for _, c := range list {
		if may(c) {
			at := v.place(c.address)
			out = append(out, Backend{Address: c.address, Port: c.port, Network: at.network, Node: at.node})
		}
	}
	return out
}

// hinted says which endpoints hints leave to clients of this node. They are obeyed by all or by none:
//
//	of all ready endpoints                                   serve
//	each names nodes, and one this node                      those ready that name this node
//	else: each names zones, and one this node's              those ready that name this zone
//	else                                                     all that are ready
//
// trafficDistribution and topology-mode annotations are known by the hints alone, which the EndpointSlice controller sets for them.
func hinted(list []candidate, v *View) func(candidate) bool {
	allNodes, allZones, anyNode, anyZone := true, true, false, false
	for _, c := range list {
		if !c.is.all(ready) {
			continue
		}
		allNodes = allNodes && c.is.all(forNodes)
		allZones = allZones && c.zones != unique.Handle[string]{}
		anyNode = anyNode || c.is.all(forThis)
		anyZone = anyZone || names(c.zones, v.zone)
	}
	switch {
	case allNodes && anyNode:
		return func(c candidate) bool { return c.is.all(ready | forThis) }
	case allZones && anyZone:
		return func(c candidate) bool { return c.is.all(ready) && names(c.zones, v.zone) }
	}
	return func(c candidate) bool { return c.is.all(ready) }
}

// names says whether hints name the zone, that of View.
func names(hints unique.Handle[string], zone string) bool {
	return zone != "" && hints != unique.Handle[string]{} && strings.Contains(hints.Value(), zone)
}
