package carve

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Derive the subnets of a pool from what it has, and has not given up. Of a paired subnet these are whole pairs only. Nothing, if
// it has none.
func Derive(s *Subnet, b *Book, o Owner) []v1alpha1.PoolSubnet {
	had := map[ipam.Family]ipam.Ranges{}
	for _, f := range s.Families() {
		had[f], _ = b.Of(o, s.Name, f)
	}
	if s.Paired {
		both := had[ipam.IPv4].Overlap(s.partners(had[ipam.IPv6]))
		had[ipam.IPv4], had[ipam.IPv6] = both, s.partners(both)
	}
	var out []v1alpha1.PoolSubnet
	for _, c := range s.CIDRs {
		in := had[ipam.FamilyOf(c.Prefix.Addr())].Overlap(ipam.Ranges{ipam.RangeOf(c.Prefix)})
		if len(in) == 0 {
			continue // no ips would mean all of it
		}
		ps := v1alpha1.PoolSubnet{CIDR: c.spec.CIDR, Gateway: c.spec.Gateway, Routes: slices.Clone(c.spec.Routes)}
		for _, r := range in {
			ps.IPs = append(ps.IPs, r.String())
		}
		out = append(out, ps)
	}
	return out
}

// Count of one family of a subnet. Free is not Total less the others where a pool that was not carved has addresses of the subnet, or
// another cluster a block.
type Count struct{ Total, Free, Carved, Returning *big.Int }

// Tally the addresses of a subnet.
func Tally(s *Subnet, b *Book, avoid map[ipam.Family]ipam.Ranges) map[ipam.Family]Count {
	out := map[ipam.Family]Count{}
	for _, f := range s.Families() {
		var had, returning []ipam.Range
		for _, x := range b.blocks {
			for _, p := range x.Parts {
				switch {
				case p.Subnet != s.Name || ipam.FamilyOf(p.From) != f:
				case p.Had():
					had = append(had, p.Range)
				default:
					returning = append(returning, p.Range)
				}
			}
		}
		out[f] = Count{
			Total: s.usable[f].Count(), Free: b.Free(s, f, avoid[f]).Count(),
			Carved: ipam.NewRanges(had...).Count(), Returning: ipam.NewRanges(returning...).Count(),
		}
	}
	return out
}

// Clusters that have blocks with addresses of a subnet, as a hub knows, and how many.
func (b *Book) Clusters(s *Subnet) map[string]int64 {
	out := map[string]int64{}
	for _, x := range b.blocks {
		if x.Cluster != "" && len(s.Whole(ipam.FamilyOf(x.First)).Overlap(ipam.Ranges{Range(x.First)})) > 0 {
			out[x.Cluster]++
		}
	}
	return out
}

// Disputed blocks with addresses of a subnet, in words.
func (b *Book) Disputed(s *Subnet) []string {
	var out []string
	for _, x := range b.blocks {
		if x.Disputed == "" || len(s.Whole(ipam.FamilyOf(x.First)).Overlap(ipam.Ranges{Range(x.First)})) == 0 {
			continue
		}
		words := fmt.Sprintf("block %s", x.First)
		if x.Cluster != "" {
			words += fmt.Sprintf(" of %s", x.Cluster)
		}
		words += fmt.Sprintf(", which %s holds, too", x.Disputed)
		var owners []string
		for _, o := range NewBook(x).Owners(s.Name) {
			owners = append(owners, o.String())
		}
		if owners != nil {
			words += " (here: " + strings.Join(owners, ", ") + ")"
		}
		out = append(out, words)
	}
	slices.Sort(out)
	return out
}

// Owners of parts of a subnet, those given up included, in order.
func (b *Book) Owners(subnet string) []Owner {
	seen := map[Owner]bool{}
	for _, x := range b.blocks {
		for _, p := range x.Parts {
			if p.Subnet == subnet {
				seen[p.Owner] = true
			}
		}
	}
	out := make([]Owner, 0, len(seen))
	for o := range seen {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Owner) int { return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.To, b.To)) })
	return out
}

