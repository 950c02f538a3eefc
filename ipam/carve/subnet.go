// Package carve decides who has which part of a Subnet: which addresses a pool takes when it is made or grows, which it gives up when it
// shrinks, what becomes of them, and which CIDR another subnet gets. It decides and does nothing; controller/subnets writes what it
// decides, block by block.
//
// It never walks addresses: the cost is that of the parts and blocks there are, for a /8 or a /64 as for a /28.
package carve

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Subnet is a v1alpha1.Subnet made ready.
type Subnet struct {
	Name    string
	Network string
	Paired  bool
	CIDRs   []CIDR

	usable map[ipam.Family]ipam.Ranges
	// begin is where among its addresses, as a fraction of 2^64, blocks that are not opened yet are looked for first.
	begin uint64
}

// Begin has blocks that are not opened yet looked for from somewhere on that the seed decides, and at last before it: clusters of one hub
// that begin in different places seldom want the same block at the same time, and have neighbouring ones.
func (s *Subnet) Begin(seed string) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed)) // never fails
	// FNV's high bits differ little between names that differ in their last letter.
	s.begin = h.Sum64() * 0x9e3779b97f4a7c15
}

// from is the block of a family in which to begin.
func (s *Subnet) from(f ipam.Family) netip.Addr {
	at, _ := bits.Mul64(s.begin, total(s.usable[f]))
	for _, r := range s.usable[f] {
		if n := Size(r); at >= n {
			at -= n
			continue
		}
		return FirstOf(after(r.From, at))
	}
	return netip.Addr{} // less than any
}

// CIDR is one of a subnet.
type CIDR struct {
	Prefix netip.Prefix
	spec   v1alpha1.SubnetCIDR
}

// Compile a subnet. The API server refuses most malformed ones already; the error here names field, value and remedy for the rest.
func Compile(s *v1alpha1.Subnet) (*Subnet, error) {
	out := &Subnet{Name: s.Name, Network: cmp.Or(s.Spec.Network, "default"), usable: map[ipam.Family]ipam.Ranges{}}
	for i, c := range s.Spec.CIDRs {
		prefix, usable, err := compileCIDR(c)
		if err != nil {
			return nil, fmt.Errorf("cidrs[%d].%w", i, err)
		}
		for _, o := range out.CIDRs {
			if o.Prefix.Overlaps(prefix) {
				return nil, fmt.Errorf("cidrs[%d].cidr: %s overlaps %s of the same subnet; name each address once", i, prefix, o.Prefix)
			}
		}
		out.CIDRs = append(out.CIDRs, CIDR{prefix, c})
		f := ipam.FamilyOf(prefix.Addr())
		out.usable[f] = join(out.usable[f], usable)
	}
	if len(out.CIDRs) == 0 {
		return nil, errors.New("cidrs: empty; name at least one")
	}
	if s.Spec.Pairing != "" {
		if err := out.pair(); err != nil {
			return nil, fmt.Errorf("pairing: %w", err)
		}
	}
	return out, nil
}

// compileCIDR asks package ipam, by way of a pool that has the whole of the CIDR: what such a pool may give out may be carved.
func compileCIDR(c v1alpha1.SubnetCIDR) (netip.Prefix, ipam.Ranges, error) {
	prefix, err := ipam.ParseCIDR(c.CIDR)
	if err != nil {
		return prefix, nil, fmt.Errorf("cidr: %w", err)
	}
	whole, err := ipam.WholeSubnet(v1alpha1.PoolSubnet{CIDR: c.CIDR, Gateway: c.Gateway, Routes: c.Routes})
	if err != nil {
		return prefix, nil, err
	}
	if c.Gateway != "" {
		if gw := netip.MustParseAddr(c.Gateway); !prefix.Contains(gw) && !(gw.Is6() && gw.IsLinkLocalUnicast()) {
			return prefix, nil, fmt.Errorf("gateway: %s is not inside %s; name the router's address there", gw, prefix)
		}
	}
	var reserved []ipam.Range
	for i, e := range c.Reserved {
		r, err := ipam.ParseRange(e)
		if err != nil {
			return prefix, nil, fmt.Errorf("reserved[%d]: %w", i, err)
		}
		if !prefix.Contains(r.From) || !prefix.Contains(r.To) {
			return prefix, nil, fmt.Errorf("reserved[%d]: %s is not inside %s", i, r, prefix)
		}
		reserved = append(reserved, r)
	}
	return prefix, whole.Subtract(ipam.NewRanges(reserved...)), nil
}

// pair the families: only what has a partner at the same offset of the other CIDR may be carved.
func (s *Subnet) pair() error {
	if len(s.CIDRs) != 2 || s.CIDRs[0].Prefix.Addr().Is4() == s.CIDRs[1].Prefix.Addr().Is4() ||
		s.CIDRs[0].hostBits() != s.CIDRs[1].hostBits() {
		return errors.New("index needs two CIDRs, one IPv4 and one IPv6, with equally many host bits, such as 10.6.0.0/16 and fd00:6::/112")
	}
	s.Paired = true
	both := s.usable[ipam.IPv4].Overlap(s.partners(s.usable[ipam.IPv6]))
	s.usable[ipam.IPv4], s.usable[ipam.IPv6] = both, s.partners(both)
	return nil
}

func (c CIDR) hostBits() int { return c.Prefix.Addr().BitLen() - c.Prefix.Bits() }

// partners of ranges of a paired subnet: the same offsets of the other CIDR.
func (s *Subnet) partners(rs ipam.Ranges) ipam.Ranges {
	var out []ipam.Range
	for _, r := range rs {
		i := slices.IndexFunc(s.CIDRs, func(c CIDR) bool { return c.Prefix.Contains(r.From) })
		if i < 0 {
			continue // carved before the CIDRs were others
		}
		from, to := s.CIDRs[i].Prefix.Addr(), s.CIDRs[1-i].Prefix.Addr()
		first := after(to, numberOf(r.From).minus(numberOf(from)))
		out = append(out, ipam.Range{From: first, To: after(first, Size(r)-1)})
	}
	return ipam.NewRanges(out...)
}

// Families of the subnet, IPv4 first.
func (s *Subnet) Families() []ipam.Family {
	return slices.DeleteFunc(slices.Clone(ipam.Families), func(f ipam.Family) bool {
		return !slices.ContainsFunc(s.CIDRs, func(c CIDR) bool { return ipam.FamilyOf(c.Prefix.Addr()) == f })
	})
}

// Usable addresses of a family: those that may be carved.
func (s *Subnet) Usable(f ipam.Family) ipam.Ranges { return s.usable[f] }

// Whole is all addresses of a family, usable or not.
func (s *Subnet) Whole(f ipam.Family) ipam.Ranges {
	var out []ipam.Range
	for _, c := range s.CIDRs {
		if ipam.FamilyOf(c.Prefix.Addr()) == f {
			out = append(out, ipam.RangeOf(c.Prefix))
		}
	}
	return ipam.NewRanges(out...)
}
