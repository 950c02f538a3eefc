package ipam

import "net/netip"

// maxPrefixes by which the addresses of one family are told. A range ends at most 2 × 128 of them.
const maxPrefixes = 512

// Prefixes that hold all addresses of one family that the pool gives out: these and no others, unless that would take too many; then
// they are its subnets.
func (p *Pool) Prefixes(f Family) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range p.ranges[f] {
		if out = append(out, r.prefixes()...); len(out) > maxPrefixes {
			return p.cidrs(f)
		}
	}
	return out
}

func (p *Pool) cidrs(f Family) (out []netip.Prefix) {
	for _, s := range p.subnets {
		if FamilyOf(s.Prefix.Addr()) == f {
			out = append(out, s.Prefix)
		}
	}
	return out
}

// prefixes that together are the range, in order: each the largest that begins where the one before ended.
func (r Range) prefixes() (out []netip.Prefix) {
	for from := r.From; ; {
		p := netip.PrefixFrom(from, from.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(from, p.Bits()-1)
			if wider.Masked().Addr() != from || r.To.Less(last(wider)) {
				break
			}
			p = wider
		}
		out = append(out, p)
		end := last(p)
		if end == r.To {
			return out
		}
		from = end.Next()
	}
}

// Routers of one family that the pool's pods use.
func (p *Pool) Routers(f Family) (out []netip.Addr) {
	for _, s := range p.subnets {
		if FamilyOf(s.Prefix.Addr()) == f {
			out = append(out, s.gateways()...)
		}
	}
	return out
}
