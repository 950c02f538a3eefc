package carve

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/ipam"
)

// Ask is what a pool wants of its subnet.
type Ask struct {
	Owner Owner
	// Size is how many addresses of each family it shall have; of a paired subnet, how many pairs.
	Size uint64
	// InUse are addresses that it may not give up: those of leases in use.
	InUse []netip.Addr
	// Avoid are addresses of pools that were not carved, by family.
	Avoid map[ipam.Family]ipam.Ranges
}

// Decision is what to do for a pool. Both lists are in the order in which to write them: whoever has an IPv4 address of a paired subnet
// may have its partner, so IPv4 is taken first and given up last.
type Decision struct {
	Take, Return []ipam.Range
	// Strays are parts of other subnets, which the owner, made anew, has no use for.
	Strays []Part
	// Kept is how many addresses of a family, at most, were to be given up and are in use.
	Kept uint64
}

// Nothing to do.
func (d Decision) Nothing() bool { return len(d.Take)+len(d.Return)+len(d.Strays) == 0 }

// maxRanges of one CIDR of a pool: the limit of PoolSubnet.ips.
const maxRanges = 128

// ErrShort means that a subnet has not as many addresses as were asked for: an error that is a *Shortage.
var ErrShort = errors.New("too few free addresses")

// Shortage says what was wanted and what is there.
type Shortage struct {
	Subnet string
	Family ipam.Family
	// Size that the pool shall have, and what it Has; both in addresses of the family, or in pairs.
	Size, Has uint64
	// Free addresses, or pairs, that it may take.
	Free *big.Int
	// Pieces: there are enough, but in more ranges than a pool can list.
	Pieces bool
	// Aligned: a CIDR is wanted, and what is free has none of this size.
	Aligned bool
}

func (e *Shortage) Error() string {
	if e.Aligned {
		return fmt.Sprintf("size %d: subnet %q has no free %s CIDR of %d addresses, though %s are free; ask for a smaller one, or give the subnet another CIDR",
			e.Size, e.Subnet, e.Family, e.Size, e.Free)
	}
	if e.Pieces {
		return fmt.Sprintf("size %d: the %s addresses that are free in subnet %q are in so many pieces that the pool would have more than %d ranges of a CIDR; make it smaller, or two pools",
			e.Size, e.Family, e.Subnet, maxRanges)
	}
	return fmt.Sprintf("size %d: wants %d %s addresses more of subnet %q, in which %s are free; make it smaller, or give the subnet another CIDR",
		e.Size, e.Size-e.Has, e.Family, e.Subnet, e.Free)
}

// Is ErrShort.
func (e *Shortage) Is(target error) bool { return target == ErrShort }

// Decide what a pool takes or gives up. It gets all that it wants, or, with an error that Is ErrShort, nothing; then the decision has
// only what there is to give up. Of a disputed block it gives up all in any case: who has an address there keeps it by his lease, which
// holds the block, and no pod gets another.
func Decide(s *Subnet, b *Book, ask Ask) (Decision, error) {
	d := Decision{Strays: b.strays(ask.Owner, s.Name)}
	all := planes(s, b, ask)
	wants := make([]ipam.Ranges, len(all))
	var short error
	for i, p := range all {
		want, err := p.settle(s, ask)
		if err != nil {
			short = cmp.Or(short, err)
		}
		wants[i] = want
	}
	for i, p := range all {
		if short != nil {
			wants[i] = p.recalled(s, ask)
		}
		give, kept := p.surplus(s, ask)
		take, back := p.spell(s, wants[i], join(give, p.leave))
		d.Take, d.Return, d.Kept = append(d.Take, take...), append(d.Return, back...), max(d.Kept, kept)
	}
	return d, short
}

// plane is the addresses of one family, or the pairs of both as their IPv4 addresses, from the view of one owner.
type plane struct {
	family ipam.Family
	paired bool
	// has is what the owner has; half, of a paired subnet, what it has of one family only; old, what it gave up not long ago; free, the
	// rest that it may take; opened are the addresses of the blocks that exist; barred, of old, what it may not have again; leave, of
	// none of these, what it has of disputed blocks.
	has, half, old, free, opened, barred, leave ipam.Ranges
	// begin is where blocks are looked for first that are not opened yet.
	begin netip.Addr

	had map[ipam.Family]ipam.Ranges // as the blocks say, of a paired subnet both as IPv4 addresses
}

