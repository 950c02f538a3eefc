package service

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Claims says which Service has a frontend. The API server gives a cluster IP and a node port to one Service only, but external and
// load balancers' addresses are whatever somebody writes there:
//
//	who names it                               has it
//	one Service                                that one
//	one as cluster IP, others otherwise        the one whose cluster IP it is: nobody takes away another's by naming it
//	several otherwise                          the oldest; of the same second, the first by name
//
// The zero value is not ready; see NewClaims. Not safe for concurrent use.
type Claims struct {
	owner  map[Frontend]*Spec
	rivals map[Frontend][]*Spec // all who name it, the owner first, where there are several
}

// NewClaims of no Service.
func NewClaims() *Claims { return &Claims{owner: map[Frontend]*Spec{}, rivals: map[Frontend][]*Spec{}} }

// Owner is the name of the Service that has f; "" if nobody names it.
func (c *Claims) Owner(f Frontend) string {
	if s := c.owner[f]; s != nil {
		return s.Name
	}
	return ""
}

// Replace a Service by its next version: old is nil for a new one, next for one that is gone. It returns the names of other Services which
// got or lost a frontend by that, and are to be built anew, sorted.
func (c *Claims) Replace(old, next *Spec) []string {
	before := map[Frontend]string{}
	for _, s := range []*Spec{old, next} {
		for _, f := range s.frontends() {
			before[f] = c.Owner(f)
		}
	}
	for _, f := range old.frontends() {
		c.drop(f, old)
	}
	for _, f := range next.frontends() {
		c.add(f, next)
	}
	changed := map[string]bool{}
	for f, was := range before {
		if is := c.Owner(f); is != was {
			changed[is], changed[was] = true, true
		}
	}
	delete(changed, "")
	for _, s := range []*Spec{old, next} {
		if s != nil {
			delete(changed, s.Name)
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

func (c *Claims) add(f Frontend, s *Spec) {
	switch owner := c.owner[f]; {
	case owner == nil:
		c.owner[f] = s
	case owner != s:
		all := c.rivals[f]
		if all == nil {
			all = []*Spec{owner}
		}
		if slices.Contains(all, s) {
			return
		}
		all = append(all, s)
		slices.SortFunc(all, func(a, b *Spec) int { return precedence(f, a, b) })
		c.rivals[f], c.owner[f] = all, all[0]
	}
}

func (c *Claims) drop(f Frontend, s *Spec) {
	all := c.rivals[f]
	if all == nil {
		if c.owner[f] == s {
			delete(c.owner, f)
		}
		return
	}
	all = slices.DeleteFunc(all, func(o *Spec) bool { return o == s })
	c.rivals[f], c.owner[f] = all, all[0]
	if len(all) == 1 {
		delete(c.rivals, f)
	}
}

// precedence of two who name f: negative if a comes first.
func precedence(f Frontend, a, b *Spec) int {
	switch inA, inB := slices.Contains(a.clusterIPs, f.Address), slices.Contains(b.clusterIPs, f.Address); {
	case inA && !inB:
		return -1
	case inB && !inA:
		return 1
	case a.Created != b.Created:
		if a.Created < b.Created {
			return -1
		}
		return 1
	}
	return strings.Compare(a.Name, b.Name)
}

// frontends that the Service names, some perhaps twice.
func (s *Spec) frontends() (out []Frontend) {
	if s == nil {
		return nil
	}
	for _, p := range s.ports {
		for _, list := range [][]netip.Addr{s.clusterIPs, s.balancerIPs, s.externalIPs} {
			for _, a := range list {
				out = append(out, Frontend{a, p.port, p.protocol})
			}
		}
		if p.nodePort == 0 {
			continue
		}
		for _, a := range s.clusterIPs {
			any := netip.IPv6Unspecified()
			if a.Is4() {
				any = netip.IPv4Unspecified()
			}
			out = append(out, Frontend{any, p.nodePort, p.protocol})
		}
	}
	return out
}
