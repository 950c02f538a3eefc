package ipam

import (
	"errors"
	"net/netip"
	"slices"
)

// pair the families of the pool: each gives out only what has a partner in the other, so that the n-th address of one is the partner
// of the n-th of the other.
func (p *Pool) pair() error {
	if len(p.subnets) != 2 || FamilyOf(p.subnets[0].Prefix.Addr()) == FamilyOf(p.subnets[1].Prefix.Addr()) ||
		hostBits(p.subnets[0].Prefix) != hostBits(p.subnets[1].Prefix) {
		return errors.New("index needs two subnets, one IPv4 and one IPv6, with equally many host bits, such as 10.6.0.0/24 and fd00:6::/120")
	}
	p.paired = true
	for i := range p.subnets {
		a, b := &p.subnets[i], &p.subnets[1-i]
		var moved []Range
		for _, r := range b.ranges {
			moved = append(moved, Range{move(r.From, b.Prefix, a.Prefix), move(r.To, b.Prefix, a.Prefix)})
		}
		p.ranges[FamilyOf(a.Prefix.Addr())] = a.ranges.Overlap(normalize(moved))
	}
	return nil
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// move an address to the same offset of another prefix with equally many host bits, at most 32.
func move(a netip.Addr, from, to netip.Prefix) netip.Addr {
	return add(to.Addr(), distance(from.Addr(), a).Uint64())
}

// Paired says whether IPv4 and IPv6 addresses of the pool are given in pairs only.
func (p *Pool) Paired() bool { return p.paired }

// Partner of an address of a paired pool.
func (p *Pool) Partner(a netip.Addr) netip.Addr {
	for i, s := range p.subnets {
		if s.Prefix.Contains(a) {
			return move(a, s.Prefix, p.subnets[1-i].Prefix)
		}
	}
	return netip.Addr{}
}

// together replaces what is asked of a paired pool by IPv4 addresses, whose partners come with them; false if there is no pair in it.
func (p *Pool) together(asked Asked) (Asked, bool) {
	if !p.paired {
		return asked, true
	}
	all, oneOf := p.first(asked.All), p.first(asked.OneOf)
	if of(IPv4, asked.OneOf) != nil && of(IPv6, asked.OneOf) != nil { // then both of a pair must be among them
		oneOf = slices.DeleteFunc(oneOf, func(a netip.Addr) bool {
			return !slices.Contains(asked.OneOf, a) || !slices.Contains(asked.OneOf, p.Partner(a))
		})
	}
	return Asked{all, oneOf}, len(all) <= 1 && (len(oneOf) > 0 || len(asked.OneOf) == 0)
}

// first of the pair of each address, each once.
func (p *Pool) first(as []netip.Addr) (out []netip.Addr) {
	for _, a := range as {
		if partner := p.Partner(a); !a.Is4() && partner.IsValid() {
			a = partner
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
