package carve

import (
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/berthdev/berth/ipam"
)

// Share decides which CIDR of each family of a subnet another one, made from it, gets: size addresses, a power of two, at most 2^16. What
// it has, or had not long ago, is part of it again, if that can be. Of a paired subnet the CIDRs have the same offset. With too few
// addresses in one piece the error Is ErrShort.
func Share(s *Subnet, b *Book, to string, size uint64, avoid map[ipam.Family]ipam.Ranges) ([]netip.Prefix, Decision, error) {
	var d Decision
	const most = 1 << 16
	if size == 0 || size > most || size&(size-1) != 0 {
		return nil, d, fmt.Errorf("size %d is not a power of two from 1 to %d, so it is no CIDR", size, most)
	}
	host := bits.Len64(size) - 1
	var prefixes []netip.Prefix
	for _, p := range planes(s, b, Ask{Owner: Owner{To: to}, Avoid: avoid}) {
		cidr, ok := p.cidr(host)
		if !ok {
			free := join(join(p.half, p.old), p.free)
			return nil, Decision{}, &Shortage{Subnet: s.Name, Family: p.family, Size: size, Free: free.Count(), Aligned: true}
		}
		whole := ipam.Ranges{ipam.RangeOf(cidr)}
		prefixes = append(prefixes, cidr)
		if !p.paired {
			d.Take = append(d.Take, whole.Subtract(p.has)...)
			d.Return = append(d.Return, p.has.Subtract(whole)...)
			continue
		}
		partner := s.partners(whole)
		prefixes = append(prefixes, netip.PrefixFrom(partner[0].From, partner[0].From.BitLen()-host))
		d.Take, d.Return = p.spell(s, whole, p.has.Subtract(whole))
	}
	return prefixes, d, nil
}

// cidr with so many host bits that the owner may have: that of which it has something, else one in the smallest range that has one.
func (p plane) cidr(host int) (netip.Prefix, bool) {
	mine := join(join(p.has, p.half), p.old)
	all := join(mine, p.free)
	for _, r := range mine {
		c := netip.PrefixFrom(r.From, r.From.BitLen()-host).Masked()
		if len(ipam.Ranges{ipam.RangeOf(c)}.Subtract(all)) == 0 {
			return c, true
		}
	}
	var best netip.Prefix
	var smallest uint64
	for _, r := range p.free {
		c := netip.PrefixFrom(r.From, r.From.BitLen()-host).Masked()
		if c.Addr() != r.From {
			next := ipam.RangeOf(c).To.Next()
			if !next.IsValid() {
				continue
			}
			c = netip.PrefixFrom(next, c.Bits())
		}
		if to := ipam.RangeOf(c).To; c.Addr().Less(r.From) || r.To.Less(to) {
			continue
		}
		if n := Size(r); !best.IsValid() || n < smallest {
			best, smallest = c, n
		}
	}
	return best, best.IsValid()
}
