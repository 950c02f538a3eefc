package store

import (
	"net/netip"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// space of one pool, by family. A paired pool chooses in the space of its pairs, numbered as IPv4 addresses; the lease of the IPv4
// address is the lock of the pair.
type space struct {
	pool     *ipam.Pool
	families map[ipam.Family]*ipam.Space
	pairs    *ipam.Space // nil unless the pool is paired
}

func newSpace(p *ipam.Pool) *space {
	s := &space{pool: p, families: map[ipam.Family]*ipam.Space{}}
	for _, f := range p.Families() {
		s.families[f] = ipam.NewSpace(p.Ranges(f))
	}
	if p.Paired() {
		s.pairs = ipam.NewSpace(p.Ranges(ipam.IPv4))
	}
	return s
}

// free is the space to choose addresses of a family from.
func (s *space) free(f ipam.Family) *ipam.Space {
	if s.pairs != nil && f == ipam.IPv4 {
		return s.pairs
	}
	return s.families[f]
}

// fill the space of a pool with what is known of a lease, or with its end.
func (x *index) fill(s *space, name string) {
	_, a, err := ipam.ParseLeaseName(name)
	if err != nil || s.families[ipam.FamilyOf(a)] == nil {
		return
	}
	put(s.families[ipam.FamilyOf(a)], a, x.use(name))
	if s.pairs == nil || !s.pool.Contains(a) {
		return
	}
	both := x.useOf(s, a)
	if !a.Is4() {
		a = s.pool.Partner(a)
	}
	put(s.pairs, a, both)
}

// useOf an address, or of the pair that it is of in a paired pool.
func (x *index) useOf(s *space, a netip.Addr) use {
	u := x.use(ipam.LeaseName(s.pool.Network, a))
	if s.pairs != nil {
		u = worse(u, x.use(ipam.LeaseName(s.pool.Network, s.pool.Partner(a))))
	}
	return u
}

// use of an address; phase "" is none.
type use struct {
	phase v1alpha1.LeasePhase
	at    time.Time // of its release
}

func (x *index) use(name string) use {
	l := x.leases[name]
	switch {
	case x.inFlight[name]:
		return use{phase: v1alpha1.LeaseBound}
	case l == nil:
		return use{}
	}
	return use{l.Spec.Phase, releasedAt(l)}
}

// worse of the uses of two addresses that are given together.
func worse(a, b use) use {
	rank := func(u use) int {
		switch u.phase {
		case "":
			return 0
		case v1alpha1.LeaseReleased:
			return 1
		}
		return 2
	}
	if rank(a) < rank(b) || rank(a) == rank(b) && a.at.Before(b.at) {
		return b
	}
	return a
}

func put(s *ipam.Space, a netip.Addr, u use) {
	if u.phase == "" {
		s.Forget(a)
	} else {
		s.Put(a, u.phase, u.at)
	}
}
