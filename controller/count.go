package controller

import (
	"math/big"
	"net/netip"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// tally counts the leases that matter to one family of one pool. Released ones count for nothing: they are free, though it takes
// them a cooldown, or the want of others, to be given out again.
type tally struct {
	// taken is how many of the pool's addresses cannot be claimed: leases of any pool of the network, in any phase but Released. Of a
	// paired pool, those also whose partner cannot.
	taken int64
	// bound, reserved and quarantined are the pool's own leases, those outside its present ranges included: editing a pool moves
	// no lease (invariant 8).
	bound, reserved, quarantined int64
}

func count(p *ipam.Pool, leases []v1alpha1.IPLease) map[ipam.Family]tally {
	out := map[ipam.Family]tally{}
	pairs := map[netip.Addr]bool{} // taken ones of a paired pool, by IPv4 address
	for i := range leases {
		s := &leases[i].Spec
		if s.Network != p.Network || s.Phase == v1alpha1.LeaseReleased {
			continue
		}
		a, err := netip.ParseAddr(s.Address)
		if err != nil {
			continue // the API server refuses such leases
		}
		in, own := p.Contains(a), s.Pool == p.Name
		if !in && !own {
			continue
		}
		f := ipam.FamilyOf(a)
		t := out[f]
		switch {
		case in && p.Paired() && f == ipam.IPv6:
			pairs[p.Partner(a)] = true
		case in && p.Paired():
			pairs[a] = true
		case in:
			t.taken++
		}
		if own {
			switch s.Phase {
			case v1alpha1.LeaseBound:
				t.bound++
			case v1alpha1.LeaseReserved:
				t.reserved++
			case v1alpha1.LeaseQuarantined:
				t.quarantined++
			}
		}
		out[f] = t
	}
	if p.Paired() {
		for _, f := range ipam.Families {
			t := out[f]
			t.taken = int64(len(pairs))
			out[f] = t
		}
	}
	return out
}

// addressCount is exact, whatever the size of the pool.
func addressCount(total *big.Int, t tally) *v1alpha1.AddressCount {
	return &v1alpha1.AddressCount{
		Total:       total.String(),
		Free:        free(total, t).String(),
		Bound:       t.bound,
		Reserved:    t.reserved,
		Quarantined: t.quarantined,
	}
}

func free(total *big.Int, t tally) *big.Int {
	f := new(big.Int).Sub(total, big.NewInt(t.taken))
	if f.Sign() < 0 {
		f.SetInt64(0)
	}
	return f
}
