//go:build linux

package path

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/agent/report"
)

// OtherNode is another node whose agent keeps owner routes, as this one does.
type OtherNode struct {
	Addresses []netip.Addr   // its own
	Overlay   []netip.Prefix // its pod CIDRs
	Pods      []netip.Addr   // of its macvlan pods
}

// Owner routes lead what an overlay pod of this node sends to a macvlan pod of another node by that node, its owner. A macvlan pod's
// packets to overlay pods come by its node; now the answers go back there, so its address can be kept. Only overlay pods have them:
// this node itself answers a macvlan pod on the underlay, as it is asked there.
//
//	rule   from each pod CIDR of this node   lookup table 98
//	route  each macvlan pod of the other     via the node's address, in table 98
//
// They are offered to nodes that are on a link of this one, which the kernel's route to the node tells, and so it is the same from there.
const (
	ownerTable    = RouteProtocol
	ownerPriority = 9800 // of the rules: before the main table's
)

// ownerRoutes is what is wanted, or there: pod → node, and the sources of rules.
type ownerRoutes struct {
	via   map[netip.Addr]netip.Addr
	rules map[netip.Prefix]bool
}

// SetOthers says which other nodes keep owner routes; none takes this node's away. Run carries it out.
func (p *Path) SetOthers(others []OtherNode) {
	p.mu.Lock()
	p.others = &others
	p.mu.Unlock()
	p.wake()
}

// onLink are the addresses of the other nodes that are on a link of this one.
func (k *kernel) onLink(others []OtherNode) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, n := range others {
		for _, a := range n.Addresses {
			routes, err := k.RouteGet(a.AsSlice())
			out[a] = err == nil && len(routes) == 1 && routes[0].Gw == nil && routes[0].Type == unix.RTN_UNICAST
		}
	}
	return out
}

// hop is the address of the node for a family; not valid if it is not on a link.
func (n OtherNode) hop(is4 bool, onLink map[netip.Addr]bool) netip.Addr {
	for _, a := range n.Addresses {
		if a.Is4() == is4 && onLink[a] {
			return a
		}
	}
	return netip.Addr{}
}

func desiredOwnerRoutes(others []OtherNode, local []netip.Prefix, onLink map[netip.Addr]bool) ownerRoutes {
	want := ownerRoutes{map[netip.Addr]netip.Addr{}, map[netip.Prefix]bool{}}
	for _, n := range others {
		for _, pod := range n.Pods {
			if hop := n.hop(pod.Is4(), onLink); hop.IsValid() {
				want.via[pod] = hop
			}
		}
	}
	for _, l := range local {
		if len(others) > 0 {
			want.rules[l] = true
		}
	}
	return want
}

// desiredKept are the pod CIDRs of nodes that answer by this one: their pods see the client.
func desiredKept(others []OtherNode, onLink map[netip.Addr]bool) (kept []netip.Prefix) {
	for _, n := range others {
		for _, o := range n.Overlay {
			if n.hop(o.Addr().Is4(), onLink).IsValid() {
				kept = append(kept, o)
			}
		}
	}
	slices.SortFunc(kept, comparePrefix)
	return slices.Compact(kept)
}