// Lost is what owners have of a subnet that its spec has no more: it was made smaller than what is carved from it. In words, by owner.
func Lost(s *Subnet, b *Book) []string {
	lost := map[Owner][]ipam.Range{}
	for _, x := range b.blocks {
		for _, p := range x.Parts {
			if p.Subnet != s.Name {
				continue
			}
			allowed := s.usable[ipam.FamilyOf(p.From)]
			if p.Owner.To != "" {
				allowed = s.Whole(ipam.FamilyOf(p.From))
			}
			if i, ok := allowed.Find(p.From); ok && !allowed[i].To.Less(p.To) {
				continue
			}
			lost[p.Owner] = append(lost[p.Owner], (ipam.Ranges{p.Range}).Subtract(allowed)...)
		}
	}
	var out []string
	for o, rs := range lost {
		out = append(out, fmt.Sprintf("%s has %s", o, clip(ipam.NewRanges(rs...))))
	}
	slices.Sort(out)
	return out
}

// clip writes the first few ranges.
func clip(rs ipam.Ranges) string {
	const most = 3
	if len(rs) <= most {
		return rs.String()
	}
	return fmt.Sprintf("%s and %d more ranges", rs[:most], len(rs)-most)
}

// Shared says what two subnets of a network both have, but for what is carved from one for the other: "" if nothing.
func Shared(a, c *Subnet, b *Book) string {
	var shared ipam.Ranges
	for _, f := range ipam.Families {
		both := a.Whole(f).Overlap(c.Whole(f))
		if len(both) == 0 {
			continue
		}
		for _, pair := range [][2]*Subnet{{a, c}, {c, a}} {
			had, old := b.Of(Owner{To: pair[1].Name}, pair[0].Name, f)
			both = both.Subtract(join(had, old))
		}
		shared = append(shared, both...)
	}
	if len(shared) == 0 {
		return ""
	}
	return clip(shared)
}

// Check a network's blocks: what must hold at any time, whatever happens. It returns what does not, in words.
//
//   - no address is of two parts that pools have or had, whatever their subnets
//   - no address is of two parts of one subnet
//   - every part is inside of its block
func Check(blocks ...*Block) []string {
	var wrong []string
	for _, x := range blocks {
		for i, p := range x.Parts {
			if FirstOf(p.From) != x.First || FirstOf(p.To) != x.First || p.To.Less(p.From) {
				wrong = append(wrong, fmt.Sprintf("%s of %s is not inside of block %s", p.Range, p.Owner, x.First))
			}
			for _, o := range x.Parts[i+1:] {
				nested := p.Owner.To == o.Subnet || o.Owner.To == p.Subnet // a subnet's own parts lie in what was cut out for it
				if p.To.Less(o.From) || o.To.Less(p.From) || p.Subnet != o.Subnet && nested {
					continue
				}
				wrong = append(wrong, fmt.Sprintf("%s and %s of block %s overlap: %s and %s", p.Owner, o.Owner, x.First, p.Range, o.Range))
			}
		}
	}
	return wrong
}

// CheckPools says which addresses more than one of the pools of a network gives out, and which a carved pool gives out that the blocks
// do not say are its own.
func CheckPools(pools []*v1alpha1.IPPool, blocks ...*Block) []string {
	var wrong []string
	var compiled []*ipam.Pool
	book := NewBook(blocks...)
	for _, p := range pools {
		c, err := ipam.Compile(p)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		for _, o := range compiled {
			for _, f := range ipam.Families {
				if both := c.Ranges(f).Overlap(o.Ranges(f)); c.Network == o.Network && len(both) > 0 {
					wrong = append(wrong, fmt.Sprintf("pools %q and %q both have %s", c.Name, o.Name, both))
				}
			}
		}
		compiled = append(compiled, c)
		if p.Spec.Subnet == "" {
			continue
		}
		for _, f := range ipam.Families {
			had, old := book.Of(Owner{Pool: p.Name}, p.Spec.Subnet, f)
			if foreign := c.Ranges(f).Subtract(join(had, old)); len(foreign) > 0 {
				wrong = append(wrong, fmt.Sprintf("pool %q gives out %s, which no block says it has: %s", p.Name, foreign, strings.Join(p.Spec.Subnets[0].IPs, ",")))
			}
		}
	}
	return wrong
}
