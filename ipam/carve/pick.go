package carve

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// few takes n addresses, or all if there are fewer, in as few ranges as it can: the smallest range that has them all, or the largest and
// then the rest.
func few(rs ipam.Ranges, n uint64) ipam.Ranges {
	left := slices.Clone(rs)
	slices.SortStableFunc(left, func(a, b ipam.Range) int { return cmp.Compare(Size(b), Size(a)) }) // largest first
	var out []ipam.Range
	for n > 0 && len(left) > 0 {
		i := 0
		if Size(left[0]) >= n { // of those that have n the smallest, and of equals the first
			for i+1 < len(left) && Size(left[i+1]) >= n {
				i++
			}
			for i > 0 && Size(left[i-1]) == Size(left[i]) {
				i--
			}
		}
		k := min(n, Size(left[i]))
		out = append(out, head(left[i], k))
		n -= k
		left = slices.Delete(left, i, i+1)
	}
	return ipam.NewRanges(out...)
}

// scattered is in how many ranges of blocks already opened a pool is put rather than to open another block for it.
const scattered = 4

// fresh takes n free addresses: behind what the owner has; else in blocks that are opened, if not in too many ranges; else in blocks not
// opened yet, one after the other; else wherever there are some. Fewer are returned if there are not as many.
func (p plane) fresh(n uint64, has ipam.Ranges) ipam.Ranges {
	if n == 0 {
		return nil
	}
	for _, h := range slices.Backward(has) {
		if i := slices.IndexFunc(p.free, func(r ipam.Range) bool { return r.From == h.To.Next() && Size(r) >= n }); i >= 0 {
			return ipam.Ranges{head(p.free[i], n)}
		}
	}
	inside := few(p.free.Overlap(p.opened), n)
	if total(inside) == n && len(inside) <= scattered {
		return inside
	}
	unopened := p.free.Subtract(p.opened)
	before := ipam.Ranges{}
	if p.begin.IsValid() && p.begin.Prev().IsValid() {
		before = unopened.Overlap(ipam.Ranges{{From: zero(p.begin), To: p.begin.Prev()}})
	}
	for _, rs := range []ipam.Ranges{unopened.Subtract(before), unopened} {
		if r, ok := first(rs, n); ok {
			return ipam.Ranges{r}
		}
	}
	if total(inside) == n && len(inside) <= maxRanges/2 {
		return inside
	}
	return few(p.free, n)
}

// zero is the first address of a's family.
func zero(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// first of the ranges that has n addresses, from the block on from which they take the fewest blocks.
func first(rs ipam.Ranges, n uint64) (ipam.Range, bool) {
	for _, r := range rs {
		if Size(r) < n {
			continue
		}
		if next := Range(FirstOf(r.From)).To.Next(); next.IsValid() && !r.To.Less(next) {
			aligned := ipam.Range{From: next, To: r.To}
			if Size(aligned) >= n && blocksOf(head(aligned, n)) < blocksOf(head(r, n)) {
				r = aligned
			}
		}
		return head(r, n), true
	}
	return ipam.Range{}, false
}

// blocksOf a range: how many blocks have addresses of it.
func blocksOf(r ipam.Range) uint64 {
	return numberOf(FirstOf(r.To)).minus(numberOf(FirstOf(r.From)))/v1alpha1.BlockSize + 1
}