func planes(s *Subnet, b *Book, ask Ask) (out []plane) {
	of := func(f ipam.Family) plane {
		had, old := b.Of(ask.Owner, s.Name, f)
		var disputed ipam.Ranges
		if ask.Owner.To == "" { // a subnet keeps its CIDR, and its pools leave
			disputed = b.disputed(f)
		}
		return plane{
			family: f, has: had.Subtract(disputed), leave: had.Overlap(disputed), old: old.Overlap(s.usable[f]).Subtract(disputed), free: b.Free(s, f, ask.Avoid[f]), opened: b.opened(f),
			had: map[ipam.Family]ipam.Ranges{f: had}, barred: ask.Avoid[f].Overlap(s.Whole(f)), begin: s.from(f),
		}
	}
	if !s.Paired {
		for _, f := range s.Families() {
			out = append(out, of(f))
		}
		return out
	}
	v4, v6 := of(ipam.IPv4), of(ipam.IPv6)
	for _, rs := range []*ipam.Ranges{&v6.has, &v6.old, &v6.free, &v6.barred} {
		*rs = s.partners(*rs)
	}
	p := plane{family: ipam.IPv4, paired: true, opened: v4.opened, begin: v4.begin, barred: join(v4.barred, v6.barred), had: map[ipam.Family]ipam.Ranges{ipam.IPv4: v4.had[ipam.IPv4], ipam.IPv6: s.partners(v6.had[ipam.IPv6])}}
	mine := func(q plane) ipam.Ranges { return join(join(q.has, q.old), q.free) }
	all := mine(v4).Overlap(mine(v6))
	p.has = v4.has.Overlap(v6.has)
	p.half = join(v4.has, v6.has).Overlap(all).Subtract(p.has)
	p.old = join(v4.old, v6.old).Overlap(all).Subtract(p.has).Subtract(p.half)
	p.free = v4.free.Overlap(v6.free)
	return []plane{p}
}

// settle chooses what the owner takes to have size. Whatever of what it gave up is in use after all it takes back in any case.
func (p plane) settle(s *Subnet, ask Ask) (ipam.Ranges, error) {
	got := p.recalled(s, ask)
	size, has := ask.Size, total(p.has)
	if has+total(got) >= size {
		return got, nil
	}
	need := size - has
	for _, pick := range []func(uint64) ipam.Ranges{
		func(n uint64) ipam.Ranges { return few(p.half, n) },
		func(n uint64) ipam.Ranges { return few(p.old.Subtract(got).Subtract(p.barred), n) },
		func(n uint64) ipam.Ranges { return p.fresh(n, join(p.has, got)) },
	} {
		got = join(got, pick(need-total(got)))
	}
	short := &Shortage{Subnet: s.Name, Family: p.family, Size: size, Has: has}
	if total(got) < need {
		short.Free = join(join(p.half, p.old.Subtract(p.barred)), p.free).Count()
		return nil, short
	}
	if s.pieces(join(p.has, got)) > maxRanges {
		short.Pieces = true
		return nil, short
	}
	return got, nil
}

// pieces is how many ranges, at most, a CIDR of the subnet has of rs.
func (s *Subnet) pieces(rs ipam.Ranges) int {
	most := 0
	for _, c := range s.CIDRs {
		most = max(most, len(rs.Overlap(ipam.Ranges{ipam.RangeOf(c.Prefix)})))
	}
	return most
}

// surplus chooses what the owner gives up: the last addresses that are not in use. Kept is how many were to be given up besides.
func (p plane) surplus(s *Subnet, ask Ask) (give ipam.Ranges, kept uint64) {
	has := total(p.has)
	if has <= ask.Size {
		return nil, 0
	}
	n := has - ask.Size
	idle := p.has.Subtract(p.inUse(s, ask))
	for _, r := range slices.Backward(idle) {
		if n == 0 {
			break
		}
		k := min(n, Size(r))
		give = append(give, tail(r, k))
		n -= k
	}
	return ipam.NewRanges(give...), n
}

// recalled is what the owner gave up and is in use after all.
func (p plane) recalled(s *Subnet, ask Ask) ipam.Ranges { return p.inUse(s, ask).Overlap(p.old) }

// inUse is the addresses, or the pairs, of which leases are in use.
func (p plane) inUse(s *Subnet, ask Ask) ipam.Ranges {
	used := map[ipam.Family][]ipam.Range{}
	for _, a := range ask.InUse {
		used[ipam.FamilyOf(a)] = append(used[ipam.FamilyOf(a)], ipam.Range{From: a, To: a})
	}
	out := ipam.NewRanges(used[p.family]...)
	if p.paired {
		out = join(out, s.partners(ipam.NewRanges(used[ipam.IPv6]...)))
	}
	return out
}

// spell out by family what the owner takes and gives up, for the blocks to say so.
func (p plane) spell(s *Subnet, want, give ipam.Ranges) (take, back []ipam.Range) {
	if !p.paired {
		return want, give
	}
	keep := join(p.has, want).Subtract(give)
	had4, had6 := p.had[ipam.IPv4], p.had[ipam.IPv6]
	take = append(want.Subtract(had4), s.partners(want.Subtract(had6))...)
	back = append(s.partners(had6.Subtract(keep)), had4.Subtract(keep)...)
	return take, back
}