// ownerRoutes that are there.
func (k *kernel) ownerRoutes() (have ownerRoutes, err error) {
	have = ownerRoutes{map[netip.Addr]netip.Addr{}, map[netip.Prefix]bool{}}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retry(func() ([]netlink.Route, error) {
			return k.strict.RouteListFiltered(family, &netlink.Route{Table: ownerTable, Protocol: RouteProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // there is no such table
			return have, fmt.Errorf("list owner routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			dst, _ := netip.AddrFromSlice(r.Dst.IP)
			via, _ := netip.AddrFromSlice(r.Gw)
			have.via[dst.Unmap()] = via.Unmap()
		}
		rules, err := retry(func() ([]netlink.Rule, error) { return k.RuleList(family) })
		if err != nil {
			return have, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			if r.Table != ownerTable || r.Priority != ownerPriority || r.Src == nil {
				continue
			}
			addr, _ := netip.AddrFromSlice(r.Src.IP)
			ones, _ := r.Src.Mask.Size()
			have.rules[netip.PrefixFrom(addr.Unmap(), ones)] = true
		}
	}
	return have, nil
}

// syncOwnerRoutes makes them as wanted: routes before the rules that lead to them.
func (k *kernel) syncOwnerRoutes(want ownerRoutes) (changed bool, err error) {
	have, err := k.ownerRoutes()
	if err != nil {
		return false, err
	}
	var errs []error
	do := func(what string, thing any, err error) {
		changed = true
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("%s %v: %w", what, thing, err))
		}
	}
	for pod, via := range want.via {
		if have.via[pod] != via {
			do("owner route", pod, k.RouteReplace(ownerRoute(pod, via)))
		}
	}
	for p := range want.rules {
		if !have.rules[p] {
			do("rule from", p, k.RuleAdd(ownerRule(p)))
		}
	}
	for p := range have.rules {
		if !want.rules[p] {
			do("delete rule from", p, k.RuleDel(ownerRule(p)))
		}
	}
	for pod := range have.via {
		if _, ok := want.via[pod]; !ok {
			do("delete owner route", pod, k.RouteDel(ownerRoute(pod, netip.Addr{})))
		}
	}
	return changed, errors.Join(errs...)
}

func ownerRoute(pod, via netip.Addr) *netlink.Route {
	r := &netlink.Route{Dst: netlink.NewIPNet(pod.AsSlice()), Table: ownerTable, Protocol: RouteProtocol}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	return r
}

func ownerRule(from netip.Prefix) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Table, r.Priority = netlink.FAMILY_V4, ownerTable, ownerPriority
	if from.Addr().Is6() {
		r.Family = netlink.FAMILY_V6
	}
	r.Src = &net.IPNet{IP: from.Addr().AsSlice(), Mask: net.CIDRMask(from.Bits(), from.Addr().BitLen())}
	return r
}

// keepOwnerRoutes brings them up to date, unless it is not known yet what they are to be.
func (p *Path) keepOwnerRoutes() error {
	if p.others == nil {
		return nil
	}
	p.onLink = p.k.onLink(*p.others)
	want := desiredOwnerRoutes(*p.others, p.prefixes.LocalPods, p.onLink)
	changed, err := p.k.syncOwnerRoutes(want)
	if changed {
		p.log.Info("owner routes changed", "pods", len(want.via), "from", slices.SortedFunc(maps.Keys(want.rules), comparePrefix))
	}
	return err
}

// kept are the pod CIDRs whose pods see the client. Until the other nodes are known, and whether they are on a link, none is.
func (p *Path) kept() []netip.Prefix {
	if p.others == nil {
		return nil
	}
	return desiredKept(*p.others, p.onLink)
}

func (s *scene) examineOwnerRoutes() ([]report.Finding, error) {
	if s.want == nil || s.want.Others == nil || s.want.Prefixes == nil {
		return nil, nil
	}
	have, err := s.ownerRoutes()
	if err != nil {
		return nil, err
	}
	want := desiredOwnerRoutes(*s.want.Others, s.want.Prefixes.LocalPods, s.onLink(*s.want.Others))
	switch {
	case !maps.Equal(have.via, want.via) || !maps.Equal(have.rules, want.rules):
		return []report.Finding{bad(checkRoutes, mended, "owner routes: %d routes and %d rules of table 98 are not the %d and %d wanted: overlay pods do not answer macvlan pods of other nodes",
			len(have.via), len(have.rules), len(want.via), len(want.rules))}, nil
	case len(want.rules) > 0:
		return []report.Finding{ok(checkRoutes, "owner routes: %d macvlan pods of other nodes", len(want.via))}, nil
	}
	return nil, nil
}
